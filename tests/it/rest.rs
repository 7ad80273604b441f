//! The whole path by plain HTTP, with nothing but JSON.
//!
//! REST is the same API at the same port: what is refused is refused with the
//! same reason and the same field paths, as `application/problem+json`. Browsers
//! watch by server-sent events and call by grpc-web.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use hookwire::grpc::pb;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use prost::Message as _;
use serde_json::{Value, json};

use crate::support::{Answer, Receiver, Reply, Server, eventually, http, http_stream};

const JSON: (&str, &str) = ("content-type", "application/json");

async fn post(server: &Server, target: &str, body: &Value) -> Reply {
    http(server.port, Method::POST, target, &[JSON], body.to_string()).await
}

async fn get(server: &Server, target: &str) -> Value {
    let reply = http(server.port, Method::GET, target, &[], Bytes::new()).await;
    assert_eq!(reply.status, StatusCode::OK, "{target}: {reply:?}");
    reply.json()
}

fn fields(problem: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let errors = problem["errors"].as_array().unwrap_or_else(|| panic!("errors[] in {problem}"));
    let mut fields: Vec<_> =
        errors.iter().map(|error| (text(&error["field"]), text(&error["reason"]))).collect();
    fields.sort();
    fields
}

fn open_endpoint_json(url: &str) -> Value {
    json!({ "url": url, "rate_limit": { "disabled": true } })
}

