//! One reading of the clock, on both lines of time.
//!
//! The *steady* line counts the seconds that pass and nothing else. The *wall* line is
//! the time of day; somebody may set it forward or back. Their difference is the offset,
//! and a change of the offset is a *step* of the wall clock.
//!
//! A time that a caller gave (`deliver_time`, `expire_time`, the expiry of a key) is a
//! wall time and is compared with the wall. A wait (a backoff, a cool-down) is a span
//! and is counted on the steady line. What is stored are wall times, so the wait of a
//! stored delivery is `due_at - updated_at`, counted from the steady instant at which
//! the wall clock showed `updated_at`: that is what the remembered steps are for.

use super::{Micros, Timestamp};

/// Steps of the wall clock that are remembered.
const REMEMBERED: usize = 8;

/// One reading of the clock, on both lines of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// On the line that no step of the wall clock touches.
    pub steady: Timestamp,
    /// The time of day.
    pub wall: Timestamp,
    steps: Steps,
}

/// The offsets of the wall clock, the newest first: since when, on the steady line, and
/// how far the wall is ahead of the steady line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps([(Timestamp, Micros); REMEMBERED]);

impl Steps {
    /// A smaller change of the offset is the clocks' drift and no step.
    pub const SMALLEST: Micros = Micros::from_secs(1);

    /// The same offset since ever.
    pub const fn none(offset: Micros) -> Self {
        Self([(Timestamp(i64::MIN), offset); REMEMBERED])
    }

    /// The oldest offset known.
    pub fn first(&self) -> Micros {
        self.0[REMEMBERED - 1].1
    }

    /// Notes the offset that holds from an instant of the steady line; says whether that
    /// is a step.
    pub fn note(&mut self, steady: Timestamp, offset: Micros) -> bool {
        if !self.differs(offset) {
            return false;
        }
        self.0.copy_within(..REMEMBERED - 1, 1);
        self.0[0] = (steady, offset);
        // The oldest one known stands for all that came before it.
        self.0[REMEMBERED - 1].0 = Timestamp(i64::MIN);
        true
    }

    /// Whether an offset is a step away from the last one.
    pub fn differs(&self, offset: Micros) -> bool {
        let moved = offset.0.saturating_sub(self.0[0].1.0);
        moved.saturating_abs() > Self::SMALLEST.0
    }

    /// When the wall clock showed a time that is past, on the steady line. Where a step
    /// back made it show that twice, the later one.
    fn shown(&self, wall: Timestamp, now: Timestamp) -> Timestamp {
        let mut until = now;
        for (since, offset) in self.0 {
            let steady = wall.minus(offset);
            if since <= steady && steady <= until {
                return steady;
            }
            until = since;
        }
        // Left out by a step forward, or stamped by a clock a little ahead of this one.
        wall.minus(self.0[0].1).min(now)
    }
}

impl Now {
    /// A reading of a clock that stepped as `steps` say.
    pub fn new(steady: Timestamp, wall: Timestamp, steps: Steps) -> Self {
        Self { steady, wall, steps }
    }

    /// A reading of a clock that never stepped, with both lines at the same time.
    pub fn at(now: Timestamp) -> Self {
        Self::new(now, now, Steps::none(Micros::ZERO))
    }

    /// Whether the wall clock stepped since an earlier reading.
    pub fn stepped_since(&self, earlier: &Self) -> bool {
        self.steps != earlier.steps
    }

    /// When the wall clock will show, or showed, a time if it does not step: on the
    /// steady line.
    pub fn steady_at(&self, wall: Timestamp) -> Timestamp {
        self.steady.plus(wall.since(self.wall))
    }

    /// What the wall clock would show at an instant of the steady line.
    pub fn wall_at(&self, steady: Timestamp) -> Timestamp {
        self.wall.plus(steady.since(self.steady))
    }

    /// The end, on the steady line, of a wait that was stored as the wall times of its
    /// beginning and its end.
    pub fn end_of_wait(&self, from: Timestamp, until: Timestamp) -> Timestamp {
        self.steps.shown(from, self.steady).plus(until.since(from))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BEGIN: Timestamp = Timestamp(1_700_000_000_000_000);

    fn after(seconds: i64) -> Timestamp {
        BEGIN.plus(Micros::from_secs(seconds))
    }

    /// A reading `seconds` after the beginning; the wall has stepped at 100 s.
    fn stepped(seconds: i64, by: i64) -> Now {
        let mut steps = Steps::none(Micros::ZERO);
        assert!(steps.note(after(100), Micros::from_secs(by)));
        Now::new(after(seconds), after(seconds + by), steps)
    }

    #[test]
    fn a_wait_lasts_as_long_as_it_was_set_whatever_the_wall_clock_did_meanwhile() {
        for by in [3_600, -3_600, 20, -20] {
            let now = stepped(105, by);
            assert_eq!(now.end_of_wait(after(90), after(120)), after(120), "set before a step of {by} s");
            assert_eq!(now.end_of_wait(after(102 + by), after(132 + by)), after(132), "set after it");
        }
    }

    #[test]
    fn a_time_of_day_is_reached_when_the_wall_clock_shows_it() {
        assert_eq!(stepped(105, 3_600).steady_at(after(3_700)), after(100));
        assert_eq!(stepped(105, -3_600).steady_at(after(120)), after(3_720));
        assert_eq!(stepped(105, 60).wall_at(after(110)), after(170));
    }

    #[test]
    fn drift_is_no_step() {
        let mut steps = Steps::none(Micros::ZERO);
        assert!(!steps.note(after(1), Micros(999_999)) && !steps.note(after(2), Micros(-999_999)));
        assert!(steps.note(after(3), Micros(1_000_001)));
        assert!(!steps.note(after(4), Micros(1_500_000)), "counted from the last step");
    }

    proptest! {
        /// However often the wall clock stepped, no wait that was set a moment ago ends in
        /// the past, and none is longer than it was set.
        #[test]
        fn no_wait_is_cut_short_or_drawn_out(
            walk in proptest::collection::vec((1i64..1_000, -5_000i64..5_000), 0..20), ago in 0i64..50, wait in 0i64..100,
        ) {
            let (mut at, mut offset, mut steps) = (0, 0, Steps::none(Micros::ZERO));
            let mut offsets = vec![(i64::MIN, 0)];
            for (span, by) in walk {
                (at, offset) = (at + span, offset + by);
                if steps.note(after(at), Micros::from_secs(offset)) {
                    offsets.push((at, offset));
                } else {
                    offset -= by;
                }
            }
            let now = Now::new(after(at + 50), after(at + 50 + offset), steps);
            let set = at + 50 - ago;
            let then = offsets.iter().rev().find(|(since, _)| *since <= set).unwrap().1;
            let end = now.end_of_wait(after(set + then), after(set + then + wait));
            prop_assert_eq!(end, after(set + wait));
            // What another clock stamped anyhow still waits no longer than it was to.
            let odd = now.end_of_wait(after(at + wait * 77), after(at + wait * 78));
            prop_assert!(odd <= now.steady.plus(Micros::from_secs(wait)));
        }
    }
}
