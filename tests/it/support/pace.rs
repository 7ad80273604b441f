//! How long events take to a healthy receiver.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use super::{Api, Receiver, event, now};

/// 200 a second.
const PACE: Duration = Duration::from_millis(5);

/// Publishes `events` at a steady pace, of the types `healthy.0` and so on in turn, and
/// returns how long each took from the call to the first byte at the receiver.
pub async fn latencies(api: &Api, receiver: &Receiver, types: usize, events: usize) -> Vec<Duration> {
    let before = receiver.count();
    let mut ticks = tokio::time::interval(PACE);
    let mut calls = JoinSet::new();
    for number in 0..events {
        ticks.tick().await;
        let api = api.clone();
        let event = event(&format!("healthy.{}", number % types), format!("{{\"n\":{number}}}"));
        calls.spawn(async move {
            let published: Instant = now();
            let response = api.publish(event).await;
            (response.event_id, published)
        });
    }
    let published = calls.join_all().await;
    let ledger = receiver.wait_for(before + events, Duration::from_secs(60)).await;
    let arrived: HashMap<_, _> =
        ledger[before..].iter().map(|request| (request.event_id(), request.at)).collect();
    published.iter().map(|(id, at)| arrived[id.as_str()].saturating_duration_since(*at)).collect()
}
