//! What other processes made for endpoints of this home, or changed of them: read by
//! number, all that has gathered in one read at a time.

use std::{collections::BTreeSet, sync::Arc};

use super::dispatcher::{Dispatcher, PAUSE};
use crate::{
    domain::{Delivery, EndpointKey, Pos, Timestamp},
    feed,
    machine::lane::Lane,
    store::Entry,
};

/// Deliveries that wait to be read at most: some 2 MB.
const WANTED_MAX: usize = 128 * 1024;
/// Deliveries read at once at most.
const FETCH_MAX: usize = 2048;

/// Deliveries as they were read, and the endpoints they were read for.
pub(super) type Fetched = (Vec<EndpointKey>, Vec<Arc<Delivery>>);

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
        for (endpoint, pos) in entry.elsewhere() {
            if self.tenures.of(endpoint).is_some_and(|tenure| entry.pos > tenure.since) {
                self.wanted.push_back((endpoint, pos));
            }
        }
        if self.wanted.len() > WANTED_MAX {
            // Too much to be told one by one: lanes read it in pages, as they need it.
            let lanes: BTreeSet<EndpointKey> = self.wanted.drain(..).map(|(key, _)| key).collect();
            for key in lanes {
                if self.ensure_lane(key, now)
                    && let Some(slot) = self.lanes.get_mut(&key)
                {
                    slot.change(&mut self.beyond, Lane::reread);
                    self.wake(key);
                }
            }
        }
        Ok(())
    }

    /// Reads what is wanted, unless a read is under way.
    pub(super) fn fetch(&mut self, now: Timestamp) {
        if self.fetching || self.wanted.is_empty() {
            return;
        }
        let some = self.wanted.len().min(FETCH_MAX);
        let (mut endpoints, mut numbers): (Vec<_>, Vec<Pos>) = self.wanted.drain(..some).unzip();
        endpoints.sort_unstable();
        endpoints.dedup();
        endpoints.retain(|key| self.tenures.of(*key).is_some() && self.ensure_lane(*key, now));
        for key in &endpoints {
            if let Some(slot) = self.lanes.get_mut(key) {
                slot.lane.fetch();
            }
        }
        numbers.sort_unstable();
        self.fetching = true;
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
            let _ = out.send((endpoints, found));
        });
    }

    /// Offers what was read to its lanes.
    pub(super) fn take_fetched(&mut self, (endpoints, found): Fetched) {
        let now = self.clock.now();
        self.fetching = false;
        for delivery in found {
            let news =
                self.lanes.get(&delivery.endpoint).is_some_and(|slot| slot.lane.is_news(delivery.id.pos()));
            if news {
                self.offer(&delivery, now);
            }
        }
        for key in endpoints {
            if let Some(slot) = self.lanes.get_mut(&key) {
                slot.lane.fetched();
                self.wake(key);
            }
        }
    }
}
