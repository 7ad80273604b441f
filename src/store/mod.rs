//! The only SQL: one writer, reads beside it, and the newest changes in memory.
//!
//! A publish is two kinds of rows: the event and one delivery per endpoint. The
//! result of an attempt updates the delivery's row and adds one change, which also
//! holds the attempt. Positions are the keys of these rows, so the feed is these
//! very tables read in order of their keys: nothing is written for it. The
//! changes of one delivery are a chain through `prev`, so its history needs no
//! index either. A delivery that succeeds at once costs three row writes and three
//! index entries; see `docs/ARCHITECTURE.md` for what that measures.
//!
//! Errors: every read and write may fail with [`Error::Unavailable`]; nothing of
//! the call was written then, and it may be tried again.

mod api_keys;
mod audit;
mod check;
mod circuits;
mod db;
mod deliveries;
mod directory;
mod endpoints;
mod error;
mod hot;
mod instances;
mod journal;
mod letters;
mod lists;
mod load;
mod membership;
mod mentioned;
mod news;
mod open;
mod operations;
mod partitions;
mod private;
mod publish;
mod read;
mod recent;
mod reseal;
mod retention;
mod room;
mod scan;
mod scratch;
mod shards;
mod starts;
mod tenants;
#[cfg(test)]
mod tests;
mod tx;
mod versions;
mod waiting;
mod writer;

use std::{
    fs::File,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc, oneshot},
};

pub use self::{
    audit::AuditFilter,
    db::{PostgresError, Server},
    deliveries::{Finish, Steered},
    directory::{Credential, Directory},
    endpoints::{Created, Edited},
    error::Error,
    hot::Hot,
    journal::{Entry, Mention, Note, Source},
    letters::{Discarded, LetterFilter},
    lists::{DeliveryFilter, EventFilter, SizedEvent},
    membership::{Beat, Ears, Member, Membership},
    open::OpenError,
    operations::Task,
    publish::{IDEMPOTENCY_WINDOW, Publish, Published, Refused, content_hash},
    recent::{Next, RECENT_MAX, Recent},
    reseal::Resealed,
    retention::Cutoff,
    scratch::{MakeError, Scratch},
    shards::Shards,
    tenants::Changed,
    tx::{BreakerCommand, SharedRoutes},
    writer::Gauges,
};
use self::{
    db::{Columns as _, Readers},
    publish::Handed,
    retention::Sweep,
    room::{Place, Room},
    tx::Tx,
    writer::{Closure, Inbox, Unanswered, Write, Writer},
};
use crate::{
    domain::{
        ApiKey, ApiKeyId, AuditEntry, DeliveryId, Endpoint, EndpointKey, EventId, InstanceId, NewEvent,
        Operation, OperationId, Pos, Start, Tenant, TenantKey, Timestamp,
    },
    vault::Vault,
};

/// Writes handed over and not yet taken, at most.
const INBOX_MAX: usize = 16 * 1024;

/// How the store is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the database is.
    pub location: Location,
    /// This run of the process.
    pub instance: InstanceId,
    /// What others call it.
    pub name: String,
    /// Its start.
    pub started_at: Timestamp,
    /// Seals and opens what is secret.
    pub vault: Vault,
    /// Identity given to a store when it is made.
    pub incarnation: u32,
    /// Open deliveries at most; publishing is refused beyond.
    pub queue_max: u64,
    /// Bytes handed over by calls and not yet committed, at most; half as many more
    /// by streams. An event counts as 8 KiB besides its payload, a delivery as
    /// 1 KiB: what takes as long to write.
    pub pending_bytes_max: u64,
    /// Time between marks of the feed.
    pub mark_every: i64,
    /// Abort after so many transactions that publish, before answering; for tests
    /// of recovery.
    pub crash_after_publishes: Option<u64>,
}

