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

/// Violations that are listed; of all others only the number is told.
const LISTED_MAX: usize = 100;

/// A collector of violations: the first hundred, and then one that says how many there
/// are besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations(pub Vec<Violation>, usize);

impl Violations {
    /// Notes one.
    pub fn add(&mut self, field: impl Into<String>, rule: Rule, description: impl Into<String>) {
        self.push(Violation { field: field.into(), rule, description: description.into() });
    }

    /// Notes those of another collector.
    pub fn extend(&mut self, others: Self) {
        let Self(violations, unlisted) = others;
        violations.into_iter().take(LISTED_MAX).for_each(|violation| self.push(violation));
        if unlisted > 0 {
            self.leave_out(unlisted);
        }
    }

    /// How many there are, those that are not listed among them.
    pub fn count(&self) -> usize {
        self.0.len().min(LISTED_MAX) + self.1
    }

    fn push(&mut self, violation: Violation) {
        if self.0.len() < LISTED_MAX {
            self.0.push(violation);
        } else {
            self.leave_out(1);
        }
    }

    fn leave_out(&mut self, count: usize) {
        self.1 += count;
        self.0.truncate(LISTED_MAX);
        let description = format!("{} more violations are not listed", self.1);
        self.0.push(Violation { field: String::new(), rule: Rule::TooMany, description });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_violations_are_listed_and_the_others_counted() {
        let mut violations = Violations::default();
        (0..100).for_each(|index| violations.add(format!("f{index}"), Rule::Required, "must be set"));
        assert_eq!((violations.0.len(), violations.count()), (100, 100));
        let more = violations.clone();
        (0..5).for_each(|index| violations.add(format!("g{index}"), Rule::Required, "must be set"));
        violations.extend(more);
        assert_eq!((violations.0.len(), violations.count()), (101, 205));
        assert_eq!(violations.0[100].description, "105 more violations are not listed");

        let mut all = Violations::default();
        all.extend(violations);
        assert_eq!((all.0.len(), all.count()), (101, 205));
    }
}
