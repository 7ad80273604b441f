//! Properties of judging: any answer to any delivery under any policy.

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;
use crate::{
    domain::{Answer, Fault, Timings},
    machine::{retry_after::asked_wait, samples},
};

const NOW: Timestamp = Timestamp(1_700_000_000_000_000);

fn policies() -> impl Strategy<Value = RetryPolicy> {
    let delays =
        (10_000i64..86_400_000_000, 10_000i64..86_400_000_000, 1.0..=10.0, prop_oneof![Just(1.0), 0.0..=1.0]);
    let statuses = || vec(100u16..1000, 0..3);
    let steps = vec(prop_oneof![Just(0), 0i64..86_400_000_000].prop_map(Micros), 0..4);
    (1u32..=50, delays, steps, statuses(), statuses(), any::<bool>(), 0i64..86_400_000_000).prop_map(
        |(max_attempts, delays, schedule, retry_statuses, no_retry_statuses, ignore_retry_after, most)| {
            let (initial_delay, max_delay, multiplier, jitter_ratio) = delays;
            RetryPolicy {
                max_attempts,
                initial_delay: Micros(initial_delay),
                max_delay: Micros(max_delay),
                multiplier,
                jitter_ratio,
                schedule,
                retry_statuses,
                no_retry_statuses,
                ignore_retry_after,
                max_retry_after: Micros(most),
            }
        },
    )
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    let texts =
        option::of(prop_oneof!["[0-9]{1,6}", ".{0,20}", Just("Tue, 14 Nov 2023 23:00:00 GMT".to_owned())]);
    let statuses = prop_oneof![0u16.., select(vec![200, 204, 301, 404, 408, 410, 425, 429, 500, 503])];
    let answers = (statuses, texts)
        .prop_map(|(status, retry_after)| Ok(Answer { status, retry_after, ..Answer::default() }));
    let faults = select(Cause::ALL.as_slice()).prop_map(|cause| Err(Fault { cause, message: String::new() }));
    (prop_oneof![answers, faults], 0i64..30_000_000).prop_map(|(result, duration)| Outcome {
        started_at: NOW,
        duration: Micros(duration),
        timings: Timings::default(),
        result,
    })
}

fn deliveries() -> impl Strategy<Value = Delivery> {
    (1u32..=50, 0.0..1.0, option::of(1i64..86_400_000_000), any::<bool>()).prop_map(
        |(most, spent, end, replay)| {
            let plain = samples::delivery(&samples::endpoint(1), Pos(1), NOW);
            let expires_at = end.map(|end| NOW.plus(Micros(end)));
            let attempts = (f64::from(most) * spent) as u32;
            Delivery { max_attempts: most, attempts, expires_at, letter: replay.then_some(plain.id), ..plain }
        },
    )
}

/// Chance, and often the least of it.
fn jitters() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), 0.0..1.0]
}

proptest! {
    #[test]
    fn every_outcome_has_one_answer(
        before in deliveries(), policy in policies(), outcome in outcomes(),
        jitter in jitters(), disabled in any::<bool>(),
    ) {
        let verdict = judge(&before, &policy, &outcome, jitter);
        prop_assert_eq!(&verdict, &judge(&before, &policy, &outcome, jitter));

        let ended_at = outcome.started_at.plus(outcome.duration);
        let status = outcome.result.as_ref().ok().map(|answer| answer.status);
        let arrived = status.is_some_and(|status| (200..300).contains(&status));
        prop_assert_eq!(arrived, verdict.next == Next::Delivered);
        prop_assert_eq!(arrived, verdict.failure.is_none());

        let asked = |answer: &Answer| asked_wait(&policy, answer, ended_at);
        let quiet_until = outcome.result.as_ref().ok().and_then(asked).map(|wait| ended_at.plus(wait));
        let retryable = verdict.failure.as_ref().is_some_and(|failure| failure.retryable);
        let spent = before.attempts + 1 >= before.max_attempts;
        match verdict.next {
            Next::Delivered => {}
            Next::RetryAt(at) => {
                prop_assert!(retryable && !spent && at > ended_at);
                prop_assert!(quiet_until.is_none_or(|until| at >= until));
                prop_assert!(before.expires_at.is_none_or(|end| at < end));
            }
            Next::Expired => prop_assert!(retryable && !spent && before.expires_at.is_some()),
            Next::GiveUp(LetterReason::RetriesExhausted) => prop_assert!(retryable && spent),
            Next::GiveUp(LetterReason::PermanentError | LetterReason::Undeliverable) => prop_assert!(!retryable),
        }
        let longest = ended_at.plus(policy.max_retry_after);
        prop_assert!(quiet_until.is_none_or(|until| until > ended_at && until <= longest));

        let letters = DeadLetterPolicy { disabled, ..DeadLetterPolicy::default() };
        let (after, attempt) = settle(&before, outcome, verdict.clone(), letters);
        prop_assert_eq!((after.attempts, after.revision), (before.attempts + 1, before.revision + 1));
        prop_assert_eq!(attempt.number, after.attempts);
        prop_assert!(after.attempts <= after.max_attempts);
        prop_assert_eq!((after.id, after.created_at), (before.id, before.created_at));
        prop_assert_eq!(after.is_open(), matches!(verdict.next, Next::RetryAt(_)));
        prop_assert_eq!(attempt.retry_delay.map(|delay| ended_at.plus(delay)), after.is_open().then_some(after.due_at));
        // A replay answers for a dead letter, which must not vanish under it.
        let dropped = after.state == State::Failed;
        prop_assert!(!dropped || (disabled && before.letter.is_none()));
    }

    #[test]
    fn a_delivery_has_at_most_its_attempts(
        mut delivery in deliveries(), policy in policies(), outcomes in vec(outcomes(), 60), jitter in jitters(),
    ) {
        let (first, mut requests) = (delivery.attempts, 0);
        for outcome in outcomes {
            if !delivery.is_open() { break }
            requests += 1;
            let verdict = judge(&delivery, &policy, &outcome, jitter);
            delivery = settle(&delivery, outcome, verdict, DeadLetterPolicy::default()).0;
        }
        prop_assert!(!delivery.is_open());
        prop_assert!(first + requests <= delivery.max_attempts);
    }
}

/// Whether a first attempt with this status is retried.
fn is_tried_again(policy: &RetryPolicy, status: u16) -> bool {
    let plain = samples::delivery(&samples::endpoint(1), Pos(1), NOW);
    let result = Ok(Answer { status, ..Answer::default() });
    let outcome = Outcome { started_at: NOW, duration: Micros(1), timings: Timings::default(), result };
    let verdict = judge(&plain, policy, &outcome, 0.5);
    let retryable = verdict.failure.is_some_and(|failure| failure.retryable);
    assert_eq!(matches!(verdict.next, Next::RetryAt(_)), retryable, "{status}");
    retryable
}

#[test]
fn every_status_is_retried_or_not_by_one_rule() {
    let plain = RetryPolicy::default();
    let standard = |status: u16| matches!(status, 408 | 410 | 425 | 429) || (500..600).contains(&status);
    for status in 0..=999 {
        assert_eq!(is_tried_again(&plain, status), standard(status), "{status}");
        let more = RetryPolicy { retry_statuses: vec![status], ..RetryPolicy::default() };
        assert_eq!(is_tried_again(&more, status), !(200..300).contains(&status), "{status}");
        // 410 is held, whatever the policy says.
        let less = RetryPolicy { no_retry_statuses: vec![status], ..RetryPolicy::default() };
        assert_eq!(is_tried_again(&less, status), status == 410, "{status}");
    }
}
