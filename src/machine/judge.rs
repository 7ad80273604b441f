//! What an outcome means for its delivery. Total: every input has an answer.

use std::sync::Arc;

use super::{backoff, retry_after};
use crate::domain::{
    Attempt, AttemptId, Cause, DeadLetterPolicy, Delivery, Failure, Last, LetterReason, Micros, Outcome, Pos,
    RetryPolicy, State, Timestamp, Uid,
};

/// What an outcome means.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// What becomes of the delivery.
    pub next: Next,
    /// Why the attempt failed; nothing on success.
    pub failure: Option<Failure>,
}

/// What becomes of a delivery after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It has arrived.
    Delivered,
    /// It is tried again at this instant.
    RetryAt(Timestamp),
    /// It is given up.
    GiveUp(LetterReason),
    /// Its time is over before another attempt could be made.
    Expired,
}

/// Judges an outcome. `jitter` is a number in [0, 1).
pub fn judge(delivery: &Delivery, policy: &RetryPolicy, outcome: &Outcome, jitter: f64) -> Verdict {
    let ended_at = outcome.started_at.plus(outcome.duration);
    let Some(failure) = failure(policy, outcome) else {
        return Verdict { next: Next::Delivered, failure: None };
    };
    let wait =
        outcome.result.as_ref().ok().and_then(|answer| retry_after::asked_wait(policy, answer, ended_at));
    let number = delivery.attempts + 1;
    let next = if !failure.retryable {
        let undeliverable = matches!(failure.cause, Cause::TargetForbidden | Cause::InvalidRequest);
        Next::GiveUp(if undeliverable { LetterReason::Undeliverable } else { LetterReason::PermanentError })
    } else if number >= delivery.max_attempts {
        Next::GiveUp(LetterReason::RetriesExhausted)
    } else {
        let delay = backoff::delay(policy, number, jitter).max(wait.unwrap_or(Micros::ZERO));
        let due_at = ended_at.plus(delay);
        match delivery.expires_at {
            Some(end) if due_at >= end => Next::Expired,
            _ => Next::RetryAt(due_at),
        }
    };
    Verdict { next, failure: Some(failure) }
}

/// The delivery and the attempt that follow from a verdict. The position of the
/// change, and with it the attempt's id, is the store's to give.
pub fn settle(
    before: &Delivery,
    outcome: Outcome,
    verdict: Verdict,
    letters: DeadLetterPolicy,
) -> (Delivery, Attempt) {
    let ended_at = outcome.started_at.plus(outcome.duration);
    let status = outcome.result.as_ref().ok().map(|answer| answer.status);
    let mut after = before.clone();
    after.attempts += 1;
    after.revision += 1;
    after.updated_at = ended_at;
    after.last = Some(Last {
        at: outcome.started_at,
        duration: outcome.duration,
        status,
        failure: verdict.failure.clone(),
    });
    let mut retry_delay = None;
    after.state = match verdict.next {
        Next::Delivered => State::Delivered,
        Next::Expired => State::Expired,
        Next::GiveUp(_) if letters.disabled && before.letter.is_none() => State::Failed,
        Next::GiveUp(_) => State::DeadLetter,
        Next::RetryAt(due_at) => {
            (after.due_at, after.turn_at) = (due_at, due_at);
            retry_delay = Some(due_at.since(ended_at));
            State::Retrying
        }
    };
    let attempt = Attempt {
        id: attempt_id(before, outcome.started_at, Pos(0)),
        number: after.attempts,
        trigger: before.trigger,
        started_at: outcome.started_at,
        duration: outcome.duration,
        timings: outcome.timings,
        status,
        response: outcome.result.ok().map(|answer| Arc::new(answer.response)),
        failure: verdict.failure,
        retry_delay,
    };
    (after, attempt)
}

/// The id of the attempt recorded by the change at `pos`.
pub fn attempt_id(delivery: &Delivery, started_at: Timestamp, pos: Pos) -> AttemptId {
    AttemptId(Uid::new(started_at, delivery.id.0.salt(), pos))
}

/// Which statuses are retried: 408, 425, 429 and 500 to 599, without those that the policy takes
/// out, and with those that it adds. No other one is. 410 always is: it disables the endpoint, and
/// the delivery is held until someone enables the endpoint again.
fn is_retried(policy: &RetryPolicy, status: u16) -> bool {
    let standard =
        matches!(status, 408 | 425 | 429 | 500..=599) && !policy.no_retry_statuses.contains(&status);
    standard || status == 410 || policy.retry_statuses.contains(&status)
}

fn failure(policy: &RetryPolicy, outcome: &Outcome) -> Option<Failure> {
    let answer = match &outcome.result {
        Ok(answer) => answer,
        Err(fault) => {
            let retryable = !matches!(fault.cause, Cause::TargetForbidden | Cause::InvalidRequest);
            return Some(Failure { cause: fault.cause, message: fault.message.clone(), retryable });
        }
    };
    let status = answer.status;
    let cause = match status {
        200..=299 => return None,
        300..=399 => Cause::Redirect,
        410 => Cause::Gone,
        429 => Cause::TooManyRequests,
        400..=499 => Cause::ClientError,
        500..=599 => Cause::ServerError,
        _ => Cause::MalformedResponse,
    };
    let retryable = is_retried(policy, status);
    let reason = http::StatusCode::from_u16(status).ok().and_then(|code| code.canonical_reason());
    let message = match reason {
        Some(reason) => format!("HTTP {status}: {reason}"),
        None => format!("HTTP {status}"),
    };
    Some(Failure { cause, message, retryable })
}

#[cfg(test)]
mod tests;