#[cfg(test)]
impl Config {
    /// Of a store for tests, held back by nothing.
    pub(crate) fn sample(location: Location) -> Self {
        Self {
            location,
            instance: InstanceId(1),
            name: "one".to_owned(),
            started_at: Timestamp(0),
            vault: Vault::drawn(crate::entropy::Entropy::seeded(1)),
            incarnation: 5,
            queue_max: 1_000_000,
            pending_bytes_max: 64 << 20,
            mark_every: 10_000_000,
            crash_after_publishes: None,
        }
    }
}

/// Where a database is.
#[derive(Clone, Debug)]
pub enum Location {
    /// A file in a directory of its own, of one process.
    Directory(PathBuf),
    /// A PostgreSQL server, shared with other processes.
    Server(Box<Server>),
}

#[cfg(test)]
impl Location {
    /// A database of its own, in the cluster of the run.
    pub(crate) async fn scratch() -> Self {
        let cluster = std::env::var("HOOKWIRE_TEST_POSTGRES")
            .expect("tests on PostgreSQL run by `make test`, or with a cluster of `tests/postgres start`");
        let database = Scratch::make(&cluster).await.unwrap();
        Self::Server(Box::new(Server::new(database.url(), false).unwrap()))
    }
}

/// The store.
#[derive(Debug)]
pub struct Store {
    readers: Readers,
    inbox: mpsc::Sender<Write>,
    results: mpsc::UnboundedSender<Vec<Finish>>,
    starts: mpsc::UnboundedSender<Vec<Start>>,
    recent: Arc<Recent>,
    routes: Arc<SharedRoutes>,
    directory: Arc<Directory>,
    shards: Arc<Shards>,
    hot: Arc<Hot>,
    gauges: Arc<Gauges>,
    notices: Arc<Notify>,
    operations: Arc<Notify>,
    room: Room,
    compacted: AtomicU64,
    sweep: Mutex<Sweep>,
    incarnation: u32,
    stale: bool,
    config: Config,
    /// Locks on the file and its directory, until the store is closed.
    locks: Mutex<Vec<File>>,
}

impl Store {
    /// Opens or makes the store. The writer ends with an error when the store can no
    /// longer be trusted: then stop the process.
    pub async fn open(
        config: Config,
    ) -> Result<(Arc<Self>, oneshot::Receiver<Result<(), Error>>), OpenError> {
        let open::Opened { conn, readers, locks, stale } = open::open(&config).await?;
        let loading = load::load(conn, &config);
        let loaded = tokio::task::spawn_blocking(loading).await.expect("loading a store does not panic")?;
        let load::Loaded { conn, position, latest, compacted, incarnation, routes, directory, shards, open } =
            loaded;
        let recent = Arc::new(Recent::new(position));
        let (gauges, hot) = (Arc::new(Gauges::default()), Arc::new(Hot::default()));
        gauges.open.store(open, Ordering::Relaxed);
        let (notices, operations) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (inbox, writes) = mpsc::channel(INBOX_MAX);
        let (results, finishes) = mpsc::unbounded_channel();
        let (starts, begun) = mpsc::unbounded_channel();
        let writer = Writer {
            conn,
            runtime: Handle::current(),
            routes: Arc::clone(&routes),
            directory: Arc::clone(&directory),
            shards: Arc::clone(&shards),
            recent: Arc::clone(&recent),
            hot: Arc::clone(&hot),
            gauges: Arc::clone(&gauges),
            notices: Arc::clone(&notices),
            operations: Arc::clone(&operations),
            config: config.clone(),
            position,
            latest,
            last_mark: latest,
            unanswered: Unanswered::default(),
            company: 0,
            closing: None,
        };
        let ended = writer.start(Inbox { writes, finishes, starts: begun }).map_err(OpenError::Thread)?;
        let store = Self {
            readers,
            inbox,
            results,
            starts,
            recent,
            routes,
            directory,
            shards,
            hot,
            gauges,
            notices,
            operations,
            room: Room::new(config.pending_bytes_max),
            compacted: AtomicU64::new(compacted.0),
            sweep: Mutex::default(),
            incarnation,
            stale,
            config,
            locks: Mutex::new(locks),
        };
        Ok((Arc::new(store), ended))
    }

