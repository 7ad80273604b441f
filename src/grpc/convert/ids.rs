//! Identifiers.

use std::{fmt::Display, str::FromStr, sync::Arc};

use super::Checks;
use crate::{
    app::Error,
    domain::{IdError, Rule, kind_of},
};

/// Ids in one list of a filter at most.
const IDS_MAX: usize = 1000;
/// Longest id of a caller's own.
const OWN_ID_BYTES_MAX: usize = 63;

/// The one id of a request.
pub fn parse<T: FromStr<Err = IdError>>(field: &str, text: &str) -> Result<T, Error> {
    let mut checks = Checks::new();
    let id = id(&mut checks, field, text);
    checks.finish()?;
    id.ok_or_else(|| Error::invalid(field, Rule::BadFormat, "is not an id"))
}

/// The ids of an endpoint and of one of its secrets.
pub fn parse_pair<T: FromStr<Err = IdError>>(endpoint: &str, field: &str, text: &str) -> Result<T, Error> {
    let mut checks = Checks::new();
    check_endpoint_id(&mut checks, "id", endpoint);
    let id = id(&mut checks, field, text);
    checks.finish()?;
    id.ok_or_else(|| Error::invalid(field, Rule::BadFormat, "is not an id"))
}

/// An id of one kind.
pub fn id<T: FromStr<Err = IdError>>(checks: &mut Checks, field: impl Display, text: &str) -> Option<T> {
    if !checks.check(!text.is_empty(), &field, Rule::Required, "is needed") {
        return None;
    }
    match text.parse() {
        Ok(id) => Some(id),
        Err(error) => {
            checks.wrong_id(field, &error);
            None
        }
    }
}

/// A list of ids in a filter.
pub fn list<T: FromStr<Err = IdError>>(checks: &mut Checks, field: &str, texts: &[String]) -> Vec<T> {
    checks.check(texts.len() <= IDS_MAX, field, Rule::TooMany, "must name at most 1000");
    let mut ids = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().take(IDS_MAX).enumerate() {
        ids.extend(id(checks, format_args!("{field}[{index}]"), text));
    }
    ids
}

/// A list of endpoints' ids in a filter.
pub fn endpoints(checks: &mut Checks, field: &str, texts: Vec<String>) -> Vec<Arc<str>> {
    checks.check(texts.len() <= IDS_MAX, field, Rule::TooMany, "must name at most 1000");
    for (index, text) in texts.iter().take(IDS_MAX).enumerate() {
        check_endpoint_id(checks, format_args!("{field}[{index}]"), text);
    }
    texts.into_iter().map(Arc::from).collect()
}

/// The endpoint's id of a request.
pub fn endpoint_id(field: &str, text: &str) -> Result<(), Error> {
    let mut checks = Checks::new();
    check_endpoint_id(&mut checks, field, text);
    checks.finish()
}

/// An endpoint's id may be the caller's own, so only what is clearly another kind's
/// or nobody's is refused here.
pub fn check_endpoint_id(checks: &mut Checks, field: impl Display, text: &str) {
    if text.is_empty() {
        checks.add(field, Rule::Required, "is needed");
    } else if let Some(got) = kind_of(text).filter(|kind| *kind != "ep") {
        checks.wrong_id(field, &IdError::WrongKind { expected: "ep", got });
    } else if !text.bytes().all(own) {
        checks.wrong_id(field, &IdError::Malformed { expected: "ep" });
    }
}

/// Checks a caller's own id for a new endpoint.
pub fn own_endpoint_id(checks: &mut Checks, field: &str, text: &str) {
    let head = text.bytes().next().is_none_or(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if text.len() > OWN_ID_BYTES_MAX {
        checks.add(field, Rule::TooLong, "must have at most 63 characters");
    } else if !head || !text.bytes().all(own) {
        checks.add(field, Rule::BadFormat, "must be of `[a-z0-9._-]` and begin with a letter or digit");
    } else if text.starts_with("ep_") || kind_of(text).is_some() {
        checks.add(field, Rule::Forbidden, "must not look like an id that the server makes");
    }
}

fn own(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{app::Invalid, domain::DeliveryId};

    const HEX: &str = "0199a3c27b5e7d1c8a4f2e6b90d13c57";

    fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> (Rule, Invalid) {
        let error = result.unwrap_err();
        let Error::Invalid { violations, reason } = error else { panic!("{error:?}") };
        (violations.0[0].rule, reason)
    }

    #[test]
    fn an_id_of_another_kind_is_told_apart_from_nonsense() {
        assert!(parse::<DeliveryId>("id", &format!("dlv_{HEX}")).is_ok());
        let wrong = parse::<DeliveryId>("id", &format!("evt_{HEX}"));
        assert_eq!(refused(wrong), (Rule::BadFormat, Invalid::WrongId { expected: "dlv", got: "evt" }));
        assert_eq!(refused(parse::<DeliveryId>("id", "x")), (Rule::BadFormat, Invalid::Field));
        assert_eq!(refused(parse::<DeliveryId>("id", "")), (Rule::Required, Invalid::Field));
    }

    #[test]
    fn an_endpoint_may_have_an_id_of_its_callers_own() {
        for good in ["billing", "a.b-c_d", "7", &format!("ep_{HEX}")] {
            assert!(endpoint_id("id", good).is_ok(), "{good}");
        }
        assert!(matches!(refused(endpoint_id("id", &format!("dlv_{HEX}"))).1, Invalid::WrongId { .. }));
        let long = "a".repeat(64);
        let cases = [
            ("Not Allowed", Rule::BadFormat),
            ("-a", Rule::BadFormat),
            ("ep_mine", Rule::Forbidden),
            (long.as_str(), Rule::TooLong),
        ];
        for (bad, rule) in cases {
            let mut checks = Checks::new();
            own_endpoint_id(&mut checks, "endpoint_id", bad);
            assert_eq!(refused(checks.finish()).0, rule, "{bad}");
        }
    }
}
