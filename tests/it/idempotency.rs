//! One key is one event, however often and however hastily it is published.
//!
//! Producers repeat themselves exactly when things go wrong: on a timeout, on a
//! broken connection, after a crash. So the repeats come all at once here, over
//! several connections, and also around a server that died between its commit
//! and its answer, which is the one moment at which the producer cannot know.

use std::{collections::HashSet, time::Duration};

use hookwire::grpc::pb::{self, DeliveryStatus};
use tokio::task::JoinSet;
use tonic::{Code, Request, Status};

use crate::support::{
    Api, Receiver, Server, alone, detail, event, open_endpoint, reason_of, transport_fault,
};

const KEY: &str = "order-4711-paid";

fn paid(amount: u32) -> pb::Event {
    let json = format!("{{\"order\":4711,\"amount\":{amount}}}");
    pb::Event { idempotency_key: KEY.to_owned(), ..event("order.paid", json) }
}

async fn try_publish(api: &Api, event: pb::Event) -> Result<pb::PublishEventResponse, Status> {
    let request = pb::PublishEventRequest { event: Some(event), include_deliveries: true };
    api.events.clone().publish_event(request).await.map(tonic::Response::into_inner)
}

/// So many calls at the same time, over eight connections.
async fn publish_at_once(server: &Server, calls: usize) -> Vec<Result<pb::PublishEventResponse, Status>> {
    let connections: Vec<_> = (0..8).map(|_| server.api()).collect();
    let mut tasks = JoinSet::new();
    for number in 0..calls {
        let api = connections[number % connections.len()].clone();
        tasks.spawn(async move { try_publish(&api, paid(100)).await });
    }
    tasks.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_concurrent_publishes_of_one_key_are_one_event_and_one_delivery() {
    let _alone = alone().await;
    let server = Server::start().await;
    let api = server.api();
    let receiver = Receiver::ok().await;
    api.create_endpoint(open_endpoint(receiver.at("/hook"))).await;

    let responses: Vec<_> =
        publish_at_once(&server, 1000).await.into_iter().map(|response| response.expect("publish")).collect();

    let ids: HashSet<_> = responses.iter().map(|response| &response.event_id).collect();
    assert_eq!(ids.len(), 1, "one event");
    assert_eq!(responses.iter().filter(|response| !response.duplicate).count(), 1, "published once");
    api.all_final(Duration::from_secs(10)).await;
    let deliveries = api.all_deliveries(pb::DeliveryFilter::default()).await;
    assert_eq!(deliveries.len(), 1, "one delivery");
    assert_eq!(receiver.count(), 1, "sent once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_committed_but_not_answered_is_a_duplicate_when_repeated() {
    let mut server = Server::build().restartable().env("HOOKWIRE_CRASH_AFTER_COMMIT", "1").start().await;
    let api = server.api();
    let receiver = Receiver::ok().await;
    api.create_endpoint(open_endpoint(receiver.at("/hook"))).await;

    let lost = try_publish(&api, paid(100)).await.expect_err("the server dies before it answers");
    assert!(transport_fault(&lost), "{lost:?}");
    let status = server.exited(Duration::from_secs(10)).await;
    assert!(!status.success(), "it died: {status}");
    server.restart_with(&[]).await;

    let response = try_publish(&api, paid(100)).await.expect("publish");
    assert!(response.duplicate, "{response:?}");
    api.all_final(Duration::from_secs(10)).await;
    let deliveries = api.all_deliveries(pb::DeliveryFilter::default()).await;
    assert_eq!(deliveries.len(), 1, "one delivery");
    assert_eq!(deliveries[0].event_id, response.event_id);
    assert_eq!(deliveries[0].status(), DeliveryStatus::Delivered);
    let events: HashSet<_> = receiver.ledger().iter().map(|request| request.event_id().to_owned()).collect();
    assert_eq!(events, HashSet::from([response.event_id]));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_publishes_of_one_key_around_a_crash_are_one_event() {
    let _alone = alone().await;
    // The second transaction, so that some callers have an answer and some have
    // not when the server dies. All of them may fit into the first one; then
    // there is no crash, and nothing to repeat.
    let mut server = Server::build().restartable().env("HOOKWIRE_CRASH_AFTER_COMMIT", "2").start().await;
    let receiver = Receiver::ok().await;
    server.api().create_endpoint(open_endpoint(receiver.at("/hook"))).await;

    let before = publish_at_once(&server, 500).await;
    server.kill9();
    server.restart_with(&[]).await;
    let after = publish_at_once(&server, 500).await;

    let mut ids = HashSet::new();
    let mut first = 0;
    for response in before {
        match response {
            Ok(response) => {
                first += usize::from(!response.duplicate);
                ids.insert(response.event_id);
            }
            Err(status) => assert!(transport_fault(&status), "{status:?}"),
        }
    }
    for response in after {
        let response = response.expect("publish");
        first += usize::from(!response.duplicate);
        ids.insert(response.event_id);
    }
    assert_eq!(ids.len(), 1, "one event");
    assert!(first <= 1, "{first} callers were told that they were the first");
    let api = server.api();
    api.all_final(Duration::from_secs(10)).await;
    assert_eq!(api.all_deliveries(pb::DeliveryFilter::default()).await.len(), 1, "one delivery");
    assert!(receiver.ledger().iter().all(|request| ids.contains(request.event_id())));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_with_other_content_is_a_conflict() {
    let server = Server::start().await;
    let api = server.api();
    let first = try_publish(&api, paid(100)).await.expect("publish");

    let other_type = pb::Event { event_type: "order.refunded".to_owned(), ..paid(100) };
    for (what, event) in [("payload", paid(200)), ("type", other_type)] {
        let refused = try_publish(&api, event.clone()).await.expect_err(what);
        assert_eq!(refused.code(), Code::AlreadyExists, "{refused:?}");
        assert_eq!(reason_of(&refused), "IDEMPOTENCY_CONFLICT", "{refused:?}");
        assert_eq!(detail(&refused, "idempotency_key"), KEY);
        assert_eq!(detail(&refused, "event_id"), first.event_id);

        let request = pb::BatchPublishEventsRequest { events: vec![event, paid(100)], atomic: false };
        let batch = api.events.clone().batch_publish_events(request).await.expect("batch").into_inner();
        assert_eq!(
            (batch.failed_count, batch.duplicate_count, batch.published_count),
            (1, 1, 0),
            "{batch:?}"
        );
        let error = batch.results[0].error.as_ref().expect("an error");
        assert_eq!(error.reason(), pb::ErrorReason::IdempotencyConflict);
    }
    assert!(try_publish(&api, paid(100)).await.expect("publish").duplicate, "the first content still holds");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_may_come_as_call_metadata() {
    let server = Server::start().await;
    let api = server.api();
    let mut ids = HashSet::new();
    for _ in 0..2 {
        let event = Some(event("order.paid", "{}"));
        let mut request = Request::new(pb::PublishEventRequest { event, include_deliveries: false });
        request.metadata_mut().insert("idempotency-key", KEY.parse().expect("ASCII"));
        let response = api.events.clone().publish_event(request).await.expect("publish").into_inner();
        ids.insert(response.event_id);
    }
    assert_eq!(ids.len(), 1);
}
