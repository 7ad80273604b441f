//! `retry-after` and `date` as a receiver may write them.
#![no_main]

use std::sync::Arc;

use hookwire::{
    domain::{
        Answer, Attempt, AttemptId, Micros, Pos, Response, RetryPolicy, Timestamp, Timings, Trigger, Uid,
    },
    machine::retry_after::{asked_wait, quiet_until},
};
use libfuzzer_sys::fuzz_target;

const NOW: Timestamp = Timestamp(1_768_996_800_000_000);

// The value of `retry-after`, and on a second line that of `date`.
fuzz_target!(|text: &str| {
    let (retry_after, date) = match text.split_once('\n') {
        Some((retry_after, date)) => (retry_after.to_owned(), Some(date.to_owned())),
        None => (text.to_owned(), None),
    };
    let policy = RetryPolicy::default();
    let answer = |status| Answer {
        status,
        retry_after: Some(retry_after.clone()),
        date: date.clone(),
        ..Answer::default()
    };
    let wait = asked_wait(&policy, &answer(429), NOW);
    if let Some(wait) = wait {
        assert!(wait > Micros::ZERO && wait <= policy.max_retry_after, "{wait:?}");
    }
    assert_eq!(asked_wait(&policy, &answer(503), NOW), wait, "429 and 503 mean the same");
    assert_eq!(asked_wait(&policy, &answer(500), NOW), None, "others may not ask");

    // What was recorded of the attempt says the same after a restart.
    let mut headers = vec![("retry-after".to_owned(), retry_after.clone())];
    headers.extend(date.clone().map(|date| ("date".to_owned(), date)));
    let attempt = Attempt {
        id: AttemptId(Uid::new(NOW, 0, Pos(1))),
        number: 1,
        trigger: Trigger::Event,
        started_at: NOW,
        duration: Micros::ZERO,
        timings: Timings::default(),
        status: Some(429),
        response: Some(Arc::new(Response { headers, ..Response::default() })),
        failure: None,
        retry_delay: None,
    };
    assert_eq!(quiet_until(&policy, &attempt), wait.map(|wait| NOW.plus(wait)));
});
