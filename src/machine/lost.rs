//! What becomes of a delivery whose attempt was cut off by the end of its server.
//!
//! The start of an attempt that takes longer than a moment is stored. If the server ends
//! before the result is stored, the request may have reached its receiver, so it counts as
//! a failed attempt. An attempt whose start was not stored does not count: it is not known
//! whether its request was sent.
//!
//! A delivery may itself be what ends the server. One that is cut off again and again is
//! sent at growing distance, see [`distance`].

use crate::domain::{
    Attempt, Cause, Delivery, Endpoint, Fault, LetterReason, Micros, Outcome, Timestamp, Timings,
};

use super::judge::{Next, judge, settle};

/// Attempts cut off in a row from which on the next one keeps its distance.
const IN_A_ROW: u32 = 3;
/// The first distance, which doubles with each further attempt that is cut off.
const DISTANCE_MIN: Micros = Micros::from_secs(60);
const DISTANCE_MAX: Micros = Micros::from_secs(3600);
/// No spread of the delay: servers that end do not end at the same moment.
const NO_JITTER: f64 = 0.5;

/// A delivery after an attempt that was cut off.
#[derive(Clone, Debug)]
pub struct Lost {
    /// The delivery after it.
    pub after: Delivery,
    /// The attempt.
    pub attempt: Attempt,
    /// Why the delivery is given up, if it is.
    pub reason: Option<LetterReason>,
}

/// Counts the attempt `number`, which began at `started_at`, as cut off. `before` attempts
/// in a row were cut off just before it. `None` if that attempt has a result.
pub fn lost(
    delivery: &Delivery,
    endpoint: &Endpoint,
    (number, started_at): (u32, Timestamp),
    before: u32,
    now: Timestamp,
) -> Option<Lost> {
    if delivery.attempts + 1 != number {
        return None;
    }
    let fault = Fault {
        cause: Cause::WorkerLost,
        message: "the server ended before the request was answered".to_owned(),
    };
    let duration = Micros(now.since(started_at).0.max(0));
    let outcome = Outcome { started_at, duration, timings: Timings::default(), result: Err(fault) };
    let mut verdict = judge(delivery, &endpoint.retry, &outcome, NO_JITTER);
    if let Next::RetryAt(due_at) = verdict.next {
        let due_at = due_at.max(now.plus(distance(before + 1)));
        let is_over = delivery.expires_at.is_some_and(|end| due_at >= end);
        verdict.next = if is_over { Next::Expired } else { Next::RetryAt(due_at) };
    }
    let reason = match verdict.next {
        Next::GiveUp(reason) if delivery.is_open() => Some(reason),
        Next::GiveUp(_) | Next::Delivered | Next::RetryAt(_) | Next::Expired => None,
    };
    let (mut after, mut attempt) = settle(delivery, outcome, verdict, endpoint.dead_letters);
    if !delivery.is_open() {
        // It ended otherwise while the request was under way, and stays as it is.
        (after.state, after.due_at, after.turn_at) = (delivery.state, delivery.due_at, delivery.turn_at);
        attempt.retry_delay = None;
    }
    attempt.retry_delay = attempt.retry_delay.map(|_| after.due_at.since(after.updated_at));
    Some(Lost { after, attempt, reason })
}

/// The least time before the next attempt, after `in_a_row` attempts were cut off.
pub fn distance(in_a_row: u32) -> Micros {
    let Some(doublings) = in_a_row.checked_sub(IN_A_ROW) else { return Micros::ZERO };
    let factor = 1_i64.checked_shl(doublings).unwrap_or(i64::MAX);
    Micros(DISTANCE_MIN.0.saturating_mul(factor).clamp(0, DISTANCE_MAX.0))
}

