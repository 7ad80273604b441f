//! What one instance answered holds at every other from then on.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hookwire::grpc::pb;
use tokio::task::JoinSet;

use super::Fleet;
use crate::support::{Answer, Receiver, alone, event, now, open_endpoint};

const PAIRS: usize = 5_000;
const AT_ONCE: usize = 48;

#[tokio::test(flavor = "multi_thread")]
async fn an_event_reaches_the_endpoint_that_another_instance_has_just_made() {
    let _alone = alone().await;
    let fleet = Fleet::start().await;
    // Each endpoint gets one request, and would keep its connection for a while.
    let receiver = Receiver::answering(|_| Answer::ok().header("connection", "close")).await;
    let (next, start) = (Arc::new(AtomicUsize::new(0)), now());
    let mut workers = JoinSet::new();
    let mut apis = fleet.apis();
    for worker in 0..AT_ONCE {
        if worker % 8 == 0 {
            apis = fleet.apis();
        }
        let (apis, next, url) = (apis.clone(), Arc::clone(&next), receiver.url.clone());
        workers.spawn(async move {
            let mut missed = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= PAIRS {
                    return missed;
                }
                // Each of the six ways from one to another in turn.
                let maker = number % 3;
                let publisher = (maker + 1 + number / 3 % 2) % 3;
                let wanted = format!("pair.n{number}");
                let endpoint = pb::Endpoint {
                    event_types: vec![wanted.clone()],
                    ..open_endpoint(format!("{url}/{number}"))
                };
                apis[maker].create_endpoint(endpoint).await;
                let matched = apis[publisher].publish(event(&wanted, "{}")).await.matched_endpoints;
                if matched != 1 {
                    missed.push((number, matched));
                }
            }
        });
    }
    let missed = workers.join_all().await.concat();
    assert!(missed.is_empty(), "events that did not meet their endpoints: {missed:?}");
    let made = start.elapsed();

    let ledger = receiver.wait_for(PAIRS, Duration::from_secs(120)).await;
    fleet.members[0].api().all_final(Duration::from_secs(30)).await;
    let mut received: HashMap<&str, usize> = HashMap::new();
    for request in &ledger {
        *received.entry(&request.path).or_default() += 1;
    }
    println!("own writes: {PAIRS} endpoints made and met elsewhere in {made:?}");
    assert_eq!(received.len(), PAIRS, "each endpoint got its event");
    assert_eq!(receiver.count(), PAIRS, "and got it once");
}
