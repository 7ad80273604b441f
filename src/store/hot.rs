//! Events on their way out, so that attempts need not read them one by one: those
//! just published, those of a lane's page, and those about to be tried again.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustc_hash::FxHashMap;

use crate::domain::{Event, Pos};

/// Bytes of payload kept at most. Past this the longest kept are let go, and their
/// deliveries read them from the store one by one, which costs as much as sending
/// them; or, of events just published, the new ones are not kept at all.
const BYTES_MAX: usize = 32 << 20;
/// What an entry costs besides its payload, roughly.
const ENTRY: usize = 512;
/// An event waits for something if so many more were published since it came in: as
/// many as can ever be at hand. It makes room for the new.
const STALE: u64 = (BYTES_MAX / ENTRY) as u64;

/// Events at hand, each for so many attempts.
#[derive(Debug, Default)]
pub struct Hot(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    events: FxHashMap<Pos, (Arc<Event>, u32)>,
    /// Positions as they came in, with the count of events published by then.
    order: VecDeque<(Pos, u64)>,
    bytes: usize,
    published: u64,
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

    /// Whether hardly any more can be kept without letting others go.
    pub fn is_full(&self) -> bool {
        self.lock().bytes > BYTES_MAX / 8 * 7
    }

    /// Whether an event is at hand.
    pub fn has(&self, pos: Pos) -> bool {
        self.lock().events.contains_key(&pos)
    }

    /// Keeps events just published for so many attempts each, as far as there is room
    /// or something waits for long. What was published before is sent before: the
    /// others come with their page.
    pub(super) fn publish(&self, events: Vec<(Arc<Event>, u32)>) {
        if events.is_empty() {
            return;
        }
        let mut inner = self.lock();
        for (event, uses) in events {
            inner.published += 1;
            let size = event.payload.data.len() + ENTRY;
            while inner.bytes + size > BYTES_MAX
                && let Some((oldest, came)) = inner.order.front().copied()
                && (inner.published - came > STALE || !inner.events.contains_key(&oldest))
            {
                inner.order.pop_front();
                inner.remove(oldest);
            }
            if inner.bytes + size <= BYTES_MAX {
                inner.insert(event, uses);
            }
        }
    }

    /// Keeps events that are wanted soon for so many attempts each.
    pub(super) fn insert(&self, events: Vec<(Arc<Event>, u32)>) {
        if events.is_empty() {
            return;
        }
        let mut inner = self.lock();
        for (event, uses) in events {
            inner.insert(event, uses);
        }
        while inner.bytes > BYTES_MAX {
            let Some((oldest, _)) = inner.order.pop_front() else { break };
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
                order.retain(|(pos, _)| events.contains_key(pos));
            }
        }
        Some(event)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn insert(&mut self, event: Arc<Event>, uses: u32) {
        let pos = event.id.pos();
        if let Some((_, known)) = self.events.get_mut(&pos) {
            *known += uses;
            return;
        }
        self.bytes += event.payload.data.len() + ENTRY;
        self.events.insert(pos, (event, uses));
        self.order.push_back((pos, self.published));
    }

    fn remove(&mut self, pos: Pos) {
        if let Some((event, _)) = self.events.remove(&pos) {
            self.bytes -= event.payload.data.len() + ENTRY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{EventId, Payload, Timestamp, Uid};

    const MEGABYTE: usize = 1 << 20;

    fn event(pos: u64, bytes: usize) -> (Arc<Event>, u32) {
        let payload = Payload { content_type: "a/b".into(), data: vec![0; bytes].into() };
        (Arc::new(Event::sample(Pos(pos), Timestamp(0), payload)), 1)
    }

    #[test]
    fn what_was_published_first_stays_at_hand_until_it_waits_for_long() {
        let hot = Hot::default();
        hot.publish((1..=40).map(|pos| event(pos, MEGABYTE)).collect());
        assert!((1..=31).all(|pos| hot.has(Pos(pos))));
        assert!((32..=40).all(|pos| !hot.has(Pos(pos))), "no room");
        assert!(hot.take(Pos(1)).is_some());
        hot.publish(vec![event(41, MEGABYTE)]);
        assert!(hot.has(Pos(41)), "room again");
        let later = 1000..1000 + STALE;
        let (large, _) = event(0, MEGABYTE);
        for pos in later.clone() {
            let event = Event { id: EventId(Uid::new(Timestamp(0), 1, Pos(pos))), ..(*large).clone() };
            hot.publish(vec![(Arc::new(event), 1)]);
        }
        assert!(!hot.has(Pos(2)), "what waits for long makes room");
        assert!(later.clone().any(|pos| hot.has(Pos(pos))));
    }

    #[test]
    fn what_is_wanted_soon_displaces_the_oldest() {
        let hot = Hot::default();
        hot.publish((1..=31).map(|pos| event(pos, MEGABYTE)).collect());
        hot.insert(vec![event(99, MEGABYTE)]);
        assert!(hot.has(Pos(99)) && !hot.has(Pos(1)) && hot.has(Pos(2)));
    }
}
