//! Metrics of deliveries, by the names that dashboards know.

use std::sync::LazyLock;

use metrics::{Counter, Histogram, counter, histogram};

use crate::domain::{Change, State};

static DURATION: LazyLock<Histogram> = LazyLock::new(|| histogram!("webhook_delivery_duration_seconds"));
static ATTEMPTS: LazyLock<Counter> = LazyLock::new(|| counter!("hookwire_attempts_total"));
static STATES: LazyLock<[Counter; 7]> = LazyLock::new(|| {
    State::ALL.map(|state| {
        let status = match state {
            State::Pending => "pending",
            State::Retrying => "retrying",
            State::Delivered => "delivered",
            State::DeadLetter => "dead_letter",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
            State::Expired => "expired",
        };
        counter!("webhook_deliveries_total", "status" => status)
    })
});

/// Counts a committed change.
pub(super) fn change(change: &Change) {
    if change.previous != Some(change.delivery.state) {
        STATES[change.delivery.state as usize].increment(1);
    }
    if let Some(attempt) = &change.attempt {
        ATTEMPTS.increment(1);
        DURATION.record(attempt.duration.as_secs_f64());
    }
}
