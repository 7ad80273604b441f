//! The newest part of the feed, in memory, and the wake-up.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError, RwLock},
};

use tokio::sync::watch;

use super::journal::Entry;
use crate::domain::{Change, Pos};

/// Changes kept in memory: those who follow closely never touch the store.
pub const RECENT_MAX: usize = 8192;

/// What lies next after a position.
#[derive(Clone, Debug)]
pub enum Next {
    /// These changes, up to the position.
    Changes(Vec<Arc<Change>>, Pos),
    /// What another process committed, up to the entry's position: the store has the
    /// changes.
    News(Arc<Entry>),
}

/// The newest changes and the position reached. A wake-up only says "look".
#[derive(Debug)]
pub struct Recent {
    changes: RwLock<Window>,
    position: watch::Sender<Pos>,
}

#[derive(Debug)]
struct Window {
    /// Every change after this position is in the queue, or in the store by news.
    after: Pos,
    changes: VecDeque<Arc<Change>>,
    /// What others committed in between, in order.
    news: VecDeque<Arc<Entry>>,
}

impl Recent {
    /// Nothing yet: the store stands at `position`.
    pub fn new(position: Pos) -> Self {
        let changes = VecDeque::with_capacity(RECENT_MAX);
        let window = Window { after: position, changes, news: VecDeque::new() };
        Self { changes: RwLock::new(window), position: watch::Sender::new(position) }
    }

    /// The last committed position.
    pub fn position(&self) -> Pos {
        *self.position.borrow()
    }

    /// Wakes whenever something was committed.
    pub fn subscribe(&self) -> watch::Receiver<Pos> {
        self.position.subscribe()
    }

    /// Appends what was just committed, up to `position`.
    pub(super) fn push(&self, changes: Vec<Arc<Change>>, position: Pos) {
        self.append(position, |window| window.changes.extend(changes));
    }

    /// Appends what another process has committed.
    pub(super) fn push_news(&self, entry: Entry) {
        self.append(entry.pos, |window| window.news.push_back(Arc::new(entry)));
    }

    fn append(&self, position: Pos, add: impl FnOnce(&mut Window)) {
        {
            let mut window = self.changes.write().unwrap_or_else(PoisonError::into_inner);
            add(&mut window);
            window.trim();
        }
        self.position.send_replace(position);
    }

    /// What lies next after a position, up to `limit` changes of it; nothing if that is
    /// no longer here.
    pub fn after(&self, pos: Pos, limit: usize) -> Option<Next> {
        // Read first: what is pushed meanwhile lies beyond it.
        let head = self.position();
        let window = self.changes.read().unwrap_or_else(PoisonError::into_inner);
        if pos < window.after {
            return None;
        }
        let news = window.news.get(window.news.partition_point(|entry| entry.pos <= pos));
        let upto = match news.filter(|entry| entry.pos <= head) {
            Some(entry) if entry.base <= pos => return Some(Next::News(Arc::clone(entry))),
            Some(entry) => entry.base,
            None => head,
        };
        let start = window.changes.partition_point(|change| change.pos <= pos);
        let here = window.changes.range(start..).take_while(|change| change.pos <= upto);
        let found: Vec<_> = here.take(limit).cloned().collect();
        let reached = match found.last() {
            Some(last) if found.len() == limit => last.pos,
            Some(_) | None => upto.max(pos),
        };
        Some(Next::Changes(found, reached))
    }
}

impl Window {
    /// Forgets the oldest beyond what may be kept.
    fn trim(&mut self) {
        while self.changes.len() > RECENT_MAX {
            self.after = self.changes.pop_front().map_or(self.after, |forgotten| forgotten.pos);
        }
        while self.news.len() > RECENT_MAX || self.news.front().is_some_and(|entry| entry.pos <= self.after) {
            self.after = self.news.pop_front().map_or(self.after, |forgotten| self.after.max(forgotten.pos));
        }
    }
}
