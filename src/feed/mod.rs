//! Following committed changes from a position: nothing missed, nothing twice.
//!
//! A [`Cursor`] is a place in the feed, not a mailbox. Close to the head it reads
//! the changes kept in memory; one that has fallen behind reads pages from the
//! store until it has caught up. So whoever is slow costs no memory, delays
//! nobody and loses nothing, as long as the feed is retained. A wake-up carries no
//! data: it only says "look".

mod history;
mod token;

use std::sync::Arc;

use tokio::sync::watch;

pub use self::{
    history::{History, Reader},
    token::{Token, TokenError},
};
use crate::{
    domain::{Change, Pos, Timestamp},
    store::{self, Entry, Next, Store},
};

/// Changes read from the store at once.
const PAGE: usize = 500;
/// The same where many share a few permits, so that each returns its permit soon.
const LIMITED_PAGE: usize = 200;

/// Why a position cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The feed no longer reaches back that far. Start from `oldest`, and list what
    /// matters, or accept the gap.
    #[error("the position is older than the retained feed")]
    Compacted {
        /// The oldest position that can still be followed.
        oldest: Pos,
    },
    /// The position lies ahead of everything committed: the store is not the one it
    /// came from, or was put back to an earlier state. Start anew.
    #[error("the position is ahead of the store")]
    Ahead,
    /// The store cannot be read. Worth trying again from the same position.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Where to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// After what is committed now.
    Now,
    /// After this position.
    After(Pos),
    /// At the first change at or after this instant.
    At(Timestamp),
    /// At the oldest change held.
    Earliest,
}

/// What a cursor comes to.
#[derive(Clone, Debug)]
pub enum Step {
    /// Changes.
    Changes(Vec<Arc<Change>>),
    /// What another process committed.
    News(Arc<Entry>),
}

/// A place in the feed.
#[derive(Debug)]
pub struct Cursor {
    store: Arc<Store>,
    position: Pos,
    head: watch::Receiver<Pos>,
    /// Changes before this instant are passed over: set by [`Start::At`].
    not_before: Timestamp,
    /// Limits its reads of the store, if it is one of many.
    limit: Option<(Arc<History>, Reader)>,
}

impl Cursor {
    /// A cursor at a start.
    pub async fn open(store: Arc<Store>, start: Start) -> Result<Self, Error> {
        if matches!(start, Start::After(pos) if pos > store.recent().position()) {
            // It may come from another process, which is ahead of this one.
            store.refresh().await?;
        }
        let head = store.recent().subscribe();
        let compacted = store.compacted();
        let (position, not_before) = match start {
            Start::Now => (store.recent().position(), Timestamp(i64::MIN)),
            Start::After(pos) => (pos, Timestamp(i64::MIN)),
            Start::Earliest => (compacted, Timestamp(i64::MIN)),
            Start::At(at) => (store.position_at(at).await?, at),
        };
        if position < compacted {
            return Err(Error::Compacted { oldest: compacted });
        }
        if position > store.recent().position() {
            return Err(Error::Ahead);
        }
        Ok(Self { store, position, head, not_before, limit: None })
    }

    /// The same cursor, which takes a permit of `history` for each read of the store.
    pub fn limited_by(self, history: Arc<History>, reader: Reader) -> Self {
        Self { limit: Some((history, reader)), ..self }
    }

    /// The position reached.
    pub fn position(&self) -> Pos {
        self.position
    }

    /// Committed positions still ahead.
    pub fn lag(&self) -> u64 {
        self.store.recent().position().0.saturating_sub(self.position.0)
    }

    /// Up to `limit` changes that are already there, none if the cursor is at the
    /// head. Changes of some interest to nobody count too, so an empty answer may
    /// still have moved the cursor.
    pub async fn ready(&mut self, limit: usize) -> Result<Vec<Arc<Change>>, Error> {
        let compacted = self.store.compacted();
        if self.position < compacted {
            return Err(Error::Compacted { oldest: compacted });
        }
        let (mut changes, reached) = match self.store.recent().after(self.position, limit) {
            Some(Next::Changes(changes, reached)) => (changes, reached),
            Some(Next::News(entry)) => self.read(entry.pos, limit).await?,
            None => self.read(self.store.recent().position(), limit).await?,
        };
        if self.not_before > Timestamp(i64::MIN) {
            changes.retain(|change| change.at >= self.not_before);
        }
        self.position = reached;
        Ok(changes)
    }

    /// A page from the store.
    async fn read(&self, upto: Pos, limit: usize) -> Result<(Vec<Arc<Change>>, Pos), Error> {
        let (_permit, page) = match &self.limit {
            Some((history, reader)) => (Some(history.permit(*reader).await), LIMITED_PAGE),
            None => (None, PAGE),
        };
        Ok(self.store.changes(self.position, upto, limit.min(page)).await?)
    }

    /// Like [`Cursor::ready`], but stops at what another process committed: that is for
    /// [`Cursor::pass`] once it is dealt with.
    pub async fn step(&mut self, limit: usize) -> Result<Step, Error> {
        match self.store.recent().after(self.position, limit) {
            Some(Next::News(entry)) => Ok(Step::News(entry)),
            Some(Next::Changes(changes, reached)) => {
                self.position = reached;
                Ok(Step::Changes(changes))
            }
            None => self.ready(limit).await.map(Step::Changes),
        }
    }

    /// Goes on after what another process committed.
    pub fn pass(&mut self, entry: &Entry) {
        self.position = self.position.max(entry.pos);
    }

    /// Waits until something lies ahead. False: the store was closed.
    pub async fn wait(&mut self) -> bool {
        let position = self.position;
        self.head.wait_for(|head| *head > position).await.is_ok()
    }
}
