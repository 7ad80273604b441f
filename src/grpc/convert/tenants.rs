//! Tenants, in and out.

use super::{Checks, checks::Root, headers, out_time, policies};
use crate::{
    app::{Error, TenantView},
    domain::{Quota, Rule, Tenant, TenantKey, Timestamp},
    grpc::pb,
};

/// Most characters of a name, and bytes of metadata.
const NAME_MAX: usize = 128;
const METADATA_BYTES_MAX: usize = 16 << 10;
const WEIGHT_MAX: u32 = 100;
/// Fields that a caller may set.
const FIELDS: [&str; 8] = [
    "name",
    "suspended",
    "call_rate_limit",
    "max_endpoints",
    "max_events_per_day",
    "max_queued_bytes",
    "weight",
    "metadata",
];
const FIXED: [&str; 5] = ["id", "usage", "create_time", "update_time", "etag"];

/// A new tenant.
pub fn new_tenant(request: pb::CreateTenantRequest) -> Result<Tenant, Error> {
    let pb::CreateTenantRequest { tenant } = request;
    let mut checks = Checks::under(Root::Field("tenant"));
    let Some(given) = tenant else {
        return Err(Error::invalid("tenant", Rule::Required, "is needed"));
    };
    let why = "must be 1 to 63 of `[a-z0-9-]`, first a letter, and not `self`";
    checks.check(Tenant::is_id(&given.id) && given.id != "self", "id", Rule::BadFormat, why);
    let mut tenant = Tenant::new(TenantKey(0), given.id.as_str(), Timestamp(0));
    apply(&mut checks, &mut tenant, given, &FIELDS);
    checks.into_result(tenant)
}

/// A change of some fields.
#[derive(Debug)]
pub struct Patch {
    changed: Tenant,
    paths: Vec<&'static str>,
}

impl Patch {
    /// The tenant's id, its etag and the change.
    pub fn new(request: pb::UpdateTenantRequest) -> Result<(String, String, Self), Error> {
        let pb::UpdateTenantRequest { tenant, update_mask } = request;
        let Some(mut given) = tenant else {
            return Err(Error::invalid("tenant", Rule::Required, "is needed"));
        };
        let mut checks = Checks::new();
        let (id, etag) = (std::mem::take(&mut given.id), std::mem::take(&mut given.etag));
        checks.check(!id.is_empty(), "tenant.id", Rule::Required, "is needed");
        let named = update_mask.unwrap_or_default().paths;
        let paths = if named.is_empty() { set_fields(&given) } else { paths(&mut checks, &named) };
        checks.enter(Root::Field("tenant"));
        let mut changed = Tenant::new(TenantKey(0), id.as_str(), Timestamp(0));
        apply(&mut checks, &mut changed, given, &paths);
        checks.into_result((id, etag, Self { changed, paths }))
    }

    /// Makes the change.
    pub fn apply(self, tenant: &mut Tenant) {
        let Self { changed, paths } = self;
        for path in paths {
            match path {
                "name" => tenant.name.clone_from(&changed.name),
                "suspended" => tenant.suspended = changed.suspended,
                "call_rate_limit" => tenant.call_rate = changed.call_rate,
                "max_endpoints" => tenant.quota.endpoints = changed.quota.endpoints,
                "max_events_per_day" => tenant.quota.events_per_day = changed.quota.events_per_day,
                "max_queued_bytes" => tenant.quota.queued_bytes = changed.quota.queued_bytes,
                "weight" => tenant.weight = changed.weight,
                _ => tenant.metadata.clone_from(&changed.metadata),
            }
        }
    }
}

/// A tenant as read.
pub fn out(view: TenantView) -> pb::Tenant {
    let TenantView { tenant, endpoints, usage, events_today } = view;
    let Quota { endpoints: max_endpoints, events_per_day, queued_bytes } = tenant.quota;
    pb::Tenant {
        id: tenant.id.to_string(),
        name: tenant.name.clone(),
        suspended: Some(tenant.suspended),
        call_rate_limit: tenant.call_rate.map(policies::rate_limit_out),
        max_endpoints: max_endpoints as i32,
        max_events_per_day: events_per_day.cast_signed(),
        max_queued_bytes: queued_bytes.cast_signed(),
        weight: tenant.weight.cast_signed(),
        metadata: tenant.metadata.clone().into_iter().collect(),
        usage: Some(pb::TenantUsage {
            endpoints: endpoints as i32,
            events_today: events_today.cast_signed(),
            open_deliveries: usage.open,
            queued_bytes: usage.queued_bytes,
        }),
        create_time: Some(out_time(tenant.created_at)),
        update_time: Some(out_time(tenant.updated_at)),
        etag: tenant.version.to_string(),
    }
}

