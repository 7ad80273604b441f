//! The endpoints: an HTTP server that notes what arrives.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{ledger::Ledger, payload, run::Setup};
use crate::clock::Clock;

/// Pause before the next try when no connection can be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// How requests are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// 200 at once.
    Prompt,
    /// 500 the first time of each delivery, then 200.
    FailsFirst,
    /// 200, but only after a while.
    Hangs(Duration),
}

/// A listening receiver. Its connections close when it is dropped.
pub struct Receiver {
    shared: Arc<Shared>,
    address: SocketAddr,
    _stop: DropGuard,
}

struct Shared {
    ledger: Arc<Ledger>,
    manner: Manner,
    clock: Clock,
    connections: AtomicU64,
}

impl Receiver {
    /// Listens on a free port of loopback.
    pub async fn start(setup: &Setup, ledger: Arc<Ledger>, manner: Manner) -> Result<Self> {
        let listener = setup.receiving.spawn(TcpListener::bind(("127.0.0.1", 0))).await?;
        let listener = listener.context("cannot listen on loopback")?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let (clock, connections) = (setup.clock.clone(), AtomicU64::new(0));
        let shared = Arc::new(Shared { ledger, manner, clock, connections });
        let accepting = accept(listener, Arc::clone(&shared));
        let stopped = stop.clone();
        setup.receiving.spawn(async move { stopped.run_until_cancelled(accepting).await });
        Ok(Self { shared, address, _stop: stop.drop_guard() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of an endpoint.
    pub fn url(&self, endpoint: u32) -> String {
        format!("http://{}/e/{endpoint}", self.address)
    }

    /// Connections that were ever made.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Relaxed)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this future, and the connections with it.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Too many open files: some will be closed.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Without it answers are only slower.
        let _ = stream.set_nodelay(true);
        shared.connections.fetch_add(1, Relaxed);
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(|request| answer(&shared, request));
            let mut server = http1::Builder::new();
            // A peer that breaks off is seen by what is missing in the ledger.
            let _ = server.auto_date_header(false).serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, hyper::Error> {
    let at = shared.clock.now();
    let (head, mut body) = request.into_parts();
    let mut number = None;
    // The number stands in the beginning, which comes as one piece.
    while let Some(frame) = body.frame().await {
        if let (None, Some(data)) = (number, frame?.data_ref()) {
            number = payload::number(data);
        }
    }
    let endpoint = head.uri.path().strip_prefix("/e/").and_then(|index| index.parse().ok());
    let before = shared.ledger.arrived(number, endpoint.unwrap_or(usize::MAX), at);
    let mut response = Response::new(Empty::new());
    match shared.manner {
        Manner::FailsFirst if before == 0 => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
        Manner::Prompt | Manner::FailsFirst => {}
        Manner::Hangs(span) => tokio::time::sleep(span).await,
    }
    Ok(response)
}
