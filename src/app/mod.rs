//! What the service does, one file per aggregate. No wire format and no SQL here:
//! the edges hand in checked values and the store keeps them.
//!
//! Nothing is held across the answer of a write, so a caller that goes away in the
//! middle of a call leaves nothing half done: the store's writer either commits the
//! whole of it or nothing.

mod api_keys;
mod audit;
mod background;
mod count;
mod dead_letters;
mod deliveries;
mod denials;
mod endpoints;
mod error;
mod events;
mod operations;
mod ops;
mod pace;
mod principal;
mod refusals;
mod secrets;
mod tenants;
mod tls;
mod tokens;
mod url;
mod watch;
mod watcher;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

pub use self::{
    api_keys::{ApiKeyView, KEY_GRACE_MAX, NewApiKey},
    background::RetentionConfig,
    dead_letters::{Letter, LetterQuery},
    deliveries::Seen,
    endpoints::{EndpointFilter, EndpointView},
    error::{Error, Forbidden, Invalid, Kind},
    events::{Found, Show},
    operations::{OperationFilter, PER_SECOND_MIN},
    ops::InstanceView,
    principal::{Principal, Shown, hash, token},
    refusals::RefusedCredential,
    secrets::{DEFAULT_GRACE, GRACE_MAX, Rotated, Rotation, SECRET_BYTES, check_secret},
    tenants::TenantView,
    tls::{TlsRefusal, check_tls},
    tokens::{List, PageQuery},
    url::{UrlRefusal, check_url},
    watch::{Batch, Watch, WatchStart, WatchStream},
};
pub use crate::egress::Policy;
use crate::{
    clock::Clock,
    domain::{BreakerPolicy, EndpointKey, EventId, Micros, Pos, RateLimit, Timestamp, Uid},
    entropy::Entropy,
    feed::History,
    fleet::Fleet,
    store::Store,
    telemetry::LogFilter,
};

/// Pages of the store that watches read at the same moment: half of the connections that
/// read a file, and a quarter of those to a server.
const HISTORY_READS: usize = 2;

/// How much of what there may be.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Whether callers need a key.
    pub keys_required: bool,
    /// Calls of a key that has no limit of its own, publishing apart; `None`: any number.
    pub key_rate: Option<RateLimit>,
    /// What is allowed of endpoints, and their defaults.
    pub endpoints: EndpointRules,
    /// Bytes of one payload.
    pub payload_bytes_max: usize,
    /// Bytes of the payloads of one batch, or unacknowledged on one stream.
    pub batch_bytes_max: usize,
    /// Watches open at once.
    pub watches_max: usize,
    /// Publishing streams open at once.
    pub publish_streams_max: usize,
}

/// What is allowed of endpoints, and those of their defaults that depend on the server.
#[derive(Clone, Debug)]
pub struct EndpointRules {
    /// Which targets may be registered.
    pub targets: Policy,
    /// How long a circuit breaker stays open before a probe, if the endpoint does not say.
    pub breaker_cooldown: Micros,
}

impl Default for EndpointRules {
    fn default() -> Self {
        Self { targets: Policy::default(), breaker_cooldown: BreakerPolicy::default().cooldown }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            keys_required: true,
            key_rate: None,
            endpoints: EndpointRules::default(),
            payload_bytes_max: 1 << 20,
            batch_bytes_max: 16 << 20,
            watches_max: 1000,
            publish_streams_max: 1000,
        }
    }
}

/// The use cases.
#[derive(Debug)]
pub struct App {
    store: Arc<Store>,
    fleet: Fleet,
    clock: Clock,
    entropy: Entropy,
    limits: Limits,
    log_filter: LogFilter,
    event_counts: count::EventCounts,
    buckets: pace::Buckets,
    denials: Mutex<denials::Denials>,
    refusals: refusals::Refusals,
    draining: CancellationToken,
    watches: Arc<Semaphore>,
    /// Reads of the store by watches.
    history: Arc<History>,
    publish_streams: Arc<Semaphore>,
    /// Deleted endpoints whose open deliveries are still to be cancelled.
    sweeps: Mutex<VecDeque<EndpointKey>>,
    new_sweep: Notify,
}

impl App {
    /// The use cases over a store and the engines of a fleet. Streams end in order once
    /// `draining` is cancelled.
    pub fn new(
        store: Arc<Store>,
        fleet: Fleet,
        clock: Clock,
        entropy: Entropy,
        limits: Limits,
        log_filter: LogFilter,
        draining: CancellationToken,
    ) -> Self {
        Self {
            store,
            fleet,
            entropy,
            log_filter,
            draining,
            watches: Arc::new(Semaphore::new(limits.watches_max)),
            history: History::new(HISTORY_READS),
            publish_streams: Arc::new(Semaphore::new(limits.publish_streams_max)),
            limits,
            event_counts: count::EventCounts::default(),
            buckets: pace::Buckets::default(),
            denials: Mutex::default(),
            refusals: refusals::Refusals::new(clock.now()),
            clock,
            sweeps: Mutex::default(),
            new_sweep: Notify::new(),
        }
    }

    /// The time of day: for what is stored, shown, or compared with what callers say.
    pub fn now(&self) -> Timestamp {
        self.clock.wall()
    }

    /// How much of what there may be.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether other processes share the store.
    pub fn is_shared(&self) -> bool {
        self.store.is_shared()
    }

    /// Takes in what other processes have committed by now.
    pub async fn refresh(&self) -> Result<(), Error> {
        Ok(self.store.refresh().await?)
    }

    /// Cancelled when streams are to end.
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Room for one more publishing stream, given back when dropped.
    pub fn publish_stream(&self) -> Result<OwnedSemaphorePermit, Error> {
        self.open_stream(&self.publish_streams, self.limits.publish_streams_max)
    }

    fn open_stream(&self, room: &Arc<Semaphore>, limit: usize) -> Result<OwnedSemaphorePermit, Error> {
        if self.draining.is_cancelled() {
            return Err(Error::draining());
        }
        Arc::clone(room).try_acquire_owned().map_err(|_| Error::TooManyStreams { of: "server", limit })
    }

    /// Bits for an id that no row numbers: the place of the position is random.
    fn fresh_uid(&self, now: Timestamp) -> Uid {
        Uid::new(now, self.entropy.salt(), Pos(u64::from_be_bytes(self.entropy.bytes())))
    }

    /// An event id for what is never stored.
    fn fresh_event_id(&self, now: Timestamp) -> EventId {
        EventId(self.fresh_uid(now))
    }
}

/// The version an etag stands for; one that was never given out matches none.
fn version(etag: &str) -> Option<u64> {
    (!etag.is_empty()).then(|| etag.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests;
