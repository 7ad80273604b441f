//! The only reader of the operating system's clocks.
//!
//! Everything else is handed a [`Clock`], so tests decide what time it is.
//!
//! A clock has two hands:
//!
//! - [`Clock::now`], the steady hand, counts the seconds that pass. Nobody can set it.
//!   Waits are counted by it: retries, rate limits, circuit breakers, leases, time-outs.
//! - [`Clock::wall`] shows the time of day. It follows when somebody sets the machine's
//!   clock, or the machine wakes up after it was suspended. Whatever is shown, signed,
//!   stored or compared with times that callers gave is read from it.
//!
//! [`Clock::read`] reads both at once, for whoever has to bring the two together; the
//! rules for that are in [`Now`].
//!
//! The servers of a fleet keep one wall time, the database's: see [`Clock::follow`].

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::domain::{Micros, Now, Steps, Timestamp};

/// No other clock is followed.
const ALONE: i64 = i64::MIN;

/// Tells the time. Clones are the same clock.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    source: Source,
    steps: Mutex<Steps>,
    /// The offset of the last step, to see without a lock that there was no other.
    offset: AtomicI64,
    /// How far the clock that is followed is ahead of the hand that also counts while the
    /// machine is suspended.
    followed: AtomicI64,
}

#[derive(Debug)]
enum Source {
    /// The machine's clocks.
    System {
        /// Wall time at the start, from which the steady hand counts.
        origin: Timestamp,
        /// The monotonic clock at the start.
        started: Instant,
    },
    /// Stands still until moved: the steady hand and the machine's wall clock.
    Manual(Mutex<(Timestamp, Timestamp)>),
}

/// The moment at which somebody was asked for the time.
#[derive(Clone, Copy, Debug)]
pub struct Asked(Timestamp);

impl Clock {
    /// The clock of this machine.
    #[expect(clippy::disallowed_methods, reason = "this is where the clock is read")]
    pub fn system() -> Self {
        Self::from(Source::System { origin: machine_time(), started: Instant::now() })
    }

    /// A clock that stands at `now`, with both hands.
    pub fn manual(now: Timestamp) -> Self {
        Self::from(Source::Manual(Mutex::new((now, now))))
    }

    /// The steady hand: a line that only ever goes forward, second by second.
    pub fn now(&self) -> Timestamp {
        match &self.0.source {
            Source::System { origin, started } => origin.plus(Micros::from(started.elapsed())),
            Source::Manual(hands) => hands.lock().unwrap_or_else(PoisonError::into_inner).0,
        }
    }

    /// The time of day.
    pub fn wall(&self) -> Timestamp {
        let (steady, wall) = self.hands();
        // Whoever stamps something leaves the step behind that came before the stamp.
        if is_step(wall.since(steady), self.0.offset.load(Ordering::Relaxed)) {
            return self.read().wall;
        }
        wall
    }

    /// Both hands at the same moment.
    pub fn read(&self) -> Now {
        let mut steps = self.0.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let (steady, wall) = self.hands();
        let offset = wall.since(steady);
        if steps.note(steady, offset) {
            self.0.offset.store(offset.0, Ordering::Relaxed);
        }
        Now::new(steady, wall, *steps)
    }

    /// Asks another clock for the time; see [`Clock::follow`].
    pub fn ask(&self) -> Asked {
        Asked(self.awake_or_not())
    }

    /// The wall hand follows another clock from here on, which said `time` at some moment
    /// since it was `asked`. What is certain by now is kept, so that slow answers do not
    /// make the hand tremble.
    pub fn follow(&self, asked: Asked, time: Timestamp) {
        let (latest, earliest) = (time.since(asked.0), time.since(self.awake_or_not()));
        let known = self.0.followed.load(Ordering::Relaxed);
        let middle = earliest.0 + latest.0.saturating_sub(earliest.0) / 2;
        let followed =
            if known == ALONE { middle } else { known.clamp(earliest.0, latest.0.max(earliest.0)) };
        self.0.followed.store(followed, Ordering::Relaxed);
        if known == ALONE {
            // What is stored was stamped by that clock, also before this one followed it.
            let (steady, wall) = self.hands();
            *self.0.steps.lock().unwrap_or_else(PoisonError::into_inner) = Steps::none(wall.since(steady));
            self.0.offset.store(wall.since(steady).0, Ordering::Relaxed);
        }
        self.read();
    }

    /// How far this machine's own wall clock is ahead of the one that is followed; `None`
    /// if it follows none.
    pub fn skew(&self) -> Option<Micros> {
        let followed = self.0.followed.load(Ordering::Relaxed);
        let own = self.own_wall().since(self.awake_or_not());
        (followed != ALONE).then(|| Micros(own.0.saturating_sub(followed)))
    }

    /// Lets time pass for a manual clock.
    pub fn advance(&self, span: Micros) {
        self.turn(|(steady, wall)| (*steady, *wall) = (steady.plus(span), wall.plus(span)));
    }