/// How many attempts at the end of a history were cut off.
pub fn in_a_row<'a>(attempts: impl DoubleEndedIterator<Item = &'a Attempt>) -> u32 {
    let is_lost =
        |it: &&Attempt| it.failure.as_ref().is_some_and(|failure| failure.cause == Cause::WorkerLost);
    attempts.rev().take_while(is_lost).count() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{Pos, RetryPolicy, State},
        machine::samples,
    };

    const BEGAN: Timestamp = Timestamp(5_000_000);
    const NOW: Timestamp = Timestamp(9_000_000);

    fn endpoint(max_attempts: u32) -> Endpoint {
        Endpoint {
            retry: RetryPolicy { max_attempts, jitter_ratio: 0.0, ..RetryPolicy::default() },
            ..samples::endpoint(1)
        }
    }

    fn delivery(endpoint: &Endpoint, attempts: u32) -> Delivery {
        Delivery { attempts, ..samples::delivery(endpoint, Pos(1), Timestamp(0)) }
    }

    #[test]
    fn an_attempt_that_was_cut_off_counts_and_is_tried_again() {
        let endpoint = endpoint(3);
        let lost = lost(&delivery(&endpoint, 0), &endpoint, (1, BEGAN), 0, NOW).unwrap();
        assert_eq!((lost.after.state, lost.after.attempts, lost.reason), (State::Retrying, 1, None));
        assert_eq!(lost.after.due_at, NOW.plus(Micros::from_secs(1)), "after the usual delay");
        assert_eq!((lost.attempt.number, lost.attempt.started_at), (1, BEGAN));
        let failure = lost.attempt.failure.unwrap();
        assert_eq!((failure.cause, failure.retryable), (Cause::WorkerLost, true));
    }

    #[test]
    fn the_last_attempt_ends_the_delivery() {
        let endpoint = endpoint(2);
        let lost = lost(&delivery(&endpoint, 1), &endpoint, (2, BEGAN), 1, NOW).unwrap();
        assert_eq!(lost.after.state, State::DeadLetter);
        assert_eq!((lost.after.attempts, lost.reason), (2, Some(LetterReason::RetriesExhausted)));
    }

    #[test]
    fn an_attempt_with_a_result_counts_once() {
        let endpoint = endpoint(5);
        assert!(lost(&delivery(&endpoint, 2), &endpoint, (2, BEGAN), 0, NOW).is_none());
    }

    #[test]
    fn a_delivery_that_ended_meanwhile_stays_as_it_is() {
        let endpoint = endpoint(1);
        let cancelled = Delivery { state: State::Cancelled, ..delivery(&endpoint, 0) };
        let lost = lost(&cancelled, &endpoint, (1, BEGAN), 0, NOW).unwrap();
        assert_eq!((lost.after.state, lost.after.attempts, lost.reason), (State::Cancelled, 1, None));
        assert_eq!(lost.attempt.retry_delay, None);
    }

    #[test]
    fn the_distance_begins_with_the_third_in_a_row_and_grows_to_an_hour() {
        let minutes = |in_a_row| distance(in_a_row).0 / 60_000_000;
        assert_eq!([0, 1, 2, 3, 4, 5, 9, 100].map(minutes), [0, 0, 0, 1, 2, 4, 60, 60]);
        let endpoint = endpoint(10);
        let lost = lost(&delivery(&endpoint, 4), &endpoint, (5, BEGAN), 3, NOW).unwrap();
        assert_eq!(lost.after.due_at, NOW.plus(Micros::from_secs(120)));
        assert_eq!(lost.attempt.retry_delay, Some(Micros::from_secs(120)));
    }

    #[test]
    fn a_delivery_that_would_be_sent_after_its_end_expires() {
        let endpoint = endpoint(10);
        let ends = Delivery { expires_at: Some(NOW.plus(Micros::from_secs(30))), ..delivery(&endpoint, 2) };
        assert_eq!(lost(&ends, &endpoint, (3, BEGAN), 2, NOW).unwrap().after.state, State::Expired);
    }

    #[test]
    fn only_the_end_of_a_history_counts_as_in_a_row() {
        let endpoint = endpoint(10);
        let lost = lost(&delivery(&endpoint, 0), &endpoint, (1, BEGAN), 0, NOW).unwrap().attempt;
        let other = Attempt { failure: None, ..lost.clone() };
        assert_eq!(in_a_row([&lost, &other, &lost, &lost].into_iter()), 2);
        assert_eq!(in_a_row([&lost, &other].into_iter()), 0);
    }
}
