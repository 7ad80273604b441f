//! Who is at the other end.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Where a request comes from, as far as its connection tells. Every request that
/// `front` lets in has one among its extensions, whether it came as gRPC, gRPC-Web or
/// REST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The client's address: that of the connection or, if a trusted proxy is there,
    /// the one that the proxy tells of, with port 0 where it tells none. An IPv4
    /// address is never in its IPv6 form.
    pub address: SocketAddr,
    /// SHA-256 of the certificate, in DER, that the client proved to have and that one
    /// of our authorities signed. None without TLS, or if the client showed none. Behind
    /// a proxy it is the proxy's.
    pub certificate: Option<[u8; 32]>,
    /// The connection is that of a trusted proxy, which others call through as well.
    pub proxied: bool,
}

/// The streams that one connection may have open at once. Every request of a connection
/// has the same one among its extensions.
#[derive(Clone, Debug)]
pub struct Streams {
    permits: Arc<Semaphore>,
    limit: usize,
}

/// Counts as one open stream until it is dropped.
#[derive(Debug)]
pub struct OpenStream(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Streams {
    /// At most `limit`.
    pub fn new(limit: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(limit)), limit }
    }

    /// One more. `Err` has the limit, which is reached.
    pub fn open(&self) -> Result<OpenStream, usize> {
        Arc::clone(&self.permits).try_acquire_owned().map(OpenStream).map_err(|_| self.limit)
    }
}
