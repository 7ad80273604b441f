//! The task behind a watch.

use std::{
    collections::{HashSet, VecDeque},
    convert::Infallible,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
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
    batches: mpsc::Sender<Batch>,
    _permit: OwnedSemaphorePermit,
}

impl Watcher {
    pub fn new(
        app: Arc<App>,
        tenant: TenantKey,
        watch: Watch,
        cursor: Cursor,
        batches: mpsc::Sender<Batch>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let (sent, waiting) = (cursor.position(), VecDeque::new());
        Self { app, tenant, watch, cursor, waiting, sent, batches, _permit: permit }
    }

    /// Runs to the end, and says why it ended.
    pub async fn run(mut self) -> Error {
        match self.serve().await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn serve(&mut self) -> Result<Infallible, Error> {
        let (draining, gone) = (self.app.draining.clone(), self.batches.clone());
        let progress = self.watch.progress;
        self.send().await?;
        let mut silence = pin!(sleep(progress));
        loop {
            tokio::select! {
                biased;
                () = draining.cancelled() => return Err(self.farewell().await),
                () = gone.closed() => return Err(Error::draining()),
                found = self.gather(&mut silence) => found?,
            }
            self.send().await?;
            silence.set(sleep(progress));
        }
    }

    /// Returns when there is something to send, or when it was silent for too long.
    async fn gather(&mut self, silence: &mut Pin<&mut Sleep>) -> Result<(), Error> {
        while self.waiting.is_empty() {
            tokio::select! {
                biased;
                () = silence.as_mut() => return Ok(()),
                looked = self.look() => looked?,
            }
        }
        let gather = self.watch.gather;
        if gather > Duration::ZERO {
            let more = async {
                while self.waiting.len() < self.watch.batch_max {
                    self.look().await?;
                }
                Ok(())
            };
            return timeout(gather, more).await.unwrap_or(Ok(()));
        }
        Ok(())
    }

    /// Takes in the next changes that match; waits for some if the cursor is at the
    /// head. Loses nothing when dropped: there is no waiting after the cursor moved.
    async fn look(&mut self) -> Result<(), Error> {
        if self.cursor.lag() == 0 && !self.cursor.wait().await {
            return Err(Error::draining());
        }
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

    /// Sends what waits, up to a response's size; nothing waiting makes progress.
    async fn send(&mut self) -> Result<(), Error> {
        let (draining, batches) = (self.app.draining.clone(), self.batches.clone());
        let permit = loop {
            tokio::select! {
                biased;
                permit = batches.reserve() => break permit.map_err(|_| Error::draining())?,
                () = draining.cancelled() => return Err(self.farewell().await),
                () = sleep(LAG_MAX) => {}
            }
            if self.waiting.is_empty() && self.cursor.lag() > 0 {
                self.look().await?;
            }
            if !self.waiting.is_empty() {
                return Err(Error::Lagged { token: self.token().encode() });
            }
        };
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
        if let Ok(Ok(permit)) = timeout(FAREWELL_MAX, self.batches.reserve()).await {
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
