//! A publish that nobody knows the end of is one event all the same.
//!
//! When the connection that writes breaks while a transaction is being committed, the
//! instance cannot tell whether it was, and neither can the publisher. It sends the event
//! again, with the same key.

use std::time::Duration;

use hookwire::grpc::pb::{self, DeliveryStatus};

use super::Fleet;
use crate::{
    kept::compare,
    support::{Database, Dice, Load, Receiver, alone, create_stubborn, eventually},
};

const CUTS: usize = 40;

#[tokio::test(flavor = "multi_thread")]
async fn no_key_gets_two_events_though_writers_are_cut_off_in_the_middle() {
    let _alone = alone().await;
    let mut dice = Dice::of("doubt");
    let fleet = Fleet::with(Database::new(), &[("HOOKWIRE_MAX_QUEUE", "2000")]).await;
    let receiver = Receiver::ok().await;
    let api = fleet.members[0].api();
    create_stubborn(&api, &receiver, 1).await;

    let load = Load::start(&fleet.ports(), "doubt", u64::MAX, [8, 4, 4]);
    let mut busy = 0;
    for cut in 1..=CUTS {
        let mark = load.ledger.count() + 50;
        eventually(Duration::from_secs(60), &format!("work goes on before cut {cut}"), async || {
            let acked = load.ledger.count();
            if acked >= mark { Ok(()) } else { Err(format!("{acked} of {mark} acknowledged")) }
        })
        .await;
        tokio::time::sleep(Duration::from_micros(dice.roll(0, 30_000))).await;
        // One in the middle of something, if there is one.
        let state = fleet.database.query(
            "SELECT state FROM (SELECT pid, state FROM pg_stat_activity WHERE datname = current_database() \
             AND application_name = 'hookwire writer' ORDER BY state = 'idle', random() LIMIT 1) AS writer \
             WHERE pg_terminate_backend(pid)",
        );
        busy += usize::from(!state.is_empty() && state != "idle");
    }
    let ledger = load.stop(Duration::from_secs(60)).await;
    api.all_final(Duration::from_secs(60)).await;

    let requests = compare(&ledger, &receiver, 1);
    println!("doubt: {} acknowledged, {busy} of {CUTS} cuts in the middle of a transaction", ledger.count());
    assert!(busy > 0, "some writers were busy, or the test did not test that");
    let events = fleet.database.query("SELECT count(*), count(DISTINCT idempotency_key) FROM events");
    assert_eq!(events, format!("{0}|{0}", ledger.count()), "each key has one event");
    let deliveries = api.all_deliveries(pb::DeliveryFilter::default()).await;
    assert_eq!(deliveries.len(), requests.len());
    assert!(deliveries.iter().all(|delivery| delivery.status() == DeliveryStatus::Delivered));
}
