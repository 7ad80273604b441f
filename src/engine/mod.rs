//! Do: drives the lanes over store, feed and egress.
//!
//! One task, the dispatcher, owns every lane. It learns of the world in one way
//! only, by following the feed: a delivery that was made is offered to its lane,
//! an attempt that was recorded is settled there. So a lane never acts on what is
//! not committed, and what it may not know after a crash is in the store.
//!
//! Each attempt is a task of its own: it makes the request, judges the outcome and
//! hands the result to the store's writer. Its place in the lane is free again
//! when that result comes back through the feed, so what a crash can repeat is
//! bounded by what the lanes allow in flight.
//!
//! What is not needed for correctness: timers and wake-ups. They only say "look".

mod attempt;
mod caller;
mod dispatcher;
mod handle;
mod observe;
#[cfg(test)]
mod tests;

pub use self::{
    dispatcher::{Config, start},
    handle::{Circuit, Handle},
};
