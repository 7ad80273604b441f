//! Requests as no library would send them, byte by byte, and what becomes of each.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::support::Server;

/// Much longer than any answer takes.
const LONG: Duration = Duration::from_secs(60);
/// What hyper answers by itself: there is no document.
const BARE: &str = "-";

/// What is sent, and the answer: its status, and the reason in its document if it has one.
struct Probe {
    what: &'static str,
    bytes: Vec<u8>,
    status: u16,
    reason: &'static str,
    /// What the answer has to contain besides.
    has: &'static str,
}

fn raw(what: &'static str, bytes: impl Into<Vec<u8>>, status: u16, reason: &'static str) -> Probe {
    Probe { what, bytes: bytes.into(), status, reason, has: "" }
}

/// A request with a valid head and no body.
fn ask(
    method: &str,
    target: &str,
    more: &str,
    status: u16,
    reason: &'static str,
    has: &'static str,
) -> Probe {
    let head = format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{more}\r\n");
    Probe { what: "a request", bytes: head.into_bytes(), status, reason, has }
}

/// A request with a body of JSON.
fn json(
    method: &str,
    target: &str,
    body: &str,
    status: u16,
    reason: &'static str,
    has: &'static str,
) -> Probe {
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    Probe { what: "a body", bytes: head.into_bytes(), status, reason, has }
}

/// A POST of an event with these lines in its head and this body.
fn event(what: &'static str, lines: &str, body: &str, status: u16, reason: &'static str) -> Probe {
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n{lines}\r\n{body}"
    );
    raw(what, head, status, reason)
}

