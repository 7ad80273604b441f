//! The server: its connections, and the one that writes.
//!
//! Transactions that write come one after the other, over all processes, by an advisory
//! lock that each takes first and holds until it is committed. So numbers of the feed grow
//! in commit order, and what a transaction finds at its start is how things stand until
//! its end. It holds the lock for a few round trips, each with all the rows of one table.
//!
//! A statement that is not answered in time is given up with its connection: the server
//! may be frozen or out of reach. Whether a commit that was given up took place is told
//! by what the next transaction finds.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    str::FromStr as _,
    time::Duration,
};

use sqlx::{
    Arguments as _, AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection, PgPool,
    Row as _,
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow, PgSslMode},
};
use tokio::{runtime::Runtime, time::timeout};

use super::{
    address,
    columns::{self, Column, storable},
    conn::Begun,
    identity::Identity,
    row::Columns as _,
    state::advice,
    value::Value,
};
use crate::{
    domain::Pos,
    store::{Error, journal::Entry},
};

/// The oldest server: `NULLS NOT DISTINCT` and `MERGE` came with it, and older ones are
/// not tested.
const VERSION_MIN: i32 = 15_00_00;
/// How long a statement of a transaction may take, as the server is told and as waited
/// for: a disk may need seconds for one sync while much is written out. What the server
/// has not refused by then it will not answer.
const STATEMENT_MS: u32 = 6_000;
const PATIENCE: Duration = Duration::from_millis(6_500);
/// The same for what is read at the start, which may be much.
const LOADING: Duration = Duration::from_secs(300);
/// How long it may take to get a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// Connections for reads.
const READERS: u32 = 8;

/// Why a server cannot be used. Each sentence says what to do.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// The URL.
    #[error(
        "--store is not a URL of a PostgreSQL database: write it as postgres://user:password@host:5432/database"
    )]
    Url(#[source] sqlx::Error),
    /// The URL of something else.
    #[error(
        "--store is a URL of another kind ({0}): events are kept in PostgreSQL, postgres://user:password@host:5432/database, \
         or without --store in a file of SQLite in --data-dir"
    )]
    Scheme(String),
    /// Clear text beyond this machine.
    #[error("events and secrets would cross the network to {0} in clear text: leave out sslmode=disable")]
    Plaintext(String),
    /// No connection.
    #[error("cannot connect to PostgreSQL: check --store, and that the server runs")]
    Connect(#[source] sqlx::Error),
    /// The server answered with an error that one can do something about.
    #[error("{0}")]
    State(&'static str, #[source] sqlx::Error),
    /// More than one host.
    #[error(
        "--store names more than one host, and hookwire connects to one: give an address that always leads to the \
         primary, such as a virtual address, a DNS name that follows it, or a TCP proxy (HAProxy, pgBouncer in \
         session mode)"
    )]
    Hosts,
    /// A kind of server that does not serve.
    #[error(
        "--store asks for target_session_attrs={0}, and hookwire needs a server that takes writes: leave it out, or \
         write read-write or primary"
    )]
    Attributes(String),
    /// Sessions that only read by default.
    #[error(
        "sessions of the role or of the database only read (default_transaction_read_only = on): set it to off with \
         ALTER ROLE or ALTER DATABASE, or give another role by --store"
    )]
    ReadOnly,
    /// It took too long.
    #[error("PostgreSQL does not answer: check --store, and that the server runs")]
    Silent,
    /// Too old.
    #[error("the server is PostgreSQL {0}: hookwire needs 15 or later")]
    Version(String),
    /// A standby.
    #[error("the server is a read-only standby: give the address of the primary by --store")]
    Standby,
    /// Some texts could not be stored.
    #[error("the database's encoding is {0}: make one with ENCODING 'UTF8'")]
    Encoding(String),
    /// What is acknowledged might be lost.
    #[error(
        "the server has {0} = off, so what it acknowledges can be lost: set it to on, or start with --allow-lossy-store"
    )]
    Lossy(&'static str),
}

/// Which server, and how it is spoken to.
#[derive(Clone, Debug)]
pub struct Server {
    options: PgConnectOptions,
    allow_lossy: bool,
    /// Beyond this machine.
    remote: bool,
}

