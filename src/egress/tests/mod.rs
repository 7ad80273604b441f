//! Against peers over real sockets, well-behaved and not.

mod connecting;
mod limits;
pub mod names;
pub mod peer;
mod pooling;
mod proxies;
mod responses;
pub mod secure;
