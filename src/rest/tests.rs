//! The edge driven over HTTP, with [`Fake`] behind it.

use std::time::Duration;

use axum::{body::Body, extract::Request, response::Response};
use http::{HeaderMap, StatusCode, header, request::Builder};
use http_body_util::BodyExt as _;
use serde_json::{Value as Json, json};
use tower::ServiceExt as _;

use super::{BODY_BYTES_MAX, fake::Fake, router};
use crate::grpc::pb::{self, watch_deliveries_request::Start};

/// Longer than any step of a test takes.
const LONG: Duration = Duration::from_secs(20);

async fn send(fake: &Fake, request: Builder, body: impl Into<Body>) -> Response {
    let app = router(fake.services(), pb::DESCRIPTORS).unwrap();
    let has_type = request.headers_ref().unwrap().contains_key(header::CONTENT_TYPE);
    let request = if has_type { request } else { request.header(header::CONTENT_TYPE, "application/json") };
    app.oneshot(request.body(body.into()).unwrap()).await.unwrap()
}

async fn text(response: Response) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// Status, headers and body of a request that is answered with JSON.
async fn ask(request: Builder, body: impl Into<Body>) -> (u16, HeaderMap, Json) {
    let response = send(&Fake::default(), request, body).await;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    (status, headers, serde_json::from_str(&text(response).await).unwrap())
}

/// The violations in a 400, as field and reason.
async fn refusal(request: Builder, body: &'static str) -> Vec<(String, String)> {
    let (status, headers, problem) = ask(request, body).await;
    assert_eq!((status, &problem["reason"]), (400, &json!("INVALID_FIELD")), "{problem}");
    assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json");
    let part = |error: &Json, name: &str| error[name].as_str().unwrap().to_owned();
    let errors = problem["errors"].as_array().unwrap().iter();
    errors.map(|error| (part(error, "field"), part(error, "reason"))).collect()
}

fn one(field: &str, reason: &str) -> Vec<(String, String)> {
    vec![(field.to_owned(), reason.to_owned())]
}

