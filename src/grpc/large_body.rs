//! Reading of large request bodies: room for them, and a least rate.
//!
//! Who may have how much is decided by [`BodyBudget`]; see there.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use rustc_hash::FxHashMap;
use tokio::{
    sync::Notify,
    time::{Interval, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::status::DOMAIN;
pub use crate::machine::body_budget::Owner;
use crate::machine::body_budget::{BodyBudget, Reservation};

/// What each body may have without a reservation: any single event of a usual size.
pub const FREE_BYTES: usize = 64 << 10;
/// What all bodies may have beyond that at once: three of the largest.
const BUDGET_BYTES: usize = 3 * (17 << 20);
/// For a reservation to be made.
const RESERVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is measured how fast a body arrives.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// Bytes per second that a large body has to come at, from some seconds on.
const LEAST_RATE: u64 = 16 << 10;
const LEAST_RATE_AFTER: u64 = 5;

/// Why a large body is not read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There was no room for it.
    NoRoom,
    /// It was slow while others needed its room.
    Evicted,
    /// It came below the least rate.
    TooSlow,
}

/// Whose a body is, once the services have found out; an extension of requests that have
/// their body read elsewhere. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct OwnerCell(Arc<OnceLock<Option<Owner>>>);

impl OwnerCell {
    /// Notes the owner.
    pub fn set(&self, owner: Option<Owner>) {
        // The first stays: a request is let in once.
        let _ = self.0.set(owner);
    }

    /// The owner; None where no keys are asked for.
    pub fn get(&self) -> Option<Owner> {
        self.0.get().copied().flatten()
    }
}

/// The room for large bodies. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Room(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Told when a reservation may have become possible.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    budget: BodyBudget,
    evictions: FxHashMap<u64, CancellationToken>,
}

/// A body that is being read, and its reservation, which ends with it.
#[derive(Debug)]
pub struct LargeBody {
    room: Room,
    id: u64,
    evicted: CancellationToken,
    ticks: Interval,
    seconds: u64,
    arrived: u64,
    arrived_before: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self::of(BUDGET_BYTES)
    }
}

impl Room {
    /// Room of that many bytes.
    pub fn of(bytes: usize) -> Self {
        let state = State { budget: BodyBudget::new(bytes), evictions: FxHashMap::default() };
        Self(Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() }))
    }

    /// A body that is about to be read.
    pub fn enter(&self, owner: Option<Owner>) -> LargeBody {
        let evicted = CancellationToken::new();
        let mut state = self.lock();
        let id = state.budget.enter(owner);
        state.evictions.insert(id, evicted.clone());
        drop(state);
        let (room, ticks) = (self.clone(), ticks());
        LargeBody { room, id, evicted, ticks, seconds: 0, arrived: 0, arrived_before: 0 }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LargeBody {
    /// Reserves more room, within some seconds.
    pub async fn reserve(&mut self, bytes: usize) -> Result<(), Refused> {
        let granted = async {
            loop {
                let changed = self.room.0.changed.notified();
                let mut changed = std::pin::pin!(changed);
                changed.as_mut().enable();
                let reservation = self.room.lock().budget.reserve(self.id, bytes);
                match reservation {
                    Reservation::Granted => return false,
                    Reservation::Evict(other) => {
                        if let Some(evicted) = self.room.lock().evictions.remove(&other) {
                            evicted.cancel();
                        }
                    }
                    Reservation::Wait => tokio::select! {
                        () = changed => {}
                        () = self.evicted.cancelled() => return true,
                    },
                }
            }
        };
        match timeout(RESERVE_TIMEOUT, granted).await {
            Ok(false) => {}
            Ok(true) => return Err(Refused::Evicted),
            Err(_) => return Err(Refused::NoRoom),
        }
        // The time that it waited says nothing about how fast it arrives.
        (self.ticks, self.seconds, self.arrived, self.arrived_before) = (ticks(), 0, 0, 0);
        Ok(())
    }

    /// Waits for the next piece of the body, unless it is refused meanwhile.
    pub async fn next<T>(&mut self, piece: impl Future<Output = T>) -> Result<T, Refused> {
        let mut piece = std::pin::pin!(piece);
        loop {
            tokio::select! {
                biased;
                () = self.evicted.cancelled() => return Err(Refused::Evicted),
                _ = self.ticks.tick() => {}
                piece = piece.as_mut() => return Ok(piece),
            }
            self.seconds += 1;
            let rate = self.arrived - std::mem::replace(&mut self.arrived_before, self.arrived);
            self.room.lock().budget.measured(self.id, rate);
            self.room.0.changed.notify_waiters();
            if self.seconds >= LEAST_RATE_AFTER && self.arrived < LEAST_RATE * self.seconds {
                return Err(Refused::TooSlow);
            }
        }
    }

    /// Notes that bytes have arrived.
    pub fn arrived(&mut self, bytes: usize) {
        self.arrived += bytes as u64;
    }

    /// Notes that all have: it cannot be evicted any more.
    pub fn is_whole(&mut self) {
        self.room.lock().budget.is_whole(self.id);
    }
}

impl Drop for LargeBody {
    fn drop(&mut self) {
        let mut state = self.room.lock();
        state.budget.leave(self.id);
        state.evictions.remove(&self.id);
        drop(state);
        self.room.0.changed.notify_waiters();
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let (code, reason, message) = match refused {
            Refused::NoRoom => (
                Code::ResourceExhausted,
                "QUEUE_FULL",
                "the server is reading as many large requests as it may; try again, or send smaller ones",
            ),
            Refused::Evicted => (
                Code::ResourceExhausted,
                "QUEUE_FULL",
                "the request came slowly while others needed its room; try again, or send smaller ones",
            ),
            Refused::TooSlow => (
                Code::DeadlineExceeded,
                "REQUEST_TIMEOUT",
                "the request came at less than 16 KiB a second; send smaller ones over a slow line",
            ),
        };
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, DOMAIN, std::collections::HashMap::new());
        if code == Code::ResourceExhausted {
            details.set_retry_info(Some(Duration::from_secs(1)));
        }
        Self::with_error_details(code, message, details)
    }
}

fn ticks() -> Interval {
    let mut ticks = interval(MEASURE_EVERY);
    // The first one is due a second from now.
    ticks.reset();
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_gives_way_to_another() {
        let room = Room::of(100);
        let mut slow = room.enter(None);
        slow.reserve(100).await.unwrap();
        let slow = tokio::spawn(async move { slow.next(pending::<()>()).await });
        let mut other = room.enter(None);
        other.reserve(60).await.expect("after a second it is known that the first is slow");
        assert_eq!(slow.await.unwrap(), Err(Refused::Evicted));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_there_is_waited_for() {
        let room = Room::of(100);
        let mut first = room.enter(None);
        first.reserve(100).await.unwrap();
        first.is_whole();
        let mut second = room.enter(None);
        assert_eq!(second.reserve(1).await, Err(Refused::NoRoom), "not for ever");
        let leaves = tokio::spawn(async move {
            sleep(Duration::from_secs(3)).await;
            drop(first);
        });
        second.reserve(100).await.unwrap();
        leaves.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_below_the_least_rate_is_given_up() {
        let room = Room::of(100);
        let mut body = room.enter(None);
        for _ in 0..100 {
            // 20 KiB a second.
            body.next(async { sleep(Duration::from_millis(500)).await }).await.unwrap();
            body.arrived(10 << 10);
        }
        body.next(ready(())).await.unwrap();
        assert_eq!(body.next(pending::<()>()).await, Err(Refused::TooSlow));
    }
}
