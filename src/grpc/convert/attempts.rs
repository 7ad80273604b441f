//! Attempts and how they failed, out.

use super::{out_span, out_time};
use crate::{
    app::Show,
    domain::{Attempt, Cause, ErrorKind, Failure, Trigger},
    grpc::pb::{self, DeliveryErrorCause, DeliveryErrorKind, DeliveryTrigger, attempt::Outcome},
};

/// What made something.
pub fn trigger(trigger: Trigger) -> DeliveryTrigger {
    match trigger {
        Trigger::Event => DeliveryTrigger::Event,
        Trigger::ManualRetry => DeliveryTrigger::ManualRetry,
        Trigger::DeadLetter => DeliveryTrigger::DeadLetter,
        Trigger::Test => DeliveryTrigger::Test,
    }
}

/// How something failed.
pub fn error(failure: &Failure, status: Option<u16>) -> pb::DeliveryError {
    let kind = match failure.cause.kind() {
        ErrorKind::Network => DeliveryErrorKind::NetworkError,
        ErrorKind::Timeout => DeliveryErrorKind::TimeoutError,
        ErrorKind::InvalidResponse => DeliveryErrorKind::InvalidResponse,
        ErrorKind::RateLimitExceeded => DeliveryErrorKind::RateLimitExceeded,
        ErrorKind::Validation => DeliveryErrorKind::ValidationError,
    };
    pb::DeliveryError {
        kind: kind.into(),
        cause: cause(failure.cause).into(),
        message: failure.message.clone(),
        status_code: status.map_or(0, i32::from),
        retryable: failure.retryable,
    }
}

fn cause(cause: Cause) -> DeliveryErrorCause {
    match cause {
        Cause::Dns => DeliveryErrorCause::Dns,
        Cause::Connect => DeliveryErrorCause::Connect,
        Cause::Tls => DeliveryErrorCause::Tls,
        Cause::ConnectionReset => DeliveryErrorCause::ConnectionReset,
        Cause::ConnectTimeout => DeliveryErrorCause::ConnectTimeout,
        Cause::ResponseTimeout => DeliveryErrorCause::ResponseTimeout,
        Cause::Redirect => DeliveryErrorCause::Redirect,
        Cause::ClientError => DeliveryErrorCause::HttpClientError,
        Cause::ServerError => DeliveryErrorCause::HttpServerError,
        Cause::MalformedResponse => DeliveryErrorCause::MalformedResponse,
        Cause::TooManyRequests => DeliveryErrorCause::TooManyRequests,
        Cause::TargetForbidden => DeliveryErrorCause::TargetForbidden,
        Cause::InvalidRequest => DeliveryErrorCause::InvalidRequest,
        Cause::Gone => DeliveryErrorCause::Gone,
        Cause::Authentication => DeliveryErrorCause::Authentication,
        Cause::WorkerLost => DeliveryErrorCause::WorkerLost,
    }
}

/// An attempt; bodies only if all is to be shown.
pub fn attempt(it: &Attempt, delivery_id: String, endpoint_id: &str, show: Show) -> pb::Attempt {
    let outcome = match (&it.failure, it.retry_delay) {
        (None, _) => Outcome::Succeeded,
        (Some(_), Some(_)) => Outcome::FailedWillRetry,
        (Some(_), None) => Outcome::FailedFinal,
    };
    let timings = pb::AttemptTimings {
        dns: it.timings.dns.map(out_span),
        connect: it.timings.connect.map(out_span),
        tls: it.timings.tls.map(out_span),
        first_byte: it.timings.first_byte.map(out_span),
    };
    pb::Attempt {
        id: it.id.to_string(),
        delivery_id,
        number: it.number.cast_signed(),
        outcome: outcome.into(),
        trigger: trigger(it.trigger).into(),
        start_time: Some(out_time(it.started_at)),
        duration: Some(out_span(it.duration)),
        timings: Some(timings),
        response: response(it, show),
        error: it.failure.as_ref().map(|failure| error(failure, it.status)),
        retry_delay: it.retry_delay.map(out_span),
        endpoint_id: endpoint_id.to_owned(),
    }
}

fn response(it: &Attempt, show: Show) -> Option<pb::AttemptResponse> {
    let kept = it.response.as_deref();
    if it.status.is_none() && kept.is_none() {
        return None;
    }
    let mut response =
        pb::AttemptResponse { status_code: it.status.map_or(0, i32::from), ..Default::default() };
    let Some(kept) = kept else { return Some(response) };
    for (name, value) in &kept.headers {
        let values: &mut String = response.headers.entry(name.clone()).or_default();
        if !values.is_empty() {
            values.push_str(", ");
        }
        values.push_str(value);
    }
    if show == Show::Full {
        response.body.clone_from(&kept.body);
    }
    response.body_truncated = kept.body_truncated;
    response.remote_address = kept.remote.clone().unwrap_or_default();
    Some(response)
}
