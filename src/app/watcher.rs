//! The task behind a watch.

use std::{
    collections::{HashSet, VecDeque},
    convert::Infallible,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, mpsc},
    time::{Sleep, sleep, timeout},
};

use super::{App, Batch, Error, Watch};
use crate::{
    domain::{Change, Pos, TenantKey},
    feed::{Cursor, Token},
};

/// Changes looked at in one step.
const SCAN: usize = 500;
/// Longest time a client may take nothing while changes wait.
const LAG_MAX: Duration = Duration::from_secs(60);
/// What one response may weigh.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// What a change weighs on the wire without its attempt: ids, times and messages.
const CHANGE_BYTES: usize = 512;
/// How long a client that does not read may delay the end of the server.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// The way to the client of a watch.
pub(super) struct Wire {
    /// Room for one response.
    pub batches: mpsc::Sender<Batch>,
    /// Notified when the client has room for the next response.
    pub demand: Arc<Notify>,
}

/// One watch at work.
pub(super) struct Watcher {
    app: Arc<App>,
    tenant: TenantKey,
    watch: Watch,
    cursor: Cursor,
    /// Changes that match and were not sent.
    waiting: VecDeque<Arc<Change>>,
    /// Everything up to here was sent or did not match.
    sent: Pos,
    wire: Wire,
    _permit: OwnedSemaphorePermit,
}

impl Watcher {
    pub fn new(
        app: Arc<App>,
        tenant: TenantKey,
        watch: Watch,
        cursor: Cursor,
        wire: Wire,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let (sent, waiting) = (cursor.position(), VecDeque::new());
        Self { app, tenant, watch, cursor, waiting, sent, wire, _permit: permit }
    }

    /// Runs to the end, and says why it ended.
    pub async fn run(mut self) -> Error {
        match self.serve().await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn serve(&mut self) -> Result<Infallible, Error> {
        let (draining, gone) = (self.app.draining.clone(), self.wire.batches.clone());
        // The first response says where the watch starts.
        self.wait_for_demand().await?;
        self.send().await?;
        loop {
            self.wait_for_demand().await?;
            tokio::select! {
                biased;
                () = draining.cancelled() => return Err(self.farewell().await),
                () = gone.closed() => return Err(Error::draining()),
                gathered = self.gather() => gathered?,
            }
            self.send().await?;
        }
    }

    /// Waits until the client has room for the next response. Reads nothing meanwhile,
    /// but once in a while, to see whether the client misses something.
    async fn wait_for_demand(&mut self) -> Result<(), Error> {
        let (draining, gone) = (self.app.draining.clone(), self.wire.batches.clone());
        let demand = Arc::clone(&self.wire.demand);
        loop {
            tokio::select! {
                biased;
                () = draining.cancelled() => return Err(self.farewell().await),
                () = gone.closed() => return Err(Error::draining()),
                () = demand.notified() => return Ok(()),
                () = sleep(LAG_MAX) => {}
            }
            if self.waiting.is_empty() && self.cursor.lag() > 0 {
                self.read().await?;
            }
            if !self.waiting.is_empty() {
                return Err(Error::Lagged { token: self.token().encode() });
            }
        }
    }

    /// Returns when there is something to send, or when it was silent for too long.
    async fn gather(&mut self) -> Result<(), Error> {
        let mut silence = pin!(sleep(self.watch.progress));
        while self.waiting.is_empty() {
            if !self.is_ahead(&mut silence).await? {
                return Ok(());
            }
            self.read().await?;
        }
        if self.watch.gather > Duration::ZERO {
            let mut over = pin!(sleep(self.watch.gather));
            while self.waiting.len() < self.watch.batch_max && self.is_ahead(&mut over).await? {
                self.read().await?;
            }
        }
        Ok(())
    }

    /// Waits for a change that was not read. False: `limit` has passed. A read that has
    /// begun is not ended by a limit, because it would lose its turn.
    async fn is_ahead(&mut self, limit: &mut Pin<&mut Sleep>) -> Result<bool, Error> {
        tokio::select! {
            biased;
            () = limit.as_mut() => Ok(false),
            open = self.cursor.wait() => if open { Ok(true) } else { Err(Error::draining()) },
        }
    }

    /// Takes in the next changes that match.
    async fn read(&mut self) -> Result<(), Error> {
        let changes = match self.cursor.ready(SCAN).await {
            Ok(changes) => changes,
            Err(error) => return Err(self.app.feed_error(self.tenant, error).await),
        };
        let (tenant, filter) = (self.tenant, &self.watch.filter);
        let wanted = |it: &Arc<Change>| it.delivery.tenant == tenant && filter.fits(&it.delivery, it.at);
        self.waiting.extend(changes.into_iter().filter(wanted));
        if self.watch.coalesce {
            keep_newest(&mut self.waiting);
        }
        if self.waiting.is_empty() {
            self.sent = self.cursor.position();
        }
        Ok(())
    }

    /// Sends what waits, up to a response's size; nothing waiting makes progress. There
    /// is room, because the former response was taken.
    async fn send(&mut self) -> Result<(), Error> {
        let batches = self.wire.batches.clone();
        let permit = batches.reserve().await.map_err(|_| Error::draining())?;
        let (count, bytes) = (self.waiting.len().min(self.watch.batch_max), &mut 0);
        let weighed = self.waiting.iter().take(count).take_while(|change| {
            *bytes += weight(change, self.watch.attempts);
            *bytes <= BATCH_BYTES_MAX
        });
        let count = weighed.count().max(1).min(count);
        let changes: Vec<_> = self.waiting.drain(..count).collect();
        self.sent = match (self.waiting.is_empty(), changes.last()) {
            (false, Some(last)) => last.pos,
            (true, _) | (false, None) => self.cursor.position(),
        };
        permit.send(self.batch(changes));
        Ok(())
    }

    /// A last response with the present token, if the client reads at all.
    async fn farewell(&mut self) -> Error {
        if let Ok(Ok(permit)) = timeout(FAREWELL_MAX, self.wire.batches.reserve()).await {
            permit.send(self.batch(Vec::new()));
        }
        Error::draining()
    }

    fn batch(&self, changes: Vec<Arc<Change>>) -> Batch {
        let lag = self.app.store.recent().position().0.saturating_sub(self.sent.0);
        Batch { changes, token: self.token().encode(), at: self.app.now(), lag }
    }

    fn token(&self) -> Token {
        self.app.resume_token(self.tenant, self.sent)
    }
}

/// Drops all but the newest change of each delivery.
fn keep_newest(waiting: &mut VecDeque<Arc<Change>>) {
    let mut seen = HashSet::with_capacity(waiting.len());
    let newest: Vec<bool> = waiting.iter().rev().map(|change| seen.insert(change.delivery.id)).collect();
    let mut newest = newest.into_iter().rev();
    waiting.retain(|_| newest.next().unwrap_or(true));
}

/// About what a change takes on the wire.
fn weight(change: &Change, attempts: bool) -> usize {
    let response = change.attempt.as_ref().filter(|_| attempts).and_then(|attempt| attempt.response.as_ref());
    let headers =
        response.map_or(0, |it| it.headers.iter().map(|(name, value)| name.len() + value.len() + 8).sum());
    CHANGE_BYTES + headers
}
