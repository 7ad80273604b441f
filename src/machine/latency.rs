//! How long an endpoint keeps a request, learned from its own attempts.
//!
//! The class that follows decides how many of the process's slots its attempts may
//! hold ([`super::slots`]). Only time counts, not success: an endpoint that refuses
//! connections within a millisecond takes nothing from anybody.

use crate::domain::Micros;

/// An endpoint whose attempts take this long is slow.
pub const SLOW_AFTER: Micros = Micros::from_secs(1);
/// An endpoint whose attempts take this long is taken to hang.
pub const HANGING_AFTER: Micros = Micros::from_secs(5);

/// How long attempts of an endpoint are expected to hold a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Its recent attempts ended within [`SLOW_AFTER`].
    Quick,
    /// No attempt of it has ended yet.
    Unproven,
    /// Its recent attempts took longer.
    Slow,
    /// Its recent attempts took longer than [`HANGING_AFTER`].
    Hanging,
}

impl Class {
    /// The number of classes.
    pub const COUNT: usize = 4;
    /// All classes, those that hold slots for the shortest time first.
    pub const ALL: [Self; Self::COUNT] = [Self::Quick, Self::Unproven, Self::Slow, Self::Hanging];
}

/// The expected duration of an endpoint's next attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    expected: Option<Micros>,
}

impl Latency {
    /// An attempt took this long. A slower one counts at once, a quicker one by half, so
    /// that one quick answer does not clear an endpoint that has timed out.
    pub fn observe(&mut self, took: Micros) {
        let expected = self.expected.map_or(took, |before| took.max(Micros(before.0.midpoint(took.0))));
        self.expected = Some(expected);
    }

    /// An attempt has lasted this long and has not ended.
    pub fn at_least(&mut self, age: Micros) {
        self.expected = self.expected.max(Some(age));
    }

    /// The class of the endpoint.
    pub fn class(self) -> Class {
        match self.expected {
            None => Class::Unproven,
            Some(expected) if expected >= HANGING_AFTER => Class::Hanging,
            Some(expected) if expected >= SLOW_AFTER => Class::Slow,
            Some(_) => Class::Quick,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(times: &[i64]) -> Class {
        let mut latency = Latency::default();
        times.iter().for_each(|millis| latency.observe(Micros::from_millis(*millis)));
        latency.class()
    }

    #[test]
    fn the_class_follows_the_time_that_attempts_take() {
        assert_eq!(after(&[]), Class::Unproven);
        assert_eq!(after(&[20]), Class::Quick);
        assert_eq!(after(&[1_000]), Class::Slow);
        assert_eq!(after(&[20, 20, 30_000]), Class::Hanging);
    }

    #[test]
    fn a_few_quick_answers_clear_an_endpoint_and_one_does_not() {
        assert_eq!(after(&[10_000, 20]), Class::Hanging);
        assert_eq!(after(&[10_000, 20, 20]), Class::Slow);
        assert_eq!(after(&[10_000, 20, 20, 20, 20]), Class::Quick);
        assert_eq!(after(&[30_000, 20, 20, 20, 20, 20]), Class::Quick);
    }

    #[test]
    fn an_attempt_that_goes_on_is_evidence_before_it_ends() {
        let mut latency = Latency::default();
        latency.observe(Micros::from_millis(5));
        latency.at_least(SLOW_AFTER);
        assert_eq!(latency.class(), Class::Slow);
        latency.at_least(HANGING_AFTER);
        assert_eq!(latency.class(), Class::Hanging);
    }
}
