//! Pages of lists.

use super::{Pos, Timestamp};

/// Order of a list, by creation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// Newest first.
    #[default]
    NewestFirst,
    /// Oldest first.
    OldestFirst,
}

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Items at most, 1 to 1000.
    pub size: u32,
    /// Continue after the item at this position.
    pub after: Option<Pos>,
    /// Order.
    pub order: Order,
}

impl Page {
    /// Whether an item at this position comes after what was shown before.
    pub fn follows(&self, pos: Pos) -> bool {
        self.after.is_none_or(|after| match self.order {
            Order::NewestFirst => pos < after,
            Order::OldestFirst => pos > after,
        })
    }
}

/// A half-open interval; either end may be open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeRange {
    /// First instant included.
    pub start: Option<Timestamp>,
    /// First instant excluded.
    pub end: Option<Timestamp>,
}

impl TimeRange {
    /// Whether an instant lies in it.
    pub fn contains(&self, at: Timestamp) -> bool {
        self.start.is_none_or(|start| at >= start) && self.end.is_none_or(|end| at < end)
    }
}
