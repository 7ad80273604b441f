//! Deliveries, attempts and changes, in and out.

use std::time::Duration;

use super::{Checks, checks::Root, ids, lists::patterns, out_span, out_time, time};
use crate::{
    app::{Batch, Error, Seen, Show, Watch, WatchStart},
    domain::{
        Attempt, Cause, Change, ChangeKind, DeadLetterId, Delivery, ErrorKind, Failure, Hold, Live, Micros,
        Rule, State, Timestamp, Trigger,
    },
    grpc::pb::{
        self, DeliveryErrorCause, DeliveryErrorKind, DeliveryStatus, DeliveryTrigger, HoldReason,
        attempt::Outcome, delivery_change::Kind, watch_deliveries_request::Start,
    },
    store::DeliveryFilter,
};

/// Silence of a watch unless asked otherwise.
const PROGRESS: Micros = Micros::from_secs(10);
/// Changes in one response unless asked otherwise, and at most.
const BATCH: u32 = 100;
const BATCH_MAX: u32 = 1000;

/// Which deliveries are listed or watched.
pub fn filter(checks: &mut Checks, given: Option<pb::DeliveryFilter>) -> DeliveryFilter {
    let pb::DeliveryFilter { event_ids, endpoint_ids, event_types, statuses, create_time } =
        given.unwrap_or_default();
    checks.enter(Root::Field("filter"));
    let events = ids::list(checks, "event_ids", &event_ids);
    let endpoints = ids::endpoints(checks, "endpoint_ids", endpoint_ids);
    let (states, scheduled) = states(checks, &statuses);
    let filter = DeliveryFilter {
        events: (!event_ids.is_empty()).then_some(events),
        endpoints: (!endpoints.is_empty()).then_some(endpoints),
        event_types: patterns(checks, "event_types", &event_types),
        states,
        scheduled,
        created: time::range(checks, "create_time", create_time),
    };
    checks.enter(Root::Request);
    filter
}

/// The stored states behind statuses, and which kind of pending is meant if only
/// one is.
fn states(checks: &mut Checks, statuses: &[i32]) -> (Vec<State>, Option<bool>) {
    let (mut states, mut pending, mut scheduled) = (Vec::new(), false, false);
    for (index, number) in statuses.iter().enumerate() {
        let state = match DeliveryStatus::try_from(*number) {
            Ok(DeliveryStatus::Pending) => {
                pending = true;
                State::Pending
            }
            Ok(DeliveryStatus::Scheduled) => {
                scheduled = true;
                State::Pending
            }
            Ok(DeliveryStatus::Retrying) => State::Retrying,
            Ok(DeliveryStatus::Delivered) => State::Delivered,
            Ok(DeliveryStatus::Failed) => State::Failed,
            Ok(DeliveryStatus::DeadLetter) => State::DeadLetter,
            Ok(DeliveryStatus::Cancelled) => State::Cancelled,
            Ok(DeliveryStatus::Expired) => State::Expired,
            Ok(DeliveryStatus::Unspecified | DeliveryStatus::InProgress | DeliveryStatus::RateLimited)
            | Err(_) => {
                checks.add(format_args!("statuses[{index}]"), Rule::UnknownValue, "cannot be selected");
                continue;
            }
        };
        if !states.contains(&state) {
            states.push(state);
        }
    }
    (states, (pending != scheduled).then_some(scheduled))
}

/// What is to be watched.
pub fn watch(request: pb::WatchDeliveriesRequest) -> Result<Watch, Error> {
    let pb::WatchDeliveriesRequest {
        filter,
        start,
        include_attempts,
        progress_interval,
        max_batch_delay,
        max_batch_size,
        coalesce,
    } = request;
    let mut checks = Checks::new();
    let filter = self::filter(&mut checks, filter);
    let start = match start {
        None | Some(Start::Earliest(false)) => WatchStart::Now,
        Some(Start::ResumeToken(token)) => WatchStart::Token(token),
        Some(Start::StartTime(at)) => WatchStart::At(time::time(&mut checks, "start_time", at)),
        Some(Start::Earliest(true)) => WatchStart::Earliest,
    };
    let limits = (Micros::from_secs(1), Micros::from_secs(60));
    let progress = time::span_in(&mut checks, "progress_interval", progress_interval, limits, PROGRESS);
    let limits = (Micros::ZERO, Micros::from_secs(1));
    let gather = time::span_in(&mut checks, "max_batch_delay", max_batch_delay, limits, Micros::ZERO);
    let batch = super::policies::count(&mut checks, "max_batch_size", max_batch_size, BATCH_MAX, BATCH);
    checks.into_result(Watch {
        filter,
        start,
        attempts: include_attempts,
        progress: progress.to_std(),
        gather: gather.to_std(),
        batch_max: batch as usize,
        coalesce,
    })
}

/// A delivery as it stands.
pub fn seen(seen: Seen, tenant_id: String) -> pb::Delivery {
    let Seen { delivery, live, at } = seen;
    let status = status(&delivery, live, at);
    self::delivery(&delivery, status, live, tenant_id)
}

fn status(it: &Delivery, live: Live, now: Timestamp) -> DeliveryStatus {
    let held_back = matches!(live.hold, Some(Hold::Rate | Hold::RetryAfter));
    match it.state {
        State::Pending | State::Retrying if live.in_flight => DeliveryStatus::InProgress,
        State::Pending if it.due_at > now => DeliveryStatus::Scheduled,
        State::Pending | State::Retrying if held_back => DeliveryStatus::RateLimited,
        state => stored_status(state),
    }
}

