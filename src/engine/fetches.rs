//! What other processes made for endpoints of this home, or changed of them: what the
//! journal mentions, all that has gathered in one read at a time.

use std::sync::Arc;

use super::{
    dispatcher::{Dispatcher, PAUSE, ROOM},
    tenures::Tenures,
};
use crate::{
    domain::{Delivery, EndpointKey, Now, Pos, Timestamp},
    feed,
    store::{Entry, Mention},
};

/// Deliveries read at once at most.
const FETCH_MAX: usize = 2048;

/// What is to be read, with the epoch of its share.
pub(super) type Wanted = (Mention, u64);
/// What was to be read, and deliveries as they were read.
pub(super) type Fetched = (Vec<Wanted>, Vec<Arc<Delivery>>);

impl Dispatcher {
    /// Takes up what another process committed.
    pub(super) async fn hear(&mut self, entry: &Entry, now: &Now) -> Result<(), feed::Error> {
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
        let ours = |tenures: &Tenures, endpoint| {
            tenures.of(endpoint).filter(|it| entry.pos > it.since).map(|it| it.epoch)
        };
        for (endpoint, turn_at, mentions) in entry.made() {
            let Some(epoch) = ours(&self.tenures, endpoint) else { continue };
            let full = self.is_full() && self.ensure_lane(endpoint, now.steady);
            if let Some(slot) = self.lanes.get_mut(&endpoint)
                && (full || slot.lane.leaves(turn_at, now.steady))
            {
                slot.change(&mut self.beyond, |lane| lane.leave_outside(turn_at, entry.pos));
                // It may have had nothing to do.
                self.wake(endpoint);
            } else {
                self.wanted.extend(mentions.map(|it| (it.pos, (it, epoch))));
            }
        }
        for it in entry.steered() {
            if let Some(epoch) = ours(&self.tenures, it.endpoint) {
                self.wanted.insert(it.pos, (it, epoch));
            }
        }
        Ok(())
    }

    /// Whether no more can be held than is held and coming. What is read now would have to
    /// be read again.
    fn is_full(&self) -> bool {
        self.beyond + self.wanted.len() + self.fetching >= ROOM || self.store.hot().is_full()
    }

    /// A delivery was changed: if it is yet to be read, its event does not say all any more.
    pub(super) fn correct(&mut self, pos: Pos) {
        if let Some((mention, _)) = self.wanted.get_mut(&pos) {
            mention.source = None;
        }
    }

    /// Reads what is wanted, unless a read is under way.
    pub(super) fn fetch(&mut self, now: Timestamp) {
        if self.fetching > 0 || self.wanted.is_empty() {
            return;
        }
        let some = std::iter::from_fn(|| self.wanted.pop_first()).take(FETCH_MAX);
        let mut asked: Vec<Wanted> = some.map(|(_, wanted)| wanted).collect();
        self.fetching = asked.len();
        asked.sort_unstable();
        asked.retain(|(it, epoch)| {
            self.tenures.is_current(it.endpoint, *epoch) && self.ensure_lane(it.endpoint, now)
        });
        for key in endpoints(&asked) {
            if let Some(slot) = self.lanes.get_mut(&key) {
                slot.lane.fetch();
            }
        }
        let (store, out) = (Arc::clone(&self.store), self.fetched_out.clone());
        self.tasks.spawn(async move {
            let mentions: Vec<Mention> = asked.iter().map(|(it, _)| *it).collect();
            let found = loop {
                match store.mentioned(&mentions).await {
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

    /// Offers what was read to its lanes.
    pub(super) fn take_fetched(&mut self, (mut asked, found): Fetched) {
        let now = self.clock.read();
        self.fetching = 0;
        // Lanes of a share that came anew meanwhile have read what waits.
        asked.retain(|(it, epoch)| self.tenures.is_current(it.endpoint, *epoch));
        let current = endpoints(&asked);
        for delivery in found.iter().filter(|it| current.binary_search(&it.endpoint).is_ok()) {
            let (pos, lane) = (delivery.id.pos(), self.lanes.get(&delivery.endpoint).map(|slot| &slot.lane));
            // What was changed since it was asked for is read once more.
            if lane.is_some_and(|lane| lane.is_news(pos)) && !self.wanted.contains_key(&pos) {
                self.offer(delivery, &now);
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
    let mut keys: Vec<_> = asked.iter().map(|(it, _)| it.endpoint).collect();
    keys.dedup();
    keys
}
