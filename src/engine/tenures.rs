//! Which shares of the work the dispatcher does, and how they come and go.
//!
//! A share that comes is looked through once: what waits in the store for its endpoints,
//! and how their breakers stood. Until that is known nothing of it is sent. What the
//! feed says of changes before it came is passed over: the store has them.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use super::dispatcher::{Dispatcher, PAUSE, report_lost};
use crate::{
    domain::{EndpointKey, Now, Pos, Shard, Timestamp},
    machine::lane::Kept,
    store,
};

/// A share of the work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tenure {
    /// What results are recorded under.
    pub epoch: u64,
    /// Changes up to here are in the store.
    pub since: Pos,
    /// When this process became the owner: at its start, if it has the store for itself.
    pub at: Timestamp,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// What waits for it is being found.
    Found,
    /// Its lanes are asked.
    Active,
    /// Nothing of it is sent any more.
    Leaving,
    /// It was lost; only a later epoch can come.
    Lost,
}

/// A share on its way to another process, and who waits for that.
pub(super) type Leaving = (Shard, oneshot::Sender<()>);

/// What was found for some shares that came: endpoints for which something waits, and
/// how lanes stood.
pub(super) type Found = (Vec<(Shard, u64)>, Vec<EndpointKey>, Vec<(EndpointKey, Kept)>);

/// All shares that the dispatcher does or did.
#[derive(Debug, Default)]
pub(super) struct Tenures {
    shares: FxHashMap<Shard, Tenure>,
}

impl Tenures {
    /// The share of an endpoint, while the dispatcher has it.
    pub fn of(&self, endpoint: EndpointKey) -> Option<Tenure> {
        self.shares.get(&Shard::of(endpoint)).copied().filter(|it| it.stage != Stage::Lost)
    }

    /// Whether lanes of an endpoint's share may be asked.
    pub fn is_active(&self, endpoint: EndpointKey) -> bool {
        self.of(endpoint).is_some_and(|it| it.stage == Stage::Active)
    }

    /// Whether an endpoint's share is had under this epoch.
    pub fn is_current(&self, endpoint: EndpointKey, epoch: u64) -> bool {
        self.of(endpoint).is_some_and(|it| it.epoch == epoch)
    }

    /// Up to where deliveries of an endpoint's share may wait in the store, while they are
    /// yet to be found. Once they are, there is a lane for each of their endpoints.
    pub fn unfound(&self, endpoint: EndpointKey) -> Option<Pos> {
        self.of(endpoint).filter(|it| it.stage == Stage::Found).map(|it| it.since)
    }

    /// All shards, owned by this process alone from its start on.
    pub fn all(since: Pos, at: Timestamp) -> Self {
        let tenure = Tenure { epoch: 0, since, at, stage: Stage::Found };
        Self { shares: Shard::all().map(|shard| (shard, tenure)).collect() }
    }

    fn set(&mut self, shard: Shard, stage: Stage) {
        if let Some(tenure) = self.shares.get_mut(&shard) {
            tenure.stage = stage;
        }
    }
}

impl Dispatcher {
    /// Takes over what changed hands.
    pub(super) fn change_hands(&mut self, now: Timestamp) {
        if !self.hands.has_changed().unwrap_or(false) {
            return;
        }
        self.hands.mark_unchanged();
        // What was learned before a share came passed it by: its lanes have to read it.
        let learned = self.cursor.position();
        let (mut came, mut gone) = (Vec::new(), Vec::new());
        for shard in Shard::all() {
            let ((tenure, since), ours) =
                (self.store.shards().standing(shard), self.store.shards().owns(shard));
            let known = self.tenures.shares.get(&shard).copied();
            if known.is_some_and(|known| known.epoch < tenure.epoch && known.stage != Stage::Lost) {
                gone.push(shard);
            }
            if ours && known.is_none_or(|known| known.epoch < tenure.epoch) {
                let since = since.max(learned);
                came.push((shard, Tenure { epoch: tenure.epoch, since, at: now, stage: Stage::Found }));
            }
        }
        self.lose(&gone);
        if came.is_empty() {
            return;
        }
        tracing::info!(shards = came.len(), "shares of the work came to this process");
        self.find(came.iter().map(|(shard, tenure)| (*shard, tenure.epoch)).collect());
        self.tenures.shares.extend(came);
    }

