//! Decide. Pure functions and state machines over domain values: no tokio, no
//! clock, no chance, no database. Time and chance come in as arguments, actions
//! go out as values, so the whole delivery logic runs in a simulator.
//!
//! ```text
//!            due, the lane lets it go         judge
//! PENDING ─────────────────────▶ (in flight) ─────▶ DELIVERED
//!   ▲   ▲                            │        ─────▶ DEAD_LETTER, FAILED
//!   │   └──── RETRYING ◀── retryable ┘        ─────▶ EXPIRED
//!   └── SCHEDULED (not before …)
//! ```
//!
//! - [`route`]: which endpoints want an event.
//! - [`lane`]: what of one endpoint may be sent now; holds a [`bucket`] and a
//!   [`breaker`].
//! - [`slots`]: how many attempts of which endpoints may be in flight, by what
//!   [`latency`] has learned of them; [`share`] says whose turn it is.
//! - [`line_limit`]: how many lines the log gets of one kind.
//! - [`judge`]: what an outcome means; asks [`backoff`] and [`retry_after`].
//! - [`body_budget`]: how large request bodies share memory.
//! - [`lost`]: what an attempt means that its server did not survive.

pub mod backoff;
pub mod body_budget;
pub mod breaker;
pub mod bucket;
pub mod judge;
pub mod lane;
pub mod latency;
pub mod line_limit;
pub mod lost;
pub mod retry_after;
pub mod route;
#[cfg(test)]
mod samples;
pub mod share;
#[cfg(test)]
mod sim;
pub mod slots;
pub mod turns;
