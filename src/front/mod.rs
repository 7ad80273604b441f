//! The one port: gRPC, gRPC-Web, REST and plain HTTP side by side, in clear text.
//!
//! [`app`] decides what a request is for; [`serve`] is the accept loop below it,
//! which speaks HTTP/1.1 and HTTP/2 by prior knowledge on the same listener.
//! [`loopback_only`] keeps other sites out of a server without keys;
//! [`with_request_ids`] names every request, whichever way it came in.

mod after_others;
mod app;
mod loopback;
mod request_id;
mod serve;

pub use app::app;
pub use loopback::loopback_only;
pub use request_id::with_request_ids;
pub use serve::serve;
