//! Endpoints, in.

use std::sync::Arc;

use super::{
    Checks, access,
    checks::Root,
    events, headers, ids,
    lists::{known, patterns},
    payload, policies, time,
};
use crate::{
    app::{
        DEFAULT_GRACE, EndpointFilter, EndpointRules, Error, GRACE_MAX, Rotation, check_secret, check_url,
    },
    domain::{
        Destinations, Endpoint, EndpointState, Envelope, Micros, Payload, Relocation, Rule, SecretText,
        TenantKey, Timestamp,
    },
    grpc::pb::{self, endpoint::State},
};

/// Most characters of a name, of a description, and bytes of metadata.
const NAME_MAX: usize = 128;
const DESCRIPTION_MAX: usize = 1024;
const METADATA_BYTES_MAX: usize = 16 << 10;
/// Attempts in flight at most.
const IN_FLIGHT_MAX: u32 = 1000;

/// A new endpoint: the caller's id for it, itself without id and secrets, and the
/// caller's secret.
pub fn new_endpoint(
    request: pb::CreateEndpointRequest,
    tenant: TenantKey,
    rules: &EndpointRules,
) -> Result<(String, Endpoint, Option<SecretText>), Error> {
    let pb::CreateEndpointRequest { endpoint, endpoint_id } = request;
    let mut checks = Checks::new();
    ids::own_endpoint_id(&mut checks, "endpoint_id", &endpoint_id);
    let Some(mut given) = endpoint else {
        checks.add("endpoint", Rule::Required, "is needed");
        return checks.into_result((endpoint_id, blank(tenant), None));
    };
    checks.enter(Root::Field("endpoint"));
    let why = "takes one secret at most; add others by RotateSecret";
    checks.check(given.secrets.len() <= 1, "secrets", Rule::TooMany, why);
    let secret = std::mem::take(&mut given.secrets).into_iter().next().map(|secret| secret.value);
    let secret = secret.filter(|value| !value.is_empty());
    if let Some(Err((rule, why))) = secret.as_deref().map(check_secret) {
        checks.add("secrets[0].value", rule, why);
    }
    let mut endpoint = blank(tenant);
    apply(&mut checks, &mut endpoint, given, rules, false);
    checks.into_result((endpoint_id, endpoint, secret.map(Into::into)))
}

/// Sets everything that a caller decides about an endpoint, signing secrets apart. A
/// stored secret that the answer's [`Relocation`] does not keep is not taken over.
pub fn apply(
    checks: &mut Checks,
    endpoint: &mut Endpoint,
    given: pb::Endpoint,
    rules: &EndpointRules,
    may_write_secrets: bool,
) -> Relocation {
    let pb::Endpoint {
        id: _,
        name,
        description,
        url,
        enabled,
        state: _,
        state_reason: _,
        event_types,
        headers,
        sensitive_headers,
        authentication,
        tls,
        http,
        envelope,
        signing,
        secrets: _,
        retry_policy,
        rate_limit,
        max_in_flight,
        circuit_breaker,
        dead_letter_policy,
        metadata,
        tenant_id: _,
        circuit_state: _,
        create_time: _,
        update_time: _,
        etag: _,
    } = given;
    let why = "must have at most 128 characters";
    checks.check(name.chars().count() <= NAME_MAX, "name", Rule::TooLong, why);
    let why = "must have at most 1024 characters";
    checks.check(description.chars().count() <= DESCRIPTION_MAX, "description", Rule::TooLong, why);
    if let Err(refusal) = check_url(&url, &rules.targets) {
        checks.bad_url("url", refusal);
    }
    let relocation = Relocation {
        before: Destinations::of(endpoint),
        after: Destinations::new(&url, access::token_url(authentication.as_ref())),
        may_write_secrets,
    };
    endpoint.tls = access::tls(checks, tls, &endpoint.tls, &url, &relocation);
    (endpoint.name, endpoint.description, endpoint.url) = (name, description, url);
    endpoint.event_types = patterns(checks, "event_types", &event_types);
    endpoint.signing = headers::signing(checks, signing);
    endpoint.authentication = access::authentication(
        checks,
        authentication,
        endpoint.authentication.as_ref(),
        &rules.targets,
        &relocation,
    );
    endpoint.headers = headers::headers(checks, headers, sensitive_headers, endpoint, &relocation);
    endpoint.http = policies::http(checks, http);
    endpoint.envelope = match pb::Envelope::try_from(envelope) {
        Ok(pb::Envelope::Unspecified | pb::Envelope::Event) => Envelope::Event,
        Ok(pb::Envelope::Raw) => Envelope::Raw,
        Err(_) => {
            checks.add("envelope", Rule::UnknownValue, "is not a known envelope");
            Envelope::Event
        }
    };
    endpoint.retry = policies::retry(checks, retry_policy);
    endpoint.rate_limit = policies::rate_limit(checks, "rate_limit", rate_limit);
    endpoint.max_in_flight =
        policies::count(checks, "max_in_flight", max_in_flight, IN_FLIGHT_MAX, Endpoint::MAX_IN_FLIGHT);
    endpoint.breaker = policies::breaker(checks, circuit_breaker, rules.breaker_cooldown);
    endpoint.dead_letters = policies::dead_letters(checks, dead_letter_policy);
    endpoint.metadata = headers::metadata(checks, metadata, METADATA_BYTES_MAX);
    match (enabled.unwrap_or(true), endpoint.receives()) {
        (true, false) => (endpoint.state, endpoint.state_reason) = (EndpointState::Active, String::new()),
        (false, true) => {
            endpoint.state = EndpointState::Disabled;
            "disabled by its owner".clone_into(&mut endpoint.state_reason);
        }
        (true, true) | (false, false) => {}
    }
    relocation
}

