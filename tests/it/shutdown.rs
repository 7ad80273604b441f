//! A server that is asked to stop stops in order, and a file has one server.
//!
//! Between SIGTERM and the end, what is in flight is finished and recorded, so
//! that the next start neither loses nor repeats anything. A second process on
//! the same file would break every promise of order and limits; it must say so
//! and go. On PostgreSQL it shares the work.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use hookwire::grpc::pb::{self, DeliveryStatus, Envelope};

use crate::support::{
    Answer, Load, Receiver, Server, alone, body_of, event, eventually, key_in, now, open_endpoint,
};

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_loses_nothing_and_repeats_nothing() {
    let _alone = alone().await;
    let mut server = Server::build().restartable().start().await;
    let api = server.api();
    // Slow enough that requests are in flight at any moment.
    let receiver = Receiver::answering(|_| Answer::ok().after(Duration::from_millis(40))).await;
    let endpoint = pb::Endpoint {
        envelope: Envelope::Raw.into(),
        max_in_flight: 50,
        ..open_endpoint(receiver.at("/hook"))
    };
    api.create_endpoint(endpoint).await;

    let load = Load::start(&[server.port], "work", u64::MAX, [8, 4, 4]);
    for round in 1..=2 {
        let mark = receiver.count() + 500;
        receiver.wait_for(mark, Duration::from_secs(30)).await;
        let asked = now();
        let status = server.terminate(Duration::from_secs(30)).await;
        assert_eq!(status.code(), Some(0), "round {round}: {status}");
        println!("shutdown: round {round} took {:?}", asked.elapsed());
        server.restart().await;
    }
    let ledger = load.stop(Duration::from_secs(60)).await;
    api.all_final(Duration::from_secs(120)).await;

    assert_eq!(ledger.two_ids(), Vec::<String>::new());
    let acked = ledger.acked();
    let mut requests: HashMap<String, usize> = HashMap::new();
    let mut received = HashSet::new();
    for request in receiver.ledger() {
        let key = key_in(&request.body);
        assert!(request.body == body_of(&key), "altered: {request:?}");
        assert_eq!(acked.get(&key).map(String::as_str), Some(request.event_id()));
        received.insert(key);
        *requests.entry(request.delivery_id()).or_default() += 1;
    }
    assert_eq!(received.len(), acked.len(), "nothing is lost");
    let repeated: Vec<_> = requests.iter().filter(|(_, count)| **count > 1).collect();
    assert!(repeated.is_empty(), "sent twice: {repeated:?}");
    let deliveries = api.all_deliveries(pb::DeliveryFilter::default()).await;
    assert_eq!(deliveries.len(), acked.len());
    assert!(
        deliveries.iter().all(|delivery| {
            (delivery.status(), delivery.attempt_count) == (DeliveryStatus::Delivered, 1)
        })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_server_with_open_watches_stops_promptly() {
    let mut server = Server::start().await;
    let api = server.api();
    let (mut stream, _) = api.watch(pb::WatchDeliveriesRequest::default()).await.expect("a watch");
    let status = server.terminate(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(0), "{status}");
    let ended = tokio::time::timeout(Duration::from_secs(5), async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                other => return other,
            }
        }
    });
    ended.await.expect("the watch ends with the server").expect_err("a watch ends by error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_data_shares_the_work_or_says_why_not_and_ends() {
    let mut server = Server::start().await;
    let api = server.api();
    let receiver = Receiver::ok().await;
    api.create_endpoint(open_endpoint(receiver.at("/hook"))).await;
    if Server::on_postgres() {
        let second = server.fellow().start().await;
        let id = second.api().publish_to_one(event("by.the.second", "{}")).await;
        api.delivery_in(&id, DeliveryStatus::Delivered, Duration::from_secs(10)).await;
        // And when the first one goes, the work goes on.
        assert_eq!(server.terminate(Duration::from_secs(10)).await.code(), Some(0));
        let id = second.api().publish_to_one(event("still.here", "{}")).await;
        second.api().delivery_in(&id, DeliveryStatus::Delivered, Duration::from_secs(10)).await;
        return;
    }

    let output = server.rival(Duration::from_secs(20)).await;

    assert!(!output.status.success(), "{}", output.status);
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.to_lowercase();
    let folder = server.data_dir().display().to_string().to_lowercase();
    assert!(said.contains(&folder), "it names the folder {folder}: {said}");
    assert!(
        ["in use", "already", "another", "locked"].iter().any(|word| said.contains(word)),
        "it says what is the matter: {said}"
    );
    assert!(!said.contains("panicked"), "in a sentence, not a panic: {said}");

    // The first one is none the worse for it.
    let id = api.publish_to_one(event("still.here", "{}")).await;
    api.delivery_in(&id, DeliveryStatus::Delivered, Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_survives_a_restart_with_its_due_time() {
    let mut server = Server::build().restartable().start().await;
    let api = server.api();
    let receiver = Receiver::ok().await;
    api.create_endpoint(open_endpoint(receiver.at("/hook"))).await;
    let delay = prost_types::Duration { seconds: 4, nanos: 0 };
    let schedule = Some(pb::event::Schedule::Delay(delay));
    let published = now();
    let id = api.publish_to_one(pb::Event { schedule, ..event("later", "{}") }).await;
    assert_eq!(api.delivery(&id).await.status(), DeliveryStatus::Scheduled);

    assert_eq!(server.terminate(Duration::from_secs(10)).await.code(), Some(0));
    server.restart().await;
    eventually(Duration::from_secs(10), "the server answers", async || {
        let request = pb::GetDeliveryRequest { id: id.clone(), include_attempts: false };
        let read = api.deliveries.clone().get_delivery(request).await;
        read.map(|_| ()).map_err(|status| status.to_string())
    })
    .await;

    let ledger = receiver.wait_for(1, Duration::from_secs(15)).await;
    let waited = (ledger[0].at - published).as_secs_f64();
    assert!((3.95..8.0).contains(&waited), "due after 4 s, came after {waited:.2} s");
    api.delivery_in(&id, DeliveryStatus::Delivered, Duration::from_secs(5)).await;
}
