//! What can go wrong below.

/// A failure of the store. Nothing of the call was written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store does not take writes, or a read failed. Worth trying again.
    #[error("the store is not available")]
    Unavailable(#[source] Option<sqlx::Error>),
    /// The disk is full. Worth trying again once there is room.
    #[error("the store's disk is full")]
    Full(#[source] sqlx::Error),
    /// More waits than may. Worth trying again in a while.
    #[error("more than {limit} deliveries or bytes wait")]
    QueueFull {
        /// How much waits.
        depth: u64,
        /// How much may.
        limit: u64,
    },
    /// A row does not decode: a bug, or a damaged file.
    #[error("the store holds a bad value in {table}.{column} of row {row}")]
    Corrupt {
        /// Table of the row.
        table: &'static str,
        /// Column that does not decode.
        column: &'static str,
        /// Key of the row.
        row: i64,
    },
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match Severity::of(&error) {
            Severity::Full => Self::Full(error),
            Severity::Passing | Severity::Fatal => Self::Unavailable(Some(error)),
        }
    }
}

/// What a failed write says about the writes to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The next one may succeed.
    Passing,
    /// The next one will succeed when there is room.
    Full,
    /// The file or the disk is not to be trusted any more. After a failed sync a
    /// second one may claim success although data were dropped, so nothing more
    /// may be acknowledged: stop, and recover from the log at the next start.
    Fatal,
}

impl Severity {
    /// Judges an error by SQLite's primary result code.
    pub fn of(error: &sqlx::Error) -> Self {
        const IOERR: i32 = 10;
        const CORRUPT: i32 = 11;
        const FULL: i32 = 13;
        const NOTADB: i32 = 26;
        let code = error
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code)
            .and_then(|code| code.parse::<i32>().ok());
        match code.map(|code| code & 0xff) {
            Some(FULL) => Self::Full,
            Some(IOERR | CORRUPT | NOTADB) => Self::Fatal,
            None if matches!(error, sqlx::Error::WorkerCrashed | sqlx::Error::Io(_)) => Self::Fatal,
            Some(_) | None => Self::Passing,
        }
    }
}
