//! A delivery that will not be tried again by itself.

use super::{Delivery, DeliveryId, Timestamp};

/// What is kept of a delivery that was given up, besides the delivery itself.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// The delivery that was given up.
    pub delivery: Delivery,
    /// Why.
    pub reason: LetterReason,
    /// Where it stands.
    pub state: LetterState,
    /// Requests made, replays included.
    pub attempts: u32,
    /// How the last of them failed.
    pub message: String,
    /// First failed attempt.
    pub first_failed_at: Timestamp,
    /// Last failed attempt, replays included.
    pub last_failed_at: Timestamp,
    /// When it came here.
    pub created_at: Timestamp,
    /// When it is removed.
    pub expires_at: Timestamp,
    /// Replays so far.
    pub replays: u32,
    /// Start of the last replay, and the delivery it made.
    pub last_replay: Option<(Timestamp, DeliveryId)>,
}

/// Why a delivery was given up. The numbers are stored: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LetterReason {
    /// All attempts were used.
    RetriesExhausted = 1,
    /// An error that is not retried.
    PermanentError = 2,
    /// The request could not be built, or its target is not allowed.
    Undeliverable = 3,
}

impl LetterReason {
    /// The reason stored under a number.
    pub fn from_number(number: i64) -> Option<Self> {
        [Self::RetriesExhausted, Self::PermanentError, Self::Undeliverable]
            .into_iter()
            .find(|it| i64::from(*it as u8) == number)
    }
}

/// Where a dead letter stands. The numbers are stored: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LetterState {
    /// Waiting for someone to decide.
    Open = 1,
    /// A replay is under way.
    Replaying = 2,
    /// A replay was delivered.
    Replayed = 3,
}

impl LetterState {
    /// The state stored under a number.
    pub fn from_number(number: i64) -> Option<Self> {
        [Self::Open, Self::Replaying, Self::Replayed].into_iter().find(|it| i64::from(*it as u8) == number)
    }
}
