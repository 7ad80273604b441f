//! What is wrong with a request, all of it at once.

/// One invalid field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path in proto names: `endpoint.retry_policy.max_attempts`.
    pub field: String,
    /// The rule broken.
    pub rule: Rule,
    /// Why, and what to do about it.
    pub description: String,
}

/// Rules a field can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Missing.
    Required,
    /// Too long.
    TooLong,
    /// Too short.
    TooShort,
    /// Too many items.
    TooMany,
    /// Out of range.
    OutOfRange,
    /// Not of the form.
    BadFormat,
    /// Not one of the known values.
    UnknownValue,
    /// Cannot be changed.
    Immutable,
    /// At odds with another field.
    Conflict,
    /// Not allowed.
    Forbidden,
    /// Given twice.
    Duplicate,
}

impl Rule {
    /// Stable code on the wire.
    pub fn code(self) -> &'static str {
        match self {
            Self::Required => "REQUIRED",
            Self::TooLong => "TOO_LONG",
            Self::TooShort => "TOO_SHORT",
            Self::TooMany => "TOO_MANY",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::BadFormat => "BAD_FORMAT",
            Self::UnknownValue => "UNKNOWN_VALUE",
            Self::Immutable => "IMMUTABLE",
            Self::Conflict => "CONFLICT",
            Self::Forbidden => "FORBIDDEN",
            Self::Duplicate => "DUPLICATE",
        }
    }
}

/// A collector of violations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations(pub Vec<Violation>);

impl Violations {
    /// Notes one.
    pub fn add(&mut self, field: impl Into<String>, rule: Rule, description: impl Into<String>) {
        self.0.push(Violation { field: field.into(), rule, description: description.into() });
    }

    /// Notes one unless the condition holds.
    pub fn check(&mut self, holds: bool, field: &str, rule: Rule, description: &str) {
        if !holds {
            self.add(field, rule, description);
        }
    }

    /// The value if nothing is wrong.
    pub fn into_result<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }
}
