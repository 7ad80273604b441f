//! The test receiver: somewhere to point an endpoint at, that shows what came and
//! misbehaves on request.
//!
//! * `POST /test/webhook`, or any path below it, answers 200 and remembers the
//!   request. `?status=503` answers that instead, with `&times=2` only to the first
//!   two requests of a delivery; `?delay_ms=` waits before answering.
//! * `GET /test/webhook` shows the requests, newest first; `?limit=` of them.
//! * `DELETE /test/webhook` forgets them.
//!
//! It keeps everything in memory, within bounds, and nobody but tests and curious
//! people depends on it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Query, State},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{clock::Clock, domain::Timestamp};

/// Requests remembered.
const REQUESTS_MAX: usize = 1000;
/// Body bytes remembered, all requests together.
const KEPT_BYTES_MAX: usize = 64 << 20;
/// Largest body: twice the largest payload that is delivered.
const BODY_BYTES_MAX: usize = 2 << 20;
/// Longest wait: beyond the longest timeout an endpoint can have.
const DELAY_MS_MAX: u64 = 120_000;
/// Deliveries counted for `times`; beyond that all counts start again.
const COUNTED_MAX: usize = 10_000;

/// The routes under `/test/webhook`. `clock` stamps what comes in.
pub fn router(clock: Clock) -> Router {
    let webhook = get(list).delete(clear).post(receive);
    Router::new()
        .route("/test/webhook", webhook)
        .route("/test/webhook/{*rest}", post(receive))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Receiver { clock, log: Arc::default() })
}

#[derive(Clone)]
struct Receiver {
    clock: Clock,
    log: Arc<Mutex<Log>>,
}

/// What came, oldest first.
#[derive(Default)]
struct Log {
    requests: VecDeque<Received>,
    kept_bytes: usize,
    /// Requests seen per delivery and address, for `times`.
    counts: HashMap<String, u64>,
}

struct Received {
    at: Timestamp,
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Bytes,
    status: StatusCode,
}

#[derive(Deserialize)]
struct Behaviour {
    status: Option<u16>,
    times: Option<u64>,
    delay_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Listing {
    limit: Option<usize>,
}

async fn receive(
    State(receiver): State<Receiver>,
    Query(behaviour): Query<Behaviour>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let asked = match behaviour.status.map(final_status) {
        None => StatusCode::OK,
        Some(Some(status)) => status,
        Some(None) => return refuse("status must be from 200 to 999"),
    };
    let delay_ms = behaviour.delay_ms.unwrap_or(0);
    if delay_ms > DELAY_MS_MAX {
        return refuse("delay_ms must be at most 120000");
    }
    let target = uri.path_and_query().map_or_else(|| uri.path().to_owned(), ToString::to_string);
    let status = {
        let mut log = receiver.log();
        let count = log.count(&headers, &target);
        let status = if behaviour.times.is_none_or(|times| count <= times) { asked } else { StatusCode::OK };
        // Before the wait: a sender that gives up meanwhile did send this.
        log.push(Received { at: receiver.clock.wall(), method, target, headers, body, status });
        status
    };
    if delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    }
    match status {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => status.into_response(),
        _ => (status, format!("answered {}\n", status.as_u16())).into_response(),
    }
}

async fn list(State(receiver): State<Receiver>, Query(listing): Query<Listing>) -> Json<Value> {
    let limit = listing.limit.unwrap_or(REQUESTS_MAX);
    let log = receiver.log();
    let requests: Vec<Value> = log.requests.iter().rev().take(limit).map(Received::to_json).collect();
    Json(json!({ "requests": requests }))
}

async fn clear(State(receiver): State<Receiver>) -> StatusCode {
    *receiver.log() = Log::default();
    StatusCode::NO_CONTENT
}

/// Informational statuses end no exchange, so they cannot be the answer.
fn final_status(number: u16) -> Option<StatusCode> {
    StatusCode::from_u16(number).ok().filter(|status| !status.is_informational())
}

fn refuse(why: &'static str) -> Response {
    (StatusCode::BAD_REQUEST, why).into_response()
}

impl Receiver {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// Counts a request and says which it is, from 1. Without a `webhook-id` the
    /// address alone tells deliveries apart; with one, the address still does tell
    /// apart the endpoints that share an event.
    fn count(&mut self, headers: &HeaderMap, target: &str) -> u64 {
        if self.counts.len() >= COUNTED_MAX {
            self.counts.clear();
        }
        let id = headers.get("webhook-id").map(HeaderValue::as_bytes).unwrap_or_default();
        let key = format!("{} {target}", String::from_utf8_lossy(id));
        let count = self.counts.entry(key).or_default();
        *count += 1;
        *count
    }

    fn push(&mut self, request: Received) {
        self.kept_bytes += request.body.len();
        self.requests.push_back(request);
        while self.requests.len() > REQUESTS_MAX || self.kept_bytes > KEPT_BYTES_MAX {
            let Some(oldest) = self.requests.pop_front() else { break };
            self.kept_bytes -= oldest.body.len();
        }
    }
}

