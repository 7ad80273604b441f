//! Request headers of an endpoint: extra ones and those that carry signatures; and
//! the opaque pairs that look like them.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Display,
};

use http::{HeaderName, HeaderValue};

use super::{Checks, access::WITHHELD};
use crate::{
    domain::{Content, Endpoint, Header, Relocation, Rule, Scheme, Signature, Signing, StoredSecret},
    grpc::pb::{self, signature},
};

/// What reads show in place of a secret value.
pub const HIDDEN: &str = "***";
/// Pairs in a map at most.
const PAIRS_MAX: usize = 50;
/// Names and values of all headers together.
const HEADER_BYTES_MAX: usize = 8 << 10;
const SIGNATURES_MAX: usize = 4;
/// Headers that frame the message or the connection.
const FRAMING: [&str; 14] = [
    "host",
    "content-length",
    "connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "keep-alive",
    "expect",
    "content-type",
    "content-encoding",
    "accept-encoding",
    "user-agent",
    "idempotency-key",
];

/// How requests are signed.
pub fn signing(checks: &mut Checks, given: Option<pb::SigningConfig>) -> Signing {
    let pb::SigningConfig { signatures, disabled } = given.unwrap_or_default();
    let good = signatures.len() <= SIGNATURES_MAX;
    checks.check(good, "signing.signatures", Rule::TooMany, "must have at most 4 signatures");
    let mut taken: Vec<Signature> = Vec::new();
    for (index, given) in signatures.into_iter().take(SIGNATURES_MAX).enumerate() {
        let field = format!("signing.signatures[{index}]");
        let signature = signature(checks, &field, given);
        let twice = taken.iter().any(|other| other.header == signature.header);
        checks.check(!twice, format_args!("{field}.header"), Rule::Duplicate, "is used by another signature");
        taken.push(signature);
    }
    match (disabled, taken.is_empty()) {
        (true, _) => Signing { signatures: Vec::new() },
        (false, true) => Signing::default(),
        (false, false) => Signing { signatures: taken },
    }
}

fn signature(checks: &mut Checks, field: &str, given: pb::Signature) -> Signature {
    let pb::Signature { scheme, header, content, add_v2 } = given;
    let scheme = match signature::Scheme::try_from(scheme) {
        Ok(signature::Scheme::Unspecified | signature::Scheme::StandardWebhooks) => Scheme::StandardWebhooks,
        Ok(signature::Scheme::Sha256Hex) => Scheme::Sha256Hex,
        Ok(signature::Scheme::Timestamped) => Scheme::Timestamped,
        Err(_) => {
            checks.add(format_args!("{field}.scheme"), Rule::UnknownValue, "is not a known scheme");
            Scheme::default()
        }
    };
    let (own, default) = match scheme {
        Scheme::StandardWebhooks => ("webhook-signature", Content::TimestampBody),
        Scheme::Sha256Hex => ("x-webhook-signature", Content::Body),
        Scheme::Timestamped => ("x-webhook-signature", Content::TimestampBody),
    };
    let content = match signature::Content::try_from(content) {
        Ok(signature::Content::Unspecified) => default,
        Ok(signature::Content::TimestampBody) => Content::TimestampBody,
        Ok(signature::Content::Body) if scheme == Scheme::StandardWebhooks => {
            checks.add(format_args!("{field}.content"), Rule::Conflict, "is fixed by the scheme");
            default
        }
        Ok(signature::Content::Body) => Content::Body,
        Err(_) => {
            checks.add(format_args!("{field}.content"), Rule::UnknownValue, "is not a known content");
            default
        }
    };
    let fits = !add_v2 || scheme == Scheme::Timestamped && content == Content::Body;
    let why = "needs the scheme TIMESTAMPED with the content BODY";
    checks.check(fits, format_args!("{field}.add_v2"), Rule::Conflict, why);
    let header = if header.is_empty() { own.to_owned() } else { header.to_ascii_lowercase() };
    if !["webhook-signature", "x-webhook-signature"].contains(&header.as_str()) {
        header_name(checks, format_args!("{field}.header"), &header);
    }
    Signature { scheme, header, content, add_v2 }
}

