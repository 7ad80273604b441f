//! Attempts that have begun and whose start may have to be written down.
//!
//! Most attempts are over within milliseconds, and their result says all. One that is
//! still under way when it is looked at, [`AGE`] after it began, has its start handed to
//! the writer, so that it is known should this process end before the result is stored.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
};

use rustc_hash::FxHashSet;

use crate::{
    clock::Clock,
    domain::{Micros, Pos, Start, Timestamp},
};

/// How old an attempt is at least when it is looked at.
const AGE: Micros = Micros::from_millis(40);
/// Attempts are looked at together, this far apart. A start so reaches the writer at most
/// 60 ms after its request began, which leaves 40 ms to store it.
const EVERY: Micros = Micros::from_millis(20);

/// When the request of one attempt began; set by the attempt itself, because what comes
/// before, such as reading the event, is no request. Dropped when the attempt is over.
#[derive(Debug)]
pub(super) struct Began(Arc<AtomicI64>);

/// No request yet.
const NOT_YET: i64 = i64::MIN;

impl Began {
    /// The request begins.
    pub fn now(&self, clock: &Clock) {
        self.0.store(clock.wall().0, Relaxed);
    }
}

/// Attempts of this process.
#[derive(Debug, Default)]
pub(super) struct Starts {
    /// To be looked at, by when, which the steady hand of the clock says.
    young: BTreeMap<Timestamp, Vec<Young>>,
    /// Deliveries of which the start of the present attempt was handed to the writer.
    written: FxHashSet<Pos>,
}

/// An attempt that was not looked at.
#[derive(Debug)]
struct Young {
    /// All of it but the time of the request.
    start: Start,
    began: Arc<AtomicI64>,
}

impl Starts {
    /// An attempt begins now, by the steady hand of the clock; its request soon.
    pub fn begin(&mut self, start: Start, now: Timestamp) -> Began {
        let began = Arc::new(AtomicI64::new(NOT_YET));
        let at = rounded(now.plus(AGE));
        self.young.entry(at).or_default().push(Young { start, began: Arc::clone(&began) });
        Began(began)
    }

    /// When there is something to look at.
    pub fn due_at(&self) -> Option<Timestamp> {
        self.young.first_key_value().map(|(at, _)| *at)
    }

    /// The starts to be written now.
    pub fn due(&mut self, now: Timestamp) -> Vec<Start> {
        let mut starts = Vec::new();
        while let Some(entry) = self.young.first_entry().filter(|entry| *entry.key() <= now) {
            for young in entry.remove() {
                // The attempt has dropped its half: it is over.
                if Arc::strong_count(&young.began) == 1 {
                    continue;
                }
                let began = young.began.load(Relaxed);
                if began == NOT_YET {
                    self.young.entry(rounded(now)).or_default().push(young);
                    continue;
                }
                self.written.insert(young.start.delivery.pos());
                starts.push(Start { started_at: Timestamp(began), ..young.start });
            }
        }
        starts
    }

    /// An attempt is over, or given up. Whether its start was written.
    pub fn end(&mut self, delivery: Pos) -> bool {
        !self.written.is_empty() && self.written.remove(&delivery)
    }
}

/// The next time at which attempts are looked at, after `at`.
fn rounded(at: Timestamp) -> Timestamp {
    Timestamp((at.0.div_euclid(EVERY.0) + 1) * EVERY.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{DeliveryId, EndpointKey, Uid};

    fn at(millis: i64) -> Timestamp {
        Timestamp(millis * 1000)
    }

    fn start(pos: u64, millis: i64) -> Start {
        let delivery = DeliveryId(Uid::new(Timestamp(0), 1, Pos(pos)));
        Start { delivery, endpoint: EndpointKey(1), number: 1, started_at: at(millis), epoch: 7 }
    }

    #[test]
    fn an_attempt_that_is_over_before_it_is_looked_at_needs_no_start() {
        let (mut starts, clock) = (Starts::default(), Clock::manual(at(0)));
        let began = starts.begin(start(1, 0), at(0));
        began.now(&clock);
        drop(began);
        assert_eq!(starts.due(at(60)), []);
        assert!(!starts.end(Pos(1)) && starts.due_at().is_none());
    }

    #[test]
    fn a_start_is_written_once_and_at_most_60_ms_after_the_request_began() {
        for millis in 0..40 {
            let (mut starts, clock) = (Starts::default(), Clock::manual(at(millis)));
            let began = starts.begin(start(1, millis), at(millis));
            began.now(&clock);
            let due = starts.due_at().unwrap();
            assert!(due > at(millis + 40) && due <= at(millis + 60), "{due} of {millis}");
            assert_eq!(starts.due(Timestamp(due.0 - 1)), []);
            assert_eq!(starts.due(due), [start(1, millis)]);
            assert!(starts.due_at().is_none() && starts.due(at(1000)).is_empty());
            assert!(starts.end(Pos(1)) && !starts.end(Pos(1)));
        }
    }

    #[test]
    fn an_attempt_that_has_sent_nothing_is_looked_at_again() {
        let (mut starts, clock) = (Starts::default(), Clock::manual(at(0)));
        let began = starts.begin(start(1, 0), at(0));
        assert_eq!(starts.due(at(60)), []);
        clock.advance(Micros::from_millis(70));
        began.now(&clock);
        assert_eq!(starts.due_at(), Some(at(80)));
        assert_eq!(starts.due(at(80)), [start(1, 70)], "with the time of its request");
    }
}