#[tokio::test(flavor = "multi_thread")]
async fn register_publish_deliver_and_dead_letter_work_by_plain_http() {
    let server = Server::start().await;
    let receiver = Receiver::script(vec![Answer::ok(), Answer::status(422)]).await;

    let created = post(&server, "/v1/endpoints", &open_endpoint_json(&receiver.at("/hook"))).await;
    assert!(created.status.is_success(), "{created:?}");
    let endpoint = created.json();
    let endpoint_id = endpoint["id"].as_str().expect("an id").to_owned();
    assert!(endpoint_id.starts_with("ep_"), "the bare resource: {endpoint}");
    assert!(endpoint["secrets"][0]["value"].as_str().expect("shown once").starts_with("whsec_"));
    let read = get(&server, &format!("/v1/endpoints/{endpoint_id}")).await;
    assert_eq!(read["url"], receiver.at("/hook"));
    assert_eq!(read["retry_policy"]["max_attempts"], 5, "defaults are filled in: {read}");
    assert_eq!(read["secrets"][0]["value"].as_str().unwrap_or_default(), "", "not shown again");

    let event = json!({ "event_type": "user.created", "payload": { "value": { "user_id": "12345" } } });
    let published = post(&server, "/v1/events?include_deliveries=true", &event).await;
    assert!(published.status.is_success(), "{published:?}");
    let published = published.json();
    let delivery_id = published["deliveries"][0]["delivery_id"].as_str().expect("a delivery").to_owned();

    let delivery = eventually(Duration::from_secs(10), "it is delivered", async || {
        let delivery = get(&server, &format!("/v1/deliveries/{delivery_id}?include_attempts=true")).await;
        let delivered = delivery["delivery"]["status"] == "DELIVERY_STATUS_DELIVERED";
        if delivered { Ok(delivery) } else { Err(delivery.to_string()) }
    })
    .await;
    assert_eq!(delivery["attempts"][0]["response"]["status_code"], 200, "{delivery}");
    let body: Value = serde_json::from_slice(&receiver.ledger()[0].body).expect("JSON");
    assert_eq!(body["data"], json!({ "user_id": "12345" }));
    assert_eq!((&body["event"], &body["id"]), (&json!("user.created"), &published["event_id"]));

    // The second one is refused for good.
    let second = post(&server, "/v1/events", &event).await.json();
    let letters = eventually(Duration::from_secs(10), "a dead letter", async || {
        let letters = get(&server, &format!("/v1/deadLetters?filter.endpoint_ids={endpoint_id}")).await;
        let some = letters["dead_letters"].as_array().is_some_and(|list| !list.is_empty());
        if some { Ok(letters) } else { Err(letters.to_string()) }
    })
    .await;
    let letter = &letters["dead_letters"][0];
    assert_eq!(
        (&letter["event_id"], &letter["reason"]),
        (&second["event_id"], &json!("REASON_PERMANENT_ERROR"))
    );
    let letter = get(&server, &format!("/v1/deadLetters/{}", letter["id"].as_str().expect("an id"))).await;
    assert_eq!(letter["failure_reason"], "HTTP 422: Unprocessable Entity", "{letter}");

    let listed = get(&server, &format!("/v1/deliveries?filter.endpoint_ids={endpoint_id}&page_size=1")).await;
    assert_eq!(listed["deliveries"].as_array().map(Vec::len), Some(1), "{listed}");
    let token = listed["next_page_token"].as_str().expect("a second page");
    let next = format!("/v1/deliveries?filter.endpoint_ids={endpoint_id}&page_size=1&page_token={token}");
    assert_eq!(get(&server, &next).await["deliveries"].as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn json_text_published_by_http_keeps_its_bytes() {
    let server = Server::start().await;
    let receiver = Receiver::ok().await;
    let mut endpoint = open_endpoint_json(&receiver.at("/hook"));
    endpoint["envelope"] = json!("ENVELOPE_RAW");
    assert!(post(&server, "/v1/endpoints", &endpoint).await.status.is_success());
    let text = "{ \"zulu\": 9007199254740993, \"alpha\": [1.0] }";
    let event = json!({ "event_type": "odd", "payload": { "json": text } });
    assert!(post(&server, "/v1/events", &event).await.status.is_success());
    let ledger = receiver.wait_for(1, Duration::from_secs(10)).await;
    assert_eq!(ledger[0].body, text);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_problems_with_every_field_named() {
    let server = Server::start().await;
    let problem = |reply: &Reply| {
        assert!(reply.header("content-type").starts_with("application/problem+json"), "{reply:?}");
        let problem = reply.json();
        assert_eq!(problem["status"], reply.status.as_u16(), "{problem}");
        for member in ["type", "title", "detail"] {
            assert!(problem[member].is_string(), "{member} in {problem}");
        }
        problem
    };

    let bad = json!({
        "url": "ftp://example.com/",
        "retry_policy": { "max_attempts": 51 },
        "max_in_flight": 1001,
    });
    let reply = post(&server, "/v1/endpoints", &bad).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{reply:?}");
    let expected = [
        ("endpoint.max_in_flight", "OUT_OF_RANGE"),
        ("endpoint.retry_policy.max_attempts", "OUT_OF_RANGE"),
        ("endpoint.url", "FORBIDDEN"),
    ];
    let found = fields(&problem(&reply));
    let found: Vec<_> = found.iter().map(|(field, reason)| (field.as_str(), reason.as_str())).collect();
    assert_eq!(found, expected);

    let unknown = json!({ "url": "https://example.com/", "retry_policy": { "max_atempts": 3 } });
    let reply = post(&server, "/v1/endpoints", &unknown).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{reply:?}");
    let found = fields(&problem(&reply));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].0.ends_with("retry_policy.max_atempts"), "the unknown field is named: {found:?}");

    let reply = http(server.port, Method::POST, "/v1/events", &[JSON], "{\"event_type\": ").await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{reply:?}");
    problem(&reply);

    let missing = "/v1/deliveries/dlv_0199a3c27b5e7d1c8a4f2e6b90d13c57";
    let reply = http(server.port, Method::GET, missing, &[], Bytes::new()).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND, "{reply:?}");
    assert_eq!(problem(&reply)["reason"], "DELIVERY_NOT_FOUND");

    let wrong = "/v1/deliveries/evt_0199a3c27b5e7d1c8a4f2e6b90d13c57";
    let reply = http(server.port, Method::GET, wrong, &[], Bytes::new()).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{reply:?}");
    assert_eq!(problem(&reply)["reason"], "WRONG_ID_KIND");

    let large =
        json!({ "event_type": "large", "payload": { "json": format!("\"{}\"", "x".repeat(1 << 20)) } });
    let reply = post(&server, "/v1/events", &large).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE, "{:?}", reply.status);
    assert_eq!(problem(&reply)["reason"], "PAYLOAD_TOO_LARGE");

    let reply = http(server.port, Method::GET, "/v1/nothing", &[], Bytes::new()).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND, "{reply:?}");
    let reply = http(server.port, Method::DELETE, "/v1/events", &[], Bytes::new()).await;
    assert!(matches!(reply.status.as_u16(), 404 | 405), "{reply:?}");
}

/// One server-sent event: its id and what its data lines say.
#[derive(Debug, Default)]
struct Sse {
    id: String,
    data: String,
}