    /// Writes what was handed over, marks an orderly stop and closes the file.
    pub async fn close(&self) -> Result<(), Error> {
        self.readers.close().await;
        let (done, closed) = oneshot::channel();
        self.inbox.send(Write::Close(done)).await.map_err(|_| Error::Unavailable(None))?;
        closed.await.map_err(|_| Error::Unavailable(None))??;
        // Whoever still holds the store can do nothing with it: another may open the file.
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }

    /// The newest changes and the wake-up.
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// The routing table.
    pub fn routes(&self) -> &SharedRoutes {
        &self.routes
    }

    /// Takes in what other processes have committed by now: what is in memory is as it
    /// stands after this. Alone there is nothing to do.
    pub async fn refresh(&self) -> Result<(), Error> {
        if !self.is_shared() {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        self.inbox.send(Write::Look(reply)).await.map_err(|_| Error::Unavailable(None))?;
        answer.await.map_err(|_| Error::Unavailable(None))?
    }

    /// Waits until something was committed here that other processes want to hear of.
    pub async fn committed(&self) {
        self.notices.notified().await;
    }

    /// Waits until operations were accepted or stopped, here or elsewhere.
    pub async fn operations_changed(&self) {
        self.operations.notified().await;
    }

    /// Reads how far the feed reaches back, where another process trims it.
    pub async fn look_back(&self) -> Result<(), Error> {
        let row = self.readers.row("SELECT value FROM meta WHERE key = 'compacted'", &[]).await?;
        let compacted = row.map_or(Ok(Pos(0)), |row| row.pos(0))?;
        self.compacted.fetch_max(compacted.0, Ordering::AcqRel);
        Ok(())
    }

    /// Whether other processes may use the database, too.
    pub fn is_shared(&self) -> bool {
        matches!(self.config.location, Location::Server(_))
    }

    /// Tenants, keys and what tenants use.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Payloads on their way out.
    pub fn hot(&self) -> &Hot {
        &self.hot
    }

    /// Counts for limits and metrics.
    pub fn gauges(&self) -> &Gauges {
        &self.gauges
    }

    /// The last position the feed has forgotten.
    pub fn compacted(&self) -> Pos {
        Pos(self.compacted.load(Ordering::Acquire))
    }

    /// The store's identity: another one after a restore means another history.
    pub fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// Whether something was not sealed under the current master key at the start:
    /// then call [`Store::reseal`] until it says that all is.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// Seals the next endpoints after `from` under the current master key, unless
    /// they are. It goes page by page, and what is done stays done.
    pub async fn reseal(&self, from: EndpointKey) -> Result<Resealed, Error> {
        self.call(move |tx| reseal::step(tx, from)).await
    }

    /// Publishes events: durable once answered.
    pub async fn publish(&self, publish: Publish) -> Result<Vec<Result<Published, Refused>>, Error> {
        let place = self.admit(&publish).await?;
        let (reply, answer) = oneshot::channel();
        let write = Write::Publish(Handed::new(publish, place), reply);
        self.inbox.send(write).await.map_err(|_| Error::Unavailable(None))?;
        answer.await.map_err(|_| Error::Unavailable(None))?
    }

    /// Records results of attempts and expirations. Not lost from here on unless
    /// the process is; the feed tells when they are committed. They are kept in
    /// memory until then: whoever calls bounds how many there may be.
    pub fn finish(&self, finishes: Vec<Finish>) -> Result<(), Error> {
        self.results.send(finishes).map_err(|_| Error::Unavailable(None))
    }

    /// Makes an endpoint.
    pub async fn create_endpoint(&self, endpoint: Endpoint) -> Result<Created, Error> {
        self.call(move |tx| endpoints::create(tx, endpoint)).await
    }

    /// Changes an endpoint. `version` is the one it must have, if any.
    pub async fn edit_endpoint<E: Send + 'static>(
        &self,
        tenant: TenantKey,
        id: String,
        version: Option<u64>,
        now: Timestamp,
        change: impl FnOnce(&mut Endpoint) -> Result<(), E> + Send + 'static,
    ) -> Result<Edited<E>, Error> {
        self.call(move |tx| endpoints::edit(tx, tenant, &id, version, now, change)).await
    }

