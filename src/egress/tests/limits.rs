//! Peers that never end.

use std::time::Duration;

use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::mpsc};

use super::{
    super::Request,
    peer::{Peer, answer, client, fault, read_request, read_to_close},
};
use crate::domain::{Cause, Micros};

fn impatient(peer: &Peer) -> Request {
    Request { timeout: Micros::from_millis(200), ..peer.request() }
}

/// Writes until the other side hangs up.
async fn write_forever(stream: &mut TcpStream, piece: &[u8]) {
    while stream.write_all(piece).await.is_ok() {}
}

#[tokio::test]
async fn a_head_that_does_not_come_is_a_response_timeout() {
    let (closed, mut closings) = mpsc::unbounded_channel();
    let peer = Peer::start(move |mut stream, _| {
        let closed = closed.clone();
        async move {
            read_request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
            read_to_close(&mut stream).await;
            closed.send(()).unwrap();
        }
    })
    .await;
    let outcome = client().send(impatient(&peer)).await;
    assert!(outcome.duration >= Micros::from_millis(200), "{:?}", outcome.duration);
    assert!(outcome.duration < Micros::from_secs(5), "{:?}", outcome.duration);
    let fault = fault(outcome);
    assert_eq!(fault.cause, Cause::ResponseTimeout);
    assert_eq!(fault.message, "no complete response within 200ms");
    closings.recv().await.unwrap();
}

#[tokio::test]
async fn a_body_that_stalls_ends_with_the_deadline_and_is_an_answer() {
    let peer = Peer::start(|mut stream, _| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\npart").await.unwrap();
        read_to_close(&mut stream).await;
    })
    .await;
    let client = client();
    let outcome = client.send(impatient(&peer)).await;
    assert!(outcome.duration < Micros::from_secs(1), "{:?}", outcome.duration);
    let answer = answer(outcome);
    assert_eq!((answer.status, answer.response.body_truncated), (200, true));
    assert_eq!(answer.response.body, b"part");
    assert_eq!(client.idle(), 0);
}

#[tokio::test]
async fn a_body_that_stalls_is_given_a_second_of_grace() {
    let peer = Peer::start(|mut stream, _| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        read_to_close(&mut stream).await;
    })
    .await;
    let outcome = client().send(peer.request()).await;
    assert!(outcome.duration >= Micros::from_secs(1), "{:?}", outcome.duration);
    assert!(outcome.duration < Micros::from_secs(10), "{:?}", outcome.duration);
    assert!(answer(outcome).response.body_truncated);
}

