//! What can go wrong below.

/// What a library said.
type Source = Box<dyn std::error::Error + Send + Sync>;

/// A failure of the store. Nothing of the call was written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store does not take writes, or a read failed. Worth trying again.
    #[error("the store is not available")]
    Unavailable(#[source] Option<Source>),
    /// The disk is full. Worth trying again once there is room.
    #[error("the store's disk is full")]
    Full(#[source] Option<Source>),
    /// The file or the disk is not to be trusted any more. After a failed sync a
    /// second one may claim success although data were dropped, so nothing more may
    /// be acknowledged: stop, and recover from the log at the next start.
    #[error("the store's file or disk failed")]
    Lost(#[source] Source),
    /// More waits than may. Worth trying again in a while.
    #[error("more than {limit} deliveries or bytes wait")]
    QueueFull {
        /// How much waits.
        depth: u64,
        /// How much may.
        limit: u64,
    },
    /// A row does not decode: a bug, or a damaged file.
    #[error("the store holds a bad value: {0}")]
    Corrupt(String),
}

impl Error {
    /// A value that the code never wrote.
    pub(super) fn corrupt(what: &str, row: i64) -> Self {
        Self::Corrupt(format!("{what} in row {row}"))
    }

    /// What those are told whose write failed together with others; the source is
    /// for the log.
    pub(super) fn told(&self) -> Self {
        match self {
            Self::Full(_) => Self::Full(None),
            Self::Unavailable(_) | Self::Lost(_) | Self::QueueFull { .. } | Self::Corrupt(_) => {
                Self::Unavailable(None)
            }
        }
    }

    /// Judges by SQLite's result code.
    fn of(code: Option<i32>, source: Source) -> Self {
        const IOERR: i32 = 10;
        const CORRUPT: i32 = 11;
        const FULL: i32 = 13;
        const NOTADB: i32 = 26;
        match code.map(|code| code & 0xff) {
            Some(FULL) => Self::Full(Some(source)),
            Some(IOERR | CORRUPT | NOTADB) => Self::Lost(source),
            Some(_) | None => Self::Unavailable(Some(source)),
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let database = error.as_database_error();
        let code = database.and_then(sqlx::error::DatabaseError::code).and_then(|code| code.parse().ok());
        Self::of(code, error.into())
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        let code = error.sqlite_error().map(|error| error.extended_code);
        Self::of(code, error.into())
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Corrupt(error.to_string())
    }
}
