//! The accept loop.
//!
//! `axum::serve` sets none of the limits in [`limits`] and has no bounded shutdown, and
//! tonic's own server offers HTTP/2 only; so the house drives hyper itself.

use std::{convert::Infallible, future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use ipnet::IpNet;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::server::TlsStream;
use tokio_util::{either::Either, sync::CancellationToken};
use tower::{BoxError, Service};
use tracing::{debug, warn};

use super::{
    connection::{Attached, converse},
    limits,
    tls::Tls,
};
use crate::{entropy::Entropy, explain};

/// Pauses between tries at accepting when the process has run out of something.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How connections are taken.
#[derive(Clone, Debug)]
pub struct Config {
    /// Connections at once. One more is closed as soon as it is there: its client
    /// learns at once what it would not in a queue, and tries again or elsewhere.
    pub connections_max: usize,
    /// Networks of the proxies that are believed about who their clients are.
    pub trusted_proxies: Arc<[IpNet]>,
    /// TLS, without which everything is in clear text.
    pub tls: Option<Arc<Tls>>,
    /// How long calls may take to end after the stop.
    pub grace: Duration,
}

/// Serves `app` until `shutdown`, then lets calls under way finish for a while, and
/// drops what is left. The listener is closed as soon as shutdown begins.
pub async fn serve<S, B>(
    listener: TcpListener,
    app: S,
    config: Config,
    entropy: Entropy,
    shutdown: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Unpin + Send + 'static,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    let builder = Arc::new(limits::builder());
    let mut connections = JoinSet::new();
    let mut full = false;
    loop {
        let (stream, address) = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    warn!(%error, "a connection's task failed");
                }
                continue;
            }
            accepted = accept(&listener) => accepted,
        };
        let was_full = std::mem::replace(&mut full, connections.len() >= config.connections_max);
        if full {
            if !was_full {
                warn!(connections = connections.len(), "no more connections are taken");
            }
            continue;
        }
        let age = limits::age(&entropy);
        let (builder, app, config) = (Arc::clone(&builder), app.clone(), config.clone());
        // One of its own, so that connections do not meet at one lock whenever they wake.
        let shutdown = shutdown.child_token();
        connections.spawn(async move {
            let greeted = shutdown.run_until_cancelled(greet(stream, config.tls.as_deref())).await;
            match greeted {
                Some(Ok((stream, certificate))) => {
                    let attached = Attached::new(app, address, certificate, config.trusted_proxies);
                    converse(stream, builder, attached, age, shutdown).await;
                }
                Some(Err(error)) => debug!(error = explain::chain(&error), peer = %address, "a connection ended before it began"),
                None => {}
            }
        });
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(config.grace, ended).await.is_err() {
        warn!(connections = connections.len(), "dropping connections that outlasted the grace period");
    }
    connections.shutdown().await;
}

/// A connection on which somebody is, in clear text or not.
type Greeted = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Shakes hands, if there is TLS.
async fn greet(stream: TcpStream, tls: Option<&Tls>) -> io::Result<(Greeted, Option<[u8; 32]>)> {
    // Small frames of a stream must not wait for an acknowledgement.
    stream.set_nodelay(true)?;
    match tls {
        Some(tls) => {
            let (stream, certificate) = Box::pin(tls.accept(stream)).await?;
            Ok((Either::Right(Box::new(stream)), certificate))
        }
        None => Ok((Either::Left(stream), None)),
    }
}

/// The next connection. Does not fail: whatever stops one accept says nothing about
/// the next.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    accept_with(|| listener.accept()).await
}

