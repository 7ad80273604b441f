//! How long this process may send.

use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::Notify;

use crate::domain::Timestamp;

/// How long this process may send for what it owns, by its own clock. In a fleet it is
/// renewed as long as the database says that the process is alive; whoever was frozen
/// wakes up with one that is over. Alone it never ends.
#[derive(Debug)]
pub struct Lease {
    until: AtomicI64,
    changed: Notify,
}

impl Lease {
    /// One that never ends.
    pub fn forever() -> Self {
        Self { until: AtomicI64::new(i64::MAX), changed: Notify::new() }
    }

    /// One that has yet to begin.
    pub fn none() -> Self {
        Self { until: AtomicI64::new(i64::MIN), ..Self::forever() }
    }

    /// It goes on until an instant.
    pub fn renew(&self, until: Timestamp, now: Timestamp) {
        let before = self.until.swap(until.0, Ordering::AcqRel);
        if before <= now.0 {
            self.changed.notify_one();
        }
    }

    /// It is over at once. What is in flight ends as it will: whether its result counts is
    /// for the store to say.
    pub fn end(&self) {
        self.until.store(i64::MIN, Ordering::Release);
    }

    /// Whether it goes on.
    pub fn holds(&self, now: Timestamp) -> bool {
        now.0 < self.until.load(Ordering::Acquire)
    }

    /// Waits until it begins again.
    pub(super) async fn begins(&self) {
        self.changed.notified().await;
    }
}
