//! Streaming changes of deliveries as they are committed.
//!
//! A watch is a task with a cursor over the feed. The task reads the changes of the
//! next response only when its stream is polled, that is when the client has room for
//! it. A client that does not read costs at most one response of memory and no
//! connection to the store, and loses nothing while the feed is retained. Reads of the
//! store by watches share a few permits, see [`History`](crate::feed::History).
//!
//! The end of a watch has a channel of its own, because the channel of the responses
//! may be full.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::Stream;
use tokio::sync::{Notify, mpsc, oneshot};

use super::{
    App, Error, Principal,
    watcher::{Watcher, Wire},
};
use crate::{
    domain::{Change, Pos, Rule, TenantKey, Timestamp},
    feed::{self, Cursor, Reader, Start},
    store::DeliveryFilter,
};

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
    /// Tells the task that the next response is wanted.
    demand: Arc<Notify>,
    /// Whether it was told since the last response.
    demanded: bool,
    end: Option<oneshot::Receiver<Error>>,
}

impl Stream for WatchStream {
    type Item = Result<Batch, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.batches.poll_recv(context) {
            Poll::Ready(Some(batch)) => {
                self.demanded = false;
                return Poll::Ready(Some(Ok(batch)));
            }
            Poll::Ready(None) => {}
            Poll::Pending => {
                if !std::mem::replace(&mut self.demanded, true) {
                    self.demand.notify_one();
                }
                return Poll::Pending;
            }
        }
        let Some(end) = &mut self.end else { return Poll::Ready(None) };
        let error = ready!(Pin::new(end).poll(context));
        self.end = None;
        Poll::Ready(Some(Err(error.unwrap_or_else(|_| Error::Internal("a watch was lost".into())))))
    }
}

impl App {
    /// Opens a watch. Dropping the stream ends it.
    pub async fn watch(self: &Arc<Self>, who: &Principal, watch: Watch) -> Result<WatchStream, Error> {
        let tenant = who.tenant();
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
        let cursor = cursor.limited_by(Arc::clone(&self.history), Reader { tenant, key: who.key() });
        let (sender, batches) = mpsc::channel(1);
        let (tell_end, end) = oneshot::channel();
        let demand = Arc::new(Notify::new());
        let wire = Wire { batches: sender, demand: Arc::clone(&demand) };
        let watcher = Watcher::new(Arc::clone(self), tenant, watch, cursor, wire, permit);
        tokio::spawn(async move {
            // Nobody to tell if the client has gone.
            drop(tell_end.send(watcher.run().await));
        });
        Ok(WatchStream { batches, demand, demanded: false, end: Some(end) })
    }

    /// The error with what a client needs to go on.
    pub(super) async fn feed_error(&self, tenant: TenantKey, error: feed::Error) -> Error {
        let oldest = match error {
            feed::Error::Store(error) => return error.into(),
            feed::Error::Ahead => return Error::ResumeToken,
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
