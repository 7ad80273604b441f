//! The waiting deliveries that a lane holds, each in one place.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rustc_hash::FxHashMap;

use super::Turn;
use crate::domain::{Delivery, Pos, Timestamp};

/// Where a known delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Waiting(Turn),
    FirstTry(Turn),
    Retry(Turn),
    Beyond(Turn),
    InFlight,
    /// Its attempt is over and being recorded.
    Landed,
    /// Its expiration is being recorded.
    Expiring,
}

/// The waiting deliveries that a lane holds, and where those are that it let go. What has
/// its turn at the horizon or later, behind others that wait in the store, is apart.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub places: FxHashMap<Pos, Place>,
    /// Not due yet, by due time.
    pub waiting: BTreeMap<Turn, Arc<Delivery>>,
    /// Due, never tried.
    pub first_tries: BTreeMap<Turn, Arc<Delivery>>,
    /// Due, tried before.
    pub retries: BTreeMap<Turn, Arc<Delivery>>,
    /// At the horizon or behind it.
    beyond: BTreeMap<Turn, Arc<Delivery>>,
    /// Expirations of all of the above.
    pub expiring: BTreeSet<Turn>,
}

impl Held {
    /// How many.
    pub fn len(&self) -> usize {
        self.near() + self.beyond.len()
    }

    /// How many before the horizon.
    pub fn near(&self) -> usize {
        self.waiting.len() + self.first_tries.len() + self.retries.len()
    }

    /// Adds a delivery.
    pub fn insert(&mut self, delivery: Arc<Delivery>, horizon: Option<Turn>, now: Timestamp) {
        if let Some(at) = delivery.expires_at {
            self.expiring.insert((at, delivery.id.pos()));
        }
        self.place(delivery, horizon, now);
    }

    fn place(&mut self, delivery: Arc<Delivery>, horizon: Option<Turn>, now: Timestamp) {
        let pos = delivery.id.pos();
        let turn = (delivery.turn_at, pos);
        let (place, queue, key) = if horizon.is_some_and(|horizon| turn >= horizon) {
            (Place::Beyond(turn), &mut self.beyond, turn)
        } else if delivery.due_at > now {
            let due = (delivery.due_at, pos);
            (Place::Waiting(due), &mut self.waiting, due)
        } else if delivery.attempts == 0 {
            (Place::FirstTry(turn), &mut self.first_tries, turn)
        } else {
            (Place::Retry(turn), &mut self.retries, turn)
        };
        queue.insert(key, delivery);
        self.places.insert(pos, place);
    }

    /// Moves what has become due to its queue.
    pub fn promote(&mut self, now: Timestamp) {
        while let Some(entry) = self.waiting.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let delivery = entry.remove();
            self.place(delivery, None, now);
        }
    }

    /// The horizon went further.
    pub fn advance(&mut self, horizon: Option<Turn>, now: Timestamp) {
        while let Some(entry) = self.beyond.first_entry() {
            if horizon.is_some_and(|horizon| *entry.key() >= horizon) {
                break;
            }
            let delivery = entry.remove();
            self.place(delivery, None, now);
        }
    }

    /// The horizon came nearer.
    pub fn recede(&mut self, horizon: Turn) {
        let behind = |delivery: &&Arc<Delivery>| (delivery.turn_at, delivery.id.pos()) >= horizon;
        let mut moved: Vec<_> = self.waiting.values().filter(behind).cloned().collect();
        moved.extend(
            [&self.first_tries, &self.retries]
                .into_iter()
                .flat_map(|it| it.range(horizon..))
                .map(|(_, it)| Arc::clone(it)),
        );
        for delivery in moved {
            self.take(delivery.id.pos());
            self.insert(delivery, Some(horizon), Timestamp(i64::MIN));
        }
    }

    /// Takes out a delivery that waits.
    pub fn take(&mut self, pos: Pos) -> Option<Arc<Delivery>> {
        let delivery = match self.places.get(&pos)? {
            Place::Waiting(turn) => self.waiting.remove(turn),
            Place::FirstTry(turn) => self.first_tries.remove(turn),
            Place::Retry(turn) => self.retries.remove(turn),
            Place::Beyond(turn) => self.beyond.remove(turn),
            Place::InFlight | Place::Landed | Place::Expiring => None,
        }?;
        self.places.remove(&pos);
        if let Some(at) = delivery.expires_at {
            self.expiring.remove(&(at, pos));
        }
        Some(delivery)
    }

    /// The one with the last turn.
    pub fn furthest(&self) -> Option<Turn> {
        if let Some((turn, _)) = self.beyond.last_key_value() {
            return Some(*turn);
        }
        let queues = [&self.waiting, &self.first_tries, &self.retries];
        let last = queues.into_iter().filter_map(|queue| queue.last_key_value());
        last.map(|(_, delivery)| (delivery.turn_at, delivery.id.pos())).max()
    }
}
