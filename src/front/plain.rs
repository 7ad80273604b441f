//! Paths as they are compared: letters, digits and marks that need no escape have none.
//!
//! RFC 3986, 6.2.2.2: `/v1/%65vents` is the same path as `/v1/events`. Other escapes stay,
//! so that `%2F` and `%3A` remain part of the segment that they are in.

use http::{Uri, uri::PathAndQuery};

/// The address with such a path; None if it is one already.
pub(super) fn uri(uri: &Uri) -> Option<Uri> {
    let path = path(uri.path())?;
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(format!("{path}{query}")).ok()?);
    Uri::from_parts(parts).ok()
}

fn path(path: &str) -> Option<String> {
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    let mut is_changed = false;
    while let Some(at) = rest.find('%') {
        plain.push_str(&rest[..at]);
        let byte = rest.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let needs_none = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
        match byte.filter(needs_none) {
            Some(byte) => {
                plain.push(char::from(byte));
                rest = &rest[at + 3..];
                is_changed = true;
            }
            None => {
                plain.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    plain.push_str(rest);
    is_changed.then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_needless_escapes_are_undone() {
        for (given, expected) in [
            ("/v1/%65vents?a=%65", Some("/v1/events?a=%65")),
            ("http://x/%7Ea%2d", Some("http://x/~a-")),
            ("/v1/a%3Apause%2F%41", Some("/v1/a%3Apause%2FA")),
            ("/v1/a%3apause", None),
            ("/v1/%zz%", None),
            ("/v1/events", None),
        ] {
            let found = uri(&given.parse().unwrap()).map(|uri| uri.to_string());
            assert_eq!(found.as_deref(), expected, "{given}");
        }
    }
}
