//! Metrics of deliveries, by the names that dashboards know.

use std::{fmt, sync::LazyLock};

use metrics::{Counter, Histogram, counter, histogram};
use rustc_hash::FxHashMap;

use crate::{
    domain::{Change, State, TenantKey},
    store::Directory,
};

/// Tenants with counts of their own; those that come later share `other`, so that
/// many tenants cannot fill the metrics.
const TENANTS_MAX: usize = 1000;

static DURATION: LazyLock<Histogram> = LazyLock::new(|| histogram!("webhook_delivery_duration_seconds"));

/// The counters of each tenant, kept at hand.
#[derive(Default)]
pub(super) struct Observer(FxHashMap<TenantKey, Counters>);

/// The counters of one tenant.
struct Counters {
    attempts: Counter,
    states: [Counter; 7],
}

impl Observer {
    /// Counts a committed change.
    pub fn change(&mut self, change: &Change, directory: &Directory) {
        let key = change.delivery.tenant;
        let full = self.0.len() >= TENANTS_MAX;
        let key = if full && !self.0.contains_key(&key) { OTHER } else { key };
        let counters = self.0.entry(key).or_insert_with(|| Counters::new(key, directory));
        if change.previous != Some(change.delivery.state) {
            counters.states[change.delivery.state as usize].increment(1);
        }
        if let Some(attempt) = &change.attempt {
            counters.attempts.increment(1);
            DURATION.record(attempt.duration.as_secs_f64());
        }
    }
}

/// The key of those that have no counts of their own; no tenant has it.
const OTHER: TenantKey = TenantKey(0);

impl Counters {
    fn new(key: TenantKey, directory: &Directory) -> Self {
        let name = directory.tenant(key).map_or_else(|| "other".to_owned(), |tenant| tenant.id.to_string());
        let state = |state| {
            let status = match state {
                State::Pending => "pending",
                State::Retrying => "retrying",
                State::Delivered => "delivered",
                State::DeadLetter => "dead_letter",
                State::Failed => "failed",
                State::Cancelled => "cancelled",
                State::Expired => "expired",
            };
            counter!("webhook_deliveries_total", "tenant" => name.clone(), "status" => status)
        };
        let states = State::ALL.map(state);
        Self { attempts: counter!("hookwire_attempts_total", "tenant" => name), states }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}
