//! What an attempt came to is recorded, though the database is away when it ends.
//!
//! Requests are on their way when the database goes, and are answered before it is back.
//! The answers must not be forgotten: the receiver has done its work, and would do it
//! twice.

use std::time::Duration;

use hookwire::grpc::pb::{self, DeliveryStatus};

use super::CUT_ALL;
use crate::support::{Answer, Cluster, Database, Receiver, Server, alone, event, eventually, stubborn};

const IN_FLIGHT: usize = 20;

/// A server with requests on their way, all of which will succeed. Ends when they have and
/// are recorded. The outage begins and ends as told.
async fn through_an_outage(
    what: &str,
    begin: impl AsyncFnOnce(),
    end: impl AsyncFnOnce(),
    database: &Database,
) {
    let server = Server::build().store(database.url()).start().await;
    let api = server.api();
    // Longer than it takes for the database to go.
    let receiver = Receiver::answering(|_| Answer::ok().after(Duration::from_secs(3))).await;
    let endpoint = pb::Endpoint {
        max_in_flight: i32::try_from(IN_FLIGHT).expect("small"),
        ..stubborn(receiver.at("/hook"))
    };
    api.create_endpoint(endpoint).await;
    api.publish_batch((0..IN_FLIGHT).map(|_| event("tick", "{}")).collect()).await;
    eventually(Duration::from_secs(15), "all requests are on their way", async || {
        let open = receiver.open();
        if open == IN_FLIGHT { Ok(()) } else { Err(format!("{open}")) }
    })
    .await;
    begin().await;
    assert_eq!(receiver.open(), IN_FLIGHT, "{what}: none is answered before the database is away");
    eventually(Duration::from_secs(10), "all requests are answered", async || {
        let open = receiver.open();
        if open == 0 { Ok(()) } else { Err(format!("{open} are not")) }
    })
    .await;
    end().await;

    api.all_final(Duration::from_secs(20)).await;
    let deliveries = api.all_deliveries(pb::DeliveryFilter::default()).await;
    assert_eq!(deliveries.len(), IN_FLIGHT);
    for delivery in &deliveries {
        let ended = (delivery.status(), delivery.attempt_count);
        assert_eq!(ended, (DeliveryStatus::Delivered, 1), "{what}: {delivery:?}");
    }
    assert_eq!(receiver.count(), IN_FLIGHT, "{what}: no request is repeated");
    println!("recorded: {IN_FLIGHT} attempts that ended while the database was {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_that_end_while_the_database_is_away_are_recorded_and_not_repeated() {
    let _alone = alone().await;
    let cluster = Cluster::new(&[]);
    let database = Database::on(&cluster);
    through_an_outage("killed", async || cluster.kill9(), async || cluster.start(), &database).await;
    let database = Database::on(&cluster);
    through_an_outage("frozen", async || cluster.freeze(), async || cluster.thaw(), &database).await;
    let database = Database::on(&cluster);
    let cut = async || drop(database.query(CUT_ALL));
    through_an_outage("cutting it off", cut, async || (), &database).await;
}
