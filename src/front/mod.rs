//! The one port: gRPC, gRPC-Web, REST and plain HTTP side by side, with TLS or without.
//!
//! [`serve`] accepts connections and keeps each within its limits, which speak HTTP/1.1
//! and HTTP/2 on the same listener: by ALPN, or by how the client begins. [`app`] decides
//! what a request is for. A request passes, in this order:
//!
//! 1. its connection, which says who is there ([`Peer`](crate::peer::Peer)) and counts it;
//! 2. its name, `x-request-id`, the client's own or a new one;
//! 3. the trace span, if anybody listens to debug, so that all below is told with it;
//! 4. the panic guard: a bug ends this request, not the server; and what has to hold for
//!    every [`head`], such as one valid `host`;
//! 5. [`loopback_only`], which keeps other sites out of a server without keys;
//! 6. for gRPC, and so for REST, which is the same: the time limit and a panic guard that
//!    answers in gRPC's own way, then load shedding, before a message is read: see
//!    [`grpc::Services`](crate::grpc::Services). Authentication and the rate limits of
//!    keys and tenants have their place behind it, in front of the message too.
//!
//! What is refused is refused as far up as it can be, so that it costs little; what names
//! a request and what catches a bug stand above all that can refuse or fail. 2 to 4 are
//! one service, [`door`].

mod activity;
mod after_others;
mod app;
mod connection;
mod door;
mod grpc_type;
mod head;
mod limits;
mod loopback;
mod opening;
mod plain;
mod proxies;
mod request_id;
mod serve;
#[cfg(test)]
mod tests;
pub mod tls;
mod trace;

pub use app::app;
pub use door::door;
pub use loopback::loopback_only;
pub use serve::{Config, serve};