    /// Sets the wall hand of a manual clock forward or back.
    pub fn step(&self, by: Micros) {
        self.turn(|(_, wall)| *wall = wall.plus(by));
    }

    fn from(source: Source) -> Self {
        let clock = Self(Arc::new(Shared {
            source,
            steps: Mutex::new(Steps::none(Micros::ZERO)),
            offset: AtomicI64::new(0),
            followed: AtomicI64::new(ALONE),
        }));
        clock.read();
        clock
    }

    fn turn(&self, set: impl FnOnce(&mut (Timestamp, Timestamp))) {
        if let Source::Manual(hands) = &self.0.source {
            set(&mut hands.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// The steady hand and the wall.
    fn hands(&self) -> (Timestamp, Timestamp) {
        let followed = self.0.followed.load(Ordering::Relaxed);
        let wall =
            if followed == ALONE { self.own_wall() } else { self.awake_or_not().plus(Micros(followed)) };
        (self.now(), wall)
    }

    fn own_wall(&self) -> Timestamp {
        match &self.0.source {
            Source::System { .. } => machine_time(),
            Source::Manual(hands) => hands.lock().unwrap_or_else(PoisonError::into_inner).1,
        }
    }

    /// A line that goes on while the machine is suspended, where the system has one.
    fn awake_or_not(&self) -> Timestamp {
        match &self.0.source {
            #[cfg(target_os = "linux")]
            Source::System { .. } => {
                let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
                Timestamp(time.tv_sec * 1_000_000 + time.tv_nsec / 1_000)
            }
            #[cfg(not(target_os = "linux"))]
            Source::System { .. } => self.now(),
            Source::Manual(_) => self.now(),
        }
    }
}

fn is_step(offset: Micros, last: i64) -> bool {
    offset.0.saturating_sub(last).saturating_abs() > Steps::SMALLEST.0
}

#[expect(clippy::disallowed_methods, reason = "this is where the clock is read")]
fn machine_time() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp(Micros::from(since).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Timestamp = Timestamp(1_700_000_000_000_000);
    const HOUR: Micros = Micros::from_secs(3_600);

    #[test]
    fn the_wall_follows_a_step_and_the_steady_hand_does_not() {
        let clock = Clock::manual(NOON);
        for by in [HOUR, Micros(-2 * HOUR.0)] {
            let (steady, wall) = (clock.now(), clock.wall());
            clock.step(by);
            clock.advance(Micros::from_secs(1));
            assert_eq!(clock.now(), steady.plus(Micros::from_secs(1)));
            assert_eq!(clock.wall(), wall.plus(by).plus(Micros::from_secs(1)));
        }
    }

    #[test]
    fn a_stamp_taken_before_a_step_is_known_for_what_it_was() {
        let clock = Clock::manual(NOON);
        let stamp = clock.wall();
        clock.advance(Micros::from_secs(10));
        clock.step(HOUR);
        let end = clock.read().end_of_wait(stamp, stamp.plus(Micros::from_secs(30)));
        assert_eq!(end.since(clock.now()), Micros::from_secs(20));
    }

    #[test]
    fn a_clock_that_follows_another_shows_its_time_and_how_far_it_is_off() {
        let clock = Clock::manual(NOON);
        assert_eq!(clock.skew(), None);
        let asked = clock.ask();
        clock.advance(Micros::from_millis(20));
        clock.follow(asked, NOON.minus(HOUR));
        assert_eq!(
            clock.wall(),
            NOON.minus(HOUR).plus(Micros::from_millis(10)),
            "half way is the best guess"
        );
        assert_eq!(clock.skew(), Some(HOUR.plus(Micros::from_millis(10))));
        // The machine's own clock is set: the skew shows it, the time of day does not.
        let before = clock.wall();
        clock.step(HOUR);
        assert_eq!(clock.wall(), before);
        assert_eq!(clock.skew(), Some(HOUR.plus(HOUR).plus(Micros::from_millis(10))));
    }

    #[test]
    fn slow_answers_do_not_make_the_wall_tremble() {
        let clock = Clock::manual(NOON);
        clock.follow(clock.ask(), NOON);
        for millis in [1, 500, 3, 90] {
            let (asked, before) = (clock.ask(), clock.wall());
            clock.advance(Micros::from_millis(millis));
            clock.follow(asked, before.plus(Micros::from_millis(millis / 2)));
            assert_eq!(clock.wall(), before.plus(Micros::from_millis(millis)));
        }
        let (asked, before) = (clock.ask(), clock.wall());
        clock.follow(asked, before.plus(HOUR));
        assert_eq!(clock.wall(), before.plus(HOUR), "a step of the other clock is followed at once");
    }

    #[test]
    fn the_machine_has_both_hands() {
        let clock = Clock::system();
        let now = clock.read();
        assert!(now.wall.since(now.steady).0.abs() < 1_000_000);
        clock.follow(clock.ask(), NOON);
        assert!(clock.wall().since(NOON) < Micros::from_secs(60));
        assert!(clock.skew().is_some_and(|skew| skew > HOUR));
    }
}
