//! Payloads on their way out, so that a first attempt need not read them back.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use crate::domain::{Event, Pos};

/// Bytes of payload kept at most. Past this the oldest are let go, and their
/// deliveries read them from the store.
const BYTES_MAX: usize = 32 << 20;
/// What an entry costs besides its payload, roughly.
const ENTRY: usize = 512;

/// Events just published, for as long as first attempts are due.
#[derive(Debug, Default)]
pub struct Hot(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    events: HashMap<Pos, (Arc<Event>, u32)>,
    order: VecDeque<Pos>,
    bytes: usize,
}

impl Hot {
    /// Keeps events for so many first attempts each.
    pub(super) fn insert(&self, events: Vec<(Arc<Event>, u32)>) {
        if events.is_empty() {
            return;
        }
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (event, uses) in events {
            let pos = event.id.pos();
            inner.bytes += event.payload.data.len() + ENTRY;
            inner.events.insert(pos, (event, uses));
            inner.order.push_back(pos);
        }
        while inner.bytes > BYTES_MAX {
            let Some(oldest) = inner.order.pop_front() else { break };
            inner.remove(oldest);
        }
    }

    /// An event for one first attempt; the last one takes it out.
    pub fn take(&self, pos: Pos) -> Option<Arc<Event>> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (event, uses) = inner.events.get_mut(&pos)?;
        let event = Arc::clone(event);
        *uses -= 1;
        if *uses == 0 {
            inner.remove(pos);
            // Positions of removed events stay in the order until they come up;
            // once they are most of it, it is cleared of them.
            if inner.order.len() > 64 && inner.order.len() > 2 * inner.events.len() {
                let Inner { events, order, .. } = &mut *inner;
                order.retain(|pos| events.contains_key(pos));
            }
        }
        Some(event)
    }
}

impl Inner {
    fn remove(&mut self, pos: Pos) {
        if let Some((event, _)) = self.events.remove(&pos) {
            self.bytes -= event.payload.data.len() + ENTRY;
        }
    }
}
