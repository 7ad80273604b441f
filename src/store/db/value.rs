//! What goes into a statement.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use rusqlite::{
    ToSql,
    types::{ToSqlOutput, Value as Owned, ValueRef},
};

use crate::domain::{DeliveryId, EndpointKey, Micros, Pos, TenantKey, Timestamp};

/// A value of a column, or the lack of one of that kind.
#[derive(Clone, Debug)]
pub enum Value<'v> {
    /// An integer; flags are 0 or 1.
    Integer(Option<i64>),
    /// A floating-point number.
    Real(f64),
    /// A text.
    Text(Option<Cow<'v, str>>),
    /// Bytes.
    Bytes(Option<Cow<'v, [u8]>>),
    /// Integers, for `Query::list`.
    List(Vec<i64>),
}

/// What has a column's form. Texts and bytes are borrowed or handed over.
pub trait ToValue<'v> {
    /// That form.
    fn to_value(self) -> Value<'v>;
    /// The lack of one.
    fn null() -> Value<'v>;
}

/// The values of a statement or of a row, as an array.
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        [$($crate::store::db::ToValue::to_value($value)),*]
    };
}
pub(in crate::store) use params;

impl<'v, T: ToValue<'v>> ToValue<'v> for Option<T> {
    fn to_value(self) -> Value<'v> {
        self.map_or_else(T::null, T::to_value)
    }

    fn null() -> Value<'v> {
        T::null()
    }
}

impl<'v, T> ToValue<'v> for &'v Option<T>
where
    &'v T: ToValue<'v>,
{
    fn to_value(self) -> Value<'v> {
        self.as_ref().to_value()
    }

    fn null() -> Value<'v> {
        <&T>::null()
    }
}

/// For each kind of value: how it is made of the type on the left.
macro_rules! values {
    ($kind:ident: $([$($generic:tt)*] $name:ty => $value:expr),+ $(,)?) => {$(
        impl<'v, $($generic)*> ToValue<'v> for $name {
            fn to_value(self) -> Value<'v> {
                let value: fn($name) -> _ = $value;
                Value::$kind(Some(value(self)))
            }

            fn null() -> Value<'v> {
                Value::$kind(None)
            }
        }
    )+};
}

values! { Integer:
    [] i64 => |it| it,
    [] &i64 => |it| *it,
    [] i32 => i64::from,
    [] i8 => i64::from,
    [] u8 => i64::from,
    [] u16 => i64::from,
    [] u32 => i64::from,
    [] bool => i64::from,
    [] Pos => |it| it.0.cast_signed(),
    [] &Pos => |it| it.0.cast_signed(),
    [] Timestamp => |it| it.0,
    [] &Timestamp => |it| it.0,
    [] Micros => |it| it.0,
    [] TenantKey => |it| it.0,
    [] &TenantKey => |it| it.0,
    [] EndpointKey => |it| it.0,
}

values! { Text:
    [] &'v str => Cow::Borrowed,
    [] &'v String => |it| Cow::Borrowed(it.as_str()),
    [] &'v Arc<str> => |it| Cow::Borrowed(&**it),
    [] String => Cow::Owned,
}

values! { Bytes:
    [] &'v [u8] => Cow::Borrowed,
    [] &'v Bytes => |it| Cow::Borrowed(&**it),
    [] Vec<u8> => Cow::Owned,
    [const N: usize] [u8; N] => |it| Cow::Owned(it.to_vec()),
    [const N: usize] &'v [u8; N] => |it| Cow::Borrowed(it.as_slice()),
    // Ids are written as their bytes where they point elsewhere.
    [] DeliveryId => |it| Cow::Owned(it.0.to_bytes().to_vec()),
}

impl<'v> ToValue<'v> for f64 {
    fn to_value(self) -> Value<'v> {
        Value::Real(self)
    }

    fn null() -> Value<'v> {
        Value::Real(Self::NAN)
    }
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Integer(None) | Self::Text(None) | Self::Bytes(None) => {
                ToSqlOutput::Borrowed(ValueRef::Null)
            }
            Self::Integer(Some(value)) => ToSqlOutput::Borrowed(ValueRef::Integer(*value)),
            Self::Real(value) => ToSqlOutput::Borrowed(ValueRef::Real(*value)),
            Self::Text(Some(text)) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Self::Bytes(Some(bytes)) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
            Self::List(values) => ToSqlOutput::Owned(Owned::Text(list_text(values))),
        })
    }
}

/// Integers as the JSON that SQLite's `json_each` reads.
pub(super) fn list_text(values: &[i64]) -> String {
    serde_json::json!(values).to_string()
}
