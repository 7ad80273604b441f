//! Notes what is wrong with a request.

use std::fmt::{self, Display};

use crate::{
    app::{Error, Invalid},
    domain::{IdError, Rule, Violations},
};

/// Where the fields of a message lie in the request.
#[derive(Clone, Copy, Debug)]
pub enum Root {
    /// They are the request's own.
    Request,
    /// In one field.
    Field(&'static str),
    /// In one item of a list.
    Item(&'static str, usize),
}

impl Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request => Ok(()),
            Self::Field(name) => write!(f, "{name}."),
            Self::Item(name, index) => write!(f, "{name}[{index}]."),
        }
    }
}

/// Collects violations; costs nothing while there are none.
#[derive(Debug)]
pub struct Checks {
    root: Root,
    violations: Violations,
    reason: Invalid,
}

impl Checks {
    /// For the fields of a request.
    pub fn new() -> Self {
        Self::under(Root::Request)
    }

    /// For the fields of a message somewhere in a request.
    pub fn under(root: Root) -> Self {
        Self { root, violations: Violations::default(), reason: Invalid::Field }
    }

    /// The fields noted from here on lie elsewhere.
    pub fn enter(&mut self, root: Root) {
        self.root = root;
    }

    /// Notes a violation.
    pub fn add(&mut self, field: impl Display, rule: Rule, description: impl Into<String>) {
        self.violations.add(format!("{}{field}", self.root), rule, description);
    }

    /// Notes a violation unless the condition holds; says whether it does.
    pub fn check(&mut self, holds: bool, field: impl Display, rule: Rule, description: &str) -> bool {
        if !holds {
            self.add(field, rule, description);
        }
        holds
    }

    /// Notes what makes a text not an id of the kind that is wanted.
    pub fn wrong_id(&mut self, field: impl Display, error: &IdError) {
        self.add(field, Rule::BadFormat, error.to_string());
        if let IdError::WrongKind { expected, got } = *error {
            self.note(Invalid::WrongId { expected, got });
        }
    }

    /// Notes something over its limit in bytes.
    pub fn too_large(&mut self, field: impl Display, limit: usize, actual: usize) {
        self.add(field, Rule::TooLong, format!("has {actual} bytes, and at most {limit} are allowed"));
        self.note(Invalid::TooLarge { limit: limit as u64, actual: actual as u64 });
    }

    /// Notes what is wrong with a target.
    pub fn bad_url(&mut self, field: impl Display, refusal: crate::app::UrlRefusal) {
        let (rule, description, name) = refusal;
        self.add(field, rule, description);
        if rule == Rule::Forbidden {
            self.note(Invalid::Url { rule: name });
        }
    }

    /// The first reason of its own is the request's.
    fn note(&mut self, reason: Invalid) {
        if self.reason == Invalid::Field {
            self.reason = reason;
        }
    }

    /// Whether nothing is wrong so far.
    pub fn is_clean(&self) -> bool {
        self.violations.0.is_empty()
    }

    /// The error, if anything is wrong.
    pub fn finish(self) -> Result<(), Error> {
        let Self { violations, reason, .. } = self;
        if violations.0.is_empty() { Ok(()) } else { Err(Error::Invalid { violations, reason }) }
    }

    /// The value, unless anything is wrong.
    pub fn into_result<T>(self, value: T) -> Result<T, Error> {
        self.finish().map(|()| value)
    }
}
