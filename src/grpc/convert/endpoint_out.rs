//! Endpoints, out: with the values that are in force.

use std::collections::BTreeMap;

use super::{access, headers::HIDDEN, out_span, out_time, policies};
use crate::{
    app::EndpointView,
    domain::{Content, Endpoint, EndpointState, Envelope, Scheme, Secret, Signature, Signing, Timestamp},
    engine::Circuit,
    grpc::pb::{self, circuit_state, endpoint::State, signature},
    machine::breaker::Position,
};

/// An endpoint as read. Secrets without their values, but for `shown`.
pub fn endpoint(view: &EndpointView, tenant_id: String, now: Timestamp, shown: Option<&str>) -> pb::Endpoint {
    let it = &*view.endpoint;
    let primary = it.primary_secret(now).map(|secret| secret.id.as_str());
    let secrets = it
        .live_secrets(now)
        .map(|each| secret(each, primary == Some(each.id.as_str()), shown == Some(each.id.as_str())));
    pb::Endpoint {
        id: it.id.as_ref().to_owned(),
        state: state(it.state).into(),
        state_reason: it.state_reason.clone(),
        secrets: secrets.collect(),
        tenant_id,
        circuit_state: Some(circuit(&view.circuit)),
        create_time: Some(out_time(it.created_at)),
        update_time: Some(out_time(it.updated_at)),
        etag: it.version.to_string(),
        ..configuration(it)
    }
}

/// What a caller decides about an endpoint, without any secret.
pub fn configuration(endpoint: &Endpoint) -> pb::Endpoint {
    let it = endpoint.clone();
    let enabled = it.receives();
    let (retry, breaker, letters) = (it.retry, it.breaker, it.dead_letters);
    let (hidden, shown): (BTreeMap<_, _>, BTreeMap<_, _>) =
        it.headers.into_iter().partition(|(_, header)| header.sensitive);
    let codes = |statuses: Vec<u16>| statuses.into_iter().map(i32::from).collect();
    pb::Endpoint {
        name: it.name,
        description: it.description,
        url: it.url,
        enabled: Some(enabled),
        event_types: it.event_types.into_iter().map(String::from).collect(),
        headers: shown.into_iter().map(|(name, it)| (name, it.value.expose().to_owned())).collect(),
        sensitive_headers: hidden.into_keys().map(|name| (name, HIDDEN.to_owned())).collect(),
        authentication: it.authentication.as_ref().map(access::out_authentication),
        tls: access::out_tls(&it.tls),
        http: Some(pb::HttpOptions {
            timeout: Some(out_span(it.http.timeout)),
            connect_timeout: Some(out_span(it.http.connect_timeout)),
        }),
        envelope: match it.envelope {
            Envelope::Event => pb::Envelope::Event,
            Envelope::Raw => pb::Envelope::Raw,
        }
        .into(),
        signing: Some(signing(it.signing)),
        retry_policy: Some(pb::RetryPolicy {
            max_attempts: retry.max_attempts.cast_signed(),
            initial_delay: Some(out_span(retry.initial_delay)),
            max_delay: Some(out_span(retry.max_delay)),
            multiplier: retry.multiplier,
            jitter_ratio: Some(retry.jitter_ratio),
            schedule: retry.schedule.into_iter().map(out_span).collect(),
            retry_status_codes: codes(retry.retry_statuses),
            no_retry_status_codes: codes(retry.no_retry_statuses),
            ignore_retry_after: retry.ignore_retry_after,
            max_retry_after: Some(out_span(retry.max_retry_after)),
        }),
        rate_limit: Some(policies::rate_limit_out(it.rate_limit)),
        max_in_flight: it.max_in_flight.cast_signed(),
        circuit_breaker: Some(pb::CircuitBreaker {
            failure_threshold: breaker.failure_threshold.cast_signed(),
            cooldown: Some(out_span(breaker.cooldown)),
            disabled: breaker.disabled,
        }),
        dead_letter_policy: Some(pb::DeadLetterPolicy {
            retention: Some(out_span(letters.retention)),
            disabled: letters.disabled,
        }),
        metadata: it.metadata.into_iter().collect(),
        ..pb::Endpoint::default()
    }
}

/// A signing secret.
pub fn secret(secret: &Secret, primary: bool, shown: bool) -> pb::SigningSecret {
    pb::SigningSecret {
        id: secret.public_id(),
        value: if shown { secret.value.expose().to_owned() } else { String::new() },
        fingerprint: secret.fingerprint(),
        primary,
        create_time: Some(out_time(secret.created_at)),
        primary_time: secret.primary_at.map(out_time),
        expire_time: secret.expires_at.map(out_time),
    }
}

fn signing(signing: Signing) -> pb::SigningConfig {
    let disabled = signing.signatures.is_empty();
    let signature = |it: Signature| pb::Signature {
        scheme: match it.scheme {
            Scheme::StandardWebhooks => signature::Scheme::StandardWebhooks,
            Scheme::Sha256Hex => signature::Scheme::Sha256Hex,
            Scheme::Timestamped => signature::Scheme::Timestamped,
        }
        .into(),
        header: it.header,
        content: match (it.scheme, it.content) {
            // Fixed by the scheme, and more than this enum can say.
            (Scheme::StandardWebhooks, _) => signature::Content::Unspecified,
            (_, Content::Body) => signature::Content::Body,
            (_, Content::TimestampBody) => signature::Content::TimestampBody,
        }
        .into(),
        add_v2: it.add_v2,
    };
    pb::SigningConfig { signatures: signing.signatures.into_iter().map(signature).collect(), disabled }
}

fn state(state: EndpointState) -> State {
    match state {
        EndpointState::Active => State::Active,
        EndpointState::Paused => State::Paused,
        EndpointState::Disabled => State::Disabled,
        EndpointState::AutoDisabled => State::AutoDisabled,
    }
}

fn circuit(circuit: &Circuit) -> pb::CircuitState {
    let (position, next_probe) = match circuit.position {
        Position::Closed => (circuit_state::Position::Closed, None),
        Position::Open { until } => (circuit_state::Position::Open, Some(until)),
        Position::HalfOpen => (circuit_state::Position::HalfOpen, None),
    };
    pb::CircuitState {
        position: position.into(),
        consecutive_failures: i32::try_from(circuit.failures).unwrap_or(i32::MAX),
        open_time: circuit.opened_at.map(out_time),
        next_probe_time: next_probe.map(out_time),
    }
}
