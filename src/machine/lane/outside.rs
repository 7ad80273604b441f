//! What a lane knows of deliveries that wait in the store only.

use rustc_hash::FxHashSet;

use super::Turn;
use crate::domain::{Pos, Timestamp};

/// Open deliveries that wait in the store, nearest turn first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// With this turn or a later one.
    pub from: Turn,
    /// With this number or an earlier one.
    pub upto: Pos,
    /// So many at most.
    pub limit: usize,
}

/// What a lane knows of deliveries that wait in the store only, and of reads of them.
#[derive(Debug)]
pub(super) struct Outside {
    /// Every one of them has its turn here or later. Nothing: there are none.
    horizon: Option<Turn>,
    /// Every one of them has this number or an earlier one.
    upto: Pos,
    /// A page has been asked for, with which the lane may hold so many; otherwise 0.
    paging: usize,
    /// How often deliveries that others made or changed were asked for, and not handed over yet.
    fetching: u32,
    /// The nearest turn left to the store since a page was asked for.
    skipped: Option<Turn>,
    /// Deliveries told of since a page was asked for: what it says of them is older.
    since_page: FxHashSet<Pos>,
    /// The same of those that others made or changed. Apart, as the two reads overlap.
    since_fetch: FxHashSet<Pos>,
}

impl Outside {
    /// Deliveries up to `stored` may wait; nothing: none do.
    pub fn new(stored: Option<Pos>) -> Self {
        Self {
            horizon: stored.map(|_| (Timestamp(i64::MIN), Pos(0))),
            upto: stored.unwrap_or_default(),
            paging: 0,
            fetching: 0,
            skipped: None,
            since_page: FxHashSet::default(),
            since_fetch: FxHashSet::default(),
        }
    }

    /// Where what waits begins.
    pub fn horizon(&self) -> Option<Turn> {
        self.horizon
    }

    /// Whether nothing that has this turn or an earlier one waits.
    pub fn is_behind(&self, turn: Turn) -> bool {
        self.horizon.is_none_or(|horizon| turn < horizon)
    }

    /// What has this turn or a later one, up to a number, may wait from here on.
    pub fn leave(&mut self, turn: Turn, upto: Pos) {
        let nearest = |known: Option<Turn>| Some(known.map_or(turn, |known| known.min(turn)));
        self.horizon = nearest(self.horizon);
        self.upto = self.upto.max(upto);
        if self.is_paging() {
            // The page does not know of it, so the next one has to find it.
            self.skipped = nearest(self.skipped);
        }
    }

    /// The next page for a lane that holds `near` deliveries before the horizon, and is to
    /// hold `full`.
    pub fn ask(&mut self, near: usize, full: usize) -> Option<Page> {
        let from = self.horizon.filter(|_| !self.is_paging() && near <= full / 4)?;
        self.paging = full;
        Some(Page { from, upto: self.upto, limit: full - near })
    }

    /// How many the lane may hold with the page that was asked for; 0 if none was.
    pub fn asked(&self) -> usize {
        self.paging
    }

    /// A page has been read, up to this turn, or all of it. Returns the horizon.
    pub fn read(&mut self, end: Option<Turn>) -> Option<Turn> {
        self.paging = 0;
        self.horizon = [end, self.skipped.take()].into_iter().flatten().min();
        self.horizon
    }

    /// The page could not be read.
    pub fn fail(&mut self) {
        (self.paging, self.skipped) = (0, None);
        self.settle();
    }

    /// Deliveries that others made or changed are asked for.
    pub fn fetch(&mut self) {
        self.fetching += 1;
    }

    /// These are here.
    pub fn fetched(&mut self) {
        self.fetching = self.fetching.saturating_sub(1);
        self.settle();
    }

    /// Something is told of a delivery.
    pub fn touch(&mut self, pos: Pos) {
        if self.is_paging() {
            self.since_page.insert(pos);
        }
        if self.fetching > 0 {
            self.since_fetch.insert(pos);
        }
    }

    /// Whether nothing was told of a delivery since the page was asked for.
    pub fn is_news_of_page(&self, pos: Pos) -> bool {
        !self.since_page.contains(&pos)
    }

    /// Whether nothing was told of a delivery since it was asked for.
    pub fn is_news_of_fetch(&self, pos: Pos) -> bool {
        !self.since_fetch.contains(&pos)
    }

    /// Forgets what was told during a read that is over.
    pub fn settle(&mut self) {
        if !self.is_paging() {
            self.since_page.clear();
        }
        if self.fetching == 0 {
            self.since_fetch.clear();
        }
    }

    /// Whether nothing waits and nothing is being read.
    pub fn is_nothing(&self) -> bool {
        self.horizon.is_none() && !self.is_paging() && self.fetching == 0
    }

    fn is_paging(&self) -> bool {
        self.paging > 0
    }
}