/// Extra request headers, their names in lower case. Of `endpoint` everything else
/// that becomes a header is new, and the headers are those it has so far.
pub fn headers(
    checks: &mut Checks,
    given: HashMap<String, String>,
    sensitive: HashMap<String, String>,
    endpoint: &Endpoint,
    relocation: &Relocation,
) -> BTreeMap<String, Header> {
    let why = "must have at most 50 headers, those in `sensitive_headers` included";
    checks.check(given.len() + sensitive.len() <= PAIRS_MAX, "headers", Rule::TooMany, why);
    let bytes: usize = given.iter().chain(&sensitive).map(|(name, value)| name.len() + value.len()).sum();
    if bytes > HEADER_BYTES_MAX {
        checks.too_large("headers", HEADER_BYTES_MAX, bytes);
        return BTreeMap::new();
    }
    // In order, so that the same mistakes are told in the same words.
    let given: BTreeMap<_, _> = given.into_iter().collect();
    let sensitive: BTreeMap<_, _> = sensitive.into_iter().collect();
    let given = given.into_iter().map(|(name, value)| (name, value, false));
    let mut headers = BTreeMap::new();
    for (name, value, sensitive) in
        given.chain(sensitive.into_iter().map(|(name, value)| (name, value, true)))
    {
        let map = if sensitive { "sensitive_headers" } else { "headers" };
        let (field, lower) = (format!("{map}[{name}]"), name.to_ascii_lowercase());
        if header_name(checks, &field, &lower) {
            let signs = endpoint.signing.signatures.iter().any(|signature| signature.header == lower);
            checks.check(!signs, &field, Rule::Forbidden, "carries a signature");
            let twofold = lower == "authorization" && endpoint.authentication.is_some();
            checks.check(
                !twofold,
                &field,
                Rule::Conflict,
                "is set by `authentication`: leave out one of them",
            );
        }
        let value = if sensitive && value == HIDDEN {
            let stored = endpoint.headers.get(&lower).filter(|header| header.sensitive);
            let keeps = relocation.keeps(StoredSecret::SensitiveHeader);
            let why = "is needed: none is stored that `***` could stand for";
            checks.check(stored.is_some(), &field, Rule::Required, why);
            checks.check(stored.is_none() || keeps, &field, Rule::Required, WITHHELD);
            let stored = stored.filter(|_| keeps);
            stored.map(|header| header.value.clone()).unwrap_or_default()
        } else {
            let why = "must be visible ASCII, spaces and tabs";
            let good = value.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
            checks.check(good && HeaderValue::from_str(&value).is_ok(), &field, Rule::BadFormat, why);
            value.into()
        };
        let twice = headers.insert(lower, Header { value, sensitive }).is_some();
        checks.check(!twice, field, Rule::Duplicate, "is given twice, as case does not matter");
    }
    headers
}

/// Whether a header of that name may be set.
fn header_name(checks: &mut Checks, field: impl Display, name: &str) -> bool {
    let own = ["webhook-", "x-webhook-"].iter().any(|prefix| name.starts_with(prefix));
    if HeaderName::from_bytes(name.as_bytes()).is_err() {
        checks.add(field, Rule::BadFormat, "is not a header name");
    } else if own {
        checks.add(field, Rule::Forbidden, "belongs to Hookwire");
    } else if FRAMING.contains(&name) || name.starts_with("proxy-") {
        checks.add(field, Rule::Forbidden, "is set by Hookwire or frames the message");
    } else {
        return true;
    }
    false
}

/// Opaque pairs.
pub fn metadata(
    checks: &mut Checks,
    given: HashMap<String, String>,
    bytes_max: usize,
) -> BTreeMap<String, String> {
    if given.is_empty() {
        return BTreeMap::new();
    }
    checks.check(given.len() <= PAIRS_MAX, "metadata", Rule::TooMany, "must have at most 50 pairs");
    let bytes: usize = given.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > bytes_max {
        let why = format!("has {bytes} bytes, and at most {bytes_max} are allowed");
        checks.add("metadata", Rule::TooLong, why);
    }
    given.into_iter().collect()
}

/// Whether a byte may be in a token of RFC 9110.
pub fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
