//! The connection that writes.

use rusqlite::{CachedStatement, Connection, params_from_iter};
use tokio::runtime::Handle;

use super::{
    postgres::Link,
    query::{Dialect, Sql},
    row::Columns,
    sqlite,
    value::{Value, params},
};
use crate::{
    domain::Pos,
    explain,
    store::{Error, journal::Entry, partitions},
};

/// The connection that writes. Blocks: it belongs to the writer's thread.
pub enum Conn {
    /// To the file.
    Sqlite(Connection),
    /// To the server.
    Postgres(Box<Link>),
}

/// What a transaction finds at its start.
#[derive(Debug, Default)]
pub struct Begun {
    /// What others have committed since, in order.
    pub news: Vec<Entry>,
    /// No number up to this one is given any more.
    pub floor: Pos,
    /// The day by the server's clock, since 1970.
    pub day: i64,
}

impl Conn {
    /// Which database.
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Whether other processes write, too.
    pub fn is_shared(&self) -> bool {
        self.dialect() == Dialect::Postgres
    }

    /// Waits for something on the writer's thread.
    pub fn wait<F: Future>(&self, runtime: &Handle, future: F) -> F::Output {
        match self {
            Self::Sqlite(_) => runtime.block_on(future),
            // So that it is one thread that waits for both, callers and the server.
            Self::Postgres(link) => link.runtime().block_on(future),
        }
    }

    /// Begins a transaction that no other can be beside. `known` is the last position
    /// that this process knows of.
    pub fn begin(&self, known: Pos) -> Result<Begun, Error> {
        match self {
            Self::Sqlite(conn) => {
                conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
                Ok(Begun::default())
            }
            Self::Postgres(link) => {
                let begun = link.begin(known)?;
                if link.enters(begun.day) {
                    partitions::make(self, begun.day)?;
                }
                Ok(begun)
            }
        }
    }

    /// What others have committed since, outside a transaction.
    pub fn news(&self, known: Pos) -> Result<Vec<Entry>, Error> {
        match self {
            Self::Sqlite(_) => Ok(Vec::new()),
            Self::Postgres(link) => link.news(known),
        }
    }

    /// Commits, with what it did as the last thing written.
    pub fn commit(&self, entry: Option<&Entry>) -> Result<(), Error> {
        match self {
            Self::Sqlite(conn) => {
                if let Some(entry) = entry {
                    let mut update =
                        conn.prepare_cached("UPDATE meta SET value = ? WHERE key = 'position'")?;
                    update.execute([entry.pos.0.cast_signed()])?;
                }
                conn.prepare_cached("COMMIT")?.execute([])?;
                Ok(())
            }
            Self::Postgres(link) => link.commit(entry),
        }
    }

    /// Takes back what was begun.
    pub fn rollback(&self) {
        match self {
            // It has rolled back by itself after some errors; then this fails.
            Self::Sqlite(conn) => drop(conn.execute_batch("ROLLBACK")),
            Self::Postgres(link) => link.rollback(),
        }
    }

