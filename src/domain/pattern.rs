//! Patterns of event types.

use serde::{Deserialize, Serialize};

/// A pattern of event types: dot-separated segments, where `*` stands for one
/// segment, as the last segment for one or more, and alone for everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

impl Pattern {
    /// Longest pattern, as the longest event type.
    pub const LEN_MAX: usize = 128;

    /// Checks and takes a pattern; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > Self::LEN_MAX {
            return Err(format!("must have 1 to {} characters", Self::LEN_MAX));
        }
        let plain =
            |segment: &str| segment.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if text.split('.').all(|segment| segment == "*" || (!segment.is_empty() && plain(segment))) {
            Ok(Self(text.to_owned()))
        } else {
            Err("must be segments of `[A-Za-z0-9_-]` or `*`, joined by dots".to_owned())
        }
    }

    /// Whether an event type fits.
    pub fn matches(&self, event_type: &str) -> bool {
        let mut wanted = self.0.split('.').peekable();
        let mut given = event_type.split('.');
        while let Some(segment) = wanted.next() {
            let Some(actual) = given.next() else { return false };
            if segment == "*" && wanted.peek().is_none() {
                return true;
            }
            if segment != "*" && segment != actual {
                return false;
            }
        }
        given.next().is_none()
    }

    /// Whether an event type fits one of several; none at all mean every type.
    pub fn any(patterns: &[Self], event_type: &str) -> bool {
        patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(event_type))
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_one_segment_and_at_the_end_one_or_more() {
        let cases = [
            ("*", "a", true),
            ("*", "a.b.c", true),
            ("user.*", "user.created", true),
            ("user.*", "user.address.changed", true),
            ("user.*", "user", false),
            ("user.*", "users.created", false),
            ("*.created", "user.created", true),
            ("*.created", "user.address.created", false),
            ("a.*.c", "a.b.c", true),
            ("a.*.c", "a.c", false),
            ("user.created", "user.created", true),
            ("user.created", "user.created.x", false),
        ];
        for (pattern, event_type, expected) in cases {
            assert_eq!(
                Pattern::parse(pattern).unwrap().matches(event_type),
                expected,
                "{pattern} {event_type}"
            );
        }
    }

    #[test]
    fn a_malformed_pattern_is_refused() {
        for bad in ["", ".", "a.", ".a", "a..b", "a*", "a b", "ä"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }
}
