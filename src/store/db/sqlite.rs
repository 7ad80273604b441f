//! The file: one process, a SQLite that can be trusted.

use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use sqlx::{
    ConnectOptions as _, Connection as _, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions},
};

use super::query::Dialect;
use crate::store::{Error, OpenError, open};

/// The oldest SQLite that does not corrupt a WAL database when two connections
/// write and checkpoint at once (the "WAL-reset" bug, 3.7.0 to 3.51.2).
const SQLITE_MIN: [u32; 3] = [3, 51, 3];
/// Connections for reads. Two cores have no use for more at once.
const READERS: u32 = 4;
/// How long a connection waits for a lock.
const BUSY: Duration = Duration::from_secs(5);
/// What every connection has.
const PRAGMAS: [(&str, &str); 4] =
    [("trusted_schema", "OFF"), ("mmap_size", "0"), ("temp_store", "MEMORY"), ("cache_size", "-8000")];

/// The mode of each file: for its owner alone, since payloads stand there in the open.
const MODE: u32 = 0o600;
/// What SQLite adds to the name of the database for its other files.
const SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

/// The file, opened: one connection that writes, some that read, and the locks.
pub(in crate::store) struct Opened {
    pub writer: Connection,
    pub readers: SqlitePool,
    pub locks: Vec<File>,
}

/// Opens or makes the store.
pub(in crate::store) async fn open(directory: &Path) -> Result<Opened, OpenError> {
    let file = directory.join("hookwire.db");
    let locks = vec![lock(directory)?, lock_file(&file)?];
    migrate(&file).await?;
    let writer = writer(&file)?;
    let boot = boot();
    if must_check(fact(&writer, "clean")?, fact(&writer, "boot")?, boot) {
        quick_check(&writer, directory)?;
    }
    let sql =
        "INSERT INTO meta VALUES ('clean', 0), ('boot', ?) ON CONFLICT DO UPDATE SET value = excluded.value";
    writer.execute(sql, [boot])?;
    let readers = SqlitePoolOptions::new()
        .max_connections(READERS)
        .min_connections(1)
        .acquire_timeout(Duration::from_secs(5))
        .connect_with(reading(&file))
        .await?;
    Ok(Opened { writer, readers, locks })
}

/// One of the constants that tell which master keys are needed, without changing anything;
/// `None` if there is no file, or none of them in it.
pub(in crate::store) fn proof(directory: &Path) -> Result<Option<Vec<u8>>, rusqlite::Error> {
    let file = directory.join("hookwire.db");
    if !file.exists() {
        return Ok(None);
    }
    let conn = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let sql = "SELECT 1 FROM sqlite_schema WHERE name = 'vault'";
    if conn.query_row(sql, [], |_| Ok(())).optional()?.is_none() {
        return Ok(None);
    }
    conn.query_row("SELECT proof FROM vault LIMIT 1", [], |row| row.get(0)).optional()
}

/// Marks an orderly stop and closes the file.
pub(in crate::store) fn close(writer: Connection) -> Result<(), Error> {
    writer.execute("UPDATE meta SET value = 1 WHERE key = 'clean'", [])?;
    writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    writer.close().map_err(|(_, error)| error.into())
}

/// Makes the file if there is none and brings its tables up to date.
async fn migrate(file: &Path) -> Result<(), OpenError> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .disable_statement_logging();
    let mut conn = options.connect().await?;
    let found: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&mut conn).await?;
    let parts: Vec<u32> = found.split('.').filter_map(|part| part.parse().ok()).collect();
    if parts.as_slice() < SQLITE_MIN.as_slice() {
        return Err(OpenError::Version { found });
    }
    open::migrator(Dialect::Sqlite).run_direct(None, &mut conn, false).await?;
    Ok(conn.close().await?)
}

/// The connection that writes.
fn writer(file: &Path) -> Result<Connection, rusqlite::Error> {
    let conn = Connection::open(file)?;
    conn.busy_timeout(BUSY)?;
    conn.set_prepared_statement_cache_capacity(64);
    // With NORMAL a committed transaction can vanish on power loss.
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "foreign_keys", true)?;
    // 16 MiB of pages between checkpoints; the default of 4 MiB checkpoints four
    // times as often without gain.
    conn.pragma_update(None, "wal_autocheckpoint", 4000)?;
    for (name, value) in PRAGMAS {
        conn.pragma_update(None, name, value)?;
    }
    Ok(conn)
}