impl Server {
    /// Reads a URL. Beyond this machine the connection is encrypted.
    pub fn new(url: &str, allow_lossy: bool) -> Result<Self, PostgresError> {
        // The library takes any scheme for its own.
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        if !["postgres", "postgresql"].contains(&scheme) {
            let known = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) && !scheme.is_empty();
            return Err(PostgresError::Scheme(if known {
                scheme.to_owned()
            } else {
                "without a scheme".to_owned()
            }));
        }
        if address::has_many_hosts(url) {
            return Err(PostgresError::Hosts);
        }
        if let Some(wanted) = address::unfit_attributes(url) {
            return Err(PostgresError::Attributes(wanted));
        }
        let mut options = PgConnectOptions::from_str(url).map_err(PostgresError::Url)?;
        if let Some(inner) = address::bracketed(options.get_host()) {
            let inner = inner.to_owned();
            options = options.host(&inner);
        }
        let host = options.get_host().to_owned();
        let here = options.get_socket().is_some() || address::is_here(&host);
        if !here {
            match options.get_ssl_mode() {
                PgSslMode::Disable => return Err(PostgresError::Plaintext(host)),
                PgSslMode::Allow | PgSslMode::Prefer => options = options.ssl_mode(PgSslMode::Require),
                PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull => {}
            }
        }
        Ok(Self { options, allow_lossy, remote: !here })
    }

    /// What of a server beyond this machine is not checked when a connection is made to
    /// it; `None` if it is sure to be the right one.
    pub fn unverified(&self) -> Option<&'static str> {
        match self.options.get_ssl_mode() {
            PgSslMode::VerifyFull => None,
            PgSslMode::VerifyCa => self.remote.then_some("the name in its certificate"),
            PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer | PgSslMode::Require => {
                self.remote.then_some("its certificate")
            }
        }
    }

    /// The host, without brackets.
    #[cfg(test)]
    pub fn host(&self) -> &str {
        self.options.get_host()
    }

    /// Options of a connection with a name, for those who look at the server.
    fn named(&self, role: &str) -> PgConnectOptions {
        let millis = STATEMENT_MS.to_string();
        self.options
            .clone()
            .application_name(&format!("hookwire {role}"))
            .options([
                ("statement_timeout", millis.as_str()),
                ("lock_timeout", "5000"),
                // Whatever a role or a database sets for its sessions.
                ("default_transaction_isolation", "read committed"),
                ("default_transaction_deferrable", "off"),
                ("idle_session_timeout", "0"),
                ("TimeZone", "UTC"),
                // A process that was frozen in the middle keeps nobody waiting for longer.
                ("idle_in_transaction_session_timeout", "4000"),
                ("client_connection_check_interval", "1000"),
                ("tcp_keepalives_idle", "5"),
                ("tcp_keepalives_interval", "2"),
                ("tcp_keepalives_count", "3"),
                ("tcp_user_timeout", "10000"),
                // Every query finds its rows by an index, in one way whatever the values and
                // the statistics are. So a plan is made once, and not for each page.
                ("enable_seqscan", "off"),
                ("enable_bitmapscan", "off"),
                ("enable_hashjoin", "off"),
                ("enable_mergejoin", "off"),
                ("enable_memoize", "off"),
                ("plan_cache_mode", "force_generic_plan"),
                ("jit", "off"),
                ("client_min_messages", "warning"),
            ])
            .disable_statement_logging()
    }

    /// A connection of its own.
    pub async fn connect(&self, role: &str) -> Result<PgConnection, PostgresError> {
        let options = self.named(role);
        match timeout(CONNECT, options.connect()).await {
            Ok(connected) => connected.map_err(PostgresError::from),
            Err(_) => Err(PostgresError::Silent),
        }
    }

    /// The connections that read.
    pub fn readers(&self) -> PgPool {
        let options = self.named("reader").options([("default_transaction_read_only", "on")]);
        PgPoolOptions::new().max_connections(READERS).acquire_timeout(CONNECT).connect_lazy_with(options)
    }

    /// Whether processes share the database at this moment.
    pub async fn is_in_use(&self) -> Result<bool, PostgresError> {
        let mut conn = self.connect("question").await?;
        if !is_there(&mut conn, "instances").await? {
            return Ok(false);
        }
        let sql = "SELECT EXISTS (SELECT 1 FROM instances i JOIN pg_stat_activity a ON a.pid = i.backend \
             WHERE a.application_name IN ('hookwire fleet ' || i.id, 'hookwire member ' || i.id))";
        Ok(conn.fetch_one(sql).await?.get(0))
    }

    /// Whether servers of a version that took other locks use the database: what they do would
    /// not be kept apart from what this one does.
    pub async fn has_other_locks(&self, conn: &mut PgConnection) -> Result<bool, PostgresError> {
        if !is_there(conn, "instances").await? {
            return Ok(false);
        }
        let sql = "SELECT EXISTS (SELECT 1 FROM instances i JOIN pg_stat_activity a ON a.pid = i.backend \
             WHERE a.application_name = 'hookwire member ' || i.id)";
        Ok(conn.fetch_one(sql).await?.get(0))
    }

    /// One of the constants that tell which master keys are needed; `None` if there is none.
    pub async fn proof(&self) -> Result<Option<Vec<u8>>, PostgresError> {
        let mut conn = self.connect("question").await?;
        let sql = "SELECT to_regclass('vault') IS NOT NULL";
        if !conn.fetch_one(sql).await.map_err(PostgresError::Connect)?.get::<bool, _>(0) {
            return Ok(None);
        }
        let row =
            conn.fetch_optional("SELECT proof FROM vault LIMIT 1").await.map_err(PostgresError::Connect)?;
        Ok(row.map(|row| row.get(0)))
    }

    /// Checks that what is acknowledged will be kept, and that the server takes writes.
    pub async fn check(&self, conn: &mut PgConnection) -> Result<(), PostgresError> {
        let sql = "SELECT current_setting('server_version_num')::int, current_setting('server_version'), \
             pg_is_in_recovery(), current_setting('fsync') = 'off', \
             current_setting('synchronous_commit') = 'off', current_setting('server_encoding'), \
             current_setting('default_transaction_read_only') = 'on'";
        let row = conn.fetch_one(sql).await?;
        if row.get::<i32, _>(0) < VERSION_MIN {
            return Err(PostgresError::Version(row.get(1)));
        }
        if row.get(2) {
            return Err(PostgresError::Standby);
        }
        if row.get(6) {
            return Err(PostgresError::ReadOnly);
        }
        let encoding: String = row.get(5);
        if encoding != "UTF8" {
            return Err(PostgresError::Encoding(encoding));
        }
        for (column, setting) in [(3, "fsync"), (4, "synchronous_commit")] {
            if row.get::<bool, _>(column) && !self.allow_lossy {
                return Err(PostgresError::Lossy(setting));
            }
        }
        Ok(())
    }
}

