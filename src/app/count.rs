//! Counts accepted events by type.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use metrics::{Counter, counter};

/// Types with a count of their own; those that come later share `other`, so that
/// no publisher can fill the metrics.
const TYPES_MAX: usize = 200;

/// Counters of `webhook_events_total`, kept at hand.
#[derive(Default)]
pub(super) struct EventCounts(Mutex<HashMap<Arc<str>, Counter>>);

impl EventCounts {
    /// Counts one event.
    pub fn count(&self, event_type: &Arc<str>) {
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = counters.get(event_type) {
            return known.increment(1);
        }
        if counters.len() >= TYPES_MAX {
            return counter!("webhook_events_total", "event_type" => "other").increment(1);
        }
        let made = counter!("webhook_events_total", "event_type" => event_type.to_string());
        made.increment(1);
        counters.insert(Arc::clone(event_type), made);
    }
}

impl std::fmt::Debug for EventCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EventCounts")
    }
}
