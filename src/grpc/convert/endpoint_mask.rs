//! Changing some fields of an endpoint.
//!
//! The fields named are laid over the endpoint as it would be read, and the whole
//! is then taken in like a new one. So a change is checked by the same rules as a
//! creation, and against what is there at that moment.

use super::{Checks, checks::Root, endpoint_in, endpoint_out, ids};
use crate::{
    app::{EndpointRules, Error},
    domain::{Endpoint, Relocation, Rule},
    grpc::pb,
};

/// Fields that a caller may set.
const FIELDS: [&str; 18] = [
    "name",
    "description",
    "url",
    "enabled",
    "event_types",
    "headers",
    "sensitive_headers",
    "authentication",
    "tls",
    "http",
    "envelope",
    "signing",
    "retry_policy",
    "rate_limit",
    "max_in_flight",
    "circuit_breaker",
    "dead_letter_policy",
    "metadata",
];
/// Fields that are read only or changed by methods of their own.
const FIXED: [&str; 9] = [
    "id",
    "state",
    "state_reason",
    "secrets",
    "tenant_id",
    "circuit_state",
    "create_time",
    "update_time",
    "etag",
];

/// A change of some fields.
#[derive(Clone, Debug)]
pub struct Patch {
    given: pb::Endpoint,
    paths: Vec<String>,
}

impl Patch {
    /// The endpoint's id, its etag and the change.
    pub fn new(request: pb::UpdateEndpointRequest) -> Result<(String, String, Self), Error> {
        let pb::UpdateEndpointRequest { endpoint, update_mask } = request;
        let mut checks = Checks::new();
        let missing = endpoint.is_none();
        let mut given = endpoint.unwrap_or_default();
        checks.check(!missing, "endpoint", Rule::Required, "is needed");
        if !missing {
            ids::check_endpoint_id(&mut checks, "endpoint.id", &given.id);
        }
        let changes_secret = given.secrets.iter().any(|secret| !secret.value.is_empty());
        let why = "are changed by RotateSecret and ExpireSecret";
        let mut paths = update_mask.unwrap_or_default().paths;
        let implied = paths.is_empty() || paths.iter().any(|path| path == "*");
        checks.check(!(implied && changes_secret), "endpoint.secrets", Rule::Immutable, why);
        if paths.is_empty() {
            paths = set_fields(&given);
        } else if implied {
            checks.check(paths.len() == 1, "update_mask", Rule::Conflict, "`*` stands alone");
            paths = FIELDS.map(str::to_owned).to_vec();
        }
        let mut scratch = pb::Endpoint::default();
        for path in &paths {
            let root = path.split('.').next().unwrap_or_default();
            if FIXED.contains(&root) {
                checks.add("update_mask", Rule::Immutable, format!("`{path}` cannot be changed"));
            } else if !overlay(&mut scratch, &given, path) {
                checks.add(
                    "update_mask",
                    Rule::UnknownValue,
                    format!("`{path}` is not a field that can be named"),
                );
            }
        }
        let (id, etag) = (std::mem::take(&mut given.id), std::mem::take(&mut given.etag));
        checks.into_result((id, etag, Self { given, paths }))
    }

    /// Makes the change, all but for signing secrets, and says which stored secrets stay.
    pub fn apply(
        self,
        endpoint: &mut Endpoint,
        rules: &EndpointRules,
        may_write_secrets: bool,
    ) -> Result<Relocation, Error> {
        let mut whole = endpoint_out::configuration(endpoint);
        for path in &self.paths {
            overlay(&mut whole, &self.given, path);
        }
        // A part that nobody named follows the whole it is part of.
        let named = |path: &str| self.paths.iter().any(|it| it == path);
        if let Some(http) =
            whole.http.as_mut().filter(|_| named("http.timeout") && !named("http.connect_timeout"))
        {
            let nanos = |span: &Option<prost_types::Duration>| span.map(|span| (span.seconds, span.nanos));
            if nanos(&http.connect_timeout) > nanos(&http.timeout) {
                http.connect_timeout = None;
            }
        }
        let mut checks = Checks::under(Root::Field("endpoint"));
        let relocation = endpoint_in::apply(&mut checks, endpoint, whole, rules, may_write_secrets);
        checks.into_result(relocation)
    }
}

