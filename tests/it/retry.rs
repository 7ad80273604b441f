//! Failed deliveries are tried again, later and later, and end well or as dead
//! letters that lose nothing.
//!
//! The delays are the ones that the README prints, so they are measured where
//! they matter: at the receiver, in real time, with room only for the slowness of
//! the machine. A dead letter is worth something only if it can be looked into
//! and sent again, so each way to do that is walked to its end.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime},
};

use hookwire::grpc::pb::{
    self, DeliveryErrorCause, DeliveryErrorKind, DeliveryStatus, DeliveryTrigger, HoldReason,
    attempt::Outcome, dead_letter, operation,
};
use standardwebhooks::Webhook;

use crate::support::{
    Answer, Api, Received, Receiver, Server, event, eventually, now, open_endpoint, reason_of, span,
};

/// What a busy machine may add to a delay.
const SLACK: f64 = 0.5;
/// What clocks and rounding may take from it.
const EARLY: f64 = 0.02;

fn gaps(requests: &[Arc<Received>]) -> Vec<f64> {
    requests.windows(2).map(|pair| (pair[1].at - pair[0].at).as_secs_f64()).collect()
}

fn seconds(duration: Option<&prost_types::Duration>) -> f64 {
    duration.map_or(f64::NAN, |duration| duration.seconds as f64 + f64::from(duration.nanos) / 1e9)
}

fn without_breaker(endpoint: pb::Endpoint) -> pb::Endpoint {
    let circuit_breaker = Some(pb::CircuitBreaker { disabled: true, ..Default::default() });
    pb::Endpoint { circuit_breaker, ..endpoint }
}

