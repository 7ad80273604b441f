//! The connections that read.

use std::time::Duration;

use sqlx::{
    AssertSqlSafe, Database, PgPool, Pool, SqlitePool, pool::PoolConnection, postgres::PgRow,
    sqlite::SqliteRow,
};
use tokio::time::timeout;

use super::{
    postgres,
    query::{Dialect, Query, Sql},
    row::Columns,
    value::{Value, list_text},
};
use crate::store::Error;

/// How long the rows of a server are waited for, the wait for a connection included. It
/// ends statements itself before that, if it can.
const PATIENCE: Duration = Duration::from_secs(8);

/// The connections that read, many at once.
#[derive(Clone, Debug)]
pub enum Readers {
    /// Of the file.
    Sqlite(SqlitePool),
    /// Of the server.
    Postgres(PgPool),
}

/// A row of either.
#[derive(Debug)]
pub enum Row {
    /// Of the file.
    Sqlite(SqliteRow),
    /// Of the server.
    Postgres(PgRow),
}

impl Readers {
    /// A statement put together from parts.
    pub fn query(&self, sql: impl Into<Sql>) -> Query {
        let dialect = self.dialect();
        Query::new(dialect, sql.into().of(dialect))
    }

    /// Which database.
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
        }
    }

    /// The rows of a fixed statement.
    pub async fn rows(&self, sql: impl Into<Sql>, values: &[Value<'_>]) -> Result<Vec<Row>, Error> {
        let sql = sql.into();
        match self {
            Self::Sqlite(pool) => {
                let query = bound(sqlx::query(sql.sqlite), values);
                let mut conn = connection(pool).await?;
                Ok(Box::pin(query.fetch_all(&mut *conn)).await?.into_iter().map(Row::Sqlite).collect())
            }
            Self::Postgres(pool) => {
                let query = sqlx::query_with(sql.postgres, postgres::arguments(values)?);
                answered(Box::pin(async { Ok(query.fetch_all(&mut *connection(pool).await?).await?) })).await
            }
        }
    }

    /// The first row of a fixed statement, if there is one.
    pub async fn row(&self, sql: impl Into<Sql>, values: &[Value<'_>]) -> Result<Option<Row>, Error> {
        Ok(self.rows(sql, values).await?.into_iter().next())
    }

    /// The rows of a statement put together from parts.
    pub async fn all(&self, query: &Query) -> Result<Vec<Row>, Error> {
        let sql = AssertSqlSafe(query.sql.clone());
        match self {
            Self::Sqlite(pool) => {
                let query = bound(sqlx::query(sql), &query.values);
                let mut conn = connection(pool).await?;
                Ok(Box::pin(query.fetch_all(&mut *conn)).await?.into_iter().map(Row::Sqlite).collect())
            }
            Self::Postgres(pool) => {
                let query = sqlx::query_with(sql, postgres::arguments(&query.values)?);
                answered(Box::pin(async { Ok(query.fetch_all(&mut *connection(pool).await?).await?) })).await
            }
        }
    }

    /// Closes them.
    pub async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

/// The rows of a server, unless it is frozen or out of reach.
async fn answered(rows: impl Future<Output = Result<Vec<PgRow>, Error>>) -> Result<Vec<Row>, Error> {
    match timeout(PATIENCE, rows).await {
        Ok(rows) => Ok(rows?.into_iter().map(Row::Postgres).collect()),
        Err(elapsed) => Err(Error::Away(Some(elapsed.into()))),
    }
}

/// A free connection. If all of them stay in use, the error says so, because the
/// database may be healthy; if fewer than all are open, it is the database that does not
/// accept another one.
async fn connection<D: Database>(pool: &Pool<D>) -> Result<PoolConnection<D>, Error> {
    // In a box, as are the reads: callers hold such futures within their own.
    Box::pin(pool.acquire()).await.map_err(|error| {
        let limit = pool.options().get_max_connections();
        if matches!(error, sqlx::Error::PoolTimedOut) && pool.size() >= limit {
            return Error::ReadersBusy { limit };
        }
        error.into()
    })
}

type SqliteQuery<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

fn bound<'q>(query: SqliteQuery<'q>, values: &[Value<'_>]) -> SqliteQuery<'q> {
    values.iter().fold(query, |query, value| match value {
        Value::Integer(value) => query.bind(*value),
        Value::Real(value) => query.bind(*value),
        Value::Text(text) => query.bind(text.as_deref().map(str::to_owned)),
        Value::Bytes(bytes) => query.bind(bytes.as_deref().map(<[u8]>::to_vec)),
        Value::List(values) => query.bind(list_text(values)),
    })
}

impl Row {
    fn columns(&self) -> &dyn Columns {
        match self {
            Self::Sqlite(row) => row,
            Self::Postgres(row) => row,
        }
    }
}

impl Columns for Row {
    fn integer(&self, column: usize) -> Result<Option<i64>, Error> {
        self.columns().integer(column)
    }

    fn text(&self, column: usize) -> Result<Option<&str>, Error> {
        self.columns().text(column)
    }

    fn bytes(&self, column: usize) -> Result<Option<&[u8]>, Error> {
        self.columns().bytes(column)
    }

    fn real(&self, column: usize) -> Result<f64, Error> {
        self.columns().real(column)
    }
}
