//! What a key may do.

use std::{fmt, str::FromStr};

const RESOURCES: [&str; 10] = [
    "endpoints",
    "secrets",
    "events",
    "deliveries",
    "dead_letters",
    "operations",
    "api_keys",
    "tenants",
    "audit",
    "ops",
];
/// What no key of a single tenant may do, whatever its scopes say.
const ADMINISTRATIVE: [&str; 4] = ["tenants:write", "audit:read", "ops:read", "ops:write"];
const ACTIONS: [&str; 3] = ["read", "write", "*"];

/// `<resource>:<action>`, `<resource>:*` or `*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(Box<str>);

impl Scope {
    /// Everything.
    pub fn all() -> Self {
        Self("*".into())
    }

    /// Whether it allows what needs `wanted`, or grants all of it.
    pub fn allows(&self, wanted: &str) -> bool {
        let of_all = |resource| wanted.split_once(':').is_some_and(|(it, _)| it == resource);
        &*self.0 == "*" || &*self.0 == wanted || self.0.strip_suffix(":*").is_some_and(of_all)
    }

    /// Whether only administrators may do what needs `wanted`.
    pub fn is_administrative(wanted: &str) -> bool {
        ADMINISTRATIVE.contains(&wanted)
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be `*` or `<resource>:read`, `:write` or `:*` of a known resource")]
pub struct ScopeError;

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let known = text
            .split_once(':')
            .is_some_and(|(resource, action)| RESOURCES.contains(&resource) && ACTIONS.contains(&action));
        if known || text == "*" { Ok(Self(text.into())) } else { Err(ScopeError) }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        text.parse().unwrap()
    }

    #[test]
    fn a_scope_allows_what_it_names() {
        assert!(scope("*").allows("endpoints:write") && scope("*").allows("secrets:*"));
        assert!(scope("endpoints:*").allows("endpoints:write") && scope("endpoints:*").allows("endpoints:*"));
        assert!(scope("endpoints:read").allows("endpoints:read"));
        assert!(!scope("endpoints:read").allows("endpoints:write"));
        assert!(!scope("endpoints:read").allows("endpoints:*"));
        assert!(!scope("endpoints:*").allows("events:read") && !scope("endpoints:*").allows("*"));
    }

    #[test]
    fn only_known_scopes_are_scopes() {
        for bad in ["", "endpoints", "endpoints:", "endpoints:delete", "*:read", "secret:read", "*:*", "**"] {
            assert_eq!(bad.parse::<Scope>(), Err(ScopeError), "{bad}");
        }
    }
}
