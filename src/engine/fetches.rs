//! What other processes made for endpoints of this home, or changed of them: read by
//! number, all that has gathered in one read at a time.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    dispatcher::{Dispatcher, PAUSE, ROOM, Slot},
    tenures::Tenures,
};
use crate::{
    domain::{Delivery, EndpointKey, Pos, Timestamp},
    feed,
    store::Entry,
};

/// Deliveries read at once at most.
const FETCH_MAX: usize = 2048;

/// What was to be read, with the epoch of its share.
pub(super) type Wanted = (EndpointKey, Pos, u64);
/// The same, and deliveries as they were read.
pub(super) type Fetched = (Vec<Wanted>, Vec<Arc<Delivery>>);

impl Dispatcher {
    /// Takes up what another process committed.
    pub(super) async fn hear(&mut self, entry: &Entry, now: Timestamp) -> Result<(), feed::Error> {
        if entry.origin == self.store.shards().me() {
            // Of a commit whose answer was lost. What it recorded ends attempts here.
            let (mut after, upto) = (self.cursor.position(), entry.pos);
            while after < upto {
                let (changes, reached) = self.store.changes(after, upto, super::dispatcher::BATCH).await?;
                changes.iter().for_each(|change| self.learn(change, now));
                after = reached;
            }
            return Ok(());
        }
        let ours = |tenures: &Tenures, endpoint| tenures.of(endpoint).is_some_and(|it| entry.pos > it.since);
        for (endpoint, turn_at, numbers) in entry.made() {
            if !ours(&self.tenures, endpoint) {
                continue;
            }
            let full = self.is_full() && self.ensure_lane(endpoint, now);
            if let Some(slot) = self.lanes.get_mut(&endpoint)
                && (full || slot.lane.leaves(turn_at, now))
            {
                slot.change(&mut self.beyond, |lane| lane.leave_outside(turn_at, entry.pos));
                // It may have had nothing to do.
                self.wake(endpoint);
            } else {
                self.wanted.extend(numbers.map(|pos| (endpoint, pos)));
            }
        }
        self.wanted.extend(entry.steered().filter(|(endpoint, _)| ours(&self.tenures, *endpoint)));
        Ok(())
    }

    /// Whether no more can be held than is held and coming. What is read now would have to
    /// be read again.
    fn is_full(&self) -> bool {
        self.beyond + self.wanted.len() + self.fetching >= ROOM || self.store.hot().is_full()
    }

    /// Reads what is wanted, unless a read is under way.
    pub(super) fn fetch(&mut self, now: Timestamp) {
        if self.fetching > 0 || self.wanted.is_empty() {
            return;
        }
        let some = self.wanted.len().min(FETCH_MAX);
        let wanted: Vec<(EndpointKey, Pos)> = self.wanted.drain(..some).collect();
        let with_epoch = |(key, pos)| self.tenures.of(key).map(|tenure| (key, pos, tenure.epoch));
        let mut asked: Vec<Wanted> = wanted.into_iter().filter_map(with_epoch).collect();
        asked.sort_unstable();
        asked.retain(|(key, ..)| self.ensure_lane(*key, now));
        for key in endpoints(&asked) {
            if let Some(slot) = self.lanes.get_mut(&key) {
                slot.lane.fetch();
            }
        }
        let mut numbers: Vec<Pos> = asked.iter().map(|(_, pos, _)| *pos).collect();
        numbers.sort_unstable();
        self.fetching = numbers.len();
        let (store, out) = (Arc::clone(&self.store), self.fetched_out.clone());
        self.tasks.spawn(async move {
            let found = loop {
                match store.fetch(&numbers).await {
                    Ok(found) => break found,
                    Err(error) => {
                        tracing::warn!(%error, "deliveries could not be read; trying again");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            };
            let _ = out.send((asked, found));
        });
    }

    /// Offers what was read to its lanes. What was not found is over.
    pub(super) fn take_fetched(&mut self, (mut asked, found): Fetched) {
        let now = self.clock.now();
        self.fetching = 0;
        // Lanes of a share that came anew meanwhile have read what waits.
        asked.retain(|(key, _, epoch)| self.tenures.is_current(*key, *epoch));
        let current = endpoints(&asked);
        let open: FxHashSet<Pos> = found.iter().map(|delivery| delivery.id.pos()).collect();
        let is_news = |lanes: &FxHashMap<EndpointKey, Slot>, key, pos| {
            lanes.get(&key).is_some_and(|slot| slot.lane.is_news(pos))
        };
        for delivery in found.into_iter().filter(|it| current.binary_search(&it.endpoint).is_ok()) {
            if is_news(&self.lanes, delivery.endpoint, delivery.id.pos()) {
                self.offer(&delivery, now);
            }
        }
        for (key, pos, _) in asked.iter().filter(|(_, pos, _)| !open.contains(pos)) {
            if is_news(&self.lanes, *key, *pos)
                && let Some(slot) = self.lanes.get_mut(key)
            {
                slot.change(&mut self.beyond, |lane| lane.forget(*pos));
            }
        }
        for key in current {
            if let Some(slot) = self.lanes.get_mut(&key) {
                slot.lane.fetched();
                self.wake(key);
            }
        }
    }
}

/// The endpoints of what is sorted by them.
fn endpoints(asked: &[Wanted]) -> Vec<EndpointKey> {
    let mut keys: Vec<_> = asked.iter().map(|(key, ..)| *key).collect();
    keys.dedup();
    keys
}