impl Received {
    fn to_json(&self) -> Value {
        let mut headers = Map::new();
        for name in self.headers.keys() {
            let values =
                self.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
            headers.insert(name.to_string(), Value::from(values.collect::<Vec<_>>().join(", ")));
        }
        let (name, body) = match str::from_utf8(&self.body) {
            Ok(text) => ("body", text.to_owned()),
            Err(_) => ("body_base64", BASE64_STANDARD.encode(&self.body)),
        };
        json!({
            "received_at": self.at.to_string(),
            "method": self.method.as_str(),
            "path": self.target,
            "headers": headers,
            name: body,
            "status": self.status.as_u16(),
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, extract::Request};
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    fn receiver() -> Router {
        router(Clock::manual(Timestamp(1_700_000_000_500_000)))
    }

    async fn send(app: &Router, method: Method, path: &str, id: &str, body: impl Into<Body>) -> (u16, Bytes) {
        let request = Request::builder().method(method).uri(path).header("webhook-id", id);
        let response = app.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        (status, response.into_body().collect().await.unwrap().to_bytes())
    }

    async fn deliver(app: &Router, path: &str, id: &str) -> u16 {
        send(app, Method::POST, path, id, "{}").await.0
    }

    async fn received(app: &Router, query: &str) -> Vec<Value> {
        let (status, body) = send(app, Method::GET, &format!("/test/webhook{query}"), "", "").await;
        assert_eq!(status, 200);
        let list: Value = serde_json::from_slice(&body).unwrap();
        list["requests"].as_array().unwrap().clone()
    }

    #[tokio::test]
    async fn requests_are_shown_newest_first() {
        let app = receiver();
        assert_eq!(send(&app, Method::POST, "/test/webhook/a/b?x=1", "w1", "hello").await.0, 200);
        assert_eq!(send(&app, Method::POST, "/test/webhook", "w2", vec![0xff, 0x00]).await.0, 200);
        let list = received(&app, "").await;
        let expected = json!({
            "received_at": "2023-11-14T22:13:20.5Z",
            "method": "POST",
            "path": "/test/webhook/a/b?x=1",
            "headers": {"webhook-id": "w1"},
            "body": "hello",
            "status": 200,
        });
        assert_eq!(list[1], expected);
        assert_eq!(list[0]["body_base64"], "/wA=");
        assert_eq!(received(&app, "?limit=1").await, list[..1]);
    }

    #[tokio::test]
    async fn a_status_is_answered_as_often_as_asked() {
        let app = receiver();
        let twice = "/test/webhook?status=503&times=2";
        for expected in [503, 503, 200, 200] {
            assert_eq!(deliver(&app, twice, "w1").await, expected);
        }
        assert_eq!(deliver(&app, twice, "w2").await, 503, "another delivery has a count of its own");
        for _ in 0..3 {
            assert_eq!(deliver(&app, "/test/webhook?status=410", "w1").await, 410);
        }
        assert_eq!(received(&app, "?limit=1").await[0]["status"], 410);
    }

    #[tokio::test]
    async fn forgetting_starts_anew() {
        let app = receiver();
        let once = "/test/webhook?status=500&times=1";
        assert_eq!(deliver(&app, once, "w1").await, 500);
        assert_eq!(send(&app, Method::DELETE, "/test/webhook", "", "").await.0, 204);
        assert!(received(&app, "").await.is_empty());
        assert_eq!(deliver(&app, once, "w1").await, 500);
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded() {
        let mut log = Log::default();
        let request = |bytes: usize| Received {
            at: Timestamp(0),
            method: Method::POST,
            target: String::new(),
            headers: HeaderMap::new(),
            body: Bytes::from(vec![0; bytes]),
            status: StatusCode::OK,
        };
        for _ in 0..=REQUESTS_MAX {
            log.push(request(1));
        }
        assert_eq!((log.requests.len(), log.kept_bytes), (REQUESTS_MAX, REQUESTS_MAX));
        log.push(request(KEPT_BYTES_MAX));
        assert_eq!((log.requests.len(), log.kept_bytes), (1, KEPT_BYTES_MAX));
    }

    #[tokio::test]
    async fn what_makes_no_sense_is_refused() {
        let app = receiver();
        for query in ["status=101", "status=99", "status=x", "delay_ms=120001", "times=-1"] {
            assert_eq!(deliver(&app, &format!("/test/webhook?{query}"), "w1").await, 400, "{query}");
        }
        let large = send(&app, Method::POST, "/test/webhook", "w1", vec![0; BODY_BYTES_MAX + 1]).await;
        assert_eq!(large.0, 413);
        assert!(received(&app, "").await.is_empty());
        assert_eq!(deliver(&app, "/test/webhook?delay_ms=1", "w1").await, 200);
    }
}
