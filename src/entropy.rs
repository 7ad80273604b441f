//! The only source of chance: ids, secrets and jitter.

use std::sync::{Arc, Mutex, PoisonError};

use rand::{Rng, RngExt, SeedableRng as _, rngs::StdRng};

use crate::domain::Uid;

/// A shared generator, seeded by the operating system or, in tests, by a number.
#[derive(Clone, Debug)]
pub struct Entropy(Arc<Mutex<StdRng>>);

impl Entropy {
    /// Seeded by the operating system.
    pub fn from_os() -> Self {
        let mut rng = rand::rngs::SysRng;
        let seeded = StdRng::try_from_rng(&mut rng).expect("the operating system has no entropy to give");
        Self(Arc::new(Mutex::new(seeded)))
    }

    /// The same numbers for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// A number in [0, 1).
    pub fn unit(&self) -> f64 {
        self.with(RngExt::random)
    }

    /// The random part of an id, see [`Uid`].
    pub fn salt(&self) -> u32 {
        self.with(Rng::next_u32) & Uid::SALT_MAX
    }

    /// `N` random bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        self.with(RngExt::random)
    }

    fn with<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
