//! A circuit breaker: stops calling an endpoint that keeps failing.
//!
//! ```text
//! Closed ── failures in a row reach the threshold ──▶ Open
//!   ▲                                                  │ cool-down over
//!   └──────── the probe was answered ──── HalfOpen ◀───┘ one probe goes out
//!                                            │
//!                                            └─ it failed ──▶ Open again
//! ```
//!
//! While it is open nothing is sent and no attempt is spent. Only what speaks of
//! the endpoint counts as failure: no connection, timeouts, 5xx, broken answers.
//! A 4xx speaks of one payload; it neither opens the breaker nor, as a probe's
//! answer, keeps it open.

use serde::{Deserialize, Serialize};

use crate::domain::{BreakerPolicy, Cause, Timestamp};

/// A circuit breaker.
#[derive(Clone, Debug)]
pub struct Breaker {
    policy: BreakerPolicy,
    position: Position,
    failures: u32,
    opened_at: Option<Timestamp>,
}

/// Where a breaker stands.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Requests flow.
    Closed,
    /// Requests wait until the instant.
    Open {
        /// When a probe is due.
        until: Timestamp,
    },
    /// One probe is out.
    HalfOpen,
}

/// What an attempt says about its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// It works.
    Success,
    /// It does not.
    Failure,
    /// It answered; the request was at fault, or it asked us to slow down.
    Neutral,
    /// It is gone for good.
    Gone,
}

impl Signal {
    /// What a failure, or none, says.
    pub fn of(failure: Option<Cause>) -> Self {
        match failure {
            None => Self::Success,
            Some(
                Cause::Dns
                | Cause::Connect
                | Cause::Tls
                | Cause::ConnectionReset
                | Cause::ConnectTimeout
                | Cause::ResponseTimeout
                | Cause::ServerError
                | Cause::MalformedResponse
                | Cause::Authentication,
            ) => Self::Failure,
            Some(Cause::Gone) => Self::Gone,
            Some(
                Cause::Redirect
                | Cause::ClientError
                | Cause::TooManyRequests
                | Cause::TargetForbidden
                | Cause::InvalidRequest
                | Cause::WorkerLost,
            ) => Self::Neutral,
        }
    }
}

impl Breaker {
    /// A closed breaker.
    pub fn new(policy: BreakerPolicy) -> Self {
        Self { policy, position: Position::Closed, failures: 0, opened_at: None }
    }

    /// Takes a new policy; turning the breaker off closes it.
    pub fn set_policy(&mut self, policy: BreakerPolicy) {
        self.policy = policy;
        if policy.disabled {
            self.close();
        }
    }

    /// Closes it by hand.
    pub fn close(&mut self) {
        (self.position, self.failures, self.opened_at) = (Position::Closed, 0, None);
    }

    /// Ends the cool-down by hand: the next request is the probe.
    pub fn end_cooldown(&mut self, now: Timestamp) {
        if let Position::Open { until } = &mut self.position {
            *until = now.min(*until);
        }
    }

    /// Takes it up as somebody else left it, as of an instant: a probe may have gone just
    /// before.
    pub fn restore(&mut self, failures: u32, opened_at: Option<Timestamp>, at: Timestamp) {
        if opened_at.is_some() && !self.policy.disabled {
            self.position = Position::Open { until: at.plus(self.policy.cooldown) };
            (self.failures, self.opened_at) = (failures, opened_at);
        }
    }

    /// When a request may go: `now`, later, or only once the probe is back.
    pub fn ready_at(&self, now: Timestamp) -> Timestamp {
        match self.position {
            Position::Closed => now,
            Position::Open { until } => until.max(now),
            Position::HalfOpen => Timestamp::MAX,
        }
    }

    /// A request goes out. Call only when [`Breaker::ready_at`] says now.
    pub fn admit(&mut self) {
        if self.position != Position::Closed {
            self.position = Position::HalfOpen;
        }
    }

    /// An attempt ended.
    pub fn record(&mut self, signal: Signal, now: Timestamp) {
        match (signal, self.position) {
            (Signal::Success, _) | (Signal::Neutral | Signal::Gone, Position::HalfOpen) => self.close(),
            (Signal::Neutral | Signal::Gone, Position::Closed | Position::Open { .. }) => {}
            (Signal::Failure, Position::Open { .. }) => self.failures = self.failures.saturating_add(1),
            (Signal::Failure, Position::Closed | Position::HalfOpen) => {
                self.failures = self.failures.saturating_add(1);
                let probing = self.position == Position::HalfOpen;
                if !self.policy.disabled && (probing || self.failures >= self.policy.failure_threshold) {
                    self.position = Position::Open { until: now.plus(self.policy.cooldown) };
                    self.opened_at = Some(now);
                }
            }
        }
    }

    /// Where it stands.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// When it last opened, if it is not closed.
    pub fn opened_at(&self) -> Option<Timestamp> {
        self.opened_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Micros;

    fn policy() -> BreakerPolicy {
        BreakerPolicy { failure_threshold: 3, cooldown: Micros(100), disabled: false }
    }

    #[test]
    fn it_opens_at_the_threshold_and_lets_one_probe_through_per_cooldown() {
        let mut breaker = Breaker::new(policy());
        let at = Timestamp;
        for _ in 0..2 {
            breaker.record(Signal::Failure, at(0));
            assert_eq!(breaker.ready_at(at(0)), at(0));
        }
        breaker.record(Signal::Failure, at(0));
        assert_eq!(breaker.ready_at(at(1)), at(100));
        assert_eq!(breaker.ready_at(at(150)), at(150));
        breaker.admit();
        assert_eq!(breaker.ready_at(at(151)), Timestamp::MAX);
        breaker.record(Signal::Failure, at(160));
        assert_eq!(breaker.ready_at(at(161)), at(260));
        breaker.admit();
        breaker.record(Signal::Success, at(270));
        assert_eq!((breaker.position(), breaker.failures()), (Position::Closed, 0));
    }

    #[test]
    fn a_cooldown_ended_by_hand_lets_one_probe_through() {
        let mut breaker = Breaker::new(policy());
        (0..3).for_each(|_| breaker.record(Signal::Failure, Timestamp(0)));
        breaker.end_cooldown(Timestamp(10));
        assert_eq!(breaker.ready_at(Timestamp(10)), Timestamp(10));
        breaker.admit();
        breaker.end_cooldown(Timestamp(11));
        assert_eq!(breaker.ready_at(Timestamp(11)), Timestamp::MAX, "one probe is out");
        breaker.record(Signal::Failure, Timestamp(12));
        assert_eq!(breaker.ready_at(Timestamp(12)), Timestamp(112));
    }

    #[test]
    fn a_success_between_failures_starts_the_count_anew() {
        let mut breaker = Breaker::new(policy());
        for signal in [Signal::Failure, Signal::Failure, Signal::Success, Signal::Failure, Signal::Failure] {
            breaker.record(signal, Timestamp(0));
        }
        assert_eq!(breaker.position(), Position::Closed);
    }

    #[test]
    fn an_answer_about_the_payload_neither_opens_nor_keeps_it_open() {
        let mut breaker = Breaker::new(policy());
        for _ in 0..10 {
            breaker.record(Signal::Neutral, Timestamp(0));
        }
        assert_eq!(breaker.position(), Position::Closed);
        for _ in 0..3 {
            breaker.record(Signal::Failure, Timestamp(0));
        }
        breaker.admit();
        breaker.record(Signal::Neutral, Timestamp(200));
        assert_eq!(breaker.position(), Position::Closed);
    }
}
