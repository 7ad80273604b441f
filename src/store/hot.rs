//! Events on their way out, so that attempts need not read them one by one: those
//! just published, those of a lane's page, and those about to be tried again.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustc_hash::FxHashMap;

use crate::domain::{Event, Pos};

/// Bytes of payload kept at most. Past this the oldest are let go, and their
/// deliveries read them from the store.
const BYTES_MAX: usize = 32 << 20;
/// What an entry costs besides its payload, roughly.
const ENTRY: usize = 512;

/// Events at hand, each for so many attempts.
#[derive(Debug, Default)]
pub struct Hot(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    events: FxHashMap<Pos, (Arc<Event>, u32)>,
    order: VecDeque<Pos>,
    bytes: usize,
}

impl Hot {
    /// Keeps an event for one more attempt.
    pub fn keep(&self, event: Arc<Event>) {
        self.insert(vec![(event, 1)]);
    }

    /// Which of these events are not at hand.
    pub(super) fn missing(&self, events: impl Iterator<Item = Pos>) -> Vec<Pos> {
        let inner = self.lock();
        events.filter(|pos| !inner.events.contains_key(pos)).collect()
    }

    /// Keeps events for so many attempts each.
    pub(super) fn insert(&self, events: Vec<(Arc<Event>, u32)>) {
        if events.is_empty() {
            return;
        }
        let mut inner = self.lock();
        for (event, uses) in events {
            let pos = event.id.pos();
            if let Some((_, known)) = inner.events.get_mut(&pos) {
                *known += uses;
                continue;
            }
            inner.bytes += event.payload.data.len() + ENTRY;
            inner.events.insert(pos, (event, uses));
            inner.order.push_back(pos);
        }
        while inner.bytes > BYTES_MAX {
            let Some(oldest) = inner.order.pop_front() else { break };
            inner.remove(oldest);
        }
    }

    /// An event for one attempt; the last one takes it out.
    pub fn take(&self, pos: Pos) -> Option<Arc<Event>> {
        let mut inner = self.lock();
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

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn remove(&mut self, pos: Pos) {
        if let Some((event, _)) = self.events.remove(&pos) {
            self.bytes -= event.payload.data.len() + ENTRY;
        }
    }
}
