//! Measures a server from outside, as its clients and its receivers see it.
//!
//! ```text
//!             gRPC                        HTTP
//!  publisher ──────▶ server (a child) ──────────▶ receiver ─▶ ledger
//!                    raw (a child)    ──────────▶ receiver
//! ```
//!
//! Publisher and receiver are in this process; the server is a child of its own,
//! so that its processor time and its memory can be told from theirs. A machine
//! that is shared gives other microseconds every minute: so each round first runs
//! the bare requests, signed and of the same shape but without a store, and what
//! counts is the ratio of the two. Everything that should arrive is counted, and a
//! run that lost or doubled anything fails.
//!
//! Needs nothing but this program, and `/proc` of Linux.

mod due;
mod flood;
mod floor;
mod ledger;
mod load;
mod payload;
mod process;
mod progress;
mod publish;
mod raw;
mod receiver;
mod report;
mod rival;
mod run;
mod sample;
mod scenarios;
mod server;
mod stats;
mod tally;
mod usage;
mod wire;

pub use self::{raw::raw, run::run};
