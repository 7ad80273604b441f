//! What strangers send costs little, and keeps nobody else out.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::support::{Server, alone, event, http};

/// Much longer than any answer takes.
const LONG: Duration = Duration::from_secs(120);
/// What a server may have at most while strangers send the worst that they can.
const MEMORY_MAX: u64 = 256 << 20;
const BODY_BYTES: usize = 17_800_000;
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

/// A text of that size: `open`, many times `item`, and `close`.
fn many(open: &str, item: &str, close: &str, bytes: usize) -> String {
    let count = (bytes - open.len() - close.len()) / (item.len() + 1) - 1;
    format!("{open}{}{item}{close}", format!("{item},").repeat(count))
}

/// Bodies that take most memory for their size, each with the path that takes it.
fn worst() -> Vec<(&'static str, Bytes)> {
    let event = |value: &str| format!(r#"{{"events":[{{"event_type":"a","payload":{{"value":{value}"#);
    let names: Vec<String> = (0..1_200_000).map(|number| format!(r#""x{number}":0"#)).collect();
    let entries: Vec<String> = (0..1_200_000).map(|number| format!(r#""x{number}":"""#)).collect();
    let deep = format!("{}1{}", r#"{"a":["#.repeat(14), "]}".repeat(14));
    let batch = "/v1/events:batch";
    [
        (batch, many(&event("["), r#"{"a":1}"#, "]}}]}", BODY_BYTES)),
        (batch, many(&event("["), "{}", "]}}]}", BODY_BYTES)),
        (batch, many(&event("["), "[]", "]}}]}", BODY_BYTES)),
        (batch, many(&event("["), "1", "]}}]}", BODY_BYTES)),
        (batch, many(&event("["), &deep, "]}}]}", BODY_BYTES)),
        (batch, many(r#"{"events":["#, "{}", "]}", BODY_BYTES)),
        (batch, many(r#"{"events":["#, r#"{"payload":{},"metadata":{"":""}}"#, "]}", BODY_BYTES)),
        (batch, format!("{{{}}}", names.join(","))),
        (batch, format!(r#"{{"events":[{{"metadata":{{{}}}}}]}}"#, entries.join(","))),
        (batch, format!("{}{}", "[".repeat(BODY_BYTES / 2), "]".repeat(BODY_BYTES / 2))),
        ("/v1/endpoints", many(r#"{"event_types":["#, r#""""#, "]}", 4 << 20)),
    ]
    .map(|(path, body)| (path, Bytes::from(body)))
    .into()
}

/// Sends a body and reads what it is answered with; 0 if the server hung up first.
async fn send(port: u16, path: &str, body: &[u8]) -> u16 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connect");
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    let (mut reading, mut writing) = stream.split();
    let mut answer = Vec::new();
    let sent = async {
        writing.write_all(head.as_bytes()).await?;
        writing.write_all(body).await
    };
    let (_, read) = tokio::join!(sent, timeout(LONG, reading.read_to_end(&mut answer)));
    let _ = read.expect("an answer or an end");
    let status = String::from_utf8_lossy(answer.get(9..12).unwrap_or_default()).into_owned();
    status.parse().unwrap_or_default()
}

/// A hundred callers at once, each with one of the worst bodies.
async fn attack(port: u16) -> Vec<u16> {
    let worst = Arc::new(worst());
    let mut callers = JoinSet::new();
    for number in 0..100 {
        let worst = Arc::clone(&worst);
        callers.spawn(async move {
            let (path, body) = &worst[number % worst.len()];
            send(port, path, body).await
        });
    }
    callers.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_no_byte_of_a_body_is_waited_for() {
    let server = Server::build().serve(&[]).start().await;
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).await.expect("connect");
    let head = "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                content-length: 17000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("taken");
    let mut status = [0; 12];
    timeout(LONG, stream.read_exact(&mut status)).await.expect("an answer without the body").expect("read");
    assert_eq!(&status, b"HTTP/1.1 401");

    // One that sends it all the same can read what it is told.
    let (path, body) = &worst()[0];
    assert_eq!(send(server.port, path, body).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_callers_without_keys_take_little_and_refuse_nobody() {
    let _alone = alone().await;
    let server = Server::build().serve(&[]).start().await;
    let token = format!("Bearer {}", server.token().expect("a token"));
    let attacking = tokio::spawn(attack(server.port));
    let large = format!(r#"{{"event_type":"a","payload":{{"json":"\"{}\""}}}}"#, "x".repeat(500_000));
    let mut published = 0;
    while !attacking.is_finished() || published < 20 {
        let headers = [JSON[0], ("authorization", token.as_str())];
        let reply = http(server.port, Method::POST, "/v1/events", &headers, large.clone()).await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{reply:?}");
        published += 1;
    }
    let answers = attacking.await.expect("answers");
    assert!(answers.iter().all(|status| matches!(status, 401 | 0)), "{answers:?}");
    let memory = server.peak_memory();
    println!("door: {} MiB at most beside 100 callers without keys, {published} published", memory >> 20);
    assert!(memory <= MEMORY_MAX, "{memory} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_callers_of_a_development_server_take_little() {
    let _alone = alone().await;
    let server = Server::start().await;
    let answers = attack(server.port).await;
    let memory = server.peak_memory();
    println!("door: {} MiB at most beside 100 callers of a server without keys: {answers:?}", memory >> 20);
    assert!(answers.iter().all(|status| matches!(status, 400 | 413 | 429 | 0)), "{answers:?}");
    assert!(memory <= MEMORY_MAX, "{memory} bytes");
    server.api().publish(event("still.here", "{}")).await;
}
