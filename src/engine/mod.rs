//! Do: drives the lanes over store, feed and egress.
//!
//! One task, the dispatcher, owns every lane. It learns of deliveries in one way
//! only, by following the feed: one that was made is offered to its lane, and one
//! whose attempt was recorded is offered again. So a lane never sends what is not
//! committed, and what it may not know after a crash is in the store.
//!
//! Each attempt is a task of its own: it makes the request and judges the outcome.
//! When it ends, its slot is free at once and the lane's breaker has heard of it;
//! the result goes to the store's writer, which commits it with others. What a
//! crash can repeat is bounded by what the lanes allow in flight and unrecorded.
//!
//! What is not needed for correctness: timers and wake-ups. They only say "look".

mod attempt;
mod caller;
mod delivery_log;
mod dispatcher;
mod fetches;
mod handle;
mod lease;
mod observe;
mod redact;
mod starts;
mod tenures;
#[cfg(test)]
mod tests;
mod token;

pub use self::{
    dispatcher::{Config, Dispatcher},
    handle::{Circuit, Handle},
    lease::Lease,
};
