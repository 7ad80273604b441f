//! The two databases, spoken to in one way.
//!
//! SQL is written once where both understand it, with `$1` for parameters in the
//! order of their first use (SQLite numbers them so), and as a pair in an [`Sql`]
//! where not. Values go in as [`Value`]s and come out by [`Columns`]: integers, reals,
//! texts and bytes are all there is.
//!
//! [`Conn`] writes: the writer's thread blocks on it. Many rows go in by one call: for
//! SQLite that is one prepared statement row by row, which is cheapest there; for
//! PostgreSQL it is one statement over arrays, one round trip. [`Readers`] read, many at
//! once.

mod address;
mod columns;
mod conn;
mod identity;
mod postgres;
mod query;
mod readers;
mod row;
mod sqlite;
mod state;
mod value;

pub use self::postgres::{PostgresError, Server};
pub(super) use self::{
    conn::Conn,
    identity::Identity,
    postgres::{Link, first_of},
    query::{Dialect, Query, Sql},
    readers::{Readers, Row},
    row::Columns,
    sqlite::{open as open_sqlite, proof as proof_in_file},
    value::{ToValue, Value, params},
};
