//! The log lines about deliveries: failed attempts, dead letters, circuit breakers and
//! endpoints that were disabled. `hookwire dev` also gets one line for people per
//! delivery that ends.
//!
//! Each kind of line is limited by endpoint, so that a dead endpoint with a million
//! deliveries does not fill the log.

use rustc_hash::FxHashSet;

use crate::{
    domain::{
        Attempt, Change, Delivery, Endpoint, EndpointKey, EndpointState, Micros, Now, State, Timestamp,
    },
    machine::{
        breaker::{Breaker, Position},
        line_limit::LineLimit,
    },
    store::Directory,
};

/// Lines of one kind for an endpoint in each window.
const LINES: u32 = 5;
/// Lines for people, which only a development server writes.
const PEOPLES_LINES: u32 = 100;
const WINDOW: Micros = Micros::from_secs(10);

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Attempt,
    GivenUp,
    Circuit,
}

/// Writes the lines.
#[derive(Debug)]
pub(super) struct DeliveryLog {
    limit: LineLimit<(EndpointKey, Kind)>,
    /// Of the lines for people, where they are wanted.
    for_people: Option<LineLimit<EndpointKey>>,
    /// Endpoints whose breaker is not closed.
    open: FxHashSet<EndpointKey>,
}

impl DeliveryLog {
    /// With lines for people or without.
    pub fn new(for_people: bool) -> Self {
        Self {
            limit: LineLimit::new(LINES, WINDOW),
            for_people: for_people.then(|| LineLimit::new(PEOPLES_LINES, WINDOW)),
            open: FxHashSet::default(),
        }
    }

    /// A change was committed.
    pub fn change(&mut self, change: &Change, directory: &Directory, now: Timestamp) {
        let delivery = &change.delivery;
        if let Some(attempt) = &change.attempt {
            self.failed_attempt(delivery, attempt, directory, now);
        }
        if change.previous == Some(delivery.state) || delivery.is_open() {
            return;
        }
        if matches!(delivery.state, State::DeadLetter | State::Failed | State::Expired) {
            self.given_up(delivery, directory, now);
        }
        if let Some(limit) = &mut self.for_people
            && let Some(left_out) = limit.admit(delivery.endpoint, now)
        {
            let left_out = (left_out > 0).then_some(left_out);
            tracing::info!(left_out, "{}", for_people(delivery));
        }
    }

    fn failed_attempt(
        &mut self,
        delivery: &Delivery,
        attempt: &Attempt,
        directory: &Directory,
        now: Timestamp,
    ) {
        let Some(failure) = &attempt.failure else { return };
        let Some(left_out) = self.limit.admit((delivery.endpoint, Kind::Attempt), now) else { return };
        let tenant = directory.tenant(delivery.tenant);
        let next = (delivery.state == State::Retrying).then(|| tracing::field::display(delivery.due_at));
        tracing::info!(
            tenant = tenant.as_ref().map(|it| tracing::field::display(&it.id)),
            endpoint = %delivery.endpoint_id,
            event = %delivery.event,
            event_type = %delivery.event_type,
            delivery = %delivery.id,
            attempt = %attempt.id,
            number = attempt.number,
            max_attempts = delivery.max_attempts,
            cause = failure.cause.name(),
            status = attempt.status,
            error = failure.message,
            duration_ms = attempt.duration.0 / 1000,
            next_attempt_time = next,
            left_out = (left_out > 0).then_some(left_out),
            "an attempt failed"
        );
    }

    fn given_up(&mut self, delivery: &Delivery, directory: &Directory, now: Timestamp) {
        let Some(left_out) = self.limit.admit((delivery.endpoint, Kind::GivenUp), now) else { return };
        let tenant = directory.tenant(delivery.tenant);
        let failure = delivery.last.as_ref().and_then(|last| last.failure.as_ref());
        let what = match delivery.state {
            State::DeadLetter => "a delivery became a dead letter",
            State::Expired => "a delivery expired before it succeeded",
            State::Failed | State::Pending | State::Retrying | State::Delivered | State::Cancelled => {
                "a delivery was given up; its endpoint keeps no dead letters"
            }
        };
        tracing::warn!(
            tenant = tenant.as_ref().map(|it| tracing::field::display(&it.id)),
            endpoint = %delivery.endpoint_id,
            event = %delivery.event,
            event_type = %delivery.event_type,
            delivery = %delivery.id,
            attempts = delivery.attempts,
            cause = failure.map(|failure| failure.cause.name()),
            status = delivery.last.as_ref().and_then(|last| last.status),
            error = failure.map(|failure| failure.message.as_str()),
            left_out = (left_out > 0).then_some(left_out),
            "{what}"
        );
    }

