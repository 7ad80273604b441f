//! Opening the store: one process, one file, a SQLite that can be trusted.

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    ConnectOptions as _, Connection as _, SqlStr, SqliteConnection, SqlitePool,
    migrate::{Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

/// The oldest SQLite that does not corrupt a WAL database when two connections
/// write and checkpoint at once (the "WAL-reset" bug, 3.7.0 to 3.51.2).
const SQLITE_MIN: [u32; 3] = [3, 51, 3];
/// Connections for reads. Two cores have no use for more at once.
const READERS: u32 = 4;

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
    /// Anything else.
    #[error("cannot open the database")]
    Database(#[from] sqlx::Error),
    /// The schema cannot be brought up to date.
    #[error("cannot bring the database up to date: it may be of a later version of hookwire")]
    Migrate(#[from] sqlx::migrate::MigrateError),
}

/// The file, opened: one connection that writes, some that read, and the lock.
pub(super) struct Opened {
    pub writer: SqliteConnection,
    pub readers: SqlitePool,
    pub lock: File,
}

/// Opens or makes the store in a directory.
pub(super) async fn open(directory: &Path) -> Result<Opened, OpenError> {
    let lock = lock(directory)?;
    let options = options(&directory.join("hookwire.db"));
    let mut writer = options.clone().connect().await?;
    check_version(&mut writer).await?;
    migrator().run_direct(None, &mut writer, false).await?;
    let clean: Option<i64> =
        sqlx::query_scalar("SELECT value FROM meta WHERE key = 'clean'").fetch_optional(&mut writer).await?;
    if clean == Some(0) {
        quick_check(&mut writer, directory).await?;
    }
    sqlx::query("INSERT INTO meta VALUES ('clean', 0) ON CONFLICT DO UPDATE SET value = 0")
        .execute(&mut writer)
        .await?;
    let readers = SqlitePoolOptions::new()
        .max_connections(READERS)
        .min_connections(1)
        .acquire_timeout(Duration::from_secs(5))
        .connect_with(options.read_only(true))
        .await?;
    Ok(Opened { writer, readers, lock })
}

/// Marks an orderly stop and closes the file.
pub(super) async fn close(mut writer: SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE meta SET value = 1 WHERE key = 'clean'").execute(&mut writer).await?;
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut writer).await?;
    writer.close().await
}

fn options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // With NORMAL a committed transaction can vanish on power loss.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(5))
        .foreign_keys(true)
        .pragma("trusted_schema", "OFF")
        .pragma("mmap_size", "0")
        .pragma("temp_store", "MEMORY")
        // 16 MiB of pages between checkpoints; the default of 4 MiB checkpoints
        // four times as often without gain.
        .pragma("wal_autocheckpoint", "4000")
        .pragma("cache_size", "-8000")
        .statement_cache_capacity(256)
        // A page goes over from the store's thread in one piece; with the default of
        // 50 rows it waits for its reader several times, long if there is much to do.
        .row_buffer_size(512)
        .disable_statement_logging()
}

fn lock(directory: &Path) -> Result<File, OpenError> {
    let failed = |source| OpenError::Directory { path: directory.to_owned(), source };
    std::fs::create_dir_all(directory).map_err(failed)?;
    let path = directory.join("hookwire.lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { path: directory.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

async fn check_version(conn: &mut SqliteConnection) -> Result<(), OpenError> {
    let found: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(conn).await?;
    let parts: Vec<u32> = found.split('.').filter_map(|part| part.parse().ok()).collect();
    if parts.as_slice() >= SQLITE_MIN.as_slice() { Ok(()) } else { Err(OpenError::Version { found }) }
}

/// After an unclean stop only: it reads the whole file.
async fn quick_check(conn: &mut SqliteConnection, directory: &Path) -> Result<(), OpenError> {
    let finding: String = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(conn).await?;
    if finding == "ok" { Ok(()) } else { Err(OpenError::Damaged { path: directory.to_owned(), finding }) }
}

fn migrator() -> Migrator {
    let migrations = [(1, "foundation", include_str!("migrations/sqlite/0001_foundation.sql"))];
    let migrations = migrations.map(|(version, name, sql)| {
        Migration::new(version, name.into(), MigrationType::Simple, SqlStr::from_static(sql), false)
    });
    Migrator::with_migrations(migrations.to_vec())
}
