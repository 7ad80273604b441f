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
    Integers(Vec<Option<i64>>),
    Reals(Vec<f64>),
    Texts(Vec<Option<Cow<'v, str>>>),
    Bytes(Vec<Option<Cow<'v, [u8]>>>),
}

impl<'v> Column<'v> {
    /// An empty column for values of the kind of this one, with room for so many.
    pub fn of(value: &Value<'_>, room: usize) -> Self {
        match value {
            Value::Integer(_) | Value::List(_) => Self::Integers(Vec::with_capacity(room)),
            Value::Real(_) => Self::Reals(Vec::with_capacity(room)),
            Value::Text(_) => Self::Texts(Vec::with_capacity(room)),
            Value::Bytes(_) => Self::Bytes(Vec::with_capacity(room)),
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
        fn same<T: PartialEq>(values: &[T]) -> bool {
            values.windows(2).all(|pair| pair[0] == pair[1])
        }
        match self {
            Self::Integers(column) => same(column),
            Self::Reals(column) => same(column),
            Self::Texts(column) => same(column),
            Self::Bytes(column) => same(column),
        }
    }

    fn add_first(&self, arguments: &mut PgArguments) -> Result<(), Error> {
        let added = match self {
            Self::Integers(column) => arguments.add(column.first().copied().flatten()),
            Self::Reals(column) => arguments.add(column.first().copied()),
            Self::Texts(column) => {
                arguments.add(column.first().and_then(|text| text.as_deref()).map(storable))
            }
            Self::Bytes(column) => arguments.add(column.first().and_then(|bytes| bytes.as_deref())),
        };
        added.map_err(|error| Error::Corrupt(error.to_string()))
    }

    fn add(&self, arguments: &mut PgArguments) -> Result<(), Error> {
        let added = match self {
            Self::Integers(column) => arguments.add(column),
            Self::Reals(column) => arguments.add(column),
            Self::Texts(column) => {
                let texts: Vec<_> = column.iter().map(|text| text.as_deref().map(storable)).collect();
                arguments.add(texts.iter().map(|text| text.as_deref()).collect::<Vec<_>>())
            }
            Self::Bytes(column) => {
                arguments.add(column.iter().map(|bytes| bytes.as_deref()).collect::<Vec<_>>())
            }
        };
        added.map_err(|error| Error::Corrupt(error.to_string()))
    }
}