#[tokio::test]
async fn an_endless_body_is_dropped_after_its_limit() {
    let (closed, mut closings) = mpsc::unbounded_channel();
    let peer = Peer::start(move |mut stream, _| {
        let closed = closed.clone();
        async move {
            read_request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            write_forever(&mut stream, &[b'x'; 1000]).await;
            closed.send(()).unwrap();
        }
    })
    .await;
    let client = client();
    let answer = answer(client.send(peer.request()).await);
    assert_eq!((answer.response.body.len(), answer.response.body_truncated), (16 * 1024, true));
    assert_eq!(client.idle(), 0);
    closings.recv().await.unwrap();
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_whole() {
    for (len, truncated) in [(16 * 1024, false), (16 * 1024 + 1, true)] {
        let mut response = format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n").into_bytes();
        response.resize(response.len() + len, b'x');
        let peer = Peer::answering(response).await;
        let client = client();
        let answer = answer(client.send(peer.request()).await);
        assert_eq!((answer.response.body.len(), answer.response.body_truncated), (16 * 1024, truncated));
        assert_eq!(client.idle(), usize::from(!truncated));
    }
}

#[tokio::test]
async fn eight_informational_responses_pass_and_a_ninth_does_not() {
    for (count, passes) in [(8, true), (9, false)] {
        let mut response = b"HTTP/1.1 103 Early Hints\r\nlink: <a>\r\n\r\n".repeat(count);
        response.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        let peer = Peer::answering(response).await;
        let client = client();
        let outcome = client.send(peer.request()).await;
        if passes {
            assert_eq!(answer(outcome).status, 200);
            // The count starts again with the next request.
            assert_eq!(answer(client.send(peer.request()).await).status, 200);
            assert_eq!(peer.accepted(), 1);
        } else {
            assert_eq!(fault(outcome).cause, Cause::MalformedResponse);
        }
    }
}

#[tokio::test]
async fn a_flood_of_informational_responses_is_cut() {
    let (closed, mut closings) = mpsc::unbounded_channel();
    let peer = Peer::start(move |mut stream, _| {
        let closed = closed.clone();
        async move {
            read_request(&mut stream).await;
            write_forever(&mut stream, b"HTTP/1.1 100 Continue\r\n\r\n").await;
            closed.send(()).unwrap();
        }
    })
    .await;
    let fault = fault(client().send(peer.request()).await);
    assert_eq!(fault.cause, Cause::MalformedResponse);
    assert_eq!(fault.message, "more than 8 informational responses");
    closings.recv().await.unwrap();
}

#[tokio::test]
async fn an_oversized_head_is_malformed() {
    let long = format!("HTTP/1.1 200 OK\r\nx-long: {}\r\n", "x".repeat(70 * 1024));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x-many: 1\r\n".repeat(101));
    let fits = format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", "x-many: 1\r\n".repeat(99));
    for response in [long, many] {
        let peer = Peer::answering(response).await;
        let fault = fault(client().send(peer.request()).await);
        assert_eq!(fault.cause, Cause::MalformedResponse);
        assert_eq!(fault.message, "the response head is over 64 KiB or 100 headers");
    }
    let peer = Peer::answering(fits).await;
    assert_eq!(answer(client().send(peer.request()).await).status, 200);
}

#[tokio::test]
async fn recorded_headers_have_a_limit() {
    let head: String = (0..20).map(|n| format!("x-{n}: {}\r\n", "y".repeat(1000))).collect();
    let peer = Peer::answering(format!("HTTP/1.1 200 OK\r\n{head}content-length: 0\r\n\r\n")).await;
    let answer = answer(client().send(peer.request()).await);
    let total: usize = answer.response.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    assert_eq!(answer.response.headers.len(), 8);
    assert!(total <= 8 * 1024, "{total}");
}

#[tokio::test]
async fn a_peer_that_does_not_read_does_not_hold_us() {
    let (open, mut streams) = mpsc::unbounded_channel();
    let peer = Peer::start(move |stream, _| {
        let open = open.clone();
        async move { open.send(stream).unwrap() }
    })
    .await;
    let mut request = impatient(&peer);
    // More than the socket buffers of both sides take.
    request.body = vec![b'x'; 32 << 20].into();
    assert_eq!(fault(client().send(request).await).cause, Cause::ResponseTimeout);
    // Our end is closed although the request was not fully written.
    read_to_close(&mut streams.recv().await.unwrap()).await;
}

#[tokio::test]
async fn dropping_an_attempt_closes_its_connection() {
    let (begun, mut beginnings) = mpsc::unbounded_channel();
    let (closed, mut closings) = mpsc::unbounded_channel();
    let peer = Peer::start(move |mut stream, _| {
        let (begun, closed) = (begun.clone(), closed.clone());
        async move {
            read_request(&mut stream).await;
            begun.send(()).unwrap();
            read_to_close(&mut stream).await;
            closed.send(()).unwrap();
        }
    })
    .await;
    let client = client();
    tokio::select! {
        outcome = client.send(peer.request()) => panic!("{outcome:?}"),
        begun = beginnings.recv() => begun.unwrap(),
    }
    tokio::time::timeout(Duration::from_secs(10), closings.recv()).await.unwrap().unwrap();
    assert_eq!(client.idle(), 0);
}
