//! API keys, in and out; and the audit log.

use ipnet::IpNet;
use prost_types::Duration;

use super::{Checks, checks::Root, ids, out_time, policies, time};
use crate::{
    app::{ApiKeyView, Error, KEY_GRACE_MAX, NewApiKey},
    domain::{AuditEntry, Micros, Rule, Scope, Timestamp},
    grpc::pb,
    store::AuditFilter,
};

/// Most characters of a name, scopes, networks and certificates.
const NAME_MAX: usize = 128;
const SCOPES_MAX: usize = 32;
const NETWORKS_MAX: usize = 32;
const CERTIFICATES_MAX: usize = 8;

/// What is asked of a new key.
pub fn new_key(request: pb::CreateApiKeyRequest, now: Timestamp) -> Result<NewApiKey, Error> {
    let Some(given) = request.api_key else {
        return Err(Error::invalid("api_key", Rule::Required, "is needed"));
    };
    let pb::ApiKey {
        id: _,
        name,
        tenant_id,
        scopes,
        expire_time,
        rate_limit,
        allowed_networks,
        revoked: _,
        client_certificates,
        required_client_certificates,
        create_time: _,
        last_use_time: _,
    } = given;
    let mut checks = Checks::under(Root::Field("api_key"));
    let fits = name.chars().count() <= NAME_MAX;
    checks.check(fits, "name", Rule::TooLong, "must have at most 128 characters");
    checks.check(!scopes.is_empty(), "scopes", Rule::Required, "must name at least one scope");
    let scopes: Vec<Scope> = each(&mut checks, "scopes", &scopes, SCOPES_MAX, |text| {
        text.parse().map_err(|error: crate::domain::ScopeError| error.to_string())
    });
    let networks = each(&mut checks, "allowed_networks", &allowed_networks, NETWORKS_MAX, network);
    let certificates =
        each(&mut checks, "client_certificates", &client_certificates, CERTIFICATES_MAX, fingerprint);
    let field = "required_client_certificates";
    let required_certificates =
        each(&mut checks, field, &required_client_certificates, CERTIFICATES_MAX, fingerprint);
    let both = !certificates.is_empty() && !required_certificates.is_empty();
    let why = "cannot be given with `client_certificates`: a certificate either stands for the token or is \
         needed besides it";
    checks.check(!both, field, Rule::Conflict, why);
    let expires_at = expire_time.map(|at| time::time(&mut checks, "expire_time", at));
    let ahead = expires_at.is_none_or(|at| at > now);
    checks.check(ahead, "expire_time", Rule::OutOfRange, "must lie ahead");
    let call_rate = rate_limit.map(|limit| policies::rate_limit(&mut checks, "rate_limit", Some(limit)));
    checks.into_result(NewApiKey {
        name,
        tenant: tenant_id,
        scopes,
        expires_at,
        call_rate,
        networks,
        certificates,
        required_certificates,
    })
}

/// How long the token before works after a rotation.
pub fn grace(given: Option<Duration>) -> Result<Micros, Error> {
    let mut checks = Checks::new();
    let limits = (Micros::ZERO, KEY_GRACE_MAX);
    let grace = time::span_in(&mut checks, "grace_period", given, limits, Micros::ZERO);
    checks.into_result(grace)
}

/// A key as read.
pub fn out(view: ApiKeyView) -> pb::ApiKey {
    let ApiKeyView { key, tenant } = view;
    pb::ApiKey {
        id: key.id.to_string(),
        name: key.name,
        tenant_id: tenant.to_string(),
        scopes: key.scopes.iter().map(Scope::to_string).collect(),
        expire_time: key.expires_at.map(out_time),
        rate_limit: key.call_rate.map(policies::rate_limit_out),
        allowed_networks: key.networks.iter().map(IpNet::to_string).collect(),
        revoked: key.revoked_at.is_some(),
        client_certificates: key.certificates.iter().map(hex::encode).collect(),
        required_client_certificates: key.required_certificates.iter().map(hex::encode).collect(),
        create_time: Some(out_time(key.created_at)),
        last_use_time: key.last_used_at.map(out_time),
    }
}

/// Which entries of the audit log.
pub fn audit_filter(checks: &mut Checks, given: Option<pb::AuditFilter>) -> AuditFilter {
    let pb::AuditFilter { tenant_id, key_id, method, resource_id, time } = given.unwrap_or_default();
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    checks.enter(Root::Field("filter"));
    let key = if key_id.is_empty() { None } else { ids::id(checks, "key_id", &key_id) };
    let at = time::range(checks, "time", time);
    checks.enter(Root::Request);
    AuditFilter { tenant: some(tenant_id), key, method: some(method), resource: some(resource_id), at }
}

/// An entry of the audit log.
pub fn audit_entry(it: AuditEntry) -> pb::AuditEntry {
    pb::AuditEntry {
        sequence: it.sequence.cast_signed(),
        time: Some(out_time(it.at)),
        key_id: it.key.map(|id| id.to_string()).unwrap_or_default(),
        tenant_id: it.tenant.to_string(),
        method: it.method,
        resource_id: it.resource,
        code: it.code,
        address: it.address.map(|address| address.to_string()).unwrap_or_default(),
        request_id: it.request_id,
        call_count: it.calls.cast_signed(),
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let net = text.parse().or_else(|_| text.parse().map(|address: std::net::IpAddr| IpNet::from(address)));
    net.map(|net| net.trunc()).map_err(|_| "must be a network such as `10.0.0.0/8` or an address".to_owned())
}

fn fingerprint(text: &str) -> Result<[u8; 32], String> {
    let mut bytes = [0; 32];
    let digits: String = text.chars().filter(|it| *it != ':').collect();
    let decoded = hex::decode_to_slice(digits, &mut bytes);
    decoded.map(|()| bytes).map_err(|_| "must be 64 hex digits, the SHA-256 of a certificate".to_owned())
}

/// Reads each of a list.
fn each<T>(
    checks: &mut Checks,
    field: &str,
    texts: &[String],
    most: usize,
    read: impl Fn(&str) -> Result<T, String>,
) -> Vec<T> {
    if texts.len() > most {
        checks.add(field, Rule::TooMany, format!("must have at most {most}"));
    }
    let mut values = Vec::with_capacity(texts.len().min(most));
    for (index, text) in texts.iter().take(most).enumerate() {
        match read(text) {
            Ok(value) => values.push(value),
            Err(why) => checks.add(format_args!("{field}[{index}]"), Rule::BadFormat, why),
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_wrong_with_a_key_is_told() {
        let api_key = pb::ApiKey {
            name: "x".repeat(129),
            scopes: vec!["events:write".to_owned(), "events".to_owned()],
            allowed_networks: vec!["10.0.0.1/8".to_owned(), "::1".to_owned(), "10.0.0.0/33".to_owned()],
            client_certificates: vec!["ab".repeat(32), "zz".to_owned()],
            expire_time: Some(out_time(Timestamp(5))),
            ..Default::default()
        };
        let request = pb::CreateApiKeyRequest { api_key: Some(api_key) };
        let Err(Error::Invalid { violations, .. }) = new_key(request, Timestamp(5)) else { panic!("taken") };
        let fields: Vec<_> = violations.0.iter().map(|it| it.field.as_str()).collect();
        let expected = [
            "api_key.name",
            "api_key.scopes[1]",
            "api_key.allowed_networks[2]",
            "api_key.client_certificates[1]",
            "api_key.expire_time",
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn a_network_is_cut_to_its_prefix_and_an_address_is_a_network() {
        assert_eq!(network("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(network("::1").unwrap().to_string(), "::1/128");
    }
}
