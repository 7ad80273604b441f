//! Who is at the other end.

use std::net::SocketAddr;

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