    /// Deletes an endpoint.
    pub async fn delete_endpoint(
        &self,
        tenant: TenantKey,
        id: String,
        version: Option<u64>,
        now: Timestamp,
    ) -> Result<Edited<std::convert::Infallible>, Error> {
        self.call(move |tx| endpoints::delete(tx, tenant, &id, version, now)).await
    }

    /// Makes a tenant.
    pub async fn create_tenant(&self, tenant: Tenant) -> Result<Changed, Error> {
        self.call(move |tx| tenants::create(tx, tenant)).await
    }

    /// Changes a tenant. `version` is the one it must have, if any.
    pub async fn edit_tenant(
        &self,
        key: TenantKey,
        version: Option<u64>,
        now: Timestamp,
        change: impl FnOnce(&mut Tenant) + Send + 'static,
    ) -> Result<Changed, Error> {
        self.call(move |tx| tenants::edit(tx, key, version, now, change)).await
    }

    /// Deletes a tenant with its keys; [`Self::sweep_tenants`] then removes its
    /// endpoints. Without `force` there may be none.
    pub async fn delete_tenant(
        &self,
        key: TenantKey,
        version: Option<u64>,
        force: bool,
        now: Timestamp,
    ) -> Result<Changed, Error> {
        self.call(move |tx| tenants::delete(tx, key, version, force, now)).await
    }

    /// Deletes some endpoints of deleted tenants; says which. None: all are gone.
    pub async fn sweep_tenants(&self, now: Timestamp) -> Result<Vec<EndpointKey>, Error> {
        self.call(move |tx| tenants::sweep(tx, now)).await
    }