    /// A circuit breaker may stand otherwise than before.
    pub fn circuit(&mut self, endpoint: &Endpoint, breaker: &Breaker, now: &Now) {
        let is_open = breaker.position() != Position::Closed;
        let changed = if is_open { self.open.insert(endpoint.key) } else { self.open.remove(&endpoint.key) };
        if !changed {
            return;
        }
        let Some(left_out) = self.limit.admit((endpoint.key, Kind::Circuit), now.steady) else { return };
        let left_out = (left_out > 0).then_some(left_out);
        match breaker.position() {
            Position::Closed => {
                tracing::info!(endpoint = %endpoint.id, left_out, "a circuit breaker closed");
            }
            position @ (Position::Open { .. } | Position::HalfOpen) => {
                let probe_time = match position {
                    Position::Open { until } => Some(tracing::field::display(now.wall_at(until))),
                    Position::HalfOpen | Position::Closed => None,
                };
                tracing::warn!(
                    endpoint = %endpoint.id,
                    failures = breaker.failures(),
                    probe_time,
                    left_out,
                    "a circuit breaker opened: nothing is sent until a probe succeeds"
                );
            }
        }
    }

    /// An endpoint was changed.
    pub fn endpoint(&self, before: &Endpoint, after: &Endpoint) {
        let is_off =
            |it: &Endpoint| matches!(it.state, EndpointState::Disabled | EndpointState::AutoDisabled);
        if is_off(before) || !is_off(after) {
            return;
        }
        let by = if after.state == EndpointState::AutoDisabled { "the server" } else { "a caller" };
        tracing::warn!(
            endpoint = %after.id,
            by,
            reason = after.state_reason,
            "an endpoint was disabled: its deliveries wait until it is enabled"
        );
    }

    /// An endpoint is gone, or its deliveries are another process's now.
    pub fn forget(&mut self, endpoint: EndpointKey) {
        self.open.remove(&endpoint);
    }

    /// Tells what was left out and no line told.
    pub fn flush(&mut self, now: Timestamp, name: impl Fn(EndpointKey) -> Option<String>) {
        for ((key, kind), left_out) in self.limit.flush(now) {
            let what = match kind {
                Kind::Attempt => "failed attempts",
                Kind::GivenUp => "deliveries given up",
                Kind::Circuit => "changes of the circuit breaker",
            };
            tracing::info!(endpoint = name(key), left_out, "more lines of one kind were left out: {what}");
        }
        if let Some(limit) = &mut self.for_people {
            for (key, left_out) in limit.flush(now) {
                tracing::info!(endpoint = name(key), left_out, "more deliveries ended");
            }
        }
    }
}

/// How a delivery ended, on one line.
fn for_people(delivery: &Delivery) -> String {
    let head = format!("{} to {}", delivery.event_type, delivery.endpoint_id);
    let tries = match delivery.attempts {
        1 => "1 attempt".to_owned(),
        attempts => format!("{attempts} attempts"),
    };
    let last = delivery.last.as_ref();
    let failure = last.and_then(|last| last.failure.as_ref()).map(|failure| failure.message.as_str());
    match (delivery.state, last) {
        (State::Delivered, Some(last)) => {
            let status = last.status.map(|status| format!("HTTP {status} ")).unwrap_or_default();
            format!("{head}: delivered, {status}in {} ms, {tries}", last.duration.0 / 1000)
        }
        (State::DeadLetter, _) => {
            format!("{head}: dead letter after {tries}: {}", failure.unwrap_or("no answer"))
        }
        (State::Failed, _) => format!("{head}: given up after {tries}: {}", failure.unwrap_or("no answer")),
        (State::Expired, _) => format!("{head}: expired after {tries}"),
        (State::Cancelled, _) => format!("{head}: cancelled after {tries}"),
        (State::Delivered | State::Pending | State::Retrying, _) => format!("{head}: {tries}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Cause, DeliveryId, Event, Failure, Last, Payload, Pos, TenantKey};

    #[test]
    fn people_read_how_a_delivery_ended() {
        let endpoint = Endpoint::new(TenantKey::DEFAULT, "shop", "http://a.b", Timestamp(0));
        let payload = Payload { content_type: "text/plain".into(), data: "x".into() };
        let event = Event { event_type: "order.paid".into(), ..Event::sample(Pos(7), Timestamp(0), payload) };
        let id = DeliveryId(event.id.0);
        let fresh = Delivery::first(&event, &endpoint, id);
        let last = |status, failure| {
            Some(Last { at: Timestamp(0), duration: Micros::from_millis(12), status, failure })
        };
        let done =
            Delivery { state: State::Delivered, attempts: 1, last: last(Some(200), None), ..fresh.clone() };
        assert_eq!(for_people(&done), "order.paid to shop: delivered, HTTP 200 in 12 ms, 1 attempt");
        let failure = Failure {
            cause: Cause::ServerError,
            message: "HTTP 503: Service Unavailable".to_owned(),
            retryable: true,
        };
        let lost =
            Delivery { state: State::DeadLetter, attempts: 6, last: last(Some(503), Some(failure)), ..fresh };
        assert_eq!(
            for_people(&lost),
            "order.paid to shop: dead letter after 6 attempts: HTTP 503: Service Unavailable"
        );
    }
}
