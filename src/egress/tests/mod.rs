//! Against peers over real sockets, well-behaved and not.

mod connecting;
mod limits;
mod peer;
mod pooling;
mod responses;