    /// Looks for what waits for shares that came.
    pub(super) fn find(&self, shards: Vec<(Shard, u64)>) {
        let (store, out, clock) = (self.store.clone(), self.found_out.clone(), self.clock.clone());
        self.tasks.spawn(async move {
            let look = async || {
                // First, so that what waits is found as it is after it.
                report_lost(store.count_lost(clock.wall()).await?);
                Ok::<_, store::Error>((store.endpoints_waiting().await?, store.circuits().await?))
            };
            let (waiting, kept) = loop {
                match look().await {
                    Ok(found) => break found,
                    Err(error) => {
                        tracing::warn!(%error, "what waits could not be found; trying again");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            };
            let _ = out.send((shards, waiting, kept));
        });
    }

    /// Starts to work for shares whose waiting deliveries were found.
    pub(super) fn begin(&mut self, (shards, waiting, kept): Found, now: &Now) {
        let still = |tenures: &Tenures, (shard, epoch): &(Shard, u64)| {
            tenures.shares.get(shard).is_some_and(|it| it.epoch == *epoch && it.stage == Stage::Found)
        };
        let shards: BTreeSet<Shard> =
            shards.iter().filter(|it| still(&self.tenures, it)).map(|(shard, _)| *shard).collect();
        let mine = |key: &EndpointKey| shards.contains(&Shard::of(*key));
        let kept: FxHashMap<EndpointKey, Kept> = kept.into_iter().filter(|(key, _)| mine(key)).collect();
        for key in waiting.into_iter().filter(mine).chain(kept.keys().copied()).collect::<BTreeSet<_>>() {
            if let Some(endpoint) = self.store.routes().get(key) {
                self.open_inherited(&endpoint, kept.get(&key), now);
            }
        }
        shards.iter().for_each(|shard| self.tenures.set(*shard, Stage::Active));
        let lanes: Vec<_> = self.lanes.keys().copied().filter(mine).collect();
        lanes.into_iter().for_each(|key| self.wake(key));
    }

    /// Gives up shares at once: what is in flight is broken off, and another process
    /// will send it again.
    fn lose(&mut self, shards: &[Shard]) {
        if shards.is_empty() {
            return;
        }
        let shards: BTreeSet<Shard> = shards.iter().copied().collect();
        shards.iter().for_each(|shard| self.tenures.set(*shard, Stage::Lost));
        let lost: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, endpoint, _)| shards.contains(&Shard::of(*endpoint)))
            .map(|(pos, ..)| pos)
            .collect();
        for pos in lost {
            self.starts.end(pos);
            if let Some(flight) = self.slots.release(pos) {
                flight.task.abort();
                self.ready.end(flight.tenant);
            }
        }
        self.close_lanes(&shards);
    }

    fn close_lanes(&mut self, shards: &BTreeSet<Shard>) {
        let lanes: Vec<_> =
            self.lanes.keys().copied().filter(|key| shards.contains(&Shard::of(*key))).collect();
        lanes.into_iter().for_each(|key| self.close_lane(key));
    }

    /// Stops to send for a share; who asks is told once nothing of it is in flight.
    pub(super) fn leave(&mut self, (shard, done): Leaving) {
        if self.tenures.shares.get(&shard).is_some_and(|it| it.stage != Stage::Lost) {
            self.tenures.set(shard, Stage::Leaving);
        }
        self.leaving.push((shard, done));
    }

    /// Lets go of shares of which nothing is in flight any more.
    pub(super) fn see_off(&mut self) {
        if self.leaving.is_empty() {
            return;
        }
        let flying: BTreeSet<Shard> = self.slots.iter().map(|(_, endpoint, _)| Shard::of(endpoint)).collect();
        let (stay, gone): (Vec<Leaving>, Vec<Leaving>) =
            std::mem::take(&mut self.leaving).into_iter().partition(|(shard, _)| flying.contains(shard));
        self.leaving = stay;
        self.close_lanes(&gone.iter().map(|(shard, _)| *shard).collect());
        for (shard, done) in gone {
            self.tenures.set(shard, Stage::Lost);
            let _ = done.send(());
        }
    }
}
