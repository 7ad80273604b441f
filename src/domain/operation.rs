//! Tracked background jobs over many resources.

use serde::{Deserialize, Serialize};

use super::{OperationId, TenantKey, Timestamp};

/// A tracked background job.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// Identifier.
    pub id: OperationId,
    /// Owner.
    pub tenant: TenantKey,
    /// What it does.
    pub kind: OperationKind,
    /// Where it stands.
    pub state: OperationState,
    /// Acceptance.
    pub created_at: Timestamp,
    /// Last progress.
    pub updated_at: Timestamp,
    /// End.
    pub ended_at: Option<Timestamp>,
    /// Items that matched when it started.
    pub total: u64,
    /// Items handled with success.
    pub succeeded: u64,
    /// Items that could not be handled.
    pub failed: u64,
    /// Items passed over because their state had changed.
    pub skipped: u64,
    /// The first failures.
    pub failures: Vec<ItemFailure>,
}

impl Operation {
    /// Failures kept at most.
    pub const FAILURES_MAX: usize = 20;
}

/// One item an operation could not handle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemFailure {
    /// Id of the item.
    pub item: String,
    /// Name of the error reason, such as `ENDPOINT_INACTIVE`.
    pub reason: String,
    /// Why, as a sentence.
    pub message: String,
}

/// What an operation does. The numbers are stored: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OperationKind {
    /// Replays dead letters.
    ReplayDeadLetters = 1,
    /// Removes dead letters.
    PurgeDeadLetters = 2,
}

impl OperationKind {
    /// The kind stored under a number.
    pub fn from_number(number: i64) -> Option<Self> {
        [Self::ReplayDeadLetters, Self::PurgeDeadLetters]
            .into_iter()
            .find(|it| i64::from(*it as u8) == number)
    }
}

/// Where an operation stands. The numbers are stored: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OperationState {
    /// Accepted, not started.
    Queued = 1,
    /// At work.
    Running = 2,
    /// Finished.
    Succeeded = 3,
    /// Stopped by a caller.
    Cancelled = 4,
}

impl OperationState {
    /// Whether nothing more will happen.
    pub fn is_done(self) -> bool {
        matches!(self, Self::Succeeded | Self::Cancelled)
    }

    /// The state stored under a number.
    pub fn from_number(number: i64) -> Option<Self> {
        [Self::Queued, Self::Running, Self::Succeeded, Self::Cancelled]
            .into_iter()
            .find(|it| i64::from(*it as u8) == number)
    }
}
