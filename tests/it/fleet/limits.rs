//! The limits of an endpoint hold over all instances, through deaths of its home.
//!
//! As in `limits.rs` the receiver counts. Whoever takes an endpoint over knows nothing of
//! what its last home had just sent, except what the database says, and must keep to the
//! limits nevertheless.

use std::time::{Duration, Instant};

use hookwire::grpc::pb::{self, circuit_state::Position};

use super::Fleet;
use crate::support::{
    Answer, Database, Load, Receiver, alone, event, eventually, now, open_endpoint, retrying, span, stubborn,
};

/// The most requests in any window of that length.
fn most_within(at: &[Instant], window: Duration) -> usize {
    let from = |first: usize| at[first..].iter().take_while(|later| **later - at[first] < window).count();
    (0..at.len()).map(from).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_second_sees_more_than_the_burst_and_the_rate_while_instances_die() {
    const EVENTS: u64 = 5_000;
    /// Enough for all deaths and 40 after the last.
    const RECEIVED: usize = 150;
    /// Ten at once and ten in the second after.
    const MOST: usize = 20;
    let _alone = alone().await;
    let mut fleet = Fleet::start().await;
    let receiver = Receiver::ok().await;
    let endpoint = pb::Endpoint {
        rate_limit: Some(pb::RateLimit { requests_per_second: 10.0, burst: 10, disabled: false }),
        ..stubborn(receiver.at("/hook"))
    };
    let endpoint = fleet.members[0].api().create_endpoint(endpoint).await;

    let load = Load::start(&fleet.ports(), "tick", EVENTS, [2, 2, 2]);
    let start = now();
    for (kill, mark) in [20, 40, 60, 80, 110].into_iter().enumerate() {
        receiver.wait_for(mark, Duration::from_secs(60)).await;
        let home = fleet.home_of(&endpoint.id).await;
        // In between one that is not its home, which is to change nothing.
        let victim = if kill == 2 { (home + 1) % 3 } else { home };
        fleet.kill9_and_restart(victim).await;
    }
    let ledger = receiver.wait_for(RECEIVED, Duration::from_secs(60)).await;
    let took = start.elapsed();
    assert_eq!(load.finish(Duration::from_secs(60)).await.count() as u64, EVENTS);

    let mut at: Vec<_> = ledger.iter().map(|request| request.at).collect();
    at.sort_unstable();
    let most = most_within(&at, Duration::from_secs(1));
    println!("fleet limits: {most} requests in the fullest second, {RECEIVED} in {took:?} with five deaths");
    assert!(most <= MOST, "{most} requests within a second");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_breaker_lets_one_probe_through_per_cooldown_whoever_is_the_home() {
    const COOLDOWN: f64 = 2.0;
    const OPENS_AT: usize = 5;
    const EVENTS: usize = 12;
    let _alone = alone().await;
    let mut fleet = Fleet::start().await;
    let receiver = Receiver::answering(|_| Answer::status(500)).await;
    let endpoint = pb::Endpoint {
        // One at a time, so that no attempt is in flight when the breaker opens.
        max_in_flight: 1,
        retry_policy: retrying(10, 50),
        circuit_breaker: Some(pb::CircuitBreaker { cooldown: span(2000), ..Default::default() }),
        ..open_endpoint(receiver.at("/hook"))
    };
    let endpoint = fleet.members[0].api().create_endpoint(endpoint).await;
    let batch = (0..EVENTS).map(|number| event("tick", format!("{{\"number\":{number}}}"))).collect();
    fleet.members[1].api().publish_batch(batch).await;

    receiver.wait_for(OPENS_AT, Duration::from_secs(10)).await;
    for kill in 1..=3 {
        receiver.wait_for(receiver.count() + 2, Duration::from_secs(30)).await;
        // A probe that is cut off from its record is repeated like any request, so the home
        // dies when it has recorded the last one.
        let api = fleet.members[0].api();
        eventually(Duration::from_secs(1), &format!("all is recorded before kill {kill}"), async || {
            let all = api.all_deliveries(pb::DeliveryFilter::default()).await;
            let recorded: i32 = all.iter().map(|delivery| delivery.attempt_count).sum();
            let sent = receiver.count();
            if usize::try_from(recorded) == Ok(sent) { Ok(()) } else { Err(format!("{recorded} of {sent}")) }
        })
        .await;
        let home = fleet.home_of(&endpoint.id).await;
        fleet.kill9_and_restart(home).await;
        let circuit = fleet.members[home].api().endpoint(&endpoint.id).await.circuit_state;
        let position = circuit.unwrap_or_default().position();
        assert_ne!(position, Position::Closed, "it is known to be open, also while nobody is its home");
        fleet.settled().await;
    }
    let ledger = receiver.wait_for(receiver.count() + 2, Duration::from_secs(30)).await;
    receiver.answer_with(|_| Answer::ok());
    fleet.members[0].api().all_final(Duration::from_secs(30)).await;

    let gaps: Vec<_> =
        ledger[OPENS_AT - 1..].windows(2).map(|pair| (pair[1].at - pair[0].at).as_secs_f64()).collect();
    println!("fleet breaker: between probes, with three deaths, {gaps:.2?} s");
    assert!(gaps.iter().all(|gap| *gap >= COOLDOWN - 0.02), "one probe per cool-down: {gaps:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn never_more_are_in_flight_than_may_be_while_instances_die() {
    const MAX_IN_FLIGHT: usize = 8;
    const KILLS: usize = 6;
    let _alone = alone().await;
    let mut fleet = Fleet::with(Database::new(), &[("HOOKWIRE_MAX_QUEUE", "500")]).await;
    let receiver = Receiver::answering(|request| {
        Answer::ok().after(Duration::from_millis(100 + request.number as u64 % 7 * 30))
    })
    .await;
    let endpoint = pb::Endpoint {
        max_in_flight: i32::try_from(MAX_IN_FLIGHT).expect("small"),
        ..stubborn(receiver.at("/hook"))
    };
    let endpoint = fleet.members[0].api().create_endpoint(endpoint).await;

    let load = Load::start(&fleet.ports(), "tick", u64::MAX, [2, 2, 2]);
    for kill in 0..KILLS {
        receiver.wait_for(receiver.count() + 60, Duration::from_secs(60)).await;
        let home = fleet.home_of(&endpoint.id).await;
        let victim = if kill % 3 == 2 { (home + 1) % 3 } else { home };
        fleet.kill9_and_restart(victim).await;
    }
    receiver.wait_for(receiver.count() + 60, Duration::from_secs(60)).await;
    load.stop(Duration::from_secs(60)).await;
    fleet.members[0].api().all_final(Duration::from_secs(60)).await;

    let most = receiver.most_open();
    println!("fleet in flight: {most} at most, with {KILLS} deaths and {} requests", receiver.count());
    assert_eq!(most, MAX_IN_FLIGHT, "all of what may be, and no more");
}
