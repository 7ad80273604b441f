//! What an attempt observed: data, not an error.

use super::{Cause, Micros, Response, Timestamp, Timings};

/// What an attempt observed.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Start: its duration before its end, by the wall clock as it stood at the end.
    pub started_at: Timestamp,
    /// Duration in all.
    pub duration: Micros,
    /// Where the time went.
    pub timings: Timings,
    /// An answer, or why there was none.
    pub result: Result<Answer, Fault>,
}

/// A complete response head, and what was read of the body.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Header `retry-after` as it came.
    pub retry_after: Option<String>,
    /// Header `date` as it came.
    pub date: Option<String>,
    /// Headers and body for the record.
    pub response: Response,
}

/// Why there was no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Exact cause.
    pub cause: Cause,
    /// One sentence.
    pub message: String,
}
