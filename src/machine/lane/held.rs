//! The waiting deliveries that a lane holds, each in one place.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rustc_hash::FxHashMap;

use super::Turn;
use crate::domain::{Delivery, Now, Pos, State, Timestamp};

/// Where a known delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Scheduled(Turn),
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

/// When a delivery is due, and by which hand of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// As soon as it was made or changed, whatever any clock says: servers whose clocks
    /// differ need not agree on when that was.
    AtOnce,
    /// At a time of day that a caller set.
    Wall(Timestamp),
    /// At the end of a wait, on the steady line.
    Steady(Timestamp),
}

impl Due {
    /// When a delivery that waits is due.
    pub fn of(delivery: &Delivery, now: &Now) -> Self {
        if delivery.due_at <= delivery.updated_at {
            Self::AtOnce
        } else if delivery.state == State::Retrying {
            Self::Steady(now.end_of_wait(delivery.updated_at, delivery.due_at))
        } else {
            Self::Wall(delivery.due_at)
        }
    }

    /// The same as an instant of the steady line.
    pub fn steady(self, now: &Now) -> Timestamp {
        match self {
            Self::AtOnce => Timestamp(i64::MIN),
            Self::Wall(at) => now.steady_at(at),
            Self::Steady(at) => at,
        }
    }
}

/// The waiting deliveries that a lane holds, and where those are that it let go. What has
/// its turn at the horizon or later, behind others that wait in the store, is apart.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub places: FxHashMap<Pos, Place>,
    /// Not due yet, by the time of day that a caller set.
    pub scheduled: BTreeMap<Turn, Arc<Delivery>>,
    /// Not due yet, by the end of the wait before the next attempt, on the steady line.
    pub waiting: BTreeMap<Turn, Arc<Delivery>>,
    /// Due, never tried.
    pub first_tries: BTreeMap<Turn, Arc<Delivery>>,
    /// Due, tried before.
    pub retries: BTreeMap<Turn, Arc<Delivery>>,
    /// At the horizon or behind it.
    beyond: BTreeMap<Turn, Arc<Delivery>>,
    /// Expirations of all of the above, by time of day.
    pub expiring: BTreeSet<Turn>,
}

impl Held {
    /// How many.
    pub fn len(&self) -> usize {
        self.near() + self.beyond.len()
    }

    /// How many before the horizon.
    pub fn near(&self) -> usize {
        self.scheduled.len() + self.waiting.len() + self.first_tries.len() + self.retries.len()
    }

    /// Adds a delivery.
    pub fn insert(&mut self, delivery: Arc<Delivery>, horizon: Option<Turn>, now: &Now) {
        if let Some(at) = delivery.expires_at {
            self.expiring.insert((at, delivery.id.pos()));
        }
        self.place(delivery, horizon, now);
    }

    fn place(&mut self, delivery: Arc<Delivery>, horizon: Option<Turn>, now: &Now) {
        let pos = delivery.id.pos();
        let turn = (delivery.turn_at, pos);
        let (place, queue, key) = if horizon.is_some_and(|horizon| turn >= horizon) {
            (Place::Beyond(turn), &mut self.beyond, turn)
        } else {
            match Due::of(&delivery, now) {
                Due::Wall(at) if at > now.wall => {
                    (Place::Scheduled((at, pos)), &mut self.scheduled, (at, pos))
                }
                Due::Steady(at) if at > now.steady => {
                    (Place::Waiting((at, pos)), &mut self.waiting, (at, pos))
                }
                Due::AtOnce | Due::Wall(_) | Due::Steady(_) if delivery.attempts == 0 => {
                    (Place::FirstTry(turn), &mut self.first_tries, turn)
                }
                Due::AtOnce | Due::Wall(_) | Due::Steady(_) => (Place::Retry(turn), &mut self.retries, turn),
            }
        };
        queue.insert(key, delivery);
        self.places.insert(pos, place);
    }

    /// Moves what has become due to its queue.
    pub fn promote(&mut self, now: &Now) {
        for (by_wall, until) in [(true, now.wall), (false, now.steady)] {
            let queue = |held: &mut Self| {
                let queue = if by_wall { &mut held.scheduled } else { &mut held.waiting };
                let entry = queue.first_entry().filter(|entry| entry.key().0 <= until)?;
                Some(entry.remove())
            };
            while let Some(delivery) = queue(self) {
                self.place(delivery, None, now);
            }
        }
    }

    /// When the next of those that are not due yet becomes due, on the steady line, unless
    /// the wall clock steps.
    pub fn next_due(&self, now: &Now) -> Option<Timestamp> {
        let scheduled = self.scheduled.first_key_value().map(|((at, _), _)| now.steady_at(*at));
        let waiting = self.waiting.first_key_value().map(|((at, _), _)| *at);
        scheduled.into_iter().chain(waiting).min()
    }

    /// The horizon went further.
    pub fn advance(&mut self, horizon: Option<Turn>, now: &Now) {
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
        let undue = self.scheduled.values().chain(self.waiting.values());
        let mut moved: Vec<_> = undue.filter(behind).cloned().collect();
        moved.extend(
            [&self.first_tries, &self.retries]
                .into_iter()
                .flat_map(|it| it.range(horizon..))
                .map(|(_, it)| Arc::clone(it)),
        );
        for delivery in moved {
            let (pos, turn) = (delivery.id.pos(), (delivery.turn_at, delivery.id.pos()));
            self.take(pos);
            if let Some(at) = delivery.expires_at {
                self.expiring.insert((at, pos));
            }
            self.beyond.insert(turn, delivery);
            self.places.insert(pos, Place::Beyond(turn));
        }
    }

    /// Takes out a delivery that waits.
    pub fn take(&mut self, pos: Pos) -> Option<Arc<Delivery>> {
        let delivery = match self.places.get(&pos)? {
            Place::Scheduled(turn) => self.scheduled.remove(turn),
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
        let queues = [&self.scheduled, &self.waiting, &self.first_tries, &self.retries];
        let last = queues.into_iter().filter_map(|queue| queue.last_key_value());
        last.map(|(_, delivery)| (delivery.turn_at, delivery.id.pos())).max()
    }
}
