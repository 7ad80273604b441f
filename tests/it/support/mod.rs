//! Plumbing: processes, receivers, clients, load. It finds things out and waits
//! for them; what they ought to be is said in the tests.

mod api;
mod canary;
mod doors;
pub mod frames;
mod hostile;
mod http;
mod load;
mod pace;
mod postgres;
mod receiver;
mod server;
mod time;
mod tls;

pub use api::{
    Api, create_stubborn, detail, event, is_final, open_endpoint, reason_of, retrying, span, stubborn,
    transport_fault, violations_of,
};
pub use canary::{Canary, Said, secret};
pub use doors::{Door, Line, Outcome, methods, request_of};
pub use hostile::{Hostile, gzip_bomb, request, silence};
pub use http::{Reply, http, http_stream};
pub use load::{Ledger, Load, body_of, key_in};
pub use pace::latencies;
pub use postgres::{Cluster, Database};
pub use receiver::{Answer, Received, Receiver};
pub use server::{PROGRAM, Server};
pub use time::{Dice, alone, eventually, now, percentile};
pub use tls::{Authority, Claim, fingerprint};
