//! The newest part of the feed, in memory, and the wake-up.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError, RwLock},
};

use tokio::sync::watch;

use crate::domain::{Change, Pos};

/// Changes kept in memory: those who follow closely never touch the store.
pub const RECENT_MAX: usize = 8192;

/// The newest changes and the position reached. A wake-up only says "look".
#[derive(Debug)]
pub struct Recent {
    changes: RwLock<Window>,
    position: watch::Sender<Pos>,
}

#[derive(Debug)]
struct Window {
    /// Every change after this position is in the queue.
    after: Pos,
    changes: VecDeque<Arc<Change>>,
}

impl Recent {
    /// Nothing yet: the store stands at `position`.
    pub fn new(position: Pos) -> Self {
        let window = Window { after: position, changes: VecDeque::with_capacity(RECENT_MAX) };
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
    pub fn push(&self, changes: Vec<Arc<Change>>, position: Pos) {
        {
            let mut window = self.changes.write().unwrap_or_else(PoisonError::into_inner);
            window.changes.extend(changes);
            while window.changes.len() > RECENT_MAX {
                if let Some(forgotten) = window.changes.pop_front() {
                    window.after = forgotten.pos;
                }
            }
        }
        self.position.send_replace(position);
    }

    /// Up to `limit` changes after a position and the position they reach, or
    /// nothing if some of them are no longer here.
    pub fn after(&self, pos: Pos, limit: usize) -> Option<(Vec<Arc<Change>>, Pos)> {
        // Read first: what is pushed meanwhile lies beyond it.
        let head = self.position();
        let window = self.changes.read().unwrap_or_else(PoisonError::into_inner);
        if pos < window.after {
            return None;
        }
        let start = window.changes.partition_point(|change| change.pos <= pos);
        let found: Vec<_> = window.changes.iter().skip(start).take(limit).cloned().collect();
        let reached = match found.last() {
            Some(last) if found.len() == limit => last.pos,
            Some(last) => head.max(last.pos),
            None => head.max(pos),
        };
        Some((found, reached))
    }
}