fn heads() -> Vec<Probe> {
    let get = |lines: &str| format!("GET /health HTTP/1.1\r\nconnection: close\r\n{lines}\r\n");
    vec![
        raw("no host", get(""), 400, "HOST_INVALID"),
        raw("an empty host", get("host:\r\n"), 400, "HOST_INVALID"),
        raw("a host of spaces", get("host:   \r\n"), 400, "HOST_INVALID"),
        raw("two hosts", get("host: localhost\r\nhost: evil.example\r\n"), 400, "HOST_INVALID"),
        raw("the same host twice", get("host: localhost\r\nhost: localhost\r\n"), 400, "HOST_INVALID"),
        raw("a host with a user", get("host: a@localhost\r\n"), 400, "HOST_INVALID"),
        raw("a host with a path", get("host: localhost/\r\n"), 400, "HOST_INVALID"),
        raw("two hosts in one", get("host: localhost, evil.example\r\n"), 400, "HOST_INVALID"),
        raw("a host that is another", get("host: evil.example\r\n"), 403, "ORIGIN_FORBIDDEN"),
        raw("a good host", get("host: localhost\r\n"), 200, ""),
        raw("a host with a port", get("Host:localhost:80\r\n"), 200, ""),
        raw("no host in HTTP/1.0", "GET /health HTTP/1.0\r\n\r\n", 200, ""),
        raw(
            "an absolute address that is not the host",
            "GET http://localhost/health HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n",
            403,
            "ORIGIN_FORBIDDEN",
        ),
        raw(
            "a host that is not the absolute address",
            "GET http://evil.example/health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
            403,
            "ORIGIN_FORBIDDEN",
        ),
        raw(
            "a foreign origin",
            get("host: localhost\r\norigin: http://evil.example\r\n"),
            403,
            "ORIGIN_FORBIDDEN",
        ),
        raw("no version", "GET /health\r\n\r\n", 400, BARE),
        raw("a version of later", "GET /health HTTP/3.0\r\nhost: localhost\r\n\r\n", 400, BARE),
        raw("a line that is no request", "hello\r\n\r\n", 400, BARE),
        raw("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".as_slice(), 400, BARE),
        raw("a space before the colon", get("host : localhost\r\n"), 400, BARE),
        raw("a folded line", get("host: localhost\r\nx-a: 1\r\n  2\r\n"), 400, BARE),
        raw("a line without a colon", get("host: localhost\r\nnonsense\r\n"), 400, BARE),
        raw("a name with a space", get("host: localhost\r\nx a: 1\r\n"), 400, BARE),
        raw("NUL in a value", get("host: localhost\r\nx-a: \0\r\n"), 400, BARE),
        raw("101 lines", get(&format!("host: localhost\r\n{}", "x-a: 1\r\n".repeat(100))), 431, BARE),
        raw("a target with a space", "GET /hea lth HTTP/1.1\r\nhost: localhost\r\n\r\n", 400, BARE),
        raw("HTTP/2 without its preface", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", 400, BARE),
    ]
}

fn framing() -> Vec<Probe> {
    const EVENT: &str = r#"{"event_type":"a"}"#;
    let length = |length: &str| format!("content-length: {length}\r\n");
    let chunked = "transfer-encoding: chunked\r\n";
    vec![
        event("a body", &length("18"), EVENT, 202, ""),
        event("a body in chunks", chunked, &format!("12\r\n{EVENT}\r\n0\r\n\r\n"), 202, ""),
        event("chunks with an extension", chunked, &format!("12;a=b\r\n{EVENT}\r\n0\r\n\r\n"), 202, ""),
        event("chunks with trailers", chunked, &format!("12\r\n{EVENT}\r\n0\r\nx-a: 1\r\n\r\n"), 202, ""),
        event("chunks of no length", chunked, "zz\r\n{}\r\n0\r\n\r\n", 400, "BODY_CUT_SHORT"),
        event(
            "a chunk longer than it says",
            chunked,
            &format!("2\r\n{EVENT}\r\n0\r\n\r\n"),
            400,
            "BODY_CUT_SHORT",
        ),
        event(
            "a length of a chunk that overflows",
            chunked,
            "fffffffffffffffff\r\n{}",
            400,
            "BODY_CUT_SHORT",
        ),
        event("chunks that are cut short", chunked, "12\r\n{", 400, "BODY_CUT_SHORT"),
        event("a body that is cut short", &length("18"), "{", 400, "BODY_CUT_SHORT"),
        event(
            "gzip as transfer coding",
            "transfer-encoding: gzip, chunked\r\n",
            "0\r\n\r\n",
            501,
            "TRANSFER_CODING_UNSUPPORTED",
        ),
        event(
            "an unknown transfer coding",
            "transfer-encoding: x, chunked\r\n",
            "0\r\n\r\n",
            501,
            "TRANSFER_CODING_UNSUPPORTED",
        ),
        event("a transfer coding that does not end", "transfer-encoding: gzip\r\n", "", 400, BARE),
        event(
            "chunked twice",
            "transfer-encoding: chunked, chunked\r\n",
            "0\r\n\r\n",
            501,
            "TRANSFER_CODING_UNSUPPORTED",
        ),
        event("two lengths", &format!("{}{}", length("18"), length("17")), EVENT, 400, BARE),
        event("a length that is no number", &length("x"), EVENT, 400, BARE),
        event("a negative length", &length("-1"), EVENT, 400, BARE),
        event("a length with a sign", &length("+18"), EVENT, 400, BARE),
        event("a length over the limit", &length("17825793"), "", 413, "PAYLOAD_TOO_LARGE"),
        event("a length that overflows", &length("99999999999999999999999"), "", 400, BARE),
        event(
            "gzip",
            &format!("content-encoding: gzip\r\n{}", length("18")),
            EVENT,
            415,
            "UNSUPPORTED_MEDIA_TYPE",
        ),
    ]
}

fn routes() -> Vec<Probe> {
    let get = |target: &str, status, reason, has| ask("GET", target, "", status, reason, has);
    vec![
        get("/v1/endpoints", 200, "", "cache-control: no-store"),
        get("/v1/%65ndpoints", 200, "", "endpoints"),
        get("/%68ealth", 200, "", ""),
        get("/v1/endpoints/", 404, "ROUTE_NOT_FOUND", "did you mean `GET /v1/endpoints`?"),
        get("/v1/endpoint/ep_1", 404, "ROUTE_NOT_FOUND", "did you mean `GET /v1/endpoints/ID`?"),
        get("/endpoints", 404, "ROUTE_NOT_FOUND", "did you mean `GET /v1/endpoints`?"),
        get("//v1/endpoints", 404, "ROUTE_NOT_FOUND", ""),
        get("/", 404, "ROUTE_NOT_FOUND", ""),
        get("/v1/../health", 404, "ROUTE_NOT_FOUND", ""),
        get("/v1/endpoints/%ff", 400, "INVALID_FIELD", ""),
        get("/v1/endpoints/a%2Fb", 400, "INVALID_FIELD", "lower-case hex digits"),
        ask(
            "POST",
            "/v1/endpoints/ep_1/pause",
            "",
            404,
            "ROUTE_NOT_FOUND",
            "did you mean `POST /v1/endpoints/ID:pause`?",
        ),
        ask("PUT", "/v1/endpoints", "", 405, "METHOD_NOT_ALLOWED", "allow: POST, GET, HEAD, OPTIONS"),
        ask("TRACE", "/v1/endpoints", "", 405, "METHOD_NOT_ALLOWED", ""),
        ask("BREW", "/v1/endpoints", "", 405, "METHOD_NOT_ALLOWED", ""),
        ask("get", "/v1/endpoints", "", 405, "METHOD_NOT_ALLOWED", ""),
        ask("POST", "/health", "", 405, "METHOD_NOT_ALLOWED", "allow: GET,HEAD"),
        ask("HEAD", "/v1/endpoints", "", 200, "", ""),
        ask("OPTIONS", "/v1/endpoints", "", 204, "", "allow: POST, GET, HEAD, OPTIONS"),
        ask("OPTIONS", "/health", "", 204, "", "allow: GET,HEAD"),
        ask("OPTIONS", "*", "", 204, "", "allow: "),
        ask("OPTIONS", "/nowhere", "", 404, "ROUTE_NOT_FOUND", ""),
        ask("CONNECT", "localhost:80", "", 404, "ROUTE_NOT_FOUND", ""),
        get("/v1/endpoints?page_size=x", 400, "INVALID_FIELD", "page_size"),
        get("/v1/endpoints?page_size=1&page_size=2", 400, "INVALID_FIELD", "is given twice"),
        get("/v1/endpoints?nonsense=1", 400, "INVALID_FIELD", "nonsense"),
        get("/v1/endpoints?page_token=x", 400, "PAGE_TOKEN_INVALID", ""),
    ]
}

fn bodies() -> Vec<Probe> {
    let post = |body: &str, status, reason, has| json("POST", "/v1/events", body, status, reason, has);
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    let free = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"event_type":"a","payload":{{"value":{open}{close}}}}}"#)
    };
    vec![
        post(r#"{"event_type":"a"}"#, 202, "", "cache-control: no-store"),
        post(r#"{"event_type":"a","event_type":"a"}"#, 400, "INVALID_FIELD", "is given twice"),
        post(r#"{"event_type":"a","eventType":"b"}"#, 400, "INVALID_FIELD", "is given twice"),
        post(r#"{"event_type":"a","metadata":{"a":"1","a":"2"}}"#, 400, "INVALID_FIELD", "event.metadata[a]"),
        post(r#"{"event_type":"a","payload":{"value":{"a":1,"a":2}}}"#, 202, "", ""),
        post(r#"{"event_type":"a","payload":{"json":"{\"a\":1,\"a\":2}"}}"#, 202, "", ""),
        post(
            r#"{"event_type":"a","payload":{"json":"1","data":""}}"#,
            400,
            "INVALID_FIELD",
            "may have only one of",
        ),
        post(r#"{"event_type":1}"#, 400, "INVALID_FIELD", "expected a string"),
        post(r#"{"event_type":null}"#, 400, "INVALID_FIELD", "event.event_type"),
        post(r#"{"typo":1}"#, 400, "INVALID_FIELD", "event.typo"),
        post("[]", 400, "INVALID_FIELD", "must be an object"),
        post("1", 400, "INVALID_FIELD", "must be an object"),
        post("", 400, "INVALID_FIELD", "event"),
        post("{", 400, "INVALID_FIELD", "not valid JSON"),
        post(r#"{"event_type":"a"}x"#, 400, "INVALID_FIELD", "not valid JSON"),
        post("{'event_type':'a'}", 400, "INVALID_FIELD", "not valid JSON"),
        post("\u{feff}{}", 400, "INVALID_FIELD", "not valid JSON"),
        post(r#"{"event_type":"\ud800"}"#, 400, "INVALID_FIELD", "not valid JSON"),
        post(&deep, 400, "INVALID_FIELD", ""),
        post(&free(30), 202, "", ""),
        post(&free(31), 400, "INVALID_FIELD", "nested deeper than 30 levels"),
        post(r#"{"event_type":"a","payload":{"data":"!"}}"#, 400, "INVALID_FIELD", "base64"),
        post(r#"{"event_type":"a","deliver_time":"soon"}"#, 400, "INVALID_FIELD", "event.deliver_time"),
        json("DELETE", "/v1/endpoints/ep_1", r#"{"a":1}"#, 400, "INVALID_FIELD", "takes no body"),
        json("POST", "/v1/endpoints", r#"{"url":"ftp://x"}"#, 400, "URL_FORBIDDEN", "endpoint.url"),
    ]
}

/// The whole answer as text; empty if there is none.
async fn answer(port: u16, probe: &Probe) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connect");
    // The other end may have hung up already.
    let _ = stream.write_all(&probe.bytes).await;
    if probe.what.ends_with("cut short") {
        let _ = stream.shutdown().await;
    }
    let mut answer = Vec::new();
    let _ = timeout(LONG, stream.read_to_end(&mut answer)).await.expect("an answer or an end");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_odd_request_gets_the_answer_that_says_what_is_odd() {
    let server = Server::start().await;
    let probes: Vec<Probe> = [heads(), framing(), routes(), bodies()].into_iter().flatten().collect();
    assert!(probes.len() >= 80, "{}", probes.len());
    let mut asked = JoinSet::new();
    for probe in probes {
        let port = server.port;
        asked.spawn(async move {
            let answer = answer(port, &probe).await;
            (probe, answer)
        });
    }
    let mut wrong = Vec::new();
    while let Some(asked) = asked.join_next().await {
        let (probe, answer) = asked.expect("an answer");
        let is_as_expected = answer.starts_with(&format!("HTTP/1.1 {} ", probe.status))
            || answer.starts_with(&format!("HTTP/1.0 {} ", probe.status));
        let has_reason = match probe.reason {
            "" | BARE => true,
            reason => {
                answer.contains(&format!("\"reason\":\"{reason}\""))
                    && answer.contains("content-type: application/problem+json")
            }
        };
        if !(is_as_expected && has_reason && answer.contains(probe.has)) {
            let sent = String::from_utf8_lossy(&probe.bytes).chars().take(300).collect::<String>();
            wrong.push(format!("{}: {} {}\n{sent}\n---\n{answer}\n", probe.what, probe.status, probe.reason));
        }
    }
    assert!(wrong.is_empty(), "{} probes:\n{}", wrong.len(), wrong.join("\n=====\n"));
}
