//! What the feed is made of.

use std::sync::Arc;

use super::{Attempt, Delivery, Pos, State, Timestamp};

/// One committed change of one delivery.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Its number: grows in commit order, with gaps.
    pub pos: Pos,
    /// When it was decided.
    pub at: Timestamp,
    /// What happened.
    pub kind: ChangeKind,
    /// State before; nothing for a delivery just made.
    pub previous: Option<State>,
    /// The delivery after it.
    pub delivery: Arc<Delivery>,
    /// The attempt that caused it, if one did.
    pub attempt: Option<Arc<Attempt>>,
}

/// What happened to a delivery. The numbers are stored: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ChangeKind {
    /// Made.
    Created = 1,
    /// Its state changed.
    StateChanged = 2,
    /// Something else changed, such as its due time.
    Updated = 3,
}

impl ChangeKind {
    /// The kind of a change from one state to another.
    pub fn between(previous: State, next: State) -> Self {
        if previous == next { Self::Updated } else { Self::StateChanged }
    }
}