async fn accept_with<T, F: Future<Output = io::Result<T>>>(mut accept: impl FnMut() -> F) -> T {
    let mut pause = ACCEPT_PAUSE_MIN;
    loop {
        match accept().await {
            Ok(connection) => return connection,
            Err(error) if is_of_the_connection(&error) => {
                debug!(%error, "a connection broke before it began");
            }
            Err(error) => {
                // Out of file descriptors or memory: asking again at once would
                // only burn the processor until somebody gives some back.
                warn!(%error, pause_ms = pause.as_millis(), "cannot accept connections");
                sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
}

fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    [ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted].contains(&error.kind())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use axum::{Router, routing::get};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::Notify,
        task::JoinHandle,
    };

    use super::*;
    use crate::{
        clock::Clock,
        front::{app, door},
        grpc::pb::{self, operation_service_client::OperationServiceClient},
        rest::fake::Fake,
    };

    /// Longer than any step of a test takes.
    const LONG: Duration = Duration::from_secs(20);

    async fn start(extra: Router, grace: Duration) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
        start_with(&Fake::default(), extra, grace).await
    }

    async fn start_with(
        fake: &Fake,
        extra: Router,
        grace: Duration,
    ) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = app(fake.services(), extra, pb::DESCRIPTORS).unwrap();
        let shutdown = CancellationToken::new();
        let app = door(app, Clock::system(), Entropy::seeded(1));
        let config = Config { connections_max: 100, trusted_proxies: Arc::default(), tls: None, grace };
        let server = tokio::spawn(serve(listener, app, config, Entropy::seeded(2), shutdown.clone()));
        (address, shutdown, server)
    }

    async fn request(address: SocketAddr, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    async fn read(mut stream: TcpStream) -> String {
        let mut text = String::new();
        timeout(LONG, stream.read_to_string(&mut text)).await.unwrap().unwrap();
        text
    }

    #[tokio::test]
    async fn http_1_and_http_2_share_the_port() {
        let (address, shutdown, server) = start(Router::new(), LONG).await;

        let text = read(request(address, "/v1/operations/op_1").await).await;
        assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
        assert!(text.contains("\"id\":\"op_1\""), "{text}");

        let channel = tonic::transport::Endpoint::try_from(format!("http://{address}")).unwrap();
        let mut client = OperationServiceClient::new(channel.connect().await.unwrap());
        let get = pb::GetOperationRequest { id: "op_2".to_owned() };
        let answer = client.get_operation(get).await.unwrap().into_inner();
        assert_eq!(answer.operation.unwrap().id, "op_2");

        // The client's connection is still open, and idle: it does not hold up the end.
        shutdown.cancel();
        timeout(LONG, server).await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_client_that_hangs_up_ends_its_watch() {
        let fake = Fake::default();
        let (address, _shutdown, _server) = start_with(&fake, Router::new(), LONG).await;
        let mut stream = request(address, "/v1/deliveries:watch").await;
        let mut seen = Vec::new();
        while !seen.windows(4).any(|window| window == b"\"t2\"") {
            let read = timeout(LONG, stream.read_buf(&mut seen)).await.unwrap().unwrap();
            assert_ne!(read, 0, "messages are sent while the stream is open");
        }
        assert!(!fake.dropped.is_cancelled());
        drop(stream);
        timeout(LONG, fake.dropped.cancelled()).await.unwrap();
    }

    #[tokio::test]
    async fn calls_under_way_finish_within_the_grace_period() {
        let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let extra = held(entered.clone(), leave.clone());
        let (address, shutdown, server) = start(extra, LONG).await;
        let stream = request(address, "/held").await;
        entered.notified().await;
        shutdown.cancel();
        leave.notify_one();
        assert!(read(stream).await.ends_with("done"));
        timeout(LONG, server).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn calls_that_outlast_the_grace_period_are_dropped() {
        let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (address, shutdown, server) = start(held(entered.clone(), leave), Duration::ZERO).await;
        let stream = request(address, "/held").await;
        // A connection that never says a word must not hold up the end either.
        let silent = TcpStream::connect(address).await.unwrap();
        entered.notified().await;
        shutdown.cancel();
        timeout(LONG, server).await.unwrap().unwrap();
        assert_eq!(read(stream).await, "");
        drop(silent);
    }

    fn held(entered: Arc<Notify>, leave: Arc<Notify>) -> Router {
        let handler = move || {
            let (entered, leave) = (entered.clone(), leave.clone());
            async move {
                entered.notify_one();
                leave.notified().await;
                "done"
            }
        };
        Router::new().route("/held", get(handler))
    }

    #[tokio::test]
    async fn failures_to_accept_are_survived() {
        let tries = Cell::new(0);
        let accept = || {
            tries.set(tries.get() + 1);
            let outcome = match tries.get() {
                1 => Err(io::Error::from(io::ErrorKind::ConnectionAborted)),
                // EMFILE, which has no kind of its own.
                2 => Err(io::Error::from_raw_os_error(24)),
                _ => Ok("connection"),
            };
            async move { outcome }
        };
        assert_eq!(accept_with(accept).await, "connection");
        assert_eq!(tries.get(), 3);
    }
}
