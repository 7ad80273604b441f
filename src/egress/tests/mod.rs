//! Against peers over real sockets, well-behaved and not.

mod connecting;
mod limits;
mod names;
mod peer;
mod pooling;
mod proxies;
mod responses;
mod secure;