async fn dead_letter_in(api: &Api, id: &str, state: dead_letter::State) -> pb::DeadLetter {
    eventually(Duration::from_secs(10), &format!("{id} is {state:?}"), async || {
        let (letter, _) = api.dead_letter(id).await;
        if letter.state() == state { Ok(letter) } else { Err(format!("{:?}", letter.state())) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_fails_twice_is_tried_again_after_one_and_two_seconds() {
    let server = Server::start().await;
    let api = server.api();
    let receiver = Receiver::script(vec![
        Answer::status(500).body("out of cheese"),
        Answer::status(503).body("still out"),
        Answer::ok().header("x-kept", "yes").body("thank you"),
    ])
    .await;
    let endpoint = api.create_endpoint(open_endpoint(receiver.at("/hook"))).await;
    let secret = &endpoint.secrets[0].value;

    let published = now();
    let id = api.publish_to_one(event("user.created", r#"{"user_id":"12345"}"#)).await;
    let requests = receiver.wait_for(3, Duration::from_secs(12)).await;

    assert!((requests[0].at - published).as_secs_f64() < 1.0 + SLACK, "the first attempt is made at once");
    let gaps = gaps(&requests);
    assert!((0.75 - EARLY..1.25 + SLACK).contains(&gaps[0]), "about 1 s before the second: {gaps:?}");
    assert!((1.5 - EARLY..2.5 + SLACK).contains(&gaps[1]), "about 2 s before the third: {gaps:?}");

    let delivery = api.delivery_in(&id, DeliveryStatus::Delivered, Duration::from_secs(5)).await;
    assert_eq!((delivery.attempt_count, delivery.max_attempts, delivery.response_status_code), (3, 5, 200));
    assert!(delivery.last_error.is_none(), "the last attempt succeeded: {delivery:?}");
    assert!(delivery.deliver_time.is_some() && delivery.complete_time == delivery.deliver_time);
    assert!(delivery.next_attempt_time.is_none(), "nothing more is due");

    let attempts = api.attempts(&id).await;
    let summary: Vec<_> = attempts
        .iter()
        .map(|attempt| {
            let response = attempt.response.as_ref().expect("a response");
            (attempt.number, attempt.outcome(), response.status_code, &response.body[..])
        })
        .collect();
    assert_eq!(
        summary,
        [
            (1, Outcome::FailedWillRetry, 500, &b"out of cheese"[..]),
            (2, Outcome::FailedWillRetry, 503, &b"still out"[..]),
            (3, Outcome::Succeeded, 200, &b"thank you"[..]),
        ]
    );
    for attempt in &attempts {
        assert!(attempt.id.starts_with("att_"), "{attempt:?}");
        assert_eq!((&attempt.delivery_id, &attempt.endpoint_id), (&id, &endpoint.id));
        assert_eq!(attempt.trigger(), DeliveryTrigger::Event);
        assert!(seconds(attempt.duration.as_ref()) > 0.0, "a request takes time: {attempt:?}");
        let timings = attempt.timings.as_ref().expect("timings");
        assert!(seconds(timings.first_byte.as_ref()) > 0.0, "an answer takes time: {attempt:?}");
    }
    let connected = attempts[0].timings.as_ref().and_then(|timings| timings.connect.as_ref());
    assert!(connected.is_some(), "the first request needed a connection: {:?}", attempts[0]);
    assert!(attempts.is_sorted_by_key(|attempt| {
        let start = attempt.start_time.as_ref().expect("a start");
        (start.seconds, start.nanos)
    }));
    assert!((0.75..=1.25).contains(&seconds(attempts[0].retry_delay.as_ref())), "{:?}", attempts[0]);
    assert!((1.5..=2.5).contains(&seconds(attempts[1].retry_delay.as_ref())), "{:?}", attempts[1]);
    let error = attempts[1].error.as_ref().expect("an error");
    assert_eq!(error.message, "HTTP 503: Service Unavailable");
    assert_eq!(error.kind(), DeliveryErrorKind::InvalidResponse);
    assert_eq!(error.cause(), DeliveryErrorCause::HttpServerError);
    assert!(error.retryable && error.status_code == 503);
    assert!(attempts[2].error.is_none());
    let kept = &attempts[2].response.as_ref().expect("a response").headers;
    assert_eq!(kept.get("x-kept").map(String::as_str), Some("yes"));

    let verifier = Webhook::new(secret).expect("a Standard Webhooks secret");
    for request in &requests {
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/hook"));
        assert_eq!(request.delivery_id(), id, "the same idempotency key every time");
        assert_eq!(request.event_id(), delivery.event_id, "the same message id every time");
        assert_eq!(request.header("x-webhook-event"), "user.created");
        assert!(request.header("user-agent").starts_with("Hookwire/"), "{:?}", request.headers);
        assert_eq!(request.body, requests[0].body, "the same bytes every time");
        verifier.verify(&request.body, &request.headers).expect("a valid signature");
    }
    let stamp = |request: &Received| request.header("webhook-timestamp").parse::<i64>().expect("seconds");
    let stamps: Vec<_> = requests.iter().map(|request| stamp(request)).collect();
    assert!(stamps.is_sorted() && stamps[2] >= stamps[0] + 2, "a fresh timestamp every time: {stamps:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_keeps_failing_becomes_a_dead_letter_that_can_be_replayed() {
    let server = Server::start().await;
    let api = server.api();
    let receiver = Receiver::answering(|_| Answer::status(503).body("closed")).await;
    let endpoint = api.create_endpoint(without_breaker(open_endpoint(receiver.at("/hook")))).await;
    let payload = |number: i32| format!("{{\"number\": {number}}}");
    let mut deliveries = Vec::new();
    for number in 0..4 {
        deliveries.push(api.publish_to_one(event("order.paid", payload(number))).await);
    }

    let letters = eventually(Duration::from_secs(30), "four dead letters", async || {
        let letters = api.dead_letters_of(&endpoint.id).await;
        if letters.len() == 4 { Ok(letters) } else { Err(format!("{} dead letters", letters.len())) }
    })
    .await;

    let ledger = receiver.ledger();
    assert_eq!(ledger.len(), 20, "five requests for each");
    for (number, id) in (0..).zip(&deliveries) {
        let requests: Vec<_> =
            ledger.iter().filter(|request| request.delivery_id() == *id).cloned().collect();
        let gaps = gaps(&requests);
        assert_eq!(gaps.len(), 4, "five attempts in all");
        for (gap, delay) in gaps.iter().zip([1.0, 2.0, 4.0, 8.0]) {
            let allowed = delay * 0.75 - EARLY..delay * 1.25 + SLACK;
            assert!(allowed.contains(gap), "about {delay} s: {gaps:?}");
        }

        let delivery = api.delivery(id).await;
        assert_eq!((delivery.status(), delivery.attempt_count), (DeliveryStatus::DeadLetter, 5));
        let (letter, attempts) = api.dead_letter(&delivery.dead_letter_id).await;
        assert!(letters.iter().any(|listed| listed.id == letter.id), "it is listed");
        assert_eq!(letter.delivery_id, *id);
        assert_eq!((&letter.event_id, &letter.endpoint_id), (&delivery.event_id, &endpoint.id));
        assert_eq!(letter.event_type, "order.paid");
        assert_eq!(letter.reason(), dead_letter::Reason::RetriesExhausted);
        assert_eq!((letter.state(), letter.attempt_count), (dead_letter::State::Open, 5));
        assert_eq!(letter.failure_reason, "HTTP 503: Service Unavailable");
        let body = letter.payload.and_then(|payload| payload.body);
        assert_eq!(body, Some(pb::payload::Body::Json(payload(number))), "the payload as published");
        let [first, last, expires] = [letter.first_fail_time, letter.last_fail_time, letter.expire_time]
            .map(|time| time.expect("a time").seconds);
        assert!(last - first >= 10, "first and last failure are 11 s apart at least");
        assert!((expires - last - 7 * 86_400).abs() < 60, "kept for 7 days");
        assert_eq!(attempts.len(), 5, "with its history");
        assert!(attempts[..4].iter().all(|attempt| attempt.outcome() == Outcome::FailedWillRetry));
        assert_eq!(attempts[4].outcome(), Outcome::FailedFinal);
    }

    receiver.answer_with(|_| Answer::ok());

    // One by one.
    let (single, rest) = letters.split_first().expect("four");
    let request = pb::ReplayDeadLetterRequest { id: single.id.clone() };
    let response = api.dead_letters.clone().replay_dead_letter(request.clone()).await.expect("replay");
    let response = response.into_inner();
    let replay = response.delivery.expect("a new delivery");
    assert_eq!(response.dead_letter.expect("the dead letter").replay_delivery_id, replay.id);
    assert_ne!(replay.id, single.delivery_id);
    assert_eq!((&replay.replay_of, replay.trigger()), (&single.delivery_id, DeliveryTrigger::DeadLetter));
    let replay = api.delivery_in(&replay.id, DeliveryStatus::Delivered, Duration::from_secs(10)).await;
    assert_eq!(replay.attempt_count, 1, "a fresh budget of attempts");
    let letter = dead_letter_in(&api, &single.id, dead_letter::State::Replayed).await;
    assert_eq!(letter.replay_count, 1);
    assert_eq!(
        api.delivery(&single.delivery_id).await.status(),
        DeliveryStatus::DeadLetter,
        "final is final"
    );
    let again = api.dead_letters.clone().replay_dead_letter(request).await.expect_err("replayed already");
    assert_eq!(reason_of(&again), "DEAD_LETTER_STATE", "{again:?}");

    // All that are left.
    let empty = pb::BatchReplayDeadLettersRequest::default();
    let refused = api.dead_letters.clone().batch_replay_dead_letters(empty).await.expect_err("needs `all`");
    assert_eq!(reason_of(&refused), "INVALID_FIELD", "{refused:?}");
    let filter = pb::DeadLetterFilter { endpoint_ids: vec![endpoint.id.clone()], ..Default::default() };
    let request = pb::BatchReplayDeadLettersRequest { filter: Some(filter), ..Default::default() };
    let response = api.dead_letters.clone().batch_replay_dead_letters(request).await.expect("batch replay");
    let started = response.into_inner().operation.expect("an operation");
    assert_eq!(started.kind(), operation::Kind::ReplayDeadLetters);
    let request = pb::WaitOperationRequest { id: started.id.clone(), timeout: span(15_000) };
    let response = api.operations.clone().wait_operation(request).await.expect("wait");
    let done = response.into_inner().operation.expect("the operation");
    assert!(done.done && done.state() == operation::State::Succeeded, "{done:?}");
    assert_eq!((done.total_count, done.succeeded_count, done.failed_count), (3, 3, 0), "{done:?}");
    for letter in rest {
        let letter = dead_letter_in(&api, &letter.id, dead_letter::State::Replayed).await;
        let replay = api.delivery(&letter.replay_delivery_id).await;
        assert_eq!((replay.status(), &replay.replay_of), (DeliveryStatus::Delivered, &letter.delivery_id));
    }
    assert_eq!(receiver.count(), 24, "each replay is one request");
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_a_floor_and_nonsense_in_it_is_ignored() {
    let server = Server::start().await;
    let api = server.api();
    let cases: [(&str, u16, Option<&str>, Range<f64>); 3] = [
        ("seconds", 429, Some("3"), 3.0 - EARLY..3.0 * 1.25 + SLACK),
        // A date has whole seconds, so up to one of the four may be lost.
        ("date", 503, None, 3.0 - EARLY..4.0 * 1.25 + SLACK),
        ("nonsense", 429, Some("soon, I hope"), 0.75 - EARLY..1.25 + SLACK),
    ];
    let mut runs = Vec::new();
    for (name, status, text, allowed) in cases {
        let receiver = Receiver::answering(move |request| match (request.number, text) {
            (0, Some(text)) => Answer::status(status).header("retry-after", text),
            (0, None) => {
                let date = httpdate::fmt_http_date(request_time() + Duration::from_secs(4));
                Answer::status(status).header("retry-after", date)
            }
            _ => Answer::ok(),
        })
        .await;
        let endpoint = pb::Endpoint { event_types: vec![name.to_owned()], ..open_endpoint(&receiver.url) };
        api.create_endpoint(endpoint).await;
        let id = api.publish_to_one(event(name, "{}")).await;
        runs.push((name, receiver, allowed, id));
    }
    eventually(Duration::from_secs(5), "the delivery waits because the receiver asked", async || {
        let delivery = api.delivery(&runs[0].3).await;
        let seen = (delivery.hold_reason(), delivery.status());
        if seen.0 == HoldReason::RetryAfter { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    for (name, receiver, allowed, id) in &runs {
        let requests = receiver.wait_for(2, Duration::from_secs(10)).await;
        let gaps = gaps(&requests);
        assert!(allowed.contains(&gaps[0]), "{name}: {gaps:?} not in {allowed:?}");
        api.delivery_in(id, DeliveryStatus::Delivered, Duration::from_secs(5)).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "a date for the Retry-After header")]
fn request_time() -> SystemTime {
    SystemTime::now()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_a_retry_cannot_cure_goes_to_the_dead_letters_at_once() {
    let server = Server::start().await;
    let api = server.api();
    let receiver = Receiver::answering(|_| Answer::status(400).body("no such field")).await;
    api.create_endpoint(open_endpoint(receiver.at("/hook"))).await;

    let id = api.publish_to_one(event("user.created", "{}")).await;
    let delivery = api.delivery_in(&id, DeliveryStatus::DeadLetter, Duration::from_secs(5)).await;

    assert_eq!(delivery.attempt_count, 1);
    let error = delivery.last_error.expect("an error");
    assert_eq!((error.cause(), error.retryable), (DeliveryErrorCause::HttpClientError, false));
    let (letter, attempts) = api.dead_letter(&delivery.dead_letter_id).await;
    assert_eq!(letter.reason(), dead_letter::Reason::PermanentError);
    assert_eq!(letter.failure_reason, "HTTP 400: Bad Request");
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0].outcome(), Outcome::FailedFinal);
    assert_eq!(receiver.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_gone_is_disabled_and_what_waits_for_it_is_held() {
    use pb::endpoint::State;
    let server = Server::start().await;
    let api = server.api();
    let receiver = Receiver::answering(|_| Answer::status(410)).await;
    let endpoint = pb::Endpoint { max_in_flight: 1, ..open_endpoint(receiver.at("/hook")) };
    let endpoint = api.create_endpoint(endpoint).await;
    let batch = (0..3).map(|number| event("user.deleted", format!("{{\"number\":{number}}}"))).collect();
    let published = api.publish_batch(batch).await;
    assert_eq!(published.published_count, 3, "{published:?}");

    let gone = eventually(Duration::from_secs(10), "the endpoint is disabled", async || {
        let endpoint = api.endpoint(&endpoint.id).await;
        if endpoint.state() == State::AutoDisabled {
            Ok(endpoint)
        } else {
            Err(format!("{:?}", endpoint.state()))
        }
    })
    .await;
    assert!(!gone.state_reason.is_empty(), "it says why");
    assert_eq!(gone.enabled, Some(false));

    let deliveries = api.all_deliveries(pb::DeliveryFilter::default()).await;
    assert_eq!(deliveries.len(), 3);
    for delivery in &deliveries {
        assert_eq!(delivery.hold_reason(), HoldReason::EndpointDisabled, "all of them wait: {delivery:?}");
    }
    let tried: Vec<_> = deliveries.iter().filter(|delivery| delivery.attempt_count == 1).collect();
    assert_eq!(tried.len(), 1, "one of them found out: {deliveries:?}");
    assert_eq!(tried[0].last_error.as_ref().expect("an error").cause(), DeliveryErrorCause::Gone);
    assert_eq!(api.publish(event("user.deleted", "{}")).await.matched_endpoints, 0, "no new deliveries");
    assert_eq!(receiver.count(), 1, "nothing more was sent");

    receiver.answer_with(|_| Answer::ok());
    let enabled = pb::Endpoint { id: endpoint.id.clone(), enabled: Some(true), ..Default::default() };
    let request = pb::UpdateEndpointRequest {
        endpoint: Some(enabled),
        update_mask: Some(prost_types::FieldMask { paths: vec!["enabled".to_owned()] }),
    };
    let response = api.endpoints.clone().update_endpoint(request).await.expect("UpdateEndpoint");
    assert_eq!(response.into_inner().endpoint.expect("the endpoint").state(), State::Active);
    for delivery in deliveries {
        api.delivery_in(&delivery.id, DeliveryStatus::Delivered, Duration::from_secs(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_never_followed_and_never_a_success() {
    let server = Server::start().await;
    let api = server.api();
    let elsewhere = Receiver::ok().await;
    for status in [301, 302, 303, 307, 308] {
        let location = elsewhere.at("/stolen");
        let receiver =
            Receiver::answering(move |_| Answer::status(status).header("location", location.clone())).await;
        let event_type = format!("moved.s{status}");
        let endpoint = pb::Endpoint { event_types: vec![event_type.clone()], ..open_endpoint(&receiver.url) };
        api.create_endpoint(endpoint).await;
        let id = api.publish_to_one(event(&event_type, "{}")).await;

        let delivery = api.delivery_in(&id, DeliveryStatus::DeadLetter, Duration::from_secs(5)).await;
        assert_eq!((delivery.attempt_count, delivery.response_status_code), (1, i32::from(status)));
        assert_eq!(delivery.last_error.expect("an error").cause(), DeliveryErrorCause::Redirect);
        assert_eq!(receiver.count(), 1);
    }
    assert_eq!(elsewhere.count(), 0, "nobody went there");
}