    /// Changes a key by what `change` makes of it as it is now (nothing: there is
    /// none), or leaves it if that is nothing. Nothing is answered, and nothing is
    /// changed, if a certificate of it stands for another key.
    pub async fn edit_key<T: Send + 'static>(
        &self,
        id: ApiKeyId,
        change: impl FnOnce(Option<&ApiKey>) -> (Option<ApiKey>, T) + Send + 'static,
    ) -> Result<Option<T>, Error> {
        self.call(move |tx| {
            let (next, told) = change(tx.key(id).as_ref());
            if let Some(next) = next {
                if next.certificates.iter().any(|it| tx.stands_for_another(it, id)) {
                    return Ok(None);
                }
                api_keys::put(tx, next)?;
            }
            Ok(Some(told))
        })
        .await
    }

    /// Notes when keys were last used.
    pub async fn keys_used(&self, uses: Vec<(ApiKeyId, Timestamp)>) -> Result<(), Error> {
        self.call(move |tx| api_keys::used(tx, &uses)).await
    }

    /// Adds to the audit log: durable once answered.
    pub async fn audit(&self, entry: AuditEntry) -> Result<(), Error> {
        self.call(move |tx| audit::add(tx, &entry)).await
    }

    /// Cancels an open delivery.
    pub async fn cancel(&self, tenant: TenantKey, id: DeliveryId, now: Timestamp) -> Result<Steered, Error> {
        self.call(move |tx| deliveries::cancel(tx, tenant, id, now)).await
    }

    /// Cancels the open deliveries of an event; says how many.
    pub async fn cancel_event(&self, event: EventId, now: Timestamp) -> Result<u32, Error> {
        self.call(move |tx| deliveries::cancel_event(tx, event, now)).await
    }

    /// Cancels up to `limit` open deliveries of an endpoint; says how many.
    pub async fn cancel_endpoint(&self, key: EndpointKey, limit: u32, now: Timestamp) -> Result<u32, Error> {
        self.call(move |tx| deliveries::cancel_endpoint(tx, key, limit, now)).await
    }

    /// Makes an open delivery due now, or repeats a finished one.
    pub async fn retry(&self, tenant: TenantKey, id: DeliveryId, now: Timestamp) -> Result<Steered, Error> {
        self.call(move |tx| deliveries::retry(tx, tenant, id, now)).await
    }

    /// Sends a dead letter again.
    pub async fn replay(&self, tenant: TenantKey, id: DeliveryId, now: Timestamp) -> Result<Steered, Error> {
        self.call(move |tx| letters::replay(tx, tenant, id, now)).await
    }

    /// Removes a dead letter.
    pub async fn discard(&self, tenant: TenantKey, id: DeliveryId) -> Result<Discarded, Error> {
        self.call(move |tx| letters::discard(tx, tenant, id)).await
    }

    /// Accepts an operation.
    pub async fn create_operation(&self, task: Task) -> Result<Operation, Error> {
        self.call(move |tx| operations::create(tx, task)).await
    }

    /// Handles a page of an operation's items; says whether it goes on.
    pub async fn operation_step(
        &self,
        id: OperationId,
        items: Vec<DeliveryId>,
        last: bool,
        now: Timestamp,
    ) -> Result<bool, Error> {
        self.call(move |tx| operations::step(tx, id, items, last, now)).await
    }

    /// Stops an operation. Nothing: it has finished, or there is none.
    pub async fn cancel_operation(
        &self,
        id: OperationId,
        now: Timestamp,
    ) -> Result<Option<Operation>, Error> {
        self.call(move |tx| operations::cancel(tx, id, now)).await
    }

    /// Removes a little of what is too old; says whether there is more.
    pub async fn forget(&self, cutoff: Cutoff) -> Result<bool, Error> {
        let sweep = *self.sweep.lock().unwrap_or_else(PoisonError::into_inner);
        let (compacted, sweep, mut more) = self.call(move |tx| retention::step(tx, cutoff, sweep)).await?;
        *self.sweep.lock().unwrap_or_else(PoisonError::into_inner) = sweep;
        self.compacted.store(compacted.0, Ordering::Release);
        if self.is_shared() && !more {
            more = self.call(move |tx| retention::close(tx, cutoff)).await?;
        }
        Ok(more)
    }

    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Tx<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let call = Box::new(Closure::new(work, reply));
        self.inbox.send(Write::Call(call)).await.map_err(|_| Error::Unavailable(None))?;
        answer.await.map_err(|_| Error::Unavailable(None))?
    }

    /// Why a call that publishes would be refused at once, whatever it brings.
    pub fn crowded(&self) -> Option<Error> {
        self.room.is_crowded().then(|| self.full())
    }

    /// Bytes handed over and not yet committed, as [`Config::pending_bytes_max`]
    /// counts them.
    pub fn pending_bytes(&self) -> u64 {
        self.room.taken()
    }

    /// Refuses what would not fit, before anything is written: too many deliveries
    /// in all, or too much on its way to the writer.
    async fn admit(&self, publish: &Publish) -> Result<Place, Error> {
        let wanting = |event: &NewEvent| self.routes.wanting(event.tenant, &event.event_type).len() as u64;
        let rows: u64 = publish.events.iter().map(wanting).sum();
        let open = u64::try_from(self.gauges.open.load(Ordering::Relaxed)).unwrap_or(0);
        if open.saturating_add(rows) > self.config.queue_max {
            return Err(Error::QueueFull { depth: open, limit: self.config.queue_max });
        }
        let payloads: u64 = publish.events.iter().map(|event| event.payload.data.len() as u64).sum();
        let weight = Room::weight(publish.events.len(), rows, payloads);
        if publish.in_turn {
            return self.room.for_stream(weight).await.ok_or(Error::Unavailable(None));
        }
        self.room.for_call(weight).await.ok_or_else(|| self.full())
    }

    fn full(&self) -> Error {
        Error::QueueFull { depth: self.room.taken_by_calls(), limit: self.room.limit() }
    }
}
