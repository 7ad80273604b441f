//! Many rows as one table in a statement for PostgreSQL.
//!
//! A column goes over as an array, which the server unfolds value by value; one whose
//! values are all the same goes over once, and so do two columns that are the same. Most
//! are: a batch of deliveries that were just made differs in nine of 26 columns, of which
//! four are not one of the others, and unfolding arrays was a third of what an insert cost.

use std::borrow::Cow;

use sqlx::{Arguments as _, postgres::PgArguments};

use super::value::Value;
use crate::store::Error;

/// A table that has these columns, in their order, as it is written after `FROM`, and the
/// values it needs.
pub(super) fn table(columns: &[Column<'_>], numbered: bool) -> Result<(String, PgArguments), Error> {
    let mut arguments = PgArguments::default();
    let (mut shown, mut arrays, mut names): (Vec<String>, _, _) = (Vec::new(), Vec::new(), Vec::new());
    for (at, column) in columns.iter().enumerate() {
        let (kind, next) = (column.name(), arguments.len() + 1);
        if column.is_constant() {
            // Also if another is the same: that may be so by chance, and each form of a
            // statement is prepared for itself.
            shown.push(format!("${next}::{kind}"));
            column.add_first(&mut arguments)?;
        } else if let Some(twin) = columns[..at].iter().position(|other| other == column) {
            shown.push(shown[twin].clone());
        } else {
            shown.push(format!("c{at}"));
            arrays.push(format!("${next}::{kind}[]"));
            names.push(format!("c{at}"));
            column.add(&mut arguments)?;
        }
    }
    let number = if numbered { ", n" } else { "" };
    let shown = shown.join(", ") + number;
    Ok(if arrays.is_empty() {
        // Rows that do not differ are one; there is no use for two.
        (format!("(SELECT {shown} FROM (SELECT 1::int8 AS n) AS a)"), arguments)
    } else {
        let ordinality = if numbered { " WITH ORDINALITY" } else { "" };
        let (arrays, names) = (arrays.join(", "), names.join(", ") + number);
        (format!("(SELECT {shown} FROM UNNEST({arrays}){ordinality} AS a ({names}))"), arguments)
    })
}

/// A text as the server can store it: it knows no NUL. Inputs have none; this is so that
/// no text that slipped through refuses the transaction of everybody else.
pub(super) fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// The values of a column over several rows.
#[derive(PartialEq)]
pub(super) enum Column<'v> {
    Integers(Run<Option<i64>>),
    Reals(Run<f64>),
    Texts(Run<Option<Cow<'v, str>>>),
    Bytes(Run<Option<Cow<'v, [u8]>>>),
}

impl<'v> Column<'v> {
    /// A column with its first value, for so many.
    pub fn new(first: Value<'v>, room: usize) -> Self {
        match first {
            Value::Integer(first) => Self::Integers(Run::new(first, room)),
            Value::Real(first) => Self::Reals(Run::new(first, room)),
            Value::Text(first) => Self::Texts(Run::new(first, room)),
            Value::Bytes(first) => Self::Bytes(Run::new(first, room)),
            Value::List(_) => {
                debug_assert!(false, "a list is no value of a column");
                Self::Integers(Run::new(None, room))
            }
        }
    }

    /// Adds a value.
    pub fn push(&mut self, value: Value<'v>) {
        match (self, value) {
            (Self::Integers(column), Value::Integer(value)) => column.push(value),
            (Self::Reals(column), Value::Real(value)) => column.push(value),
            (Self::Texts(column), Value::Text(value)) => column.push(value),
            (Self::Bytes(column), Value::Bytes(value)) => column.push(value),
            (Self::Integers(_) | Self::Reals(_) | Self::Texts(_) | Self::Bytes(_), _) => {
                debug_assert!(false, "the values of a column are of one kind");
            }
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Integers(_) => "int8",
            Self::Reals(_) => "float8",
            Self::Texts(_) => "text",
            Self::Bytes(_) => "bytea",
        }
    }

    /// Whether all values are the same.
    fn is_constant(&self) -> bool {
        match self {
            Self::Integers(column) => column.is_constant(),
            Self::Reals(column) => column.is_constant(),
            Self::Texts(column) => column.is_constant(),
            Self::Bytes(column) => column.is_constant(),
        }
    }

    fn add_first(&self, arguments: &mut PgArguments) -> Result<(), Error> {
        let added = match self {
            Self::Integers(column) => arguments.add(column.first),
            Self::Reals(column) => arguments.add(column.first),
            Self::Texts(column) => arguments.add(column.first.as_deref().map(storable)),
            Self::Bytes(column) => arguments.add(column.first.as_deref()),
        };
        added.map_err(|error| Error::Corrupt(error.to_string()))
    }

    fn add(&self, arguments: &mut PgArguments) -> Result<(), Error> {
        let added = match self {
            Self::Integers(column) => arguments.add(&column.values),
            Self::Reals(column) => arguments.add(&column.values),
            Self::Texts(column) => {
                let texts: Vec<_> = column.values.iter().map(|text| text.as_deref().map(storable)).collect();
                arguments.add(texts.iter().map(|text| text.as_deref()).collect::<Vec<_>>())
            }
            Self::Bytes(column) => {
                arguments.add(column.values.iter().map(|bytes| bytes.as_deref()).collect::<Vec<_>>())
            }
        };
        added.map_err(|error| Error::Corrupt(error.to_string()))
    }
}

/// Values one after the other, noted one by one only once they differ: few columns do.
#[derive(PartialEq)]
pub(super) struct Run<T> {
    first: T,
    count: usize,
    room: usize,
    /// All of them, or nothing as long as they are the same.
    values: Vec<T>,
}

impl<T: Clone + PartialEq> Run<T> {
    fn new(first: T, room: usize) -> Self {
        Self { first, count: 1, room, values: Vec::new() }
    }

    fn push(&mut self, value: T) {
        self.count += 1;
        if self.is_constant() {
            if value == self.first {
                return;
            }
            self.values.reserve(self.room.max(self.count));
            self.values.resize(self.count - 1, self.first.clone());
        }
        self.values.push(value);
    }

    fn is_constant(&self) -> bool {
        self.values.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_noted_once_they_differ() {
        let mut run = Run::new(7, 2);
        run.push(7);
        assert!(run.is_constant());
        run.push(8);
        run.push(7);
        assert!(!run.is_constant());
        assert_eq!(run.values, [7, 7, 8, 7]);
    }
}
