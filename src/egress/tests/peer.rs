//! Endpoints written by hand, so that they can misbehave.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::Instant,
};

use super::super::{Client, Config, Policy, Request, Sender, Target, vet};
use crate::{
    clock::Clock,
    domain::{Answer, EndpointKey, Fault, Micros, Outcome, TenantKey, Timestamp},
    entropy::Entropy,
};

/// Whoever asks for a request.
pub const SENDER: Sender = Sender { tenant: TenantKey::DEFAULT, endpoint: EndpointKey(1), version: 1 };

/// A whole, empty success.
pub const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// An endpoint that treats every connection the same way. Ends with the test.
pub struct Peer {
    pub address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Peer {
    /// Listens, and hands each connection and its number from 1 to `serve`.
    pub async fn start<S, F>(serve: S) -> Self
    where
        S: Fn(TcpStream, usize) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start_at("127.0.0.1:0".parse().unwrap(), serve).await
    }

    /// The same at an address.
    pub async fn start_at<S, F>(address: SocketAddr, serve: S) -> Self
    where
        S: Fn(TcpStream, usize) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::spawn(serve(stream, number));
            }
        });
        Self { address, accepted, task }
    }

    /// Answers every request with the same bytes and keeps the connection.
    pub async fn answering(response: impl Into<Vec<u8>>) -> Self {
        Self::answering_at("127.0.0.1:0".parse().unwrap(), response).await
    }

    /// The same at an address.
    pub async fn answering_at(address: SocketAddr, response: impl Into<Vec<u8>>) -> Self {
        let response: Arc<[u8]> = response.into().into();
        Self::start_at(address, move |mut stream, _| {
            let response = Arc::clone(&response);
            async move {
                while read_request(&mut stream).await.is_some() {
                    if stream.write_all(&response).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// Answers one request with these bytes and closes the connection.
    pub async fn answering_once(response: impl Into<Vec<u8>>) -> Self {
        let response: Arc<[u8]> = response.into().into();
        Self::start(move |mut stream, _| {
            let response = Arc::clone(&response);
            async move {
                read_request(&mut stream).await;
                let _ = stream.write_all(&response).await;
            }
        })
        .await
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    pub fn target(&self) -> Target {
        target(&format!("http://{}/hook?a=1", self.address))
    }

    /// A request to it with generous limits.
    pub fn request(&self) -> Request {
        request(self.target())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request, head and body; nothing at the end of the connection.
pub async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut seen = Vec::new();
    let end = loop {
        if let Some(at) = seen.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut seen).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(seen[..end].to_vec()).unwrap();
    let len = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |len| len.parse().unwrap());
    while seen.len() < end + len {
        if stream.read_buf(&mut seen).await.ok()? == 0 {
            return None;
        }
    }
    assert_eq!(seen.len(), end + len, "more than one request at a time");
    Some(String::from_utf8(seen).unwrap())
}

/// Waits for the other side to close.
pub async fn read_to_close(stream: &mut (impl AsyncRead + Unpin)) {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).await.is_ok_and(|len| len > 0) {}
}

pub fn target(url: &str) -> Target {
    vet(url, &Policy::loopback()).unwrap()
}

pub fn request(target: Target) -> Request {
    Request {
        sender: SENDER,
        target,
        tls: None,
        headers: HeaderMap::new(),
        body: Bytes::from_static(b"{\"n\":1}"),
        timeout: Micros::from_secs(20),
        connect_timeout: Micros::from_secs(10),
    }
}

pub fn client() -> Client {
    client_with(Config::default())
}

pub fn client_with(config: Config) -> Client {
    Client::new(config, Clock::system(), Entropy::seeded(1)).unwrap()
}

/// A client whose clock stands at zero.
pub fn clocked(config: Config) -> (Client, Clock) {
    let clock = Clock::manual(Timestamp(0));
    (Client::new(config, clock.clone(), Entropy::seeded(1)).unwrap(), clock)
}

/// Tokio's time, which tests may pause.
#[expect(clippy::disallowed_methods, reason = "only a test can pause it")]
pub fn virtual_now() -> Instant {
    Instant::now()
}

/// Lets a span of tokio's time pass, so that timers of that span end.
pub async fn step(span: Duration) {
    tokio::time::pause();
    tokio::time::advance(span).await;
    tokio::time::resume();
}

pub fn answer(outcome: Outcome) -> Answer {
    outcome.result.unwrap()
}

pub fn fault(outcome: Outcome) -> Fault {
    outcome.result.unwrap_err()
}

/// Waits until a client has exactly this many open idle connections.
pub async fn until_idle(client: &Client, count: usize) {
    let reached = async {
        while client.idle() != count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reached).await.expect("connections in the pool");
}