    /// Runs a statement; says how many rows it changed.
    pub fn execute(&self, sql: impl Into<Sql>, values: &[Value<'_>]) -> Result<usize, Error> {
        let sql = sql.into().of(self.dialect());
        match self {
            Self::Sqlite(conn) => Ok(prepared(conn, sql)?.execute(params_from_iter(values))?),
            Self::Postgres(link) => link.execute(sql, values),
        }
    }

    /// Reads all rows.
    pub fn rows<T, E: From<Error>>(
        &self,
        sql: impl Into<Sql>,
        values: &[Value<'_>],
        read: impl Fn(&dyn Columns) -> Result<T, E>,
    ) -> Result<Vec<T>, E> {
        let sql = sql.into().of(self.dialect());
        match self {
            Self::Sqlite(conn) => {
                let mut query = prepared(conn, sql).map_err(Error::from)?;
                let mut rows = query.query(params_from_iter(values)).map_err(Error::from)?;
                let mut found = Vec::new();
                while let Some(row) = rows.next().map_err(Error::from)? {
                    found.push(read(row)?);
                }
                Ok(found)
            }
            Self::Postgres(link) => link.rows(sql, values)?.iter().map(|row| read(row)).collect(),
        }
    }

    /// Reads the first row, if there is one.
    pub fn row<T>(
        &self,
        sql: impl Into<Sql>,
        values: &[Value<'_>],
        read: impl Fn(&dyn Columns) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        Ok(self.rows(sql, values, read)?.into_iter().next())
    }

    /// Adds rows with all the columns of a table, in their order. `suffix` ends the
    /// statement, as in `ON CONFLICT DO NOTHING`.
    pub fn insert<'v, const N: usize>(
        &self,
        table: impl Into<Sql>,
        suffix: &str,
        rows: impl Iterator<Item = [Value<'v>; N]>,
    ) -> Result<(), Error> {
        let table = table.into().of(self.dialect());
        match self {
            Self::Sqlite(conn) => {
                let marks = vec!["?"; N].join(",");
                let mut insert =
                    conn.prepare_cached(&format!("INSERT INTO {table} VALUES ({marks}) {suffix}"))?;
                for row in rows {
                    insert.execute(params_from_iter(&row))?;
                }
                Ok(())
            }
            Self::Postgres(link) => {
                link.each(rows, false, |rows| {
                    format!("INSERT INTO {table} SELECT * FROM {rows} AS u {suffix}")
                })?;
                Ok(())
            }
        }
    }

    /// Runs an update for each row of values; says of each whether it changed a row.
    /// For the file `sql` has `?` for the values of one row. For the server it reads
    /// from `{rows}`, which have the values and their number from 1 as last column, and
    /// returns the numbers of those that changed something.
    pub fn update_each<'v, const N: usize>(
        &self,
        sql: Sql,
        rows: impl Iterator<Item = [Value<'v>; N]>,
    ) -> Result<Vec<bool>, Error> {
        match self {
            Self::Sqlite(conn) => {
                let mut update = conn.prepare_cached(sql.sqlite)?;
                rows.map(|row| Ok(update.execute(params_from_iter(&row))? == 1)).collect()
            }
            Self::Postgres(link) => {
                let (count, changed) = link.each(rows, true, |rows| sql.postgres.replace("{rows}", rows))?;
                let mut done = vec![false; count];
                for row in &changed {
                    done[row.number(0)? as usize - 1] = true;
                }
                Ok(done)
            }
        }
    }

    /// Reads the rows that are found for each row of values. `sql` is as for
    /// [`Conn::update_each`], without the numbers.
    pub fn rows_each<'v, T, const N: usize>(
        &self,
        sql: Sql,
        rows: impl Iterator<Item = [Value<'v>; N]>,
        read: impl Fn(&dyn Columns) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        match self {
            Self::Sqlite(_) => {
                let mut found = Vec::new();
                for row in rows {
                    found.extend(self.rows(sql, &row, &read)?);
                }
                Ok(found)
            }
            Self::Postgres(link) => {
                let (_, found) = link.each(rows, false, |rows| sql.postgres.replace("{rows}", rows))?;
                found.iter().map(|row| read(row)).collect()
            }
        }
    }

    /// Begins to read all as of one instant, which others need not wait for, however long
    /// it takes.
    pub fn begin_loading(&self) -> Result<(), Error> {
        if let Self::Postgres(link) = self {
            link.be_patient(true);
            self.script(
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 0; \
                 SET LOCAL idle_in_transaction_session_timeout = 0"
                    .to_owned(),
            )?;
        }
        Ok(())
    }

    /// Ends that.
    pub fn end_loading(&self) -> Result<(), Error> {
        if let Self::Postgres(link) = self {
            self.script("COMMIT".to_owned())?;
            link.be_patient(false);
        }
        Ok(())
    }

    /// Runs statements made for the server that need locks on tables, unless somebody else
    /// has these for long; false: then nothing of them took place.
    pub fn attempt(&self, sql: String) -> Result<bool, Error> {
        self.script("SAVEPOINT attempt; SET LOCAL lock_timeout = '100ms'".to_owned())?;
        match self.script(sql) {
            Ok(()) => {
                self.script("RELEASE attempt; SET LOCAL lock_timeout TO DEFAULT".to_owned())?;
                Ok(true)
            }
            Err(error) => {
                tracing::warn!(error = explain::chain(&error), "a change of the tables has to wait");
                self.script("ROLLBACK TO attempt".to_owned())?;
                Ok(false)
            }
        }
    }

    /// Runs statements made for the server.
    pub fn script(&self, sql: String) -> Result<(), Error> {
        match self {
            Self::Sqlite(conn) => Ok(conn.execute_batch(&sql)?),
            Self::Postgres(link) => link.raw(sql).map(drop),
        }
    }

    /// The one number that a query asks for.
    pub fn number(&self, sql: impl Into<Sql>, values: &[Value<'_>]) -> Result<Option<i64>, Error> {
        Ok(self.row(sql, values, |row| row.integer(0))?.flatten())
    }
}

/// A statement whose parameters are numbered by their first use, as SQLite does.
fn prepared<'c>(conn: &'c Connection, sql: &str) -> rusqlite::Result<CachedStatement<'c>> {
    let statement = conn.prepare_cached(sql)?;
    let in_order = (1..=statement.parameter_count())
        .all(|at| statement.parameter_name(at).is_none_or(|name| name[1..] == at.to_string()));
    debug_assert!(in_order, "the parameters of {sql} are not in the order of their first use");
    Ok(statement)
}

impl Conn {
    /// One of the facts about the store.
    pub fn fact(&self, name: &str) -> Result<Option<i64>, Error> {
        self.number("SELECT value FROM meta WHERE key = $1", &params![name])
    }

    /// Closes it in order.
    pub fn close(self) -> Result<(), Error> {
        match self {
            Self::Sqlite(conn) => sqlite::close(conn),
            Self::Postgres(link) => {
                link.close();
                Ok(())
            }
        }
    }
}
