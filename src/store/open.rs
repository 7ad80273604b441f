//! Opening the store, and bringing its tables up to date.

use std::{fs::File, path::PathBuf};

use sqlx::{
    SqlStr,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};

use super::{
    Config, Error, Location,
    db::{self, Conn, Dialect, Link, PostgresError, Readers, params},
    reseal,
};
use crate::{domain::Pos, vault};

/// The migrations make the default tenant and have no clock. One of an earlier version is as
/// old as its first endpoint, as far as is known.
const DEFAULT_TENANT: &str = "UPDATE tenants SET \
     created_at = coalesce((SELECT min(created_at) FROM endpoints), $1), \
     updated_at = CASE updated_at WHEN 0 THEN $1 ELSE updated_at END \
     WHERE key = 1 AND created_at = 0";

/// Why a store cannot be opened. Each sentence says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made or used.
    #[error("cannot use the data directory {path}: check that it exists and can be written")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it.
    #[error("another hookwire already runs on {path}: stop it, or choose another --data-dir")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// Another process has the file under another name.
    #[error(
        "another hookwire already runs on {path}, which is the same file under another name: stop it, or choose \
         another --data-dir"
    )]
    LockedByOtherName {
        /// The file.
        path: PathBuf,
    },
    /// The SQLite inside is too old.
    #[error("this build has SQLite {found}, which can damage its files: build with SQLite 3.51.3 or later")]
    Version {
        /// Its version.
        found: String,
    },
    /// The file is damaged.
    #[error("the database in {path} is damaged ({finding}): restore a backup, or choose another --data-dir")]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What the check said first.
        finding: String,
    },
    /// It is sealed under another master key.
    #[error(
        "the database is sealed under master key {key}, which was not given: give that key by --master-key-file, \
         or, to move to the new one, by --old-master-key-file"
    )]
    OtherKey {
        /// The key that is missing.
        key: vault::KeyId,
    },
    /// The note of a master key was changed.
    #[error("the note of the master key in the database was altered: restore a backup")]
    KeyProof,
    /// The server cannot be used.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// Servers of an earlier version run on the database.
    #[error(
        "servers of an earlier version of hookwire run on this database, and this one takes other locks than they do: \
         stop all of them, then start this one"
    )]
    OtherLocks,
    /// Anything else.
    #[error("cannot open the database")]
    Database(#[from] Error),
    /// There is no thread for the writer.
    #[error("cannot start a thread: raise the limit of processes (ulimit -u)")]
    Thread(#[source] std::io::Error),
    /// The schema cannot be brought up to date.
    #[error("cannot bring the database up to date: it may be of a later version of hookwire")]
    Migrate(#[from] MigrateError),
}

impl OpenError {
    /// Whether the database server is away for the moment, or takes no connections yet.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Postgres(error) => error.is_away(),
            Self::Database(error) => matches!(error, Error::Away(_) | Error::Conflict(_)),
            Self::Directory { .. }
            | Self::Locked { .. }
            | Self::LockedByOtherName { .. }
            | Self::Version { .. }
            | Self::Damaged { .. }
            | Self::OtherKey { .. }
            | Self::KeyProof
            | Self::OtherLocks
            | Self::Thread(_)
            | Self::Migrate(_) => false,
        }
    }
}

/// Why the tables of a server could not be brought up to date: what it answered, if it did.
fn not_migrated(error: MigrateError) -> OpenError {
    if let MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) = error {
        return OpenError::Postgres(error.into());
    }
    OpenError::Migrate(error)
}

/// The store, opened: one connection that writes, some that read.
pub(super) struct Opened {
    pub conn: Conn,
    pub readers: Readers,
    /// Of the file and its directory; dropped last.
    pub locks: Vec<File>,
    /// Something is not sealed under the current master key.
    pub stale: bool,
}

