//! The one port over real connections, with [`Fake`] behind it.

mod keeping;
mod people;
mod tls;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{Config, app, door, serve, tls::Tls};
use crate::{clock::Clock, entropy::Entropy, grpc::pb, rest::fake::Fake};

/// Longer than any step of a test takes.
const LONG: Duration = Duration::from_secs(20);

fn config() -> Config {
    Config { connections_max: 100, trusted_proxies: Arc::default(), tls: None, grace: LONG }
}

/// A server that runs as long as its runtime.
async fn start(fake: &Fake, config: Config) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = app(fake.services(), Router::new(), pb::DESCRIPTORS).unwrap();
    let app = door(app, Clock::system(), Entropy::seeded(1));
    tokio::spawn(serve(listener, app, config, Entropy::seeded(2), CancellationToken::new()));
    address
}

async fn start_tls(fake: &Fake, tls: &Arc<Tls>) -> SocketAddr {
    start(fake, Config { tls: Some(Arc::clone(tls)), ..config() }).await
}

/// Asks once by HTTP/1.1; the whole answer, or nothing if there is none.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str, header: &str) -> String {
    let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\n{header}connection: close\r\n\r\n");
    // The other end may have hung up already.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = timeout(LONG, stream.read_to_end(&mut answer)).await.expect("an answer or an end");
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_connection_over_the_limit_is_closed_and_the_next_one_after_an_end_is_not() {
    let address = start(&Fake::default(), Config { connections_max: 1, ..config() }).await;
    let first = TcpStream::connect(address).await.unwrap();
    let second = TcpStream::connect(address).await.unwrap();
    assert_eq!(ask(second, "/v1/operations/op_1", "").await, "");
    assert!(ask(first, "/v1/operations/op_1", "").await.starts_with("HTTP/1.1 200"));
    let third = timeout(LONG, async {
        loop {
            // The end of the first is on its way.
            let answer = ask(TcpStream::connect(address).await.unwrap(), "/v1/operations/op_1", "").await;
            if !answer.is_empty() {
                return answer;
            }
        }
    });
    assert!(third.await.unwrap().starts_with("HTTP/1.1 200"));
}