#[tokio::test]
async fn creating_answers_201_with_the_resource() {
    let body = r#"{"url": "https://x", "eventTypes": ["a.*"], "retry_policy": {"maxAttempts": 3}}"#;
    let (status, headers, endpoint) = ask(Request::post("/v1/endpoints?endpoint_id=mine"), body).await;
    assert_eq!(status, 201);
    assert_eq!(headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(headers["x-request-id"], "made-by-service");
    assert_eq!(headers["location"], "/v1/endpoints/mine");
    assert_eq!(headers["cache-control"], "no-store");
    assert_eq!((&endpoint["id"], &endpoint["url"]), (&json!("mine"), &json!("https://x")));
    assert_eq!(endpoint["event_types"], json!(["a.*"]));
    assert_eq!(endpoint["retry_policy"]["max_attempts"], 3);
    assert_eq!(endpoint["state"], "STATE_UNSPECIFIED", "defaults and enum names are written");
    assert_eq!(endpoint.get("create_time"), None, "unset messages are not");
}

#[tokio::test]
async fn publishing_answers_202() {
    let body = r#"{"event_type": "a", "payload": {"value": {"n": [1, "x"]}}}"#;
    let (status, _, answer) = ask(Request::post("/v1/events"), body).await;
    assert_eq!(status, 202);
    let payload = answer["event_id"].as_str().unwrap();
    assert!(payload.contains("NumberValue(1.0)") && payload.contains(r#"StringValue("x")"#), "{payload}");

    let body = r#"{"events": [{"event_type": "a"}, {"event_type": "b"}]}"#;
    let (status, _, answer) = ask(Request::post("/v1/events:batch"), body).await;
    assert_eq!((status, &answer["published_count"]), (202, &json!(2)));
}

#[tokio::test]
async fn an_unset_response_body_is_an_empty_object() {
    let (status, _, body) = ask(Request::get("/v1/endpoints/unset"), "").await;
    assert_eq!((status, body), (200, json!({})));
    let (status, _, body) = ask(Request::delete("/v1/endpoints/a"), "").await;
    assert_eq!((status, body), (200, json!({})));
}

#[tokio::test]
async fn path_query_and_body_meet_in_one_message() {
    let mask = "update_mask=retry_policy.max_attempts,url";
    let request = Request::patch(format!("/v1/endpoints/a%20b?{mask}"));
    let (status, _, endpoint) = ask(request, r#"{"url": "https://y"}"#).await;
    assert_eq!((status, &endpoint["id"], &endpoint["url"]), (200, &json!("a b"), &json!("https://y")));
    assert_eq!(endpoint["state_reason"], "retry_policy.max_attempts|url");

    let (_, _, endpoint) = ask(Request::patch("/v1/endpoints/a"), "{}").await;
    assert_eq!(endpoint["state_reason"], "no mask");

    let (_, _, endpoint) = ask(Request::post("/v1/endpoints/a:pause"), r#"{"reason": "x"}"#).await;
    assert_eq!((&endpoint["id"], &endpoint["state_reason"]), (&json!("a"), &json!("x")));
    let (status, _, _) = ask(Request::post("/v1/endpoints/a:pause"), "").await;
    assert_eq!(status, 200, "an empty body is an empty message");

    let query = "pageSize=7&filter.states=STATE_ACTIVE&filter.states=2&filter.text=a+b%26c";
    let (_, _, page) = ask(Request::get(format!("/v1/endpoints?{query}")), "").await;
    let seen = page["next_page_token"].as_str().unwrap();
    assert!(seen.contains("page_size: 7") && seen.contains(r#"text: "a b&c""#), "{seen}");
}

#[tokio::test]
async fn wrong_fields_are_refused_by_path() {
    let (post, patch) = (|| Request::post("/v1/endpoints"), || Request::patch("/v1/endpoints/a"));
    assert_eq!(refusal(post(), r#"{"ulr": "x"}"#).await, one("endpoint.ulr", "UNKNOWN_VALUE"));
    let nested = refusal(post(), r#"{"retryPolicy": {"maxAttempts": "x"}}"#).await;
    assert_eq!(nested, one("endpoint.retry_policy.max_attempts", "BAD_FORMAT"));
    assert_eq!(refusal(post(), "[]").await, one("endpoint", "BAD_FORMAT"));
    assert_eq!(refusal(patch(), r#"{"id": "b"}"#).await, one("endpoint.id", "CONFLICT"));
    assert_eq!(refusal(patch(), r#"{"headers": {"a": 1}}"#).await, one("endpoint.headers[a]", "BAD_FORMAT"));
    assert_eq!(refusal(Request::post("/v1/events:batch"), "[]").await, one("", "BAD_FORMAT"));
    assert_eq!(refusal(Request::delete("/v1/endpoints/a"), r#"{"etag": "x"}"#).await, one("", "FORBIDDEN"));
}

#[tokio::test]
async fn wrong_query_parameters_are_refused_by_name() {
    let get = |query: &str| Request::get(format!("/v1/endpoints?{query}"));
    assert_eq!(refusal(get("pagesize=1"), "").await, one("pagesize", "UNKNOWN_VALUE"));
    assert_eq!(refusal(get("page_size=x"), "").await, one("page_size", "BAD_FORMAT"));
    assert_eq!(refusal(get("page_size=1&page_size=2"), "").await, one("page_size", "CONFLICT"));
    assert_eq!(refusal(get("filter.states=X"), "").await, one("filter.states[0]", "UNKNOWN_VALUE"));
    let both = refusal(get("a=1&filter.b=2"), "").await;
    assert_eq!(both.len(), 2, "all are told at once");
    let in_body = Request::post("/v1/endpoints:search?page_size=1");
    assert_eq!(refusal(in_body, "{}").await, one("page_size", "FORBIDDEN"));
    let in_body = Request::post("/v1/endpoints?endpoint.url=x");
    assert_eq!(refusal(in_body, "{}").await, one("endpoint.url", "FORBIDDEN"));
}

#[tokio::test]
async fn malformed_json_is_refused_with_line_and_column() {
    let (status, _, problem) = ask(Request::post("/v1/endpoints"), "{\n  \"url\": nope\n}").await;
    assert_eq!(status, 400);
    let error = &problem["errors"][0];
    assert_eq!((&error["field"], &error["reason"]), (&json!("endpoint"), &json!("BAD_FORMAT")));
    assert!(error["description"].as_str().unwrap().contains("line 2 column"), "{error}");
}

#[tokio::test]
async fn errors_of_the_service_become_problems() {
    let request = Request::get("/v1/endpoints/missing").header("x-request-id", "r-1");
    let (status, headers, problem) = ask(request, "").await;
    let expected = json!({
        "type": "urn:hookwire:error:ENDPOINT_NOT_FOUND",
        "title": "Endpoint not found",
        "status": 404,
        "detail": "ENDPOINT_NOT_FOUND happened",
        "code": "NOT_FOUND",
        "reason": "ENDPOINT_NOT_FOUND",
        "metadata": {"key": "value"},
        "request_id": "r-1",
    });
    assert_eq!((status, problem), (404, expected));
    assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json");

    let (status, headers, _) = ask(Request::get("/v1/endpoints/busy"), "").await;
    assert_eq!((status, &headers[header::RETRY_AFTER]), (429, &header::HeaderValue::from_static("2")));
    let (status, _, _) = ask(Request::delete("/v1/endpoints/a?etag=x"), "").await;
    assert_eq!(status, 412);
    let (status, _, _) = ask(Request::post("/v1/operations/op_1:cancel"), "").await;
    assert_eq!(status, 400);
    let (status, _, problem) = ask(Request::get("/v1/deadLetters"), "").await;
    assert_eq!((status, &problem["code"]), (501, &json!("UNIMPLEMENTED")), "a service that is not there");
    assert_eq!(refusal(Request::post("/v1/endpoints"), "").await, one("endpoint", "REQUIRED"));
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_too() {
    let (status, _, problem) = ask(Request::get("/v1/nothing"), "").await;
    assert_eq!((status, &problem["code"]), (404, &json!("NOT_FOUND")));
    let (status, headers, problem) = ask(Request::put("/v1/endpoints"), "").await;
    assert_eq!((status, &problem["reason"]), (405, &json!("METHOD_NOT_ALLOWED")));
    let mut allowed: Vec<&str> = headers[header::ALLOW].to_str().unwrap().split(", ").collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "OPTIONS", "POST"]);
    let (_, _, problem) = ask(Request::post("/v1/endpoints/a/pause"), "").await;
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.ends_with("did you mean `POST /v1/endpoints/ID:pause`?"), "{detail}");
}

#[tokio::test]
async fn options_tell_the_methods_of_a_path() {
    for (path, expected) in [
        ("/v1/endpoints/a", "PATCH"),
        ("/v1/endpoints/a:pause", "POST, OPTIONS"),
        ("*", "GET, HEAD, POST, PATCH, DELETE, OPTIONS"),
    ] {
        let response = send(&Fake::default(), Request::options(path), "").await;
        assert_eq!(response.status(), StatusCode::NO_CONTENT, "{path}");
        let allow = response.headers()[header::ALLOW].to_str().unwrap();
        assert!(allow.contains(expected), "{path}: {allow}");
    }
    assert_eq!(send(&Fake::default(), Request::options("/nothing"), "").await.status(), 404);
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused() {
    let announced = Request::post("/v1/events").header(header::CONTENT_LENGTH, BODY_BYTES_MAX + 1);
    let (status, _, problem) = ask(announced, "").await;
    assert_eq!((status, &problem["reason"]), (413, &json!("PAYLOAD_TOO_LARGE")));
    assert_eq!(problem["metadata"], json!({"limit_bytes": "17825792", "actual_bytes": "17825793"}));

    let (status, _, problem) = ask(Request::post("/v1/events"), vec![b' '; BODY_BYTES_MAX + 1]).await;
    assert_eq!((status, &problem["metadata"]), (413, &json!({"limit_bytes": "17825792"})));

    let (status, _, problem) = ask(Request::post("/v1/endpoints"), vec![b' '; (4 << 20) + 1]).await;
    assert_eq!((status, &problem["metadata"]), (413, &json!({"limit_bytes": "4194304"})));

    let packed = Request::post("/v1/events").header(header::CONTENT_ENCODING, "gzip");
    assert_eq!(ask(packed, "x").await.0, 415);
}

#[tokio::test]
async fn headers_reach_the_service_as_metadata() {
    let fake = Fake::default();
    let request = Request::post("/v1/events")
        .header("idempotency-key", "k-1")
        .header("content-type", "application/json")
        .header("x-request-id", "r-1");
    assert_eq!(send(&fake, request, "{}").await.status(), StatusCode::ACCEPTED);
    let metadata = fake.metadata.lock().unwrap().clone();
    assert_eq!(metadata.get("idempotency-key").unwrap(), "k-1");
    assert_eq!(metadata.get("x-request-id").unwrap(), "r-1");
    assert_eq!(metadata.get("content-type").unwrap(), "application/grpc");
}

#[tokio::test]
async fn a_stream_is_lines_of_json_and_ends_with_its_error() {
    let response =
        send(&Fake::default(), Request::get("/v1/deliveries:watch?resume_token=lagging"), "").await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/x-ndjson");
    let text = text(response).await;
    let lines: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!(lines[0]["resume_token"], "t1");
    assert_eq!(lines[1]["changes"][0]["sequence"], "7");
    assert_eq!(
        (&lines[2]["error"]["reason"], &lines[2]["error"]["status"]),
        (&json!("WATCH_LAGGED"), &json!(409))
    );
}

#[tokio::test]
async fn a_stream_is_events_for_those_who_ask() {
    let request = Request::get("/v1/deliveries:watch?resume_token=lagging")
        .header(header::ACCEPT, "text/event-stream")
        .header("x-request-id", "r-1");
    let response = send(&Fake::default(), request, "").await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    let text = text(response).await;
    let events: Vec<&str> = text.split("\n\n").collect();
    assert_eq!(events[0], ": progress\nid: t1");
    assert!(events[1].starts_with("id: t2\ndata: {\"changes\":[{\"sequence\":\"7\""), "{text}");
    assert!(
        events[2].starts_with("event: error\ndata: {\"type\":\"urn:hookwire:error:WATCH_LAGGED\""),
        "{text}"
    );
    assert!(events[2].contains("\"request_id\":\"r-1\""), "{text}");
}

#[tokio::test]
async fn events_with_a_weight_of_zero_are_not_asked_for() {
    for (accept, media_type) in [
        ("text/event-stream;q=0", "application/x-ndjson"),
        ("text/event-stream; Q=0.0, */*", "application/x-ndjson"),
        ("text/html, text/event-stream;q=0.1", "text/event-stream"),
    ] {
        let request = Request::get("/v1/deliveries:watch?resume_token=none").header(header::ACCEPT, accept);
        let response = send(&Fake::default(), request, "").await;
        assert_eq!(response.headers()[header::CONTENT_TYPE], media_type, "{accept}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_a_bad_request() {
    let pieces = [Ok("{"), Err(std::io::Error::other("broken"))];
    let body = Body::from_stream(futures_util::stream::iter(pieces));
    let (status, _, problem) = ask(Request::post("/v1/events"), body).await;
    assert_eq!((status, &problem["reason"]), (400, &json!("BODY_CUT_SHORT")), "{problem}");
}

#[tokio::test]
async fn a_stream_that_fails_first_is_an_ordinary_problem() {
    for token in ["compacted", "compacted%20later"] {
        let request = Request::get(format!("/v1/deliveries:watch?resume_token={token}"));
        let (status, _, problem) = ask(request, "").await;
        assert_eq!((status, &problem["reason"]), (410, &json!("WATCH_COMPACTED")));
    }
    let response = send(&Fake::default(), Request::get("/v1/deliveries:watch?resume_token=none"), "").await;
    assert_eq!((response.status(), text(response).await.as_str()), (StatusCode::OK, ""));
}

#[tokio::test]
async fn last_event_id_resumes_unless_a_token_is_given() {
    let cases = [
        ("/v1/deliveries:watch", "finite"),
        ("/v1/deliveries:watch?earliest=true", "finite"),
        ("/v1/deliveries:watch?resume_token=none", "none"),
    ];
    for (path, token) in cases {
        let fake = Fake::default();
        let response = send(&fake, Request::get(path).header("last-event-id", "finite"), "").await;
        assert_eq!(response.status(), StatusCode::OK);
        let start = fake.watch.lock().unwrap().start.clone();
        assert_eq!(start, Some(Start::ResumeToken(token.to_owned())), "{path}");
    }
}

#[tokio::test]
async fn a_watch_can_be_asked_for_in_a_body() {
    let fake = Fake::default();
    let body = r#"{"filter": {"endpointIds": ["a"]}, "progress_interval": "2s", "resumeToken": "finite"}"#;
    let response = send(&fake, Request::post("/v1/deliveries:watch"), body).await;
    assert_eq!(response.status(), StatusCode::OK);
    let watch = fake.watch.lock().unwrap().clone();
    assert_eq!(watch.filter.unwrap().endpoint_ids, ["a"]);
    assert_eq!(watch.progress_interval.unwrap().seconds, 2);
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_ends_the_call() {
    let fake = Fake::default();
    let response = send(&fake, Request::get("/v1/deliveries:watch"), "").await;
    let mut body = response.into_body();
    let first = tokio::time::timeout(LONG, body.frame()).await.unwrap().unwrap().unwrap();
    assert!(first.into_data().unwrap().starts_with(b"{\"changes\":[]"));
    assert!(!fake.dropped.is_cancelled());
    drop(body);
    tokio::time::timeout(LONG, fake.dropped.cancelled()).await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_a_call_ends_it() {
    let fake = Fake::default();
    let call = send(&fake, Request::get("/v1/endpoints/waits"), "");
    // Long enough to reach the service; the call never ends by itself.
    assert!(tokio::time::timeout(Duration::from_millis(50), call).await.is_err());
    tokio::time::timeout(LONG, fake.dropped.cancelled()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_to_its_end_is_not_waited_for() {
    let first = futures_util::stream::iter([Ok::<_, std::io::Error>("{")]);
    let body = Body::from_stream(futures_util::StreamExt::chain(first, futures_util::stream::pending()));
    let (status, _, problem) = ask(Request::post("/v1/events"), body).await;
    assert_eq!((status, &problem["reason"]), (408, &json!("REQUEST_TIMEOUT")), "{problem}");
}
