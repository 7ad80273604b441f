//! What goes on without being asked: sweeping up after deleted endpoints, and
//! forgetting what is too old.

use std::{sync::PoisonError, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{App, Error};
use crate::{
    domain::{EndpointKey, Micros, Shard},
    store::Cutoff,
};

/// Deliveries cancelled in one transaction, so that no publish waits long.
const SWEEP_STEP: u32 = 500;
/// Between rounds of forgetting; often when the feed is kept for less than this.
const FORGET_EVERY: Duration = Duration::from_secs(60);
const FORGET_OFTEN: Duration = Duration::from_secs(1);
/// Rounds of forgetting between looks for sweeps that somebody left undone.
const SWEEPS_LOOKED_FOR: u64 = 10;
/// Before something that failed is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How long what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionConfig {
    /// The change log.
    pub feed: Micros,
    /// Finished deliveries with their events.
    pub history: Micros,
    /// Finished operations.
    pub operations: Micros,
    /// The audit log.
    pub audit: Micros,
}

impl App {
    /// Queues the open deliveries of a deleted endpoint to be cancelled.
    pub(super) fn sweep(&self, key: EndpointKey) {
        self.sweeps.lock().unwrap_or_else(PoisonError::into_inner).push_back(key);
        self.new_sweep.notify_one();
    }

    /// Queues what another run, or another process, left undone, whenever this process
    /// comes to do what goes on without being asked.
    pub async fn resume_sweeps(&self, shutdown: CancellationToken) {
        let work = async {
            let mut hands = self.store.shards().subscribe();
            let mut was_steward = false;
            loop {
                let is_steward = self.is_steward();
                if is_steward && !was_steward {
                    while let Err(error) = self.queue_sweeps().await {
                        tracing::warn!(%error, "deliveries of deleted endpoints cannot be found yet");
                        sleep(AGAIN_AFTER).await;
                    }
                }
                was_steward = is_steward;
                if hands.changed().await.is_err() {
                    return;
                }
            }
        };
        shutdown.run_until_cancelled(work).await;
    }

    /// Whether this process does what goes on without being asked.
    pub(super) fn is_steward(&self) -> bool {
        self.store.shards().owns(Shard::STEWARD)
    }

    async fn queue_sweeps(&self) -> Result<(), Error> {
        self.sweep_tenants().await?;
        for key in self.store.endpoints_waiting().await? {
            if self.store.routes().get(key).is_none() {
                self.sweep(key);
            }
        }
        Ok(())
    }

    /// Cancels the open deliveries of deleted endpoints until told to stop.
    pub async fn sweep_deleted(&self, shutdown: CancellationToken) {
        let work = async {
            loop {
                let next = self.sweeps.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                match next {
                    Some(key) => self.sweep_one(key).await,
                    None => {
                        self.new_sweep.notified().await;
                        self.sweep_or_warn().await;
                    }
                }
            }
        };
        shutdown.run_until_cancelled(work).await;
    }

    async fn sweep_or_warn(&self) {
        if let Err(error) = self.sweep_tenants().await {
            tracing::warn!(%error, "endpoints of a deleted tenant cannot be deleted yet");
        }
    }

    async fn sweep_one(&self, key: EndpointKey) {
        loop {
            match self.store.cancel_endpoint(key, SWEEP_STEP, self.now()).await {
                Ok(cancelled) if cancelled < SWEEP_STEP => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "deliveries of a deleted endpoint cannot be cancelled yet");
                    sleep(AGAIN_AFTER).await;
                }
            }
        }
    }

    /// Forgets what is too old until told to stop.
    pub async fn run_janitor(&self, shutdown: CancellationToken, retention: RetentionConfig) {
        let brief = retention.feed.to_std() < FORGET_EVERY;
        let every = if brief { FORGET_OFTEN } else { FORGET_EVERY };
        let work = async {
            for round in 1_u64.. {
                sleep(every).await;
                let now = self.now();
                let cutoff = Cutoff {
                    now,
                    feed: now.minus(retention.feed),
                    history: now.minus(retention.history),
                    operations: now.minus(retention.operations),
                    audit: now.minus(retention.audit),
                };
                if let Err(error) = self.note_uses().await {
                    tracing::warn!(%error, "the last uses of keys cannot be noted yet");
                }
                if let Err(error) = self.enter_denials().await {
                    tracing::warn!(%error, "denied calls cannot be entered in the audit log");
                }
                if !self.is_steward() {
                    if let Err(error) = self.store.look_back().await {
                        tracing::warn!(%error, "how far the feed reaches back cannot be read yet");
                    }
                    continue;
                }
                self.sweep_or_warn().await;
                // Another process may have ended in the middle of a sweep of its own.
                if self.is_shared()
                    && round.is_multiple_of(SWEEPS_LOOKED_FOR)
                    && let Err(error) = self.queue_sweeps().await
                {
                    tracing::warn!(%error, "deliveries of deleted endpoints cannot be found yet");
                }
                loop {
                    match self.store.forget(cutoff).await {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(error) => {
                            tracing::warn!(%error, "what is too old cannot be removed yet");
                            break;
                        }
                    }
                }
            }
        };
        shutdown.run_until_cancelled(work).await;
    }
}
