//! A seeded simulator of the delivery logic.
//!
//! One seed decides everything: endpoints and their policies, what is published
//! and when, how receivers behave, which faults strike and how hard. Time is
//! virtual, so hours of outages cost milliseconds, and a failing seed fails again
//! in the same way:
//!
//! ```text
//!  scenario ─▶ agenda ─▶ world: next happening ─▶ engine (lanes, in memory only)
//!                          ▲                        │ attempts ─▶ receiver
//!                          │ wake-ups               ▼ results
//!                          └────── feed ◀── store ◀─ writer (batches, retries)
//!                                            checks watch every step
//! ```
//!
//! The machine under test is the real one; the engine around it does what
//! `engine/` does, in the order [`super::lane`] asks for. Faults: crashes between
//! any two happenings, commits that fail, commits that took effect although the
//! writer is told otherwise, failing and slow page reads, a late feed. Then all
//! faults end, and everything accepted must reach a final state.
//!
//! A simulator that finds nothing proves nothing, so [`bugs`] breaks the engine
//! and the store in a dozen ways, and a test asserts that each is noticed.

mod agenda;
mod bugs;
mod chance;
mod checks;
mod driver;
mod engine;
mod outside;
mod receiver;
mod rules;
mod scenario;
mod store;
mod tests;
mod watch;
mod world;
mod writer;
