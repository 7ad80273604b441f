//! Limits hold exactly, and what they hold back costs nothing.
//!
//! A receiver that asks for ten requests a second is counting, so we count with
//! it: over every window, not on average. A breaker is only as good as what is
//! not sent while it is open, so that is what is counted.

use std::{collections::HashSet, time::Duration};

use hookwire::grpc::pb::{self, DeliveryStatus, HoldReason, circuit_state::Position};

use crate::support::{Answer, Api, Receiver, Server, event, eventually, open_endpoint, retrying, span};

#[tokio::test(flavor = "multi_thread")]
async fn no_window_sees_more_than_the_burst_and_the_rate_and_the_rate_is_used() {
    const RATE: f64 = 10.0;
    const BURST: f64 = 50.0;
    /// Requests that left on time may arrive bunched: two at this rate is 200 ms
    /// of network and scheduling.
    const BUNCHED: f64 = 2.0;
    const EVENTS: usize = 165;
    let server = Server::start().await;
    let api = server.api();
    let receiver = Receiver::ok().await;
    // The limit is the default one.
    api.create_endpoint(pb::Endpoint { url: receiver.at("/hook"), ..Default::default() }).await;

    let batch = (0..EVENTS).map(|number| event("tick", format!("{{\"number\":{number}}}"))).collect();
    api.publish_batch(batch).await;
    let held = eventually(Duration::from_secs(5), "some deliveries are held by the bucket", async || {
        let all = api.all_deliveries(pb::DeliveryFilter::default()).await;
        let held = all.into_iter().find(|delivery| delivery.hold_reason() == HoldReason::EndpointRate);
        held.ok_or_else(|| format!("{} received, none held", receiver.count()))
    })
    .await;
    assert_eq!((held.status(), held.attempt_count), (DeliveryStatus::RateLimited, 0), "no attempt is spent");

    let ledger = receiver.wait_for(EVENTS, Duration::from_secs(30)).await;
    let at: Vec<f64> = ledger.iter().map(|request| (request.at - ledger[0].at).as_secs_f64()).collect();
    for (first, start) in at.iter().enumerate() {
        for (last, end) in at.iter().enumerate().skip(first) {
            let (requests, window) = ((last - first + 1) as f64, end - start);
            let allowed = BURST + RATE * window + BUNCHED;
            assert!(requests <= allowed, "{requests} requests within {window:.3} s, {allowed:.1} allowed");
        }
    }
    let burst_over = at[BURST as usize];
    let sustained = at.iter().filter(|at| (burst_over..burst_over + 10.0).contains(*at)).count();
    assert!(sustained >= 90, "only {sustained} requests in the 10 s after the burst");
    let connections: HashSet<_> = ledger.iter().map(|request| request.connection).collect();
    assert!(connections.len() <= 20, "{} connections for ten requests in flight", connections.len());
    api.all_final(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_breaker_opens_at_the_fifth_failure_and_lets_one_probe_through_per_cooldown() {
    const COOLDOWN: f64 = 2.0;
    const EVENTS: usize = 12;
    let server = Server::start().await;
    let api = server.api();
    let receiver = Receiver::answering(|_| Answer::status(500)).await;
    let endpoint = pb::Endpoint {
        // One at a time, so that no attempt is in flight when the breaker opens.
        max_in_flight: 1,
        retry_policy: retrying(10, 50),
        circuit_breaker: Some(pb::CircuitBreaker { cooldown: span(2000), ..Default::default() }),
        ..open_endpoint(receiver.at("/hook"))
    };
    let endpoint = api.create_endpoint(endpoint).await;
    let batch = (0..EVENTS).map(|number| event("tick", format!("{{\"number\":{number}}}"))).collect();
    api.publish_batch(batch).await;

    let circuit = eventually(Duration::from_secs(10), "the breaker is open", async || {
        let circuit = api.endpoint(&endpoint.id).await.circuit_state.unwrap_or_default();
        if circuit.position() == Position::Open { Ok(circuit) } else { Err(format!("{circuit:?}")) }
    })
    .await;
    assert_eq!(circuit.consecutive_failures, 5, "{circuit:?}");
    assert!(circuit.open_time.is_some() && circuit.next_probe_time.is_some(), "{circuit:?}");
    let waiting = eventually(Duration::from_secs(1), "all that waits says why", async || {
        let all = api.all_deliveries(pb::DeliveryFilter::default()).await;
        let why = all.iter().all(|delivery| delivery.hold_reason() == HoldReason::CircuitOpen);
        if why { Ok(all) } else { Err(format!("{all:?}")) }
    })
    .await;
    let spent: i32 = waiting.iter().map(|delivery| delivery.attempt_count).sum();
    assert_eq!((spent, receiver.count()), (5, 5), "five requests, and no attempt counted besides");

    // Two probes that fail, then one that succeeds.
    let probed = receiver.wait_for(7, Duration::from_secs(15)).await;
    receiver.answer_with(|_| Answer::ok());
    let healed = receiver.wait_for(8, Duration::from_secs(10)).await;
    for pair in [&probed[4..6], &probed[5..7], &healed[6..8]] {
        let gap = (pair[1].at - pair[0].at).as_secs_f64();
        assert!((COOLDOWN - 0.02..COOLDOWN + 1.0).contains(&gap), "one probe per cool-down: {gap:.3} s");
    }
    api.all_final(Duration::from_secs(10)).await;
    let all = api.all_deliveries(pb::DeliveryFilter::default()).await;
    assert!(all.iter().all(|delivery| delivery.status() == DeliveryStatus::Delivered));
    let spent: i32 = all.iter().map(|delivery| delivery.attempt_count).sum();
    assert_eq!(usize::try_from(spent), Ok(receiver.count()), "one attempt per request");
    assert_eq!(receiver.count(), EVENTS + 7, "seven failures, and one success for each");
    let circuit = api.endpoint(&endpoint.id).await.circuit_state.unwrap_or_default();
    assert_eq!((circuit.position(), circuit.consecutive_failures), (Position::Closed, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_cools_down_sooner_on_a_development_server() {
    let endpoint = || open_endpoint("https://receiver.example/hooks".to_owned());
    let seconds = async |api: &Api| {
        let made = api.create_endpoint(endpoint()).await;
        made.circuit_breaker.and_then(|breaker| breaker.cooldown).map(|span| span.seconds)
    };
    let dev = Server::start().await;
    assert_eq!(seconds(&dev.api()).await, Some(5));
    let serve = Server::build().serve(&[]).start().await;
    assert_eq!(seconds(&serve.api()).await, Some(60));
}
