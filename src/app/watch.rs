//! Streaming changes of deliveries as they are committed.
//!
//! A watch is a task with a cursor over the feed and room for one response. When
//! its client does not read, the task waits and so does the cursor: a slow client
//! costs one response of memory, delays nobody and loses nothing while the feed is
//! retained. The end of a watch travels beside the responses, so that it can be
//! told although the room is taken.

use std::{
    collections::{HashSet, VecDeque},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::Stream;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::{Sleep, sleep, timeout},
};

use super::{App, Error};
use crate::{
    domain::{Change, Pos, Rule, TenantKey, Timestamp},
    feed::{self, Cursor, Start, Token},
    store::DeliveryFilter,
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

/// Where a watch starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchStart {
    /// After what is committed now.
    Now,
    /// After the position a token stands for.
    Token(String),
    /// At the first change at or after an instant.
    At(Timestamp),
    /// At the oldest change held.
    Earliest,
}

/// What is to be watched, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Watch {
    /// Which changes, by the state after them.
    pub filter: DeliveryFilter,
    /// Where to start.
    pub start: WatchStart,
    /// Whether attempts are shown.
    pub attempts: bool,
    /// Longest silence.
    pub progress: Duration,
    /// How long changes are gathered for one response.
    pub gather: Duration,
    /// Changes in one response at most.
    pub batch_max: usize,
    /// Only the newest of several waiting changes of one delivery.
    pub coalesce: bool,
}

/// Some changes, or none as a sign of progress.
#[derive(Clone, Debug)]
pub struct Batch {
    /// In the order of the feed.
    pub changes: Vec<Arc<Change>>,
    /// Resumes after these changes.
    pub token: String,
    /// When it was made.
    pub at: Timestamp,
    /// Committed positions still ahead.
    pub lag: u64,
}

/// The responses of a watch. It ends with an error.
#[derive(Debug)]
pub struct WatchStream {
    batches: mpsc::Receiver<Batch>,
    end: Option<oneshot::Receiver<Error>>,
}

impl Stream for WatchStream {
    type Item = Result<Batch, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(batch) = ready!(self.batches.poll_recv(context)) {
            return Poll::Ready(Some(Ok(batch)));
        }
        let Some(end) = &mut self.end else { return Poll::Ready(None) };
        let error = ready!(Pin::new(end).poll(context));
        self.end = None;
        Poll::Ready(Some(Err(error.unwrap_or_else(|_| Error::Internal("a watch was lost".into())))))
    }
}

impl App {
    /// Opens a watch. Dropping the stream ends it.
    pub async fn watch(self: &Arc<Self>, tenant: TenantKey, watch: Watch) -> Result<WatchStream, Error> {
        let permit = self.open_stream(&self.watches, self.limits.watches_max)?;
        let now = self.now();
        let start = match &watch.start {
            WatchStart::Now => Start::Now,
            WatchStart::Earliest => Start::Earliest,
            WatchStart::Token(text) => Start::After(self.resume_token(tenant, Pos(0)).decode(text)?),
            WatchStart::At(at) if *at > now => {
                return Err(Error::invalid("start_time", Rule::OutOfRange, "must not lie in the future"));
            }
            WatchStart::At(at) => Start::At(*at),
        };
        let cursor = match Cursor::open(Arc::clone(&self.store), start).await {
            Ok(cursor) => cursor,
            Err(error) => return Err(self.feed_error(tenant, error).await),
        };
        let (sender, batches) = mpsc::channel(1);
        let (tell_end, end) = oneshot::channel();
        let watcher = Watcher {
            app: Arc::clone(self),
            tenant,
            sent: cursor.position(),
            cursor,
            watch,
            waiting: VecDeque::new(),
            batches: sender,
            _permit: permit,
        };
        tokio::spawn(async move {
            // Nobody to tell if the client has gone.
            drop(tell_end.send(watcher.run().await));
        });
        Ok(WatchStream { batches, end: Some(end) })
    }

    /// The error with what a client needs to go on.
    async fn feed_error(&self, tenant: TenantKey, error: feed::Error) -> Error {
        let oldest = match error {
            feed::Error::Store(error) => return error.into(),
            feed::Error::Compacted { oldest } => oldest,
        };
        let first = self.store.changes(oldest, self.store.recent().position(), 1).await;
        let first = first.ok().and_then(|(changes, _)| changes.into_iter().next());
        Error::Compacted {
            oldest: Pos(oldest.0 + 1),
            at: first.map_or_else(|| self.now(), |change| change.at),
            token: self.resume_token(tenant, oldest).encode(),
        }
    }
}

/// One watch at work.
struct Watcher {
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
    /// Runs to the end, and says why it ended.
    async fn run(mut self) -> Error {
        match self.serve().await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, Error> {
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
