//! The slots of the process: how many attempts may be in flight at once, and whose.
//!
//! A slot is held from the start of an attempt until its result is recorded. Endpoints
//! that keep requests for long would come to hold all slots, so each [`Class`] may hold
//! only a part of them:
//!
//! | class | may begin an attempt while |
//! | --- | --- |
//! | quick | a slot is free |
//! | unproven | those that began within [`NEWCOMER_PATIENCE`] are fewer than a quarter of what is left to the unproven, or a thirty-second under pressure, and seven eighths are not held by endpoints that are not quick |
//! | slow | the slow and the hanging hold less than half |
//! | hanging | the hanging hold less than an eighth, and the rule for the slow holds |
//!
//! So under pressure the hanging are the first who get no more, then the slow, then the
//! unproven, and an eighth is for quick endpoints alone.
//!
//! An attempt that goes on moves to a slower class when it reaches [`SLOW_AFTER`] and
//! [`HANGING_AFTER`]; [`Slots::overdue`] says so once for each. While it is not known who
//! hangs, the quarter shrinks with what hangs already, so that there is always some room to
//! find out about the next, and an unproven endpoint that came last waits for a slot no longer
//! than the patience with the ones before it. Once endpoints that are not quick hold an eighth of the slots, an
//! unproven or hanging one gets one slot at a time, and once they hold a quarter, a slow one,
//! too ([`Slots::in_flight_cap`]).
//!
//! What this cannot prevent: endpoints that were quick until now and all stop to answer
//! within the same second may hold every slot until their attempts time out.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use super::latency::{Class, HANGING_AFTER, SLOW_AFTER};
use crate::domain::{EndpointKey, Micros, Pos, Timestamp};

/// An attempt of an unproven endpoint that has lasted this long makes way for the next: from
/// then on it is counted with the slow.
const NEWCOMER_PATIENCE: Micros = Micros::from_millis(50);

/// All attempts that hold a slot; `T` is what the caller keeps with each.
#[derive(Debug)]
pub struct Slots<T> {
    total: usize,
    /// Slots held, by class.
    held: [usize; Class::COUNT],
    attempts: FxHashMap<Pos, Attempt<T>>,
    /// Attempts of unproven endpoints by their start, each until it is past
    /// [`NEWCOMER_PATIENCE`].
    newcomers: VecDeque<(Timestamp, Pos)>,
    /// Attempts by their start, each until it is past [`SLOW_AFTER`].
    young: VecDeque<(Timestamp, Pos)>,
    /// Those that went on, each until it is past [`HANGING_AFTER`].
    late: VecDeque<(Timestamp, Pos)>,
}

#[derive(Debug)]
struct Attempt<T> {
    endpoint: EndpointKey,
    class: Class,
    started_at: Timestamp,
    /// It is over, and its result not recorded yet.
    ended: bool,
    kept: T,
}

impl<T> Slots<T> {
    /// `total` slots, all free.
    pub fn new(total: usize) -> Self {
        Self {
            total,
            held: [0; Class::COUNT],
            attempts: FxHashMap::default(),
            newcomers: VecDeque::new(),
            young: VecDeque::new(),
            late: VecDeque::new(),
        }
    }

    /// Slots held.
    pub fn len(&self) -> usize {
        self.attempts.len()
    }

    /// Whether no slot is held.
    pub fn is_empty(&self) -> bool {
        self.attempts.is_empty()
    }

    /// What is kept with each attempt, and whose it is.
    pub fn iter(&self) -> impl Iterator<Item = (Pos, EndpointKey, &T)> {
        self.attempts.iter().map(|(pos, attempt)| (*pos, attempt.endpoint, &attempt.kept))
    }

    /// Whether an endpoint of this class may begin an attempt.
    pub fn may_begin(&self, class: Class) -> bool {
        let [_, unproven, slow, hanging] = self.held;
        let part = |divisor: usize| (self.total / divisor).max(1);
        let slower = slow + hanging;
        let left = (self.total - self.total / 8).saturating_sub(slower);
        let newcomers = if slower >= part(8) { left / 32 } else { left / 4 };
        self.len() < self.total
            && match class {
                Class::Quick => true,
                Class::Unproven => unproven < newcomers.max(1) && unproven < left,
                Class::Slow => slower < part(2),
                Class::Hanging => hanging < part(8) && slower < part(2),
            }
    }

