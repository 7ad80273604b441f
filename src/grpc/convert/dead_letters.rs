//! Dead letters, in and out.

use super::{
    Checks, attempts,
    checks::Root,
    ids,
    lists::{known, patterns},
    out_time,
    payload::Shown,
    time,
};
use crate::{
    app::{Letter, LetterQuery, PER_SECOND_MIN},
    domain::{DeadLetterId, LetterReason, LetterState, Rule},
    grpc::pb::{
        self,
        dead_letter::{Reason, State},
    },
};

/// Replays a second unless asked otherwise, and at most.
const PER_SECOND: f64 = 100.0;
const PER_SECOND_MAX: f64 = 10_000.0;

/// Which dead letters are listed or acted on.
pub fn filter(checks: &mut Checks, given: Option<pb::DeadLetterFilter>) -> LetterQuery {
    let pb::DeadLetterFilter { endpoint_ids, event_types, create_time, reasons, states, event_ids } =
        given.unwrap_or_default();
    checks.enter(Root::Field("filter"));
    let query = LetterQuery {
        endpoints: ids::endpoints(checks, "endpoint_ids", endpoint_ids),
        event_types: patterns(checks, "event_types", &event_types),
        created: time::range(checks, "create_time", create_time),
        reasons: known(checks, "reasons", &reasons, |number| match Reason::try_from(number) {
            Ok(Reason::RetriesExhausted) => Some(LetterReason::RetriesExhausted),
            Ok(Reason::PermanentError) => Some(LetterReason::PermanentError),
            Ok(Reason::Undeliverable) => Some(LetterReason::Undeliverable),
            Ok(Reason::Unspecified) | Err(_) => None,
        }),
        states: known(checks, "states", &states, |number| match State::try_from(number) {
            Ok(State::Open) => Some(LetterState::Open),
            Ok(State::Replaying) => Some(LetterState::Replaying),
            Ok(State::Replayed) => Some(LetterState::Replayed),
            Ok(State::Unspecified) | Err(_) => None,
        }),
        events: ids::list(checks, "event_ids", &event_ids),
    };
    checks.enter(Root::Request);
    query
}

/// Which dead letters are acted on: everything only when that was said.
pub fn selection(checks: &mut Checks, given: Option<pb::DeadLetterFilter>, all: bool) -> LetterQuery {
    let query = filter(checks, given);
    let why = "is needed; set `all` to act on everything";
    if checks.is_clean() {
        checks.check(all || !query.is_empty(), "filter", Rule::Required, why);
    }
    query
}

/// Replays a second.
pub fn per_second(checks: &mut Checks, given: f64) -> f64 {
    if given == 0.0 {
        return PER_SECOND;
    }
    let good = (PER_SECOND_MIN..=PER_SECOND_MAX).contains(&given);
    checks.check(good, "max_per_second", Rule::OutOfRange, "must be 0.01 to 10000");
    given
}

/// A dead letter as read.
pub fn letter(found: Letter, tenant_id: String, shown: Shown) -> pb::DeadLetter {
    let Letter { letter: it, failure, payload } = found;
    let (replayed_at, replay) = it.last_replay.unzip();
    pb::DeadLetter {
        id: DeadLetterId(it.delivery.id.0).to_string(),
        delivery_id: it.delivery.id.to_string(),
        event_id: it.delivery.event.to_string(),
        endpoint_id: it.delivery.endpoint_id.as_ref().to_owned(),
        event_type: it.delivery.event_type.as_ref().to_owned(),
        payload: payload.map(|payload| shown.payload(payload)),
        failure_reason: it.message,
        error: failure.map(|(failure, status)| attempts::error(&failure, status)),
        reason: match it.reason {
            LetterReason::RetriesExhausted => Reason::RetriesExhausted,
            LetterReason::PermanentError => Reason::PermanentError,
            LetterReason::Undeliverable => Reason::Undeliverable,
        }
        .into(),
        state: match it.state {
            LetterState::Open => State::Open,
            LetterState::Replaying => State::Replaying,
            LetterState::Replayed => State::Replayed,
        }
        .into(),
        attempt_count: it.attempts.cast_signed(),
        first_fail_time: Some(out_time(it.first_failed_at)),
        last_fail_time: Some(out_time(it.last_failed_at)),
        create_time: Some(out_time(it.created_at)),
        expire_time: Some(out_time(it.expires_at)),
        replay_count: it.replays.cast_signed(),
        last_replay_time: replayed_at.map(out_time),
        replay_delivery_id: replay.map(|id| id.to_string()).unwrap_or_default(),
        tenant_id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_has_a_least_and_a_most() {
        let good = |given| {
            let mut checks = Checks::new();
            per_second(&mut checks, given);
            checks.is_clean()
        };
        assert!([0.0, 0.01, 100.0, 10_000.0].into_iter().all(good));
        let bad = [f64::MIN_POSITIVE, 0.009, 10_000.1, -1.0, f64::NAN, f64::INFINITY];
        assert!(!bad.into_iter().any(good));
    }
}