/// An endpoint about which nothing was said; its id and its times come later.
pub fn blank(tenant: TenantKey) -> Endpoint {
    Endpoint::new(tenant, "", "", Timestamp(0))
}

/// Which endpoints a list shows.
pub fn endpoint_filter(checks: &mut Checks, given: Option<pb::EndpointFilter>) -> EndpointFilter {
    let pb::EndpointFilter { states, event_type, text } = given.unwrap_or_default();
    checks.enter(Root::Field("filter"));
    let states = known(checks, "states", &states, |number| match State::try_from(number) {
        Ok(State::Active) => Some(EndpointState::Active),
        Ok(State::Paused) => Some(EndpointState::Paused),
        Ok(State::Disabled) => Some(EndpointState::Disabled),
        Ok(State::AutoDisabled) => Some(EndpointState::AutoDisabled),
        Ok(State::Unspecified) | Err(_) => None,
    });
    if !event_type.is_empty() {
        events::event_type_form(checks, "event_type", &event_type);
    }
    let text = text.to_lowercase();
    checks.enter(Root::Request);
    EndpointFilter { states, event_type, text }
}

/// How secrets are to be rotated.
pub fn rotation(request: pb::RotateSecretRequest) -> Result<(String, Rotation), Error> {
    let pb::RotateSecretRequest { id, value, grace_period, primary_delay } = request;
    let mut checks = Checks::new();
    ids::check_endpoint_id(&mut checks, "id", &id);
    let value = Some(value).filter(|value| !value.is_empty());
    if let Some(Err((rule, why))) = value.as_deref().map(check_secret) {
        checks.add("value", rule, why);
    }
    let grace = grace_period.map_or(DEFAULT_GRACE, |span| time::span(&mut checks, "grace_period", span));
    let good = (Micros::ZERO..=GRACE_MAX).contains(&grace);
    checks.check(good, "grace_period", Rule::OutOfRange, "must be 0 to 30 days");
    let primary_delay = primary_delay.map(|span| time::span(&mut checks, "primary_delay", span));
    if let Some(delay) = primary_delay {
        checks.check(delay >= Micros::ZERO, "primary_delay", Rule::OutOfRange, "must not be negative");
        checks.check(delay <= grace, "primary_delay", Rule::Conflict, "must not be longer than grace_period");
    }
    checks.into_result((id, Rotation { value: value.map(Into::into), grace, primary_delay }))
}

/// A test event.
pub fn test_event(
    request: pb::TestEndpointRequest,
    payload_max: usize,
) -> Result<(String, Arc<str>, Payload), Error> {
    /// Type and payload of a test event about which nothing was said.
    const TEST_TYPE: &str = "hookwire.test";
    const GREETING: &str = "{\"message\":\"Hello from Hookwire\"}";
    let pb::TestEndpointRequest { id, event_type, payload } = request;
    let mut checks = Checks::new();
    ids::check_endpoint_id(&mut checks, "id", &id);
    let event_type = if event_type.is_empty() { TEST_TYPE.to_owned() } else { event_type };
    if event_type != TEST_TYPE {
        events::event_type(&mut checks, "event_type", &event_type);
    }
    let greeting = || pb::Payload {
        content_type: String::new(),
        body: Some(pb::payload::Body::Json(GREETING.to_owned())),
    };
    let given = payload.unwrap_or_else(greeting);
    let payload = payload::payload(&mut checks, Some(given), payload_max);
    checks.into_result((id, event_type.into(), payload))
}
