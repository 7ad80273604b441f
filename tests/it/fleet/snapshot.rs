//! Somebody who looks at the database for a long time slows nothing down.
//!
//! A transaction that is open keeps every version of every row that it might still see: a
//! backup, a forgotten console. Rows that are updated all the time must not pile up where
//! the work looks for its next piece. `HOOKWIRE_SNAPSHOT_SECONDS` says how long it is held,
//! 20 unless told otherwise; 300 show more.

use std::{env, time::Duration};

use sqlx::Executor as _;

use super::Fleet;
use crate::support::{Database, Load, Receiver, alone, create_stubborn, now};

/// Requests per second over a while.
async fn throughput(receiver: &Receiver, window: Duration) -> f64 {
    let (before, start) = (receiver.count(), now());
    tokio::time::sleep(window).await;
    (receiver.count() - before) as f64 / start.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_snapshot_in_the_database_does_not_slow_deliveries_down() {
    let seconds = env::var("HOOKWIRE_SNAPSHOT_SECONDS").map_or(20, |text| text.parse().expect("a number"));
    let held = Duration::from_secs(seconds);
    let _alone = alone().await;
    // Publishers are held up when too much waits, so that what is measured is all of the
    // way, and nothing piles up that is not the snapshot's doing.
    let fleet = Fleet::with(Database::new(), &[("HOOKWIRE_MAX_QUEUE", "2000")]).await;
    let receiver = Receiver::ok().await;
    create_stubborn(&fleet.members[0].api(), &receiver, 8).await;
    let load = Load::start(&fleet.ports(), "tick", u64::MAX, [0, 6, 0]);
    // Warm by then.
    receiver.wait_for(3_000, Duration::from_secs(60)).await;
    let before = throughput(&receiver, held / 4).await;

    let mut somebody = fleet.database.connect().await.expect("a connection");
    let look = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM deliveries";
    somebody.execute(look).await.expect("a snapshot");
    tokio::time::sleep(held * 3 / 4).await;
    let late = throughput(&receiver, held / 4).await;
    somebody.execute("COMMIT").await.expect("it was open all the while");
    load.stop(Duration::from_secs(60)).await;

    println!("snapshot: {before:.0} requests per second before, {late:.0} when it is {held:?} old");
    assert!(late >= 0.8 * before, "from {before:.0} to {late:.0} per second");
}
