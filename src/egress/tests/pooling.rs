//! Connections that are used again, and those that are not.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::AsyncWriteExt as _,
    sync::{Notify, mpsc},
};

use super::{
    super::{Client, Config},
    peer::{OK, Peer, answer, client, client_with, clocked, fault, read_request, step, until_idle},
};
use crate::{
    clock::Clock,
    domain::{Cause, Micros, Timestamp},
    entropy::Entropy,
};

#[tokio::test]
async fn a_connection_is_used_again() {
    let peer = Peer::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let client = client();
    let first = client.send(peer.request()).await;
    assert!(first.timings.connect.is_some());
    for _ in 0..10 {
        let next = client.send(peer.request()).await;
        assert_eq!((next.timings.dns, next.timings.connect, next.timings.tls), (None, None, None));
        assert!(next.timings.first_byte.is_some());
        assert_eq!(answer(next).response.body, b"ok");
    }
    assert_eq!((peer.accepted(), client.idle()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_used_again_across_threads() {
    // The answer may be seen before the connection's own task has settled.
    let peer =
        Peer::answering("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await;
    let client = client();
    for _ in 0..500 {
        assert_eq!(answer(client.send(peer.request()).await).status, 200);
    }
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test]
async fn attempts_at_once_have_a_connection_each_and_the_surplus_is_closed() {
    let peer = Peer::answering(OK).await;
    let client = client_with(Config { idle_total: 2, ..Config::default() });
    let attempts: Vec<_> = (0..5).map(|_| client.send(peer.request())).collect();
    for outcome in futures_util::future::join_all(attempts).await {
        assert_eq!(answer(outcome).status, 200);
    }
    assert_eq!((peer.accepted(), client.idle()), (5, 2));
}

#[tokio::test]
async fn limits_of_the_pool_hold() {
    let (one, two) = (Peer::answering(OK).await, Peer::answering(OK).await);
    let client = client_with(Config { idle_total: 1, ..Config::default() });
    for peer in [&one, &two, &one, &two] {
        answer(client.send(peer.request()).await);
    }
    assert_eq!((one.accepted(), two.accepted(), client.idle()), (1, 2, 1));

    // One that is over does not keep the next one out, also before the task has closed it.
    let (client, clock) = clocked(Config { idle_total: 1, ..Config::default() });
    answer(client.send(one.request()).await);
    clock.advance(Micros::from_secs(31));
    for _ in 0..2 {
        answer(client.send(two.request()).await);
    }
    assert_eq!((two.accepted(), client.idle()), (3, 1));

    let none = client_with(Config { idle_total: 0, ..Config::default() });
    answer(none.send(one.request()).await);
    assert_eq!(none.idle(), 0);
}

#[tokio::test]
async fn a_connection_the_peer_closed_while_idle_is_replaced() {
    let close = Arc::new(Notify::new());
    let closing = Arc::clone(&close);
    let peer = Peer::start(move |mut stream, number| {
        let close = Arc::clone(&closing);
        async move {
            while read_request(&mut stream).await.is_some() {
                stream.write_all(OK).await.unwrap();
                if number == 1 {
                    close.notified().await;
                    return;
                }
            }
        }
    })
    .await;
    let client = client();
    answer(client.send(peer.request()).await);
    assert_eq!(client.idle(), 1);
    close.notify_one();
    until_idle(&client, 0).await;

    let second = client.send(peer.request()).await;
    assert!(second.timings.connect.is_some());
    assert_eq!(answer(second).status, 200);
    assert_eq!(peer.accepted(), 2);
}

#[tokio::test]
async fn a_request_that_fails_on_an_old_connection_is_not_sent_again() {
    let peer = Peer::start(|mut stream, _| async move {
        read_request(&mut stream).await;
        stream.write_all(OK).await.unwrap();
        // Takes the second request and hangs up.
        read_request(&mut stream).await;
    })
    .await;
    let client = client();
    answer(client.send(peer.request()).await);
    assert_eq!(fault(client.send(peer.request()).await).cause, Cause::ConnectionReset);
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test]
async fn an_idle_connection_has_its_time() {
    let plain = Peer::answering(OK).await;
    let hinting =
        Peer::answering("HTTP/1.1 200 OK\r\nkeep-alive: max=9, timeout=5\r\ncontent-length: 0\r\n\r\n").await;
    for (peer, seconds) in [(&plain, 30), (&hinting, 4)] {
        let (client, clock) = clocked(Config::default());
        let before = peer.accepted();
        answer(client.send(peer.request()).await);
        clock.advance(Micros(Micros::from_secs(seconds).0 - 1));
        answer(client.send(peer.request()).await);
        assert_eq!(peer.accepted() - before, 1);
        clock.advance(Micros::from_secs(seconds));
        answer(client.send(peer.request()).await);
        assert_eq!(peer.accepted() - before, 2);
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_although_nobody_looks_for_it() {
    let (closed, mut closings) = mpsc::unbounded_channel();
    let peer = Peer::start(move |mut stream, _| {
        let closed = closed.clone();
        async move {
            while read_request(&mut stream).await.is_some() {
                stream.write_all(OK).await.unwrap();
            }
            closed.send(()).unwrap();
        }
    })
    .await;
    let (client, clock) = clocked(Config::default());
    // Twice: the task that closes connections ends with the last one, and starts anew.
    for _ in 0..2 {
        answer(client.send(peer.request()).await);
        clock.advance(Micros::from_secs(29));
        step(Duration::from_secs(1)).await;
        assert_eq!(client.idle(), 1);
        clock.advance(Micros::from_secs(1));
        step(Duration::from_secs(1)).await;
        closings.recv().await.unwrap();
        assert_eq!(client.idle(), 0);
    }
}

/// Seconds of steady traffic until a connection is replaced.
async fn age(seed: u64) -> u64 {
    let peer = Peer::answering(OK).await;
    let clock = Clock::manual(Timestamp(0));
    let client = Client::new(Config::default(), clock.clone(), Entropy::seeded(seed)).unwrap();
    for second in 0.. {
        answer(client.send(peer.request()).await);
        if peer.accepted() == 2 {
            return second;
        }
        clock.advance(Micros::from_secs(1));
    }
    unreachable!()
}

#[tokio::test]
async fn a_busy_connection_is_replaced_at_its_age() {
    let mut ages = Vec::new();
    for seed in 0..10 {
        ages.push(age(seed).await);
    }
    assert!(ages.iter().all(|age| (54..=66).contains(age)), "{ages:?}");
    ages.sort_unstable();
    ages.dedup();
    assert!(ages.len() > 3, "connections are closed together: {ages:?}");
}

#[tokio::test]
async fn a_connection_has_a_greatest_number_of_requests() {
    let peer = Peer::answering(OK).await;
    let client = client_with(Config { connection_requests: 3, ..Config::default() });
    for number in 0..9 {
        answer(client.send(peer.request()).await);
        assert_eq!(peer.accepted(), number / 3 + 1);
    }
    assert_eq!(Config::default().connection_requests, 1000);
}

#[tokio::test]
async fn connection_close_is_respected() {
    let peer = Peer::answering("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
    let client = client();
    for _ in 0..3 {
        assert_eq!(answer(client.send(peer.request()).await).status, 200);
    }
    assert_eq!(peer.accepted(), 3);
}

#[tokio::test]
async fn bytes_nobody_asked_for_end_a_connection() {
    let peer =
        Peer::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 500 Forged\r\n\r\n").await;
    let client = client();
    for _ in 0..3 {
        assert_eq!(answer(client.send(peer.request()).await).status, 200);
        until_idle(&client, 0).await;
    }
    assert_eq!(peer.accepted(), 3);
}

#[tokio::test]
async fn the_last_client_takes_its_connections_along() {
    let closed = Arc::new(Notify::new());
    let closing = Arc::clone(&closed);
    let peer = Peer::start(move |mut stream, _| {
        let closed = Arc::clone(&closing);
        async move {
            read_request(&mut stream).await;
            stream.write_all(OK).await.unwrap();
            read_request(&mut stream).await;
            closed.notify_one();
        }
    })
    .await;
    let client = client();
    answer(client.clone().send(peer.request()).await);
    assert_eq!(client.idle(), 1);
    drop(client);
    closed.notified().await;
}
