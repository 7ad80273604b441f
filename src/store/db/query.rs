//! Statements: their text for each database, and those put together from parts.

use super::value::{ToValue, Value};

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The file.
    Sqlite,
    /// The server.
    Postgres,
}

/// A statement where the two databases differ.
#[derive(Clone, Copy, Debug)]
pub struct Sql {
    /// For the file.
    pub sqlite: &'static str,
    /// For the server.
    pub postgres: &'static str,
}

impl Sql {
    /// The text for one of them.
    pub fn of(self, dialect: Dialect) -> &'static str {
        match dialect {
            Dialect::Sqlite => self.sqlite,
            Dialect::Postgres => self.postgres,
        }
    }
}

impl From<&'static str> for Sql {
    /// Both understand it.
    fn from(text: &'static str) -> Self {
        Self { sqlite: text, postgres: text }
    }
}

/// A statement put together from parts, with its values.
#[derive(Debug)]
pub struct Query {
    pub(super) dialect: Dialect,
    pub(super) sql: String,
    pub(super) values: Vec<Value<'static>>,
}

impl Query {
    /// Starts with a text.
    pub fn new(dialect: Dialect, sql: impl Into<String>) -> Self {
        Self { dialect, sql: sql.into(), values: Vec::new() }
    }

    /// Goes on with a text.
    pub fn push(&mut self, sql: &str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    /// Goes on with a value.
    pub fn bind<'v>(&mut self, value: impl ToValue<'v>) -> &mut Self {
        let value = match value.to_value() {
            Value::Integer(value) => Value::Integer(value),
            Value::Real(value) => Value::Real(value),
            Value::Text(text) => Value::Text(text.map(|text| text.into_owned().into())),
            Value::Bytes(bytes) => Value::Bytes(bytes.map(|bytes| bytes.into_owned().into())),
            Value::List(values) => Value::List(values),
        };
        self.place(value);
        self
    }

    /// Goes on with the values of an `IN (…)`, which PostgreSQL wants to have one at least.
    pub fn bind_all<'v, T: ToValue<'v>>(&mut self, values: impl IntoIterator<Item = T>) -> &mut Self {
        let before = self.values.len();
        for value in values {
            if self.values.len() > before {
                self.push(", ");
            }
            self.bind(value);
        }
        if self.values.len() == before { self.push("NULL") } else { self }
    }

    /// Goes on with a table `j (value)` of integers.
    pub fn list(&mut self, values: Vec<i64>) -> &mut Self {
        let (before, after) = match self.dialect {
            Dialect::Sqlite => ("json_each(", ") j"),
            Dialect::Postgres => ("UNNEST(", "::int8[]) AS j (value)"),
        };
        self.push(before);
        self.place(Value::List(values));
        self.push(after)
    }

    /// The text so far.
    #[cfg(test)]
    pub fn sql(&self) -> &str {
        &self.sql
    }

    fn place(&mut self, value: Value<'static>) {
        self.values.push(value);
        self.sql.push('$');
        self.sql.push_str(&self.values.len().to_string());
    }
}
