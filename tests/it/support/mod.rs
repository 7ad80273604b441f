//! Plumbing: processes, receivers, clients, load. It finds things out and waits
//! for them; what they ought to be is said in the tests.

mod api;
mod canary;
mod http;
mod load;
mod receiver;
mod server;
mod time;
mod tls;

pub use api::{Api, detail, event, is_final, open_endpoint, reason_of, span, transport_fault, violations_of};
pub use canary::{Canary, Said, secret};
pub use http::{Reply, http, http_stream};
pub use load::{Load, body_of, key_in};
pub use receiver::{Answer, Received, Receiver};
pub use server::Server;
pub use time::{Dice, alone, eventually, now, percentile};
pub use tls::Authority;
