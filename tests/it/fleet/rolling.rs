//! A new version is rolled out without anybody noticing.
//!
//! Each instance in turn is told to stop, and started again when it has stopped. Clients
//! that repeat what was not answered, as the API asks of them, see no other error; no
//! event is lost, and none is sent twice, since an instance that stops in order ends its
//! attempts before it hands its endpoints over.

use std::time::Duration;

use hookwire::grpc::pb::{self, DeliveryStatus};

use super::Fleet;
use crate::{
    kept::compare,
    support::{Answer, Database, Load, Receiver, alone, create_stubborn, now},
};

const ROUNDS: usize = 10;
const ENDPOINTS: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn ten_rolling_restarts_under_load_lose_nothing_and_send_nothing_twice() {
    let _alone = alone().await;
    let mut fleet = Fleet::with(Database::new(), &[("HOOKWIRE_MAX_QUEUE", "2000")]).await;
    // Slow enough that requests are in flight at any moment.
    let receiver = Receiver::answering(|_| Answer::ok().after(Duration::from_millis(40))).await;
    let api = fleet.members[0].api();
    create_stubborn(&api, &receiver, ENDPOINTS).await;

    // It panics at any error that is not to be repeated.
    let load = Load::start(&fleet.ports(), "work", u64::MAX, [4, 2, 2]);
    let mut longest = Duration::ZERO;
    for round in 1..=ROUNDS {
        for member in 0..3 {
            receiver.wait_for(receiver.count() + 100, Duration::from_secs(60)).await;
            let asked = now();
            let status = fleet.members[member].terminate(Duration::from_secs(40)).await;
            assert_eq!(status.code(), Some(0), "member {member}, round {round}: {status}");
            longest = longest.max(asked.elapsed());
            fleet.members[member].restart().await;
        }
    }
    let ledger = load.stop(Duration::from_secs(60)).await;
    api.all_final(Duration::from_secs(60)).await;

    let requests = compare(&ledger, &receiver, ENDPOINTS);
    println!(
        "rolling: {ROUNDS} times three, the slowest stop took {longest:?}, {} acknowledged, {} requests",
        ledger.count(),
        receiver.count()
    );
    let twice: Vec<_> = requests.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "sent twice: {twice:?}");
    let deliveries = api.all_deliveries(pb::DeliveryFilter::default()).await;
    assert_eq!(deliveries.len(), requests.len());
    for delivery in &deliveries {
        let ended = (delivery.status(), delivery.attempt_count);
        assert_eq!(ended, (DeliveryStatus::Delivered, 1), "{delivery:?}");
    }
}