/// Checks and sets the fields of `paths`.
fn apply(checks: &mut Checks, tenant: &mut Tenant, given: pb::Tenant, paths: &[&str]) {
    let named = |path: &str| paths.contains(&path);
    let pb::Tenant {
        id: _,
        name,
        suspended,
        call_rate_limit,
        max_endpoints,
        max_events_per_day,
        max_queued_bytes,
        weight,
        metadata,
        usage: _,
        create_time: _,
        update_time: _,
        etag: _,
    } = given;
    if named("name") {
        let fits = name.chars().count() <= NAME_MAX;
        checks.check(fits, "name", Rule::TooLong, "must have at most 128 characters");
        tenant.name = name;
    }
    tenant.suspended = suspended.unwrap_or_default();
    if named("call_rate_limit") {
        tenant.call_rate =
            call_rate_limit.map(|limit| policies::rate_limit(checks, "call_rate_limit", Some(limit)));
    }
    let mut count = |field: &str, given: i64| {
        checks.check(given >= 0 || !named(field), field, Rule::OutOfRange, "must not be negative");
        u64::try_from(given).unwrap_or(0)
    };
    tenant.quota = Quota {
        endpoints: count("max_endpoints", i64::from(max_endpoints)),
        events_per_day: count("max_events_per_day", max_events_per_day),
        queued_bytes: count("max_queued_bytes", max_queued_bytes),
    };
    if named("weight") {
        tenant.weight = policies::count(checks, "weight", weight, WEIGHT_MAX, Tenant::WEIGHT);
    }
    if named("metadata") {
        tenant.metadata = headers::metadata(checks, metadata, METADATA_BYTES_MAX);
    }
}

/// The fields of a message that are set.
fn set_fields(given: &pb::Tenant) -> Vec<&'static str> {
    let set = |field: &&str| match *field {
        "name" => !given.name.is_empty(),
        "suspended" => given.suspended.is_some(),
        "call_rate_limit" => given.call_rate_limit.is_some(),
        "max_endpoints" => given.max_endpoints != 0,
        "max_events_per_day" => given.max_events_per_day != 0,
        "max_queued_bytes" => given.max_queued_bytes != 0,
        "weight" => given.weight != 0,
        _ => !given.metadata.is_empty(),
    };
    FIELDS.into_iter().filter(set).collect()
}

fn paths(checks: &mut Checks, named: &[String]) -> Vec<&'static str> {
    let mut paths = Vec::new();
    for path in named {
        if let Some(field) = FIELDS.into_iter().find(|field| field == path) {
            paths.push(field);
        } else if path == "*" && named.len() == 1 {
            paths = FIELDS.to_vec();
        } else if FIXED.contains(&path.as_str()) {
            checks.add("update_mask", Rule::Immutable, format!("`{path}` cannot be changed"));
        } else {
            let why = format!("`{path}` is not a field that can be named");
            checks.add("update_mask", Rule::UnknownValue, why);
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch(tenant: pb::Tenant, paths: &[&str]) -> Result<Tenant, Error> {
        let mask = prost_types::FieldMask { paths: paths.iter().map(|it| (*it).to_owned()).collect() };
        let tenant = Some(pb::Tenant { id: "acme".to_owned(), ..tenant });
        let (_, _, patch) = Patch::new(pb::UpdateTenantRequest { tenant, update_mask: Some(mask) })?;
        let mut it = Tenant { weight: 7, ..Tenant::new(TenantKey(2), "acme", Timestamp(0)) };
        "before".clone_into(&mut it.name);
        patch.apply(&mut it);
        Ok(it)
    }

    #[test]
    fn only_what_is_named_is_changed() {
        let given =
            || pb::Tenant { name: "after".to_owned(), weight: 9, max_endpoints: 3, ..Default::default() };
        let changed = patch(given(), &["weight"]).unwrap();
        assert_eq!((&*changed.name, changed.weight, changed.quota.endpoints), ("before", 9, 0));
        let changed = patch(given(), &[]).unwrap();
        assert_eq!((&*changed.name, changed.weight, changed.quota.endpoints), ("after", 9, 3));
        let changed = patch(pb::Tenant::default(), &["*"]).unwrap();
        assert_eq!((&*changed.name, changed.weight), ("", Tenant::WEIGHT));
    }

    #[test]
    fn what_cannot_be_changed_is_refused_by_name() {
        for (path, rule) in [("id", Rule::Immutable), ("usage", Rule::Immutable), ("nam", Rule::UnknownValue)]
        {
            let Err(Error::Invalid { violations, .. }) = patch(pb::Tenant::default(), &[path]) else {
                panic!("{path}")
            };
            assert_eq!((violations.0[0].field.as_str(), violations.0[0].rule), ("update_mask", rule));
        }
        let negative = pb::Tenant { max_queued_bytes: -1, weight: 101, ..Default::default() };
        let Err(Error::Invalid { violations, .. }) = patch(negative, &["max_queued_bytes", "weight"]) else {
            panic!("taken")
        };
        let fields: Vec<_> = violations.0.iter().map(|it| it.field.as_str()).collect();
        assert_eq!(fields, ["tenant.max_queued_bytes", "tenant.weight"]);
    }
}
