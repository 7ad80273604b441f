//! Time and chance.
//!
//! No test waits for time to pass: it waits for a state, and gives up with a
//! sentence that says which state it was and what was seen instead.

use std::{
    collections::hash_map::RandomState,
    env,
    hash::{BuildHasher as _, Hasher as _},
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::{Semaphore, SemaphorePermit};

/// How often a state is looked at. Short beside every limit that tests give,
/// long beside a request.
const LOOK: Duration = Duration::from_millis(20);

/// The instant of a receipt or of a call.
#[expect(clippy::disallowed_methods, reason = "these tests measure real time at the receiver")]
pub fn now() -> Instant {
    Instant::now()
}

/// Looks again and again until the probe finds what it wants. The probe says
/// what it saw instead.
pub async fn eventually<T>(
    limit: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let start = now();
    loop {
        match probe().await {
            Ok(found) => return found,
            Err(seen) if start.elapsed() > limit => panic!("not within {limit:?}: {what}; seen last: {seen}"),
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

/// One test at a time may load the machine or compare latencies; the others run
/// beside it.
pub async fn alone() -> SemaphorePermit<'static> {
    static MACHINE: Semaphore = Semaphore::const_new(1);
    MACHINE.acquire().await.expect("the semaphore is never closed")
}

/// The value below which `ratio` of the samples lie.
pub fn percentile(samples: &mut [Duration], ratio: f64) -> Duration {
    assert!(!samples.is_empty(), "no samples");
    samples.sort_unstable();
    let rank = (samples.len() as f64 * ratio).ceil() as usize;
    samples[rank.clamp(1, samples.len()) - 1]
}

/// Seeded chance. `HOOKWIRE_SEED` repeats a run.
pub struct Dice {
    rng: StdRng,
    /// The number that repeats this run.
    pub seed: u64,
}

impl Dice {
    /// Thrown anew unless `HOOKWIRE_SEED` is set; printed either way, and shown
    /// when the test fails.
    pub fn of(test: &str) -> Self {
        let seed = match env::var("HOOKWIRE_SEED") {
            Ok(text) => text.parse().expect("HOOKWIRE_SEED is a number"),
            Err(_) => RandomState::new().build_hasher().finish(),
        };
        println!("{test}: repeat with HOOKWIRE_SEED={seed}");
        Self::seeded(seed)
    }

    /// Another die that rolls independently but repeatably.
    pub fn fork(&self, number: u64) -> Self {
        Self::seeded(self.seed ^ (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// A whole number from `low` up to and without `high`.
    pub fn roll(&mut self, low: u64, high: u64) -> u64 {
        self.rng.random_range(low..high)
    }

    fn seeded(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), seed }
    }
}