/// The fields of a message that are set.
fn set_fields(given: &pb::Endpoint) -> Vec<String> {
    let set = |field: &&str| match *field {
        "name" => !given.name.is_empty(),
        "description" => !given.description.is_empty(),
        "url" => !given.url.is_empty(),
        "enabled" => given.enabled.is_some(),
        "event_types" => !given.event_types.is_empty(),
        "headers" => !given.headers.is_empty(),
        "sensitive_headers" => !given.sensitive_headers.is_empty(),
        "authentication" => given.authentication.is_some(),
        "tls" => given.tls.is_some(),
        "http" => given.http.is_some(),
        "envelope" => given.envelope != 0,
        "signing" => given.signing.is_some(),
        "retry_policy" => given.retry_policy.is_some(),
        "rate_limit" => given.rate_limit.is_some(),
        "max_in_flight" => given.max_in_flight != 0,
        "circuit_breaker" => given.circuit_breaker.is_some(),
        "dead_letter_policy" => given.dead_letter_policy.is_some(),
        "metadata" => !given.metadata.is_empty(),
        _ => false,
    };
    FIELDS.iter().filter(|field| set(field)).map(|field| (*field).to_owned()).collect()
}

/// Copies one field, or one field of a message in a field.
macro_rules! copy {
    ($to:ident, $from:ident, $field:ident) => {
        $to.$field = $from.$field.clone()
    };
    ($to:ident, $from:ident, $message:ident . $field:ident) => {
        $to.$message.get_or_insert_default().$field = $from.$message.clone().unwrap_or_default().$field
    };
}

/// Lays one field over another endpoint's; false if there is none of that name.
fn overlay(to: &mut pb::Endpoint, from: &pb::Endpoint, path: &str) -> bool {
    match path {
        "name" => copy!(to, from, name),
        "description" => copy!(to, from, description),
        "url" => copy!(to, from, url),
        "enabled" => copy!(to, from, enabled),
        "event_types" => copy!(to, from, event_types),
        "headers" => copy!(to, from, headers),
        "sensitive_headers" => copy!(to, from, sensitive_headers),
        "authentication" => copy!(to, from, authentication),
        "tls" => copy!(to, from, tls),
        "tls.ca_certificates_pem" => copy!(to, from, tls.ca_certificates_pem),
        "tls.client_certificate_pem" => copy!(to, from, tls.client_certificate_pem),
        "tls.client_key_pem" => copy!(to, from, tls.client_key_pem),
        "http" => copy!(to, from, http),
        "http.timeout" => copy!(to, from, http.timeout),
        "http.connect_timeout" => copy!(to, from, http.connect_timeout),
        "envelope" => copy!(to, from, envelope),
        "signing" => copy!(to, from, signing),
        "signing.signatures" => copy!(to, from, signing.signatures),
        "signing.disabled" => copy!(to, from, signing.disabled),
        "retry_policy" => copy!(to, from, retry_policy),
        "retry_policy.max_attempts" => copy!(to, from, retry_policy.max_attempts),
        "retry_policy.initial_delay" => copy!(to, from, retry_policy.initial_delay),
        "retry_policy.max_delay" => copy!(to, from, retry_policy.max_delay),
        "retry_policy.multiplier" => copy!(to, from, retry_policy.multiplier),
        "retry_policy.jitter_ratio" => copy!(to, from, retry_policy.jitter_ratio),
        "retry_policy.schedule" => copy!(to, from, retry_policy.schedule),
        "retry_policy.retry_status_codes" => copy!(to, from, retry_policy.retry_status_codes),
        "retry_policy.no_retry_status_codes" => copy!(to, from, retry_policy.no_retry_status_codes),
        "retry_policy.ignore_retry_after" => copy!(to, from, retry_policy.ignore_retry_after),
        "retry_policy.max_retry_after" => copy!(to, from, retry_policy.max_retry_after),
        "rate_limit" => copy!(to, from, rate_limit),
        "rate_limit.requests_per_second" => copy!(to, from, rate_limit.requests_per_second),
        "rate_limit.burst" => copy!(to, from, rate_limit.burst),
        "rate_limit.disabled" => copy!(to, from, rate_limit.disabled),
        "max_in_flight" => copy!(to, from, max_in_flight),
        "circuit_breaker" => copy!(to, from, circuit_breaker),
        "circuit_breaker.failure_threshold" => copy!(to, from, circuit_breaker.failure_threshold),
        "circuit_breaker.cooldown" => copy!(to, from, circuit_breaker.cooldown),
        "circuit_breaker.disabled" => copy!(to, from, circuit_breaker.disabled),
        "dead_letter_policy" => copy!(to, from, dead_letter_policy),
        "dead_letter_policy.retention" => copy!(to, from, dead_letter_policy.retention),
        "dead_letter_policy.disabled" => copy!(to, from, dead_letter_policy.disabled),
        "metadata" => copy!(to, from, metadata),
        _ => return false,
    }
    true
}
