//! What is wrong with a request is said at once, all of it, by field.
//!
//! A caller who fixes one field only to be told of the next is being teased; a
//! caller who gets the wrong code retries what cannot succeed. So the tests
//! break several rules in one request and expect each to be named, with a reason
//! that a program can branch on.

use std::time::Duration;

use bytes::Bytes;
use hookwire::grpc::pb::{self, ErrorReason, payload::Body};
use tonic::{Code, Status};

use crate::support::{Api, Receiver, Server, detail, event, open_endpoint, reason_of, span, violations_of};

const MIB: usize = 1 << 20;

fn named(found: &[(String, String)]) -> Vec<(&str, &str)> {
    found.iter().map(|(field, reason)| (field.as_str(), reason.as_str())).collect()
}

async fn refused_endpoint(api: &Api, endpoint: pb::Endpoint, endpoint_id: &str) -> Status {
    let endpoint_id = endpoint_id.to_owned();
    let request = pb::CreateEndpointRequest { endpoint: Some(endpoint), endpoint_id };
    api.endpoints.clone().create_endpoint(request).await.expect_err("refused")
}

async fn refused_event(api: &Api, event: pb::Event) -> Status {
    let request = pb::PublishEventRequest { event: Some(event), include_deliveries: false };
    api.events.clone().publish_event(request).await.expect_err("refused")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_violation_of_an_endpoint_is_named_at_once() {
    let server = Server::start().await;
    let api = server.api();
    let endpoint = pb::Endpoint {
        name: "n".repeat(129),
        url: "not a url".to_owned(),
        event_types: vec!["user.*".to_owned(), "user..created".to_owned()],
        headers: [("host".to_owned(), "elsewhere".to_owned())].into(),
        http: Some(pb::HttpOptions { timeout: span(121_000), ..Default::default() }),
        secrets: vec![pb::SigningSecret { value: "short".to_owned(), ..Default::default() }],
        retry_policy: Some(pb::RetryPolicy {
            max_attempts: 51,
            multiplier: 0.5,
            jitter_ratio: Some(1.5),
            retry_status_codes: vec![404, 200],
            ..Default::default()
        }),
        rate_limit: Some(pb::RateLimit { requests_per_second: -1.0, ..Default::default() }),
        max_in_flight: 1001,
        ..Default::default()
    };

    let refused = refused_endpoint(&api, endpoint, "Not Allowed").await;

    assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    assert_eq!(
        named(&violations_of(&refused)),
        [
            ("endpoint.event_types[1]", "BAD_FORMAT"),
            ("endpoint.headers[host]", "FORBIDDEN"),
            ("endpoint.http.timeout", "OUT_OF_RANGE"),
            ("endpoint.max_in_flight", "OUT_OF_RANGE"),
            ("endpoint.name", "TOO_LONG"),
            ("endpoint.rate_limit.requests_per_second", "OUT_OF_RANGE"),
            ("endpoint.retry_policy.jitter_ratio", "OUT_OF_RANGE"),
            ("endpoint.retry_policy.max_attempts", "OUT_OF_RANGE"),
            ("endpoint.retry_policy.multiplier", "OUT_OF_RANGE"),
            ("endpoint.retry_policy.retry_status_codes[1]", "OUT_OF_RANGE"),
            ("endpoint.secrets[0].value", "TOO_SHORT"),
            ("endpoint.url", "BAD_FORMAT"),
            ("endpoint_id", "BAD_FORMAT"),
        ],
        "{refused:?}"
    );

    let nothing = pb::CreateEndpointRequest::default();
    let refused = api.endpoints.clone().create_endpoint(nothing).await.expect_err("refused");
    assert!(violations_of(&refused).iter().any(|(_, reason)| reason == "REQUIRED"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_violation_of_an_event_is_named_at_once() {
    let server = Server::start().await;
    let api = server.api();
    let bad = pb::Event {
        event_type: "user created!".to_owned(),
        payload: Some(pb::Payload {
            content_type: "application/json".to_owned(),
            body: Some(Body::Json("{\"a\":".to_owned())),
        }),
        idempotency_key: "k".repeat(256),
        priority: 101,
        schedule: Some(pb::event::Schedule::Delay(prost_types::Duration { seconds: 91 * 86_400, nanos: 0 })),
        ..Default::default()
    };
    let expected = [
        ("delay", "OUT_OF_RANGE"),
        ("event_type", "BAD_FORMAT"),
        ("idempotency_key", "TOO_LONG"),
        ("payload.json", "BAD_FORMAT"),
        ("priority", "OUT_OF_RANGE"),
    ];
    let expect_under = |prefix: &str, found: &[(String, String)]| {
        let expected: Vec<_> = expected
            .iter()
            .map(|(field, reason)| (format!("{prefix}{field}"), (*reason).to_owned()))
            .collect();
        assert_eq!(found, expected);
    };

    let refused = refused_event(&api, bad.clone()).await;
    assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    expect_under("event.", &violations_of(&refused));

    // In a batch it fails by itself, unless all are to stand or fall together.
    let events = vec![event("fine", "{}"), bad];
    let request = pb::BatchPublishEventsRequest { events: events.clone(), atomic: false };
    let batch = api.events.clone().batch_publish_events(request).await.expect("batch").into_inner();
    assert_eq!((batch.published_count, batch.failed_count), (1, 1), "{batch:?}");
    assert!(batch.results[0].error.is_none());
    let error = batch.results[1].error.clone().expect("an error");
    assert_eq!((error.code, error.reason()), (Code::InvalidArgument as i32, ErrorReason::InvalidField));
    let mut found: Vec<_> =
        error.field_violations.into_iter().map(|violation| (violation.field, violation.reason)).collect();
    found.sort();
    expect_under("events[1].", &found);

    let request = pb::BatchPublishEventsRequest { events, atomic: true };
    let batch = api.events.clone().batch_publish_events(request).await;
    if let Ok(batch) = batch {
        let batch = batch.into_inner();
        assert_eq!(batch.published_count, 0, "all or nothing: {batch:?}");
        assert!(batch.results.iter().all(|result| result.event_id.is_empty()), "{batch:?}");
    }
    let listed = api.events.clone().list_events(pb::ListEventsRequest::default()).await.expect("list");
    assert_eq!(listed.into_inner().events.len(), 1, "only the good one of the first batch");

    let refused = refused_event(&api, pb::Event::default()).await;
    assert_eq!(named(&violations_of(&refused)), [("event.event_type", "REQUIRED")]);
    let refused = refused_event(&api, event("hookwire.test", "{}")).await;
    assert_eq!(named(&violations_of(&refused)), [("event.event_type", "FORBIDDEN")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_of_the_wrong_kind_is_not_merely_unknown() {
    let server = Server::start().await;
    let api = server.api();
    let hex = "0199a3c27b5e7d1c8a4f2e6b90d13c57";
    let get = async |id: String| {
        let request = pb::GetDeliveryRequest { id, include_attempts: false };
        api.deliveries.clone().get_delivery(request).await.expect_err("refused")
    };

    let unknown = get(format!("dlv_{hex}")).await;
    assert_eq!((unknown.code(), reason_of(&unknown).as_str()), (Code::NotFound, "DELIVERY_NOT_FOUND"));

    let wrong = get(format!("evt_{hex}")).await;
    assert_eq!((wrong.code(), reason_of(&wrong).as_str()), (Code::InvalidArgument, "WRONG_ID_KIND"));
    let kinds = [detail(&wrong, "expected"), detail(&wrong, "got")];
    assert_eq!(kinds.map(|kind| kind.trim_end_matches('_').to_owned()), ["dlv", "evt"]);
    assert_eq!(named(&violations_of(&wrong)), [("id", "BAD_FORMAT")]);

    for malformed in ["dlv_", "nonsense", "dlv_0199A3C27B5E7D1C8A4F2E6B90D13C57"] {
        let refused = get(malformed.to_owned()).await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{malformed}: {refused:?}");
        assert_eq!(named(&violations_of(&refused)), [("id", "BAD_FORMAT")], "{malformed}");
    }
    let refused = get(String::new()).await;
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_over_its_limit_is_refused_with_the_limit() {
    let server = Server::start().await;
    let api = server.api();
    let with = |bytes: usize| {
        let body = Some(Body::Data(Bytes::from(vec![7; bytes])));
        let payload = Some(pb::Payload { body, ..Default::default() });
        pb::Event { event_type: "large".to_owned(), payload, ..Default::default() }
    };
    api.publish(with(MIB)).await;

    let refused = refused_event(&api, with(MIB + 1)).await;
    assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::InvalidArgument, "PAYLOAD_TOO_LARGE"));
    assert_eq!(detail(&refused, "limit_bytes"), MIB.to_string());
    assert_eq!(detail(&refused, "actual_bytes"), (MIB + 1).to_string());

    // So large that it is not even decoded.
    let refused = refused_event(&api, with(24 * MIB)).await;
    assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::InvalidArgument, "PAYLOAD_TOO_LARGE"));
    let limit: usize = detail(&refused, "limit_bytes").parse().expect("a number");
    assert!((MIB..24 * MIB).contains(&limit), "{refused:?}");

    // And the connection lives on.
    api.publish(event("small", "{}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_event_on_a_stream_is_refused_and_the_stream_goes_on() {
    let server = Server::start().await;
    let api = server.api();
    let receiver = Receiver::ok().await;
    api.create_endpoint(open_endpoint(receiver.at("/hook"))).await;
    let large = format!("\"{}\"", "x".repeat(MIB));
    let events = [
        Some(event("fine.first", "{}")),
        Some(event("not fine", "{}")),
        None,
        Some(event("too.large", large)),
        Some(event("fine.last", "{}")),
    ];
    let requests: Vec<_> = (10..)
        .step_by(5)
        .zip(events)
        .map(|(sequence, event)| pb::PublishEventStreamRequest { sequence, event })
        .collect();
    let count = requests.len();

    let call = api.events.clone().publish_event_stream(tokio_stream::iter(requests)).await;
    let mut stream = call.expect("a stream").into_inner();
    let mut acks = Vec::new();
    while let Some(response) = stream.message().await.expect("the stream ends well") {
        acks.extend(response.acks);
    }

    assert_eq!(acks.len(), count, "exactly one acknowledgement for each: {acks:?}");
    let outcomes: Vec<_> = acks
        .iter()
        .map(|ack| {
            let result = ack.result.as_ref().expect("a result");
            (ack.sequence, result.error.as_ref().map(pb::ItemError::reason))
        })
        .collect();
    assert_eq!(
        outcomes,
        [
            (10, None),
            (15, Some(ErrorReason::InvalidField)),
            (20, Some(ErrorReason::InvalidField)),
            (25, Some(ErrorReason::PayloadTooLarge)),
            (30, None),
        ]
    );
    let violations = &acks[1].result.as_ref().and_then(|result| result.error.as_ref()).expect("an error");
    assert_eq!(violations.field_violations[0].field, "event.event_type");
    assert_eq!(violations.field_violations[0].reason, "BAD_FORMAT");
    receiver.wait_for(2, Duration::from_secs(10)).await;

    // Numbers that do not grow are not an event's fault: the stream ends.
    let requests = [7, 7]
        .map(|sequence| pb::PublishEventStreamRequest { sequence, event: Some(event("fine.again", "{}")) });
    let ended = async {
        let call = api.events.clone().publish_event_stream(tokio_stream::iter(requests)).await;
        let mut stream = call?.into_inner();
        while stream.message().await?.is_some() {}
        Ok::<_, Status>(())
    };
    let refused = ended.await.expect_err("sequence not increasing");
    assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
}

#[tokio::test(flavor = "multi_thread")]
async fn page_tokens_walk_the_list_and_belong_to_it() {
    let server = Server::start().await;
    let api = server.api();
    let batch = (0..25).map(|number| event("page", format!("{{\"number\":{number}}}"))).collect();
    let published = api.publish_batch(batch).await;
    let list = async |page_size: i32, page_token: String, event_types: Vec<String>| {
        let filter = Some(pb::EventFilter { event_types, ..Default::default() });
        let order = pb::ListOrder::OldestFirst.into();
        let request = pb::ListEventsRequest { page_size, page_token, filter, order, ..Default::default() };
        api.events.clone().list_events(request).await.map(tonic::Response::into_inner)
    };

    let (mut seen, mut sizes, mut token) = (Vec::new(), Vec::new(), String::new());
    loop {
        let page = list(10, token, Vec::new()).await.expect("a page");
        sizes.push(page.events.len());
        seen.extend(page.events.into_iter().map(|event| event.id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(sizes, [10, 10, 5]);
    let ids: Vec<_> = published.results.into_iter().map(|result| result.event_id).collect();
    assert_eq!(seen, ids, "each once, oldest first");

    let first = list(10, String::new(), Vec::new()).await.expect("a page");
    let other =
        list(10, first.next_page_token, vec!["other.*".to_owned()]).await.expect_err("another filter");
    assert_eq!((other.code(), reason_of(&other).as_str()), (Code::InvalidArgument, "PAGE_TOKEN_INVALID"));
    let made_up = list(10, "bm90IGEgdG9rZW4".to_owned(), Vec::new()).await.expect_err("made up");
    assert_eq!(reason_of(&made_up), "PAGE_TOKEN_INVALID", "{made_up:?}");
    let negative = list(-1, String::new(), Vec::new()).await.expect_err("negative");
    assert_eq!(named(&violations_of(&negative)), [("page_size", "OUT_OF_RANGE")]);
    let generous = list(100_000, String::new(), Vec::new()).await.expect("lowered, not refused");
    assert_eq!(generous.events.len(), 25);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_with_impossible_wishes_is_refused() {
    let server = Server::start().await;
    let request = pb::WatchDeliveriesRequest {
        progress_interval: span(61_000),
        max_batch_delay: span(1_001),
        max_batch_size: 1_001,
        filter: Some(pb::DeliveryFilter {
            event_ids: vec!["dlv_0199a3c27b5e7d1c8a4f2e6b90d13c57".to_owned()],
            statuses: vec![pb::DeliveryStatus::InProgress.into()],
            ..Default::default()
        }),
        ..Default::default()
    };
    let refused = server.api().watch(request).await.map(|_| ()).expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let fields: Vec<_> = violations_of(&refused).into_iter().map(|(field, _)| field).collect();
    assert_eq!(
        fields,
        [
            "filter.event_ids[0]",
            "filter.statuses[0]",
            "max_batch_delay",
            "max_batch_size",
            "progress_interval"
        ]
    );
}