/// Takes events off a stream until one satisfies.
async fn sse_until(body: &mut Incoming, buffer: &mut String, found: impl Fn(&Sse) -> bool) -> Sse {
    let search = async {
        loop {
            while let Some((block, rest)) = buffer.split_once("\n\n") {
                let mut event = Sse::default();
                for line in block.lines() {
                    if let Some(id) = line.strip_prefix("id:") {
                        event.id = id.trim().to_owned();
                    } else if let Some(data) = line.strip_prefix("data:") {
                        event.data.push_str(data.trim());
                    }
                }
                *buffer = rest.to_owned();
                if found(&event) {
                    return event;
                }
            }
            let frame = body.frame().await.expect("the stream goes on").expect("no error");
            if let Some(chunk) = frame.data_ref() {
                buffer.push_str(&String::from_utf8_lossy(chunk).replace("\r\n", "\n"));
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), search).await.expect("the event comes")
}

#[tokio::test(flavor = "multi_thread")]
async fn server_sent_events_follow_deliveries_and_resume_by_last_event_id() {
    let server = Server::start().await;
    let receiver = Receiver::ok().await;
    assert!(
        post(&server, "/v1/endpoints", &open_endpoint_json(&receiver.at("/hook"))).await.status.is_success()
    );
    let watch = async |headers: &[(&str, &str)]| {
        let target = "/v1/deliveries:watch?progress_interval=1s";
        let response = http_stream(server.port, Method::GET, target, headers, Bytes::new()).await;
        assert_eq!(response.status(), StatusCode::OK);
        let kind = response.headers().get("content-type").and_then(|value| value.to_str().ok());
        assert!(kind.is_some_and(|kind| kind.starts_with("text/event-stream")), "{kind:?}");
        response.into_body()
    };
    let accept = ("accept", "text/event-stream");
    let event = json!({ "event_type": "user.created", "payload": { "json": "{}" } });

    let mut body = watch(&[accept]).await;
    let mut buffer = String::new();
    let first = sse_until(&mut body, &mut buffer, |event| !event.id.is_empty()).await;
    let published = post(&server, "/v1/events", &event).await.json();
    let id = published["event_id"].as_str().expect("an id").to_owned();
    sse_until(&mut body, &mut buffer, |event| {
        event.data.contains(&id) && event.data.contains("DELIVERY_STATUS_DELIVERED")
    })
    .await;
    drop(body);

    // From the first id all is told again.
    let mut body = watch(&[accept, ("last-event-id", &first.id)]).await;
    let mut buffer = String::new();
    let again = sse_until(&mut body, &mut buffer, |event| event.data.contains(&id)).await;
    let response: Value = serde_json::from_str(&again.data).expect("JSON");
    assert_eq!(response["changes"][0]["kind"], "KIND_CREATED", "{response}");
    assert_eq!(response["resume_token"], again.id, "the id is the token");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_may_call_by_grpc_web() {
    let server = Server::start().await;
    let event = pb::Event { event_type: "from.browser".to_owned(), ..Default::default() };
    let request = pb::PublishEventRequest { event: Some(event), include_deliveries: false };
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(request.encoded_len()).expect("small"));
    request.encode(&mut frame).expect("room");

    let reply = http(
        server.port,
        Method::POST,
        "/hookwire.v1.EventService/PublishEvent",
        &[("content-type", "application/grpc-web+proto"), ("x-grpc-web", "1")],
        frame.freeze(),
    )
    .await;

    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    assert!(reply.header("content-type").starts_with("application/grpc-web"), "{reply:?}");
    let (head, rest) = reply.body.split_at(5);
    assert_eq!(head[0], 0, "a message comes first: {reply:?}");
    let length = u32::from_be_bytes(head[1..].try_into().expect("four bytes")) as usize;
    let (message, trailers) = rest.split_at(length);
    let response = pb::PublishEventResponse::decode(message).expect("a response");
    assert!(response.event_id.starts_with("evt_"));
    assert_eq!(trailers[0], 0x80, "trailers come last");
    let trailers = String::from_utf8_lossy(&trailers[5..]).to_lowercase();
    assert!(trailers.replace(": ", ":").contains("grpc-status:0"), "{trailers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_port_serves_health_metrics_and_a_test_receiver() {
    let server = Server::start().await;
    let health = http(server.port, Method::GET, "/health", &[], Bytes::new()).await;
    assert_eq!(health.status, StatusCode::OK, "{health:?}");

    let receiver = format!("http://127.0.0.1:{}/test/webhook", server.port);
    assert!(post(&server, "/v1/endpoints", &open_endpoint_json(&receiver)).await.status.is_success());
    let event = json!({ "event_type": "to.myself", "payload": { "json": "{\"greeting\":\"hello\"}" } });
    let published = post(&server, "/v1/events", &event).await.json();
    let id = published["event_id"].as_str().expect("an id");
    eventually(Duration::from_secs(10), "the test receiver has it", async || {
        let seen = http(server.port, Method::GET, "/test/webhook", &[], Bytes::new()).await;
        let text = String::from_utf8_lossy(&seen.body).into_owned();
        if seen.status.is_success() && text.contains(id) { Ok(()) } else { Err(text) }
    })
    .await;

    let metrics = http(server.port, Method::GET, "/metrics", &[], Bytes::new()).await;
    assert_eq!(metrics.status, StatusCode::OK, "{metrics:?}");
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(text.contains("# TYPE ") && text.contains("hookwire_"), "{text}");
}