/// Opens or makes the store.
pub(super) async fn open(config: &Config) -> Result<Opened, OpenError> {
    let (conn, readers, locks) = match &config.location {
        Location::Directory(directory) => {
            let file = db::open_sqlite(directory).await?;
            (Conn::Sqlite(file.writer), Readers::Sqlite(file.readers), file.locks)
        }
        Location::Server(server) => {
            if let Some(unchecked) = server.unverified() {
                tracing::warn!(
                    "the connection to PostgreSQL is encrypted, but {unchecked} is not checked, so whoever can answer \
                     for its host gets the password and the events: add sslmode=verify-full&sslrootcert=FILE to --store"
                );
            }
            let mut conn = server.connect("migration").await?;
            server.check(&mut conn).await?;
            if server.has_other_locks(&mut conn).await? {
                return Err(OpenError::OtherLocks);
            }
            migrator(Dialect::Postgres).run_direct(None, &mut conn, false).await.map_err(not_migrated)?;
            let (server, readers) = ((**server).clone(), server.readers());
            // It has a runtime of its own, which must not be made on this one.
            let link = tokio::task::spawn_blocking(move || Link::open(server));
            let link = link.await.expect("opening a connection does not panic")?;
            (Conn::Postgres(Box::new(link)), Readers::Postgres(readers), Vec::new())
        }
    };
    let (conn, stale) = on_a_thread(conn, config).await?;
    Ok(Opened { conn, readers, locks, stale })
}

/// What the writer's connection is needed for at the start.
async fn on_a_thread(conn: Conn, config: &Config) -> Result<(Conn, bool), OpenError> {
    let (vault, incarnation, now) = (config.vault.clone(), config.incarnation, config.started_at);
    let work = move || {
        // Alone for this moment; nothing of the journal is wanted yet.
        conn.begin(Pos(i64::MAX.cast_unsigned()))?;
        let sql = "INSERT INTO meta VALUES ('incarnation', $1) ON CONFLICT DO NOTHING";
        conn.execute(sql, &params![incarnation])?;
        conn.execute(DEFAULT_TENANT, &params![now])?;
        let stale = reseal::unlock(&conn, &vault)?;
        conn.commit(None)?;
        Ok((conn, stale))
    };
    tokio::task::spawn_blocking(work).await.expect("the start of a store does not panic")
}

impl Location {
    /// A master key that what is there is sealed under; `None` if there is no database, or
    /// nothing is sealed in it. Changes nothing.
    pub async fn sealed_under(&self) -> Result<Option<vault::KeyId>, OpenError> {
        let proof = match self {
            Self::Directory(directory) => db::proof_in_file(directory)?,
            Self::Server(server) => server.proof().await?,
        };
        Ok(proof.as_deref().and_then(vault::key_of))
    }
}

/// The tables of each database, and how they came to be.
pub(super) fn migrator(dialect: Dialect) -> Migrator {
    let migrations: &[(i64, &str, &str)] = match dialect {
        Dialect::Sqlite => &[
            (1, "foundation", include_str!("migrations/sqlite/0001_foundation.sql")),
            (2, "tenants", include_str!("migrations/sqlite/0002_tenants.sql")),
            (3, "sealed", include_str!("migrations/sqlite/0003_sealed.sql")),
            (4, "circuits", include_str!("migrations/sqlite/0004_circuits.sql")),
            (5, "endpoint versions", include_str!("migrations/sqlite/0005_endpoint_versions.sql")),
            (6, "starts", include_str!("migrations/sqlite/0006_starts.sql")),
            (7, "audit calls", include_str!("migrations/sqlite/0007_audit_calls.sql")),
        ],
        Dialect::Postgres => &[
            (1, "foundation", include_str!("migrations/postgres/0001_foundation.sql")),
            (2, "endpoint versions", include_str!("migrations/postgres/0002_endpoint_versions.sql")),
            (3, "starts", include_str!("migrations/postgres/0003_starts.sql")),
            (4, "skew", include_str!("migrations/postgres/0004_skew.sql")),
            (5, "audit calls", include_str!("migrations/postgres/0005_audit_calls.sql")),
        ],
    };
    let migrations = migrations.iter().map(|(version, name, sql)| {
        let sql = SqlStr::from_static(sql);
        Migration::new(*version, (*name).into(), MigrationType::Simple, sql, false)
    });
    Migrator::with_migrations(migrations.collect())
}

impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error.into())
    }
}
