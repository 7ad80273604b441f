//! Values to columns and back.
//!
//! Two libraries speak to the one file: `sqlx` reads, as many at once as there are
//! readers, and `rusqlite` writes, a whole transaction on one thread. What both
//! read is decoded once, from [`Columns`].

use rusqlite::{
    ToSql,
    types::{ToSqlOutput, ValueRef},
};
use sqlx::{Row as _, sqlite::SqliteRow};

use super::Error;
use crate::domain::{DeliveryId, EndpointKey, Micros, Pos, TenantKey, Timestamp, Uid};

/// A row of a result, by number of column from zero.
pub(super) trait Columns {
    /// An integer or nothing.
    fn integer(&self, column: usize) -> Result<Option<i64>, Error>;
    /// A text or nothing.
    fn text(&self, column: usize) -> Result<Option<&str>, Error>;
    /// Bytes or nothing.
    fn bytes(&self, column: usize) -> Result<Option<&[u8]>, Error>;

    /// An integer.
    fn number(&self, column: usize) -> Result<i64, Error> {
        self.integer(column)?.ok_or_else(|| missing(column))
    }
    /// A text.
    fn word(&self, column: usize) -> Result<&str, Error> {
        self.text(column)?.ok_or_else(|| missing(column))
    }
    /// A number that was written as 32 bits.
    fn small(&self, column: usize) -> Result<u32, Error> {
        self.number(column).map(|value| value as u32)
    }
    /// A count or version.
    fn count(&self, column: usize) -> Result<u64, Error> {
        self.number(column).map(i64::cast_unsigned)
    }
    /// A number of the feed.
    fn pos(&self, column: usize) -> Result<Pos, Error> {
        self.count(column).map(Pos)
    }
    /// An instant.
    fn time(&self, column: usize) -> Result<Timestamp, Error> {
        self.number(column).map(Timestamp)
    }
    /// An instant or nothing.
    fn time_if(&self, column: usize) -> Result<Option<Timestamp>, Error> {
        Ok(self.integer(column)?.map(Timestamp))
    }
    /// The id of a delivery or nothing.
    fn delivery_id(&self, column: usize) -> Result<Option<DeliveryId>, Error> {
        Ok(self.bytes(column)?.and_then(Uid::from_bytes).map(DeliveryId))
    }
}

fn missing(column: usize) -> Error {
    Error::Corrupt(format!("nothing in column {column}"))
}

impl Columns for SqliteRow {
    fn integer(&self, column: usize) -> Result<Option<i64>, Error> {
        Ok(self.try_get(column)?)
    }

    fn text(&self, column: usize) -> Result<Option<&str>, Error> {
        Ok(self.try_get(column)?)
    }

    fn bytes(&self, column: usize) -> Result<Option<&[u8]>, Error> {
        Ok(self.try_get(column)?)
    }
}

impl Columns for rusqlite::Row<'_> {
    fn integer(&self, column: usize) -> Result<Option<i64>, Error> {
        Ok(self.get_ref(column)?.as_i64_or_null().map_err(rusqlite::Error::from)?)
    }

    fn text(&self, column: usize) -> Result<Option<&str>, Error> {
        Ok(self.get_ref(column)?.as_str_or_null().map_err(rusqlite::Error::from)?)
    }

    fn bytes(&self, column: usize) -> Result<Option<&[u8]>, Error> {
        Ok(self.get_ref(column)?.as_blob_or_null().map_err(rusqlite::Error::from)?)
    }
}

macro_rules! integers {
    ($($name:ident => $value:expr),+) => {$(
        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                let value: fn(&$name) -> i64 = $value;
                Ok(ToSqlOutput::Borrowed(ValueRef::Integer(value(self))))
            }
        }
    )+};
}

integers! {
    Pos => |it| it.0.cast_signed(),
    Timestamp => |it| it.0,
    Micros => |it| it.0,
    TenantKey => |it| it.0,
    EndpointKey => |it| it.0
}

/// Ids are written as their bytes where they point elsewhere.
impl ToSql for DeliveryId {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.to_bytes().to_vec().into())
    }
}
