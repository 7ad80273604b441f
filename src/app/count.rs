//! Counts accepted events by tenant and type.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use metrics::{Counter, counter};

use crate::{domain::TenantKey, store::Directory};

/// Types of tenants with a count of their own; those that come later share `other`,
/// so that no publisher can fill the metrics.
const COUNTS_MAX: usize = 1000;

/// Counters of `webhook_events_total`, kept at hand.
#[derive(Default)]
pub(super) struct EventCounts(Mutex<HashMap<(TenantKey, Arc<str>), Counter>>);

impl EventCounts {
    /// Counts one event.
    pub fn count(&self, tenant: TenantKey, event_type: &Arc<str>, directory: &Directory) {
        let key = (tenant, Arc::clone(event_type));
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = counters.get(&key) {
            return known.increment(1);
        }
        let of = |tenant: &str, event_type: &str| {
            let (tenant, event_type) = (tenant.to_owned(), event_type.to_owned());
            counter!("webhook_events_total", "tenant" => tenant, "event_type" => event_type)
        };
        if counters.len() >= COUNTS_MAX {
            return of("other", "other").increment(1);
        }
        let name = directory.tenant(tenant).map_or_else(|| "other".into(), |it| Arc::clone(&it.id));
        let made = of(&name, event_type);
        made.increment(1);
        counters.insert(key, made);
    }
}

impl std::fmt::Debug for EventCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EventCounts")
    }
}