/// Whether there is a table of this name.
async fn is_there(conn: &mut PgConnection, table: &str) -> Result<bool, PostgresError> {
    let row = conn.fetch_one(sqlx::query("SELECT to_regclass($1) IS NOT NULL").bind(table)).await?;
    Ok(row.get(0))
}

impl PostgresError {
    /// Whether the server is away for the moment, or takes no connections yet.
    pub fn is_away(&self) -> bool {
        let away =
            |code: &str| code.starts_with("08") || matches!(code, "57P01" | "57P02" | "57P03" | "53300");
        match self {
            Self::Silent | Self::Connect(sqlx::Error::Io(_)) => true,
            Self::State(_, error) | Self::Connect(error) => code(error).is_some_and(|code| away(&code)),
            Self::Url(_)
            | Self::Scheme(_)
            | Self::Plaintext(_)
            | Self::Hosts
            | Self::Attributes(_)
            | Self::ReadOnly
            | Self::Version(_)
            | Self::Standby
            | Self::Encoding(_)
            | Self::Lossy(_) => false,
        }
    }
}

/// The SQL state of an error that the server answered with.
fn code(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error()?.code()
}

impl From<sqlx::Error> for PostgresError {
    fn from(error: sqlx::Error) -> Self {
        match code(&error).and_then(|code| advice(&code)) {
            Some(advice) => Self::State(advice, error),
            None => Self::Connect(error),
        }
    }
}

/// The connection that writes. Made anew by the next transaction after it was lost.
pub struct Link {
    server: Server,
    runtime: Runtime,
    conn: RefCell<Option<PgConnection>>,
    /// The lock of the transactions that write.
    lock: Cell<i64>,
    /// How long a statement is waited for.
    patience: Cell<Duration>,
    /// The day that partitions were last looked after.
    day: Cell<i64>,
}

