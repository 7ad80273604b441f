//! Chance from a seed: SplitMix64, a dozen lines, because a seed noted today must
//! tell the same story after every update of the `rand` crate.

use crate::domain::Micros;

/// A generator of numbers.
pub struct Chance(u64);

impl Chance {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number below `end`, which is above 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.draw() % end as u64) as usize
    }

    /// A number from `low` up to and including `high`.
    pub fn within(&mut self, low: i64, high: i64) -> i64 {
        low + (self.draw() % (high - low + 1).cast_unsigned()).cast_signed()
    }

    /// A span between two numbers of milliseconds, to the microsecond.
    pub fn millis(&mut self, low: i64, high: i64) -> Micros {
        Micros(self.within(low * 1_000, high * 1_000))
    }

    /// True this often.
    pub fn happens(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// The weight of a fault: none in half of all seeds, because a seed without
    /// one kind of fault reaches states that the fault would prevent.
    pub fn weight(&mut self, most: f64) -> f64 {
        if self.happens(0.5) { 0.0 } else { self.unit() * most }
    }
}
