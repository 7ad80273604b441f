//! The only reader of the operating system's clock.
//!
//! Everything else is handed a [`Clock`], so tests decide what time it is.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::domain::{Micros, Timestamp};

/// Tells the time.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The time since start by the monotonic clock, laid over the wall clock at
    /// start: a jump of the wall clock cannot make deliveries early, late or
    /// bunched.
    System {
        /// Wall time at start.
        origin: Timestamp,
        /// The monotonic clock at start.
        started: Instant,
    },
    /// Stands still until told to move.
    Manual(Arc<Mutex<Timestamp>>),
}

impl Clock {
    /// The clock of this machine.
    #[expect(clippy::disallowed_methods, reason = "this is where the clock is read")]
    pub fn system() -> Self {
        let origin = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self::System { origin: Timestamp(Micros::from(origin).0), started: Instant::now() }
    }

    /// A clock that stands at `now`.
    pub fn manual(now: Timestamp) -> Self {
        Self::Manual(Arc::new(Mutex::new(now)))
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System { origin, started } => origin.plus(Micros::from(started.elapsed())),
            Self::Manual(now) => *now.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Moves a manual clock forward; the system's cannot be moved.
    pub fn advance(&self, span: Micros) {
        if let Self::Manual(now) = self {
            let mut now = now.lock().unwrap_or_else(PoisonError::into_inner);
            *now = now.plus(span);
        }
    }
}