    /// How many attempts one endpoint of this class may have in flight, beside its own limit:
    /// one, if its class is under pressure.
    pub fn in_flight_cap(&self, class: Class) -> u32 {
        let [_, unproven, slow, hanging] = self.held;
        let pressed_from = match class {
            Class::Quick => return u32::MAX,
            Class::Slow => self.total / 4,
            Class::Unproven | Class::Hanging => self.total / 8,
        };
        if unproven + slow + hanging >= pressed_from { 1 } else { u32::MAX }
    }

    /// An attempt begins.
    pub fn begin(&mut self, pos: Pos, endpoint: EndpointKey, class: Class, now: Timestamp, kept: T) {
        self.held[class as usize] += 1;
        if class == Class::Unproven {
            self.newcomers.push_back((now, pos));
        }
        self.young.push_back((now, pos));
        self.attempts.insert(pos, Attempt { endpoint, class, started_at: now, ended: false, kept });
    }

    /// The request of an attempt is over: from now on it says nothing about its endpoint.
    pub fn ended(&mut self, pos: Pos) {
        if let Some(attempt) = self.attempts.get_mut(&pos) {
            attempt.ended = true;
        }
    }

    /// The result of an attempt is recorded, or the attempt is given up: its slot is free.
    pub fn release(&mut self, pos: Pos) -> Option<T> {
        let attempt = self.attempts.remove(&pos)?;
        self.held[attempt.class as usize] -= 1;
        Some(attempt.kept)
    }

    /// The next attempt that has gone on past a threshold: its endpoint, and how long at
    /// least it has lasted. Call until it answers `None`.
    pub fn overdue(&mut self, now: Timestamp) -> Option<(EndpointKey, Micros)> {
        while let Some((started_at, pos)) = due(&mut self.newcomers, NEWCOMER_PATIENCE, now) {
            self.slower(pos, started_at, Class::Slow);
        }
        while let Some((started_at, pos)) = due(&mut self.late, HANGING_AFTER, now) {
            if let Some(endpoint) = self.slower(pos, started_at, Class::Hanging) {
                return Some((endpoint, HANGING_AFTER));
            }
        }
        while let Some((started_at, pos)) = due(&mut self.young, SLOW_AFTER, now) {
            if let Some(endpoint) = self.slower(pos, started_at, Class::Slow) {
                self.late.push_back((started_at, pos));
                return Some((endpoint, SLOW_AFTER));
            }
        }
        None
    }

    /// When [`Slots::overdue`] may next have something to say.
    pub fn overdue_at(&mut self) -> Option<Timestamp> {
        let goes_on = |attempts: &FxHashMap<Pos, Attempt<T>>, (at, pos): (Timestamp, Pos)| {
            attempts.get(&pos).is_some_and(|it| it.started_at == at && !it.ended)
        };
        let first = |queue: &mut VecDeque<(Timestamp, Pos)>, threshold: Micros| {
            while queue.front().is_some_and(|entry| !goes_on(&self.attempts, *entry)) {
                queue.pop_front();
            }
            queue.front().map(|(at, _)| at.plus(threshold))
        };
        let late = first(&mut self.late, HANGING_AFTER);
        let young = first(&mut self.young, SLOW_AFTER);
        let newcomers = first(&mut self.newcomers, NEWCOMER_PATIENCE);
        [late, young, newcomers].into_iter().flatten().min()
    }

    /// Moves an attempt that goes on to a slower class.
    fn slower(&mut self, pos: Pos, started_at: Timestamp, class: Class) -> Option<EndpointKey> {
        let attempt = self.attempts.get_mut(&pos).filter(|it| it.started_at == started_at && !it.ended)?;
        if (attempt.class as usize) < class as usize {
            self.held[attempt.class as usize] -= 1;
            self.held[class as usize] += 1;
            attempt.class = class;
        }
        Some(attempt.endpoint)
    }
}

/// Takes out the oldest entry if it has lasted for the threshold.
fn due(
    queue: &mut VecDeque<(Timestamp, Pos)>,
    threshold: Micros,
    now: Timestamp,
) -> Option<(Timestamp, Pos)> {
    queue.pop_front_if(|(started_at, _)| started_at.plus(threshold) <= now)
}

#[cfg(test)]
mod tests;
