//! An endpoint that hangs delays itself only.
//!
//! Twenty endpoints take every request and never answer, with thousands waiting
//! behind each; twenty others get their events as if those were not there. The
//! measure is the time from the call that publishes to the first byte at the
//! receiver, with and without the trouble, in the same process.

use std::{sync::Arc, time::Duration};

use hookwire::grpc::pb;
use tokio::task::JoinSet;

use crate::support::{
    Answer, Receiver, Server, alone, event, eventually, latencies, open_endpoint, percentile, span,
};

const HEALTHY: usize = 20;
const HANGING: usize = 20;
const WAITING_EACH: usize = 5_000;
/// At 200 a second, for five seconds.
const EVENTS: usize = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_hang_do_not_delay_the_others() {
    let _alone = alone().await;
    let server = Server::build().env("LOG_LEVEL", "warn").start().await;
    let api = server.api();
    let healthy = Receiver::ok().await;
    for number in 0..HEALTHY {
        let event_types = vec![format!("healthy.{number}")];
        let endpoint = pb::Endpoint { event_types, ..open_endpoint(healthy.at(&format!("/{number}"))) };
        api.create_endpoint(endpoint).await;
    }
    let mut undisturbed = latencies(&api, &healthy, HEALTHY, EVENTS).await;

    let hanging = Receiver::answering(|_| Answer::hang()).await;
    for number in 0..HANGING {
        let endpoint = pb::Endpoint {
            event_types: vec!["hanging".to_owned()],
            http: Some(pb::HttpOptions { timeout: span(2000), ..Default::default() }),
            circuit_breaker: Some(pb::CircuitBreaker { disabled: true, ..Default::default() }),
            ..open_endpoint(hanging.at(&format!("/{number}")))
        };
        api.create_endpoint(endpoint).await;
    }
    let mut batches = JoinSet::new();
    let per_batch = 250;
    let callers = Arc::new(tokio::sync::Semaphore::new(2));
    for _ in 0..WAITING_EACH / per_batch {
        let (api, callers) = (api.clone(), Arc::clone(&callers));
        batches.spawn(async move {
            let _permit = callers.acquire().await.expect("never closed");
            api.publish_batch((0..per_batch).map(|_| event("hanging", "{}")).collect()).await.published_count
        });
    }
    let published: i32 = batches.join_all().await.into_iter().sum();
    assert_eq!(usize::try_from(published), Ok(WAITING_EACH));
    eventually(Duration::from_secs(30), "every hanging endpoint has its requests in flight", async || {
        let seen = hanging.count();
        if seen >= HANGING * 10 { Ok(()) } else { Err(format!("{seen} requests")) }
    })
    .await;

    // What is measured is the trouble of hanging, not the flood that brought it there:
    // 100,000 deliveries made at once, which a debug build takes in for half a second.
    // Changes are taken in as they were committed, so one more event tells the end.
    let before = healthy.count();
    api.publish(event("healthy.0", "{}")).await;
    healthy.wait_for(before + 1, Duration::from_secs(30)).await;

    let hung_before = hanging.count();
    let mut disturbed = latencies(&api, &healthy, HEALTHY, EVENTS).await;
    let hung = hanging.count() - hung_before;

    let (quiet, busy) = (percentile(&mut undisturbed, 0.99), percentile(&mut disturbed, 0.99));
    println!("isolation: p99 {quiet:?} undisturbed, {busy:?} with {hung} requests hanging meanwhile");
    assert!(hung >= HANGING * 10, "the others did hang meanwhile: {hung}");
    assert!(busy <= quiet + Duration::from_millis(250), "p99 went from {quiet:?} to {busy:?}");
}

/// More hanging endpoints than would fill all slots, and few slots: what arrives at a healthy
/// endpoint meanwhile, if its deliveries wait for no time-out.
async fn healthy_beside(max_in_flight: &str, hanging_endpoints: usize) {
    let _alone = alone().await;
    let server = Server::build().env("HOOKWIRE_MAX_IN_FLIGHT", max_in_flight).start().await;
    let api = server.api();
    let (healthy, hanging) = (Receiver::ok().await, Receiver::answering(|_| Answer::hang()).await);
    for number in 0..hanging_endpoints {
        let event_types = vec!["hanging".to_owned()];
        // Longer than this test waits: whoever waits for one of them fails it.
        let http = Some(pb::HttpOptions { timeout: span(120_000), ..Default::default() });
        let path = format!("/{number}");
        api.create_endpoint(pb::Endpoint { event_types, http, ..open_endpoint(hanging.at(&path)) }).await;
    }
    let endpoint =
        pb::Endpoint { event_types: vec!["healthy".to_owned()], ..open_endpoint(healthy.at("/healthy")) };
    api.create_endpoint(endpoint).await;
    api.publish_batch((0..20).map(|_| event("hanging", "{}")).collect()).await;
    let each_hangs = hanging_endpoints.min(max_in_flight.parse::<usize>().expect("a number") / 4);
    eventually(Duration::from_secs(30), "the endpoints hang", async || {
        let seen = hanging.count();
        if seen >= each_hangs { Ok(()) } else { Err(format!("{seen} requests")) }
    })
    .await;
    for number in 1..=50 {
        api.publish(event("healthy", "{}")).await;
        healthy.wait_for(number, Duration::from_secs(30)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_endpoints_leave_slots_to_a_healthy_one() {
    healthy_beside("1024", 110).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_endpoints_leave_one_of_a_few_slots_to_a_healthy_one() {
    healthy_beside("20", 3).await;
}