impl Link {
    /// Connects.
    pub fn open(server: Server) -> Result<Self, PostgresError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| PostgresError::Connect(sqlx::Error::Io(error)))?;
        let link = Self {
            server,
            runtime,
            conn: RefCell::default(),
            lock: Cell::default(),
            patience: Cell::new(PATIENCE),
            day: Cell::default(),
        };
        link.connect()?;
        Ok(link)
    }

    /// The runtime that drives it.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    fn connect(&self) -> Result<(), PostgresError> {
        let conn = self.runtime.block_on(async {
            let mut conn = self.server.connect("writer").await?;
            let check = async {
                self.server.check(&mut conn).await?;
                Ok(Identity::read(&mut conn).await?)
            };
            match timeout(CONNECT, check).await {
                Ok(checked) => checked.map(|identity| (conn, identity)),
                Err(_) => Err(PostgresError::Silent),
            }
        })?;
        let (conn, identity) = conn;
        self.lock.set(identity.writing_lock());
        *self.conn.borrow_mut() = Some(conn);
        Ok(())
    }

    /// Connects if the connection was lost. What comes back must know what this process
    /// knows: a server that was put back to an earlier state, or another one, would have its
    /// numbers given a second time.
    fn connect_again(&self, known: Pos) -> Result<(), Error> {
        if self.conn.borrow().is_some() {
            return Ok(());
        }
        self.connect().map_err(|error| Error::Away(Some(error.into())))?;
        let head = self.raw("SELECT max(pos) FROM commits".to_owned())?;
        let head = head.first().and_then(|row| row.integer(0).ok().flatten()).unwrap_or(0);
        if head.cast_unsigned() < known.0 {
            let why = format!("it stands at {head}, before {} that was committed", known.0);
            return Err(Error::Lost(why.into()));
        }
        Ok(())
    }

    /// See [`super::Conn::begin`].
    pub fn begin(&self, known: Pos) -> Result<Begun, Error> {
        self.connect_again(known)?;
        let sql = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT floor(extract(epoch FROM clock_timestamp()) / 86400)::int8 \
             FROM pg_advisory_xact_lock({}); {}",
            self.lock.get(),
            news_after(known)
        );
        let mut rows = self.raw(sql)?.into_iter();
        let day = rows.next().ok_or_else(|| Error::Corrupt("no answer to a lock".to_owned()))?.number(0)?;
        let news = rows.map(|row| Entry::read(&row)).collect::<Result<_, _>>()?;
        Ok(Begun { news, floor: first_of(day), day })
    }

    /// Waits longer for statements, or as usual again.
    pub fn be_patient(&self, patiently: bool) {
        self.patience.set(if patiently { LOADING } else { PATIENCE });
    }

    /// Whether a day is another than at the last call.
    pub fn enters(&self, day: i64) -> bool {
        self.day.replace(day) != day
    }

    /// See [`super::Conn::news`].
    pub fn news(&self, known: Pos) -> Result<Vec<Entry>, Error> {
        self.connect_again(known)?;
        self.raw(news_after(known))?.iter().map(|row| Entry::read(row)).collect()
    }

    /// See [`super::Conn::commit`].
    pub fn commit(&self, entry: Option<&Entry>) -> Result<(), Error> {
        let insert = entry.map(Entry::insert).unwrap_or_default();
        self.raw(format!("{insert}COMMIT")).map(drop)
    }

    /// See [`super::Conn::rollback`].
    pub fn rollback(&self) {
        if self.conn.borrow().is_some() && self.raw("ROLLBACK".to_owned()).is_err() {
            self.conn.borrow_mut().take();
        }
    }

    /// Runs a statement; says how many rows it changed.
    pub fn execute(&self, sql: &'static str, values: &[Value<'_>]) -> Result<usize, Error> {
        let arguments = arguments(values)?;
        self.run(async |conn| {
            let done = conn.execute(sqlx::query_with(sql, arguments)).await?;
            Ok(done.rows_affected() as usize)
        })
    }

    /// Reads all rows.
    pub fn rows(&self, sql: &'static str, values: &[Value<'_>]) -> Result<Vec<PgRow>, Error> {
        let arguments = arguments(values)?;
        self.run(async |conn| conn.fetch_all(sqlx::query_with(sql, arguments)).await)
    }

    /// Runs one statement over rows of values, as the table that `text` is told of; their
    /// count and what it returned. `numbered` adds their number, from 1, as last column.
    /// Nothing is sent if there are none.
    pub fn each<'v, const N: usize>(
        &self,
        rows: impl Iterator<Item = [Value<'v>; N]>,
        numbered: bool,
        text: impl FnOnce(&str) -> String,
    ) -> Result<(usize, Vec<PgRow>), Error> {
        let mut columns: Vec<Column<'v>> = Vec::with_capacity(N);
        let (mut count, expected) = (0, rows.size_hint().0);
        rows.for_each(|row| {
            if count == 0 {
                columns.extend(row.into_iter().map(|value| Column::new(value, expected)));
            } else {
                columns.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
            }
            count += 1;
        });
        if count == 0 {
            return Ok((0, Vec::new()));
        }
        let (table, arguments) = columns::table(&columns, numbered)?;
        let sql = AssertSqlSafe(text(&table));
        let returned = self.run(async |conn| conn.fetch_all(sqlx::query_with(sql, arguments)).await)?;
        Ok((count, returned))
    }

    /// Sends statements as text, without values.
    pub fn raw(&self, sql: String) -> Result<Vec<PgRow>, Error> {
        self.run(async |conn| conn.fetch_all(sqlx::raw_sql(AssertSqlSafe(sql))).await)
    }

    fn run<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, Error> {
        let mut slot = self.conn.borrow_mut();
        let Some(conn) = slot.as_mut() else { return Err(Error::Away(None)) };
        match self.runtime.block_on(async { timeout(self.patience.get(), work(conn)).await }) {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => {
                if is_over(&error) {
                    slot.take();
                }
                Err(error.into())
            }
            Err(elapsed) => {
                slot.take();
                Err(Error::Away(Some(elapsed.into())))
            }
        }
    }

    /// Says goodbye.
    pub fn close(self) {
        if let Some(conn) = self.conn.into_inner() {
            let _ = self.runtime.block_on(async { timeout(CONNECT, conn.close()).await });
        }
    }
}

