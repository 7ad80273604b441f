//! The accept loop.
//!
//! `axum::serve` sets none of the limits below and has no bounded shutdown, and
//! tonic's own server offers HTTP/2 only; so the house drives hyper itself.

use std::{convert::Infallible, future::Future, io, time::Duration};

use axum::response::Response;
use http::Request;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto::Builder,
        graceful::{GracefulShutdown, Watcher},
    },
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::Service;
use tracing::{debug, warn};

use super::after_others::after_others;

/// For the head of an HTTP/1 request, and for the first byte of a connection.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that is gone without a word is found out within the two of these, which
/// is below the 60 s after which common proxies forget an idle connection.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Calls at once on one connection; clients open another connection for more.
const STREAMS_MAX: u32 = 256;
/// Lets one publisher keep 1 MiB in flight, so that a round trip does not bound it.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Several such publishers on one connection.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Headers of one HTTP/2 request; what proxies commonly allow.
const HEADER_LIST_BYTES_MAX: u32 = 16 << 10;
/// Pauses between tries at accepting when the process has run out of something.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Serves `app` until `shutdown`, then lets calls under way finish for up to
/// `grace`, and drops what is left. The listener is closed as soon as shutdown
/// begins.
pub async fn serve<S>(listener: TcpListener, app: S, shutdown: CancellationToken, grace: Duration)
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let builder = builder();
    let service = TowerToHyperService::new(app);
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    warn!(%error, "a connection's task failed");
                }
                continue;
            }
            stream = accept(&listener) => stream,
        };
        let (builder, service, watcher) = (builder.clone(), service.clone(), graceful.watcher());
        let shutdown = shutdown.clone();
        connections.spawn(async move {
            if speaks(&stream, &shutdown).await {
                converse(stream, builder, service, watcher).await;
            }
        });
    }
    drop(listener);
    if timeout(grace, graceful.shutdown()).await.is_err() {
        warn!(connections = connections.len(), "dropping connections that outlasted the grace period");
    }
    connections.shutdown().await;
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEADER_LIST_BYTES_MAX);
    builder
}

/// The next connection. Does not fail: whatever stops one accept says nothing about
/// the next.
async fn accept(listener: &TcpListener) -> TcpStream {
    accept_with(|| listener.accept()).await.0
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

/// Whether the client says something in time. hyper's header timeout begins only
/// when it knows the protocol, that is after the first bytes.
async fn speaks(stream: &TcpStream, shutdown: &CancellationToken) -> bool {
    tokio::select! {
        () = shutdown.cancelled() => false,
        ready = timeout(HEADER_READ_TIMEOUT, stream.readable()) => matches!(ready, Ok(Ok(()))),
    }
}

async fn converse<S>(
    stream: TcpStream,
    builder: Builder<TokioExecutor>,
    service: TowerToHyperService<S>,
    watcher: Watcher,
) where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    // Small frames of a stream must not wait for an acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "cannot set TCP_NODELAY");
    }
    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    if let Err(error) = after_others(watcher.watch(connection)).await {
        debug!(%error, "a connection ended with an error");
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, net::SocketAddr, sync::Arc};

    use axum::{Router, routing::get};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::Notify,
        task::JoinHandle,
    };

    use super::*;
    use crate::{
        front::app,
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
        let server = tokio::spawn(serve(listener, app, shutdown.clone(), grace));
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
