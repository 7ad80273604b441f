//! What operators see of deliveries: metrics, by the names that dashboards know, and the
//! log.

use std::{fmt, sync::LazyLock};

use metrics::{Counter, Histogram, counter, histogram};
use rustc_hash::FxHashMap;

use super::delivery_log::DeliveryLog;
use crate::{
    domain::{Change, Endpoint, EndpointKey, Now, State, TenantKey, Timestamp},
    machine::breaker::Breaker,
    store::{Directory, Store},
};

/// Tenants with counts of their own; those that come later share `other`, so that
/// many tenants cannot fill the metrics.
const TENANTS_MAX: usize = 1000;

static DURATION: LazyLock<Histogram> = LazyLock::new(|| histogram!("webhook_delivery_duration_seconds"));

/// Looks at what happens to deliveries and endpoints.
pub(super) struct Observer {
    /// The counters of each tenant, kept at hand.
    tenants: FxHashMap<TenantKey, Counters>,
    log: DeliveryLog,
}

/// The counters of one tenant.
struct Counters {
    attempts: Counter,
    states: [Counter; 7],
}

impl Observer {
    /// One that writes a line for people about each delivery, or not.
    pub fn new(lines_for_people: bool) -> Self {
        Self { tenants: FxHashMap::default(), log: DeliveryLog::new(lines_for_people) }
    }

    /// A change was committed.
    pub fn change(&mut self, change: &Change, directory: &Directory, now: Timestamp) {
        self.log.change(change, directory, now);
        let key = change.delivery.tenant;
        let full = self.tenants.len() >= TENANTS_MAX;
        let key = if full && !self.tenants.contains_key(&key) { OTHER } else { key };
        let counters = self.tenants.entry(key).or_insert_with(|| Counters::new(key, directory));
        if change.previous != Some(change.delivery.state) {
            counters.states[change.delivery.state as usize].increment(1);
        }
        if let Some(attempt) = &change.attempt {
            counters.attempts.increment(1);
            DURATION.record(attempt.duration.as_secs_f64());
        }
    }

    /// The circuit breaker of an endpoint may stand otherwise than before.
    pub fn circuit(&mut self, endpoint: &Endpoint, breaker: &Breaker, now: &Now) {
        self.log.circuit(endpoint, breaker, now);
    }

    /// An endpoint was changed.
    pub fn endpoint(&self, before: &Endpoint, after: &Endpoint) {
        self.log.endpoint(before, after);
    }

    /// An endpoint is gone, or its deliveries are another process's now.
    pub fn forget(&mut self, endpoint: EndpointKey) {
        self.log.forget(endpoint);
    }

    /// Says what was held back for a while.
    pub fn flush(&mut self, store: &Store, now: Timestamp) {
        self.log.flush(now, |key| store.routes().get(key).map(|endpoint| endpoint.id.to_string()));
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