/// How connections that read are made.
fn reading(file: &Path) -> SqliteConnectOptions {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .read_only(true)
        .busy_timeout(BUSY)
        .statement_cache_capacity(256)
        // A page goes over from the store's thread in one piece; with the default of
        // 50 rows it waits for its reader several times, long if there is much to do.
        .row_buffer_size(512)
        .disable_statement_logging();
    PRAGMAS.into_iter().fold(options, |options, (name, value)| options.pragma(name, value))
}

fn lock(directory: &Path) -> Result<File, OpenError> {
    let failed = |source| OpenError::Directory { path: directory.to_owned(), source };
    // For its owner only: payloads stand there in the open.
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let file = own(&directory.join("hookwire.lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { path: directory.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Makes the database file if there is none, and locks it. The lock belongs to the file
/// and not to its name, so it also holds off a process that found the file by another
/// name. It must be held until SQLite has closed the file: closing any descriptor of a
/// file releases the locks that SQLite has on it.
fn lock_file(path: &Path) -> Result<File, OpenError> {
    let failed = |source| OpenError::Directory { path: path.to_owned(), source };
    for file in SUFFIXES.map(|suffix| with_suffix(path, suffix)) {
        match std::fs::set_permissions(file, Permissions::from_mode(MODE)) {
            // The last process to close the database removes its log and index.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done.map_err(failed)?,
        }
    }
    let file = own(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::LockedByOtherName { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Opens a file, or makes it, so that nobody but its owner can read it.
fn own(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(MODE).open(path)?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    Ok(file)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// One of the facts about the store; `boot`, the run of the machine that last opened
/// it, came after the schema that lists the others.
fn fact(conn: &Connection, name: &str) -> Result<Option<i64>, rusqlite::Error> {
    conn.query_row("SELECT value FROM meta WHERE key = ?", [name], |row| row.get(0)).optional()
}

/// Tells this run of the machine from others; zero where the system does not say.
fn boot() -> i64 {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.get(..8).and_then(|start| i64::from_str_radix(start, 16).ok()).unwrap_or(0)
}

/// Whether the file is to be checked before it is used. What was written before the
/// mere end of a process is all there, as the system has it; only when the machine
/// stopped, or may have, some of it may be missing.
fn must_check(clean: Option<i64>, written_in: Option<i64>, boot: i64) -> bool {
    clean == Some(0) && (boot == 0 || written_in != Some(boot))
}

/// Reads the whole file: 5 s for a gigabyte that is not in memory.
fn quick_check(conn: &Connection, directory: &Path) -> Result<(), OpenError> {
    let finding: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if finding == "ok" { Ok(()) } else { Err(OpenError::Damaged { path: directory.to_owned(), finding }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_checked_after_the_machine_stopped_without_closing_it() {
        assert!(must_check(Some(0), Some(7), 8));
        assert!(must_check(Some(0), None, 8));
        assert!(must_check(Some(0), Some(0), 0), "the system does not tell its runs apart");
        assert!(!must_check(Some(0), Some(8), 8), "only the process ended");
        assert!(!must_check(Some(1), Some(7), 8), "closed in order");
        assert!(!must_check(None, None, 8), "just made");
    }

    #[tokio::test]
    async fn files_are_for_their_owner_alone_also_those_that_were_there() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("data");
        let files = ["hookwire.db", "hookwire.db-wal", "hookwire.db-shm", "hookwire.lock"];
        let mode = |name: &str| std::fs::metadata(directory.join(name)).unwrap().permissions().mode() & 0o777;
        let opened = open(&directory).await.unwrap();
        assert_eq!((mode(""), files.map(mode)), (0o700, [MODE; 4]));
        for file in files {
            std::fs::set_permissions(directory.join(file), Permissions::from_mode(0o644)).unwrap();
        }
        // As after a crash: the files beside the database are left.
        let copy = folder.path().join("copy");
        std::fs::create_dir(&copy).unwrap();
        for file in files {
            std::fs::copy(directory.join(file), copy.join(file)).unwrap();
        }
        drop(opened);
        let _opened = open(&copy).await.unwrap();
        let mode = |name: &str| std::fs::metadata(copy.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(files.map(mode), [MODE; 4]);
    }

    #[tokio::test]
    async fn a_file_that_is_open_is_refused_under_each_of_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        let opened = open(&one).await.unwrap();
        assert!(matches!(open(&one).await, Err(OpenError::Locked { .. })));
        std::fs::create_dir(&other).unwrap();
        std::fs::hard_link(one.join("hookwire.db"), other.join("hookwire.db")).unwrap();
        let refused = open(&other).await.err().unwrap();
        assert!(matches!(refused, OpenError::LockedByOtherName { .. }), "{refused}");
        drop(opened);
        open(&one).await.unwrap();
    }
}
