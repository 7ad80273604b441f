//! The client: what is configured once, and one call.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use rustls::pki_types::CertificateDer;
use tokio_rustls::TlsConnector;

use super::{
    Proxy, Sender, Target, exchange,
    fault::fault,
    pool::{Limits, Pool},
    resolver::Resolver,
    tls::{self, Tls},
};
#[cfg(fuzzing)]
use super::{link::Link, pool::Key, tls::Stream};
use crate::{
    clock::Clock,
    domain::{Cause, Fault, Micros, Outcome, Timings, TlsOptions},
    entropy::Entropy,
};

/// Sends requests, and keeps the connections between them. Cheap to clone: all
/// clones share one pool.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

/// What all requests share.
pub(super) struct Shared {
    pub(super) clock: Clock,
    pub(super) pool: Pool,
    pub(super) tls: TlsConnector,
    /// Authorities trusted besides the public ones.
    roots: Vec<CertificateDer<'static>>,
    pub(super) resolver: Resolver,
    pub(super) proxy: Option<Proxy>,
    pub(super) user_agent: HeaderValue,
}

/// What is the same for all requests.
#[derive(Clone, Debug)]
pub struct Config {
    /// Idle connections kept. 1024 by default, as many as attempts may be in flight:
    /// with fewer, connections would be closed and opened all the time.
    pub idle_total: usize,
    /// How long a connection is kept idle. 30 s by default, well below the 60 to
    /// 75 s after which common proxies close one. An endpoint that announces a
    /// shorter time (`keep-alive: timeout=5`) is believed.
    pub idle_age: Micros,
    /// How old a connection may become, however busy it is; one in ten more or less. 60 s by
    /// default: an endpoint whose name moves to another address is followed within 90 s, with the
    /// at most 20 s for which an answer of a name server is believed.
    pub connection_age: Micros,
    /// Requests on a connection at most. 1000 by default, as many as common proxies take.
    pub connection_requests: u32,
    /// Header `user-agent` unless the request has its own. `Hookwire/<version>`
    /// by default.
    pub user_agent: HeaderValue,
    /// Certificate authorities trusted besides the public ones; none by default.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// Name servers to ask; those of the system by default.
    pub name_servers: Vec<SocketAddr>,
    /// Whether `/etc/hosts` and the system's search domains count; not by default.
    pub local_names: bool,
    /// Proxy that all requests go through; none by default.
    pub proxy: Option<Proxy>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            idle_total: 1024,
            idle_age: Micros::from_secs(30),
            connection_age: Micros::from_secs(60),
            connection_requests: 1000,
            user_agent: HeaderValue::from_static(concat!("Hookwire/", env!("CARGO_PKG_VERSION"))),
            extra_roots: Vec::new(),
            name_servers: Vec::new(),
            local_names: false,
            proxy: None,
        }
    }
}

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// One of the extra certificate authorities.
    #[error(
        "a certificate of --egress-ca cannot be used as an authority: give certificates in PEM of X.509 version 3"
    )]
    Authority(#[from] rustls::Error),
    /// The name servers.
    #[error("names cannot be resolved")]
    Resolver(#[from] hickory_resolver::net::NetError),
}

/// One `POST`.
#[derive(Clone, Debug)]
pub struct Request {
    /// On whose behalf.
    pub sender: Sender,
    /// Where to.
    pub target: Target,
    /// TLS other than the client's own.
    pub tls: Option<Tls>,
    /// Headers. `host` is the target's, and headers that frame the message or
    /// concern the connection are left out.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Limit of the whole attempt, from name resolution to the last body byte
    /// read.
    pub timeout: Micros,
    /// Limit of its part for name resolution, TCP and TLS.
    pub connect_timeout: Micros,
}

impl Client {
    /// A client without connections.
    pub fn new(config: Config, clock: Clock, entropy: Entropy) -> Result<Self, SetupError> {
        let Config { idle_total, idle_age, connection_age: age, connection_requests: requests, .. } = config;
        let Config { user_agent, extra_roots, name_servers, local_names, proxy, .. } = config;
        let limits = Limits { idle_total, idle_age, age, requests };
        let pool = Pool::new(limits, clock.clone(), entropy);
        let tls = tls::connector(&extra_roots)?;
        // A proxy resolves the names of endpoints: what is resolved here is its own name.
        let resolver = Resolver::new(&name_servers, local_names || proxy.is_some(), clock.clone())?;
        let roots = extra_roots;
        Ok(Self(Arc::new(Shared { clock, pool, tls, roots, resolver, proxy, user_agent })))
    }

    /// Makes one attempt. Must be called within a Tokio runtime.
    ///
    /// Never fails: that there was no answer is an outcome too. Dropping the
    /// future closes the connection in use.
    pub async fn send(&self, request: Request) -> Outcome {
        let begin = self.0.clock.now();
        let mut timings = Timings::default();
        let result = exchange::run(&self.0, request, &mut timings).await;
        let duration = self.0.clock.now().since(begin);
        Outcome { started_at: self.0.clock.wall().minus(duration), duration, timings, result }
    }

    /// TLS for an endpoint with options of its own; nothing if it has none.
    pub fn tls(&self, options: &TlsOptions) -> Result<Option<Tls>, Fault> {
        if *options == TlsOptions::default() {
            return Ok(None);
        }
        Tls::new(&self.0.roots, options).map(Some).map_err(|error| {
            fault(Cause::Tls, format!("the TLS options of the endpoint cannot be used: {error}"))
        })
    }

    /// Lets the next request of `request`'s kind go out on this connection. For fuzzers,
    /// which play the receiver without a socket; no other build has it.
    #[cfg(fuzzing)]
    pub async fn lend<S>(&self, stream: S, request: &Request)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let link = Link::start(Stream::Proxied(Box::new(stream)), None).await.expect("a connection");
        let key = Key::new(request.sender, &request.target, request.tls.as_ref());
        self.0.pool.put(key, link, None);
    }

    /// Idle connections that are open.
    pub fn idle(&self) -> usize {
        self.0.pool.open()
    }
}
