//! What went wrong in a flood.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// What became of the calls, besides what the ledger knows.
#[derive(Default)]
pub struct Tally {
    /// Events that were not offered: too many calls under way, or a full window.
    pub held_back: AtomicU64,
    /// Events whose refusal did not say when to try again.
    pub unadvised: AtomicU64,
    /// Calls and streams that failed in any other way than by a refusal.
    pub failures: AtomicU64,
    first_failure: Mutex<Option<String>>,
}

impl Tally {
    /// What the first failure was.
    pub fn first_failure(&self) -> Option<String> {
        self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a failure.
    pub fn failed(&self, why: impl FnOnce() -> String) {
        self.failures.fetch_add(1, Relaxed);
        self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(why);
    }
}