fn stored_status(state: State) -> DeliveryStatus {
    match state {
        State::Pending => DeliveryStatus::Pending,
        State::Retrying => DeliveryStatus::Retrying,
        State::Delivered => DeliveryStatus::Delivered,
        State::DeadLetter => DeliveryStatus::DeadLetter,
        State::Failed => DeliveryStatus::Failed,
        State::Cancelled => DeliveryStatus::Cancelled,
        State::Expired => DeliveryStatus::Expired,
    }
}

fn hold(hold: Hold) -> HoldReason {
    match hold {
        Hold::Rate => HoldReason::EndpointRate,
        Hold::RetryAfter => HoldReason::RetryAfter,
        Hold::CircuitOpen => HoldReason::CircuitOpen,
        Hold::Paused => HoldReason::EndpointPaused,
        Hold::Disabled => HoldReason::EndpointDisabled,
        Hold::MaxInFlight => HoldReason::MaxInFlight,
    }
}

fn delivery(it: &Delivery, status: DeliveryStatus, live: Live, tenant_id: String) -> pb::Delivery {
    let open = it.is_open();
    let waits =
        matches!(status, DeliveryStatus::Pending | DeliveryStatus::Retrying | DeliveryStatus::RateLimited);
    let hold_reason = live.hold.filter(|_| waits).map_or(HoldReason::Unspecified, hold);
    let last = it.last.as_ref();
    let ended_at = (!open).then(|| out_time(it.updated_at));
    let letter = (it.state == State::DeadLetter).then(|| DeadLetterId(it.letter.unwrap_or(it.id).0));
    pb::Delivery {
        id: it.id.to_string(),
        event_id: it.event.to_string(),
        endpoint_id: it.endpoint_id.as_ref().to_owned(),
        event_type: it.event_type.as_ref().to_owned(),
        status: status.into(),
        hold_reason: hold_reason.into(),
        trigger: trigger(it.trigger).into(),
        attempt_count: (it.attempts + u32::from(open && live.in_flight)).cast_signed(),
        max_attempts: it.max_attempts.cast_signed(),
        next_attempt_time: open.then(|| out_time(it.due_at)),
        last_attempt_time: last.map(|last| out_time(last.at)),
        last_error: last.and_then(|last| Some(error(last.failure.as_ref()?, last.status))),
        response_status_code: last.and_then(|last| last.status).map_or(0, i32::from),
        response_time: last.map(|last| out_span(last.duration)),
        priority: it.priority.into(),
        replay_of: it.replay_of.map(|id| id.to_string()).unwrap_or_default(),
        dead_letter_id: letter.map(|id| id.to_string()).unwrap_or_default(),
        tenant_id,
        create_time: Some(out_time(it.created_at)),
        update_time: Some(out_time(it.updated_at)),
        deliver_time: ended_at.filter(|_| it.state == State::Delivered),
        complete_time: ended_at,
        expire_time: it.expires_at.map(out_time),
        revision: it.revision,
    }
}

fn trigger(trigger: Trigger) -> DeliveryTrigger {
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

/// A response of a watch.
pub fn batch(batch: Batch, attempts: bool, tenant_id: &str) -> pb::WatchDeliveriesResponse {
    let Batch { changes, token, at, lag } = batch;
    pb::WatchDeliveriesResponse {
        changes: changes.iter().map(|it| change(it, attempts, tenant_id)).collect(),
        resume_token: token,
        server_time: Some(out_time(at)),
        lag,
    }
}

fn change(it: &Change, attempts: bool, tenant_id: &str) -> pb::DeliveryChange {
    let kind = match it.kind {
        ChangeKind::Created => Kind::Created,
        ChangeKind::StateChanged => Kind::StatusChanged,
        ChangeKind::Updated => Kind::Updated,
    };
    let known = Live::default();
    let delivery = &*it.delivery;
    // An end leaves the due time as it was, so it tells what was not due yet.
    let was_scheduled = !delivery.is_open() && delivery.due_at > it.at && delivery.attempts == 0;
    let previous = match it.previous {
        None => DeliveryStatus::Unspecified,
        Some(State::Pending) if was_scheduled => DeliveryStatus::Scheduled,
        Some(state) => stored_status(state),
    };
    let attempt = it.attempt.as_deref().filter(|_| attempts);
    pb::DeliveryChange {
        sequence: it.pos.0,
        change_time: Some(out_time(it.at)),
        kind: kind.into(),
        delivery: Some(self::delivery(delivery, status(delivery, known, it.at), known, tenant_id.to_owned())),
        previous_status: previous.into(),
        attempt: attempt
            .map(|it| self::attempt(it, delivery.id.to_string(), &delivery.endpoint_id, Show::Basic)),
    }
}

/// How long a caller means to wait, at most.
pub fn wait(
    checks: &mut Checks,
    field: &str,
    given: Option<prost_types::Duration>,
    most: Duration,
) -> Duration {
    let limits = (Micros::ZERO, Micros::from_secs(365 * 24 * 3600));
    time::span_in(checks, field, given, limits, Micros::from(most)).to_std().min(most)
}