/// Whether a connection is of no use after an error.
fn is_over(error: &sqlx::Error) -> bool {
    match error.as_database_error() {
        // Classes 08 and 57 (shutdown, crash, terminated, but for cancelled statements).
        Some(error) => error.code().is_some_and(|code| {
            code.starts_with("08") || (code.starts_with("57") && code != "57014") || code == "25P03"
        }),
        None => true,
    }
}

/// What was committed after a position.
fn news_after(known: Pos) -> String {
    format!("SELECT pos, base, latest, origin, note FROM commits WHERE pos > {} ORDER BY pos", known.0)
}

/// The number before the first of a day. Numbers of one day share their first bits, so that
/// the rows of a day are one range: a partition. A day has four billion of them; if
/// it needs more, it takes some of the next.
pub(in crate::store) fn first_of(day: i64) -> Pos {
    Pos((day << 32).cast_unsigned())
}

/// Values one by one.
pub(super) fn arguments(values: &[Value<'_>]) -> Result<PgArguments, Error> {
    let mut arguments = PgArguments::default();
    for value in values {
        let added = match value {
            Value::Integer(value) => arguments.add(*value),
            Value::Real(value) => arguments.add(*value),
            Value::Text(text) => arguments.add(text.as_deref().map(storable)),
            Value::Bytes(bytes) => arguments.add(bytes.as_deref()),
            Value::List(values) => arguments.add(values.as_slice()),
        };
        added.map_err(|error| Error::Corrupt(error.to_string()))?;
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_checked_of_a_server_beyond_this_machine_is_known() {
        let unverified = |url: &str| Server::new(url, false).unwrap().unverified();
        let remote = "postgres://me@db.example.com/events";
        assert_eq!(unverified(remote), Some("its certificate"));
        assert_eq!(unverified(&format!("{remote}?sslmode=require")), Some("its certificate"));
        assert_eq!(unverified(&format!("{remote}?sslmode=verify-ca")), Some("the name in its certificate"));
        assert_eq!(unverified(&format!("{remote}?sslmode=verify-full")), None);
        assert_eq!(unverified("postgres://me@localhost/events"), None);
        assert_eq!(unverified("postgres://me@127.0.0.1/events?sslmode=require"), None);
    }
}
