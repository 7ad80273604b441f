//! What comes out of a row.
//!
//! Rows come from two libraries and two databases. All are decoded once, from
//! [`Columns`].

use sqlx::{Row as _, postgres::PgRow, sqlite::SqliteRow};

use crate::{
    domain::{DeliveryId, Pos, Timestamp, Uid},
    store::Error,
};

/// A row of a result, by number of column from zero.
pub trait Columns {
    /// An integer or nothing.
    fn integer(&self, column: usize) -> Result<Option<i64>, Error>;
    /// A text or nothing.
    fn text(&self, column: usize) -> Result<Option<&str>, Error>;
    /// Bytes or nothing.
    fn bytes(&self, column: usize) -> Result<Option<&[u8]>, Error>;
    /// A floating-point number.
    fn real(&self, column: usize) -> Result<f64, Error>;

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

macro_rules! rows_of_sqlx {
    ($($row:ty),+) => {$(
        impl Columns for $row {
            fn integer(&self, column: usize) -> Result<Option<i64>, Error> {
                Ok(self.try_get(column)?)
            }

            fn text(&self, column: usize) -> Result<Option<&str>, Error> {
                Ok(self.try_get(column)?)
            }

            fn bytes(&self, column: usize) -> Result<Option<&[u8]>, Error> {
                Ok(self.try_get(column)?)
            }

            fn real(&self, column: usize) -> Result<f64, Error> {
                Ok(self.try_get(column)?)
            }
        }
    )+};
}

rows_of_sqlx!(SqliteRow, PgRow);

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

    fn real(&self, column: usize) -> Result<f64, Error> {
        Ok(self.get(column)?)
    }
}
