//! What can go wrong below.

/// What a library said.
type Source = Box<dyn std::error::Error + Send + Sync>;

/// A failure of the store. Nothing of the call was written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store does not take writes, or a read failed. Worth trying again.
    #[error("the store is not available")]
    Unavailable(#[source] Option<Source>),
    /// The database server does not answer, went away, or refuses to work. Worth trying
    /// again. Of a write it is not known whether it was committed.
    #[error("the database does not answer")]
    Away(#[source] Option<Source>),
    /// The database server broke off a transaction because of another one. Worth trying
    /// again at once.
    #[error("the database broke off a transaction because of another one")]
    Conflict(#[source] Source),
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
    /// All connections that read are in use, and none became free in time. Worth trying
    /// again in a while.
    #[error("all {limit} connections that read the store are in use")]
    ReadersBusy {
        /// How many there are.
        limit: u32,
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
            Self::Unavailable(_)
            | Self::Away(_)
            | Self::Conflict(_)
            | Self::Lost(_)
            | Self::QueueFull { .. }
            | Self::ReadersBusy { .. }
            | Self::Corrupt(_) => Self::Unavailable(None),
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

    /// Judges by PostgreSQL's error code: its class is the first two characters.
    fn of_server(code: &str, source: Source) -> Self {
        match (code, &code[..code.len().min(2)]) {
            ("53100", _) => Self::Full(Some(source)),
            // Serialization failures and deadlocks.
            ("40001" | "40P01", _) => Self::Conflict(source),
            // Connections, resources, operators, locks and limits of time.
            (_, "08" | "53" | "57" | "55" | "25" | "40") => Self::Away(Some(source)),
            _ => Self::Unavailable(Some(source)),
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let Some(database) = error.as_database_error() else { return Self::Away(Some(error.into())) };
        let code = database.code().unwrap_or_default().into_owned();
        if database.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some() {
            return Self::of_server(&code, error.into());
        }
        Self::of(code.parse().ok(), error.into())
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
