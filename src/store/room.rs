//! Room on the way to the writer: a bound of waiting as much as of memory.
//!
//! What is published takes room by the time it takes to write, and gives it back
//! once it is written. Calls and streams have rooms of their own, so that neither
//! can crowd out the other. A call that finds none waits a moment, a few of them at
//! once, and is then refused: its caller knows soon, and what was accepted is not
//! kept waiting. A stream waits its turn: nothing more is read from it meanwhile,
//! which slows its sender down.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// What writing an event and a delivery cost, in KiB of payload that take as long.
const EVENT: u64 = 8;
const DELIVERY: u64 = 1;
/// How long a call waits for room, and how many do at once.
const PATIENCE: Duration = Duration::from_millis(20);
const WAITING_MAX: usize = 64;

/// Held until what was published is written or refused, also if the caller has gone
/// away meanwhile.
pub(super) type Place = OwnedSemaphorePermit;

/// Room for what is on its way to the writer.
#[derive(Debug)]
pub(super) struct Room {
    size: u32,
    calls: Arc<Semaphore>,
    waiting: Semaphore,
    streams: Arc<Semaphore>,
}

impl Room {
    /// Room for so many bytes by calls, and half as many by streams.
    pub fn new(bytes: u64) -> Self {
        let size = u32::try_from(bytes / 1024).unwrap_or(u32::MAX).max(2);
        let room = |size: u32| Arc::new(Semaphore::new(size as usize));
        Self { size, calls: room(size), waiting: Semaphore::new(WAITING_MAX), streams: room(size / 2) }
    }

    /// What publishing so much takes.
    pub fn weight(events: usize, deliveries: u64, payload_bytes: u64) -> u64 {
        payload_bytes / 1024 + EVENT * events as u64 + DELIVERY * deliveries
    }

    /// Takes room for a call, within a moment or not at all. One alone always fits:
    /// its size has limits of its own.
    pub async fn for_call(&self, weight: u64) -> Option<Place> {
        let weight = at_most(weight, self.size);
        if let Ok(place) = Arc::clone(&self.calls).try_acquire_many_owned(weight) {
            return Some(place);
        }
        let _waiting = self.waiting.try_acquire().ok()?;
        timeout(PATIENCE, Arc::clone(&self.calls).acquire_many_owned(weight)).await.ok()?.ok()
    }

    /// Takes room for what came by a stream, in its turn. Nothing: the store is gone.
    pub async fn for_stream(&self, weight: u64) -> Option<Place> {
        let weight = at_most(weight, self.size / 2);
        Arc::clone(&self.streams).acquire_many_owned(weight).await.ok()
    }

    /// Whether a call has no hope of room: as many wait as may.
    pub fn is_crowded(&self) -> bool {
        self.waiting.available_permits() == 0
    }

    /// Bytes that are taken.
    pub fn taken(&self) -> u64 {
        let free = self.calls.available_permits() + self.streams.available_permits();
        (u64::from(self.size) + u64::from(self.size / 2)).saturating_sub(free as u64) * 1024
    }

    /// Bytes that calls have taken.
    pub fn taken_by_calls(&self) -> u64 {
        u64::from(self.size).saturating_sub(self.calls.available_permits() as u64) * 1024
    }

    /// Bytes that calls may take.
    pub fn limit(&self) -> u64 {
        u64::from(self.size) * 1024
    }
}

/// What is larger than the room takes all of it.
fn at_most(weight: u64, size: u32) -> u32 {
    u32::try_from(weight).unwrap_or(u32::MAX).min(size)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_a_moment_and_is_refused_and_a_few_wait_at_once() {
        let room = Room::new(100 * 1024);
        let place = room.for_call(60).await.unwrap();
        assert!(room.for_call(60).await.is_none());
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| Box::pin(room.for_call(60))).collect();
        for wait in &mut waiting {
            assert!(wait.now_or_never().is_none());
        }
        assert!(room.is_crowded());
        assert!(room.for_call(60).now_or_never().unwrap().is_none(), "told at once");
        drop(place);
        assert!(waiting.remove(0).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_larger_than_the_room_fits_alone_and_streams_wait_their_turn() {
        let room = Room::new(100 * 1024);
        let all = room.for_call(1000).await.unwrap();
        assert!(room.for_call(1).await.is_none());
        let first = room.for_stream(1000).await.unwrap();
        assert_eq!((room.taken(), room.taken_by_calls(), room.limit()), (150 * 1024, 100 * 1024, 100 * 1024));
        let mut next = Box::pin(room.for_stream(10));
        assert!((&mut next).now_or_never().is_none());
        drop((all, first));
        assert!(next.await.is_some());
        assert_eq!(room.taken(), 0);
    }
}
