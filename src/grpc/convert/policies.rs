//! How an endpoint is to be called: policies, headers and signatures, in. Unset
//! takes the default; what is read back is always what is in force.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Display,
};

use http::{HeaderName, HeaderValue};

use super::{Checks, time};
use crate::{
    domain::{
        BreakerPolicy, Content, DeadLetterPolicy, HttpOptions, Micros, RateLimit, RetryPolicy, Rule, Scheme,
        Signature, Signing,
    },
    grpc::pb::{self, signature},
};

const SECOND: Micros = Micros::from_secs(1);
const DAY: Micros = Micros::from_secs(24 * 3600);
/// Delays may be longer than the first one, but not without end.
const DELAY_MAX: Micros = Micros(30 * DAY.0);
/// Pairs in a map at most.
const PAIRS_MAX: usize = 50;
/// Names and values of all headers together.
const HEADER_BYTES_MAX: usize = 8 << 10;
/// Statuses, or delays, in one list at most.
const STATUSES_MAX: usize = 300;
const DELAYS_MAX: usize = 50;
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

pub fn http(checks: &mut Checks, given: Option<pb::HttpOptions>) -> HttpOptions {
    let pb::HttpOptions { timeout, connect_timeout } = given.unwrap_or_default();
    let default = HttpOptions::default();
    let limits = (Micros::from_millis(100), Micros::from_secs(120));
    let timeout = time::span_in(checks, "http.timeout", timeout, limits, default.timeout);
    let (least, field) = (Micros::from_millis(1), "http.connect_timeout");
    // A part of the other, so the default gives way and a value does not.
    let (most, default) = (timeout.max(least), default.connect_timeout.min(timeout));
    let connect_timeout = time::span_in(checks, field, connect_timeout, (least, most), default);
    HttpOptions { timeout, connect_timeout }
}

pub fn retry(checks: &mut Checks, given: Option<pb::RetryPolicy>) -> RetryPolicy {
    let pb::RetryPolicy {
        max_attempts,
        initial_delay,
        max_delay,
        multiplier,
        jitter_ratio,
        schedule,
        retry_status_codes,
        no_retry_status_codes,
        ignore_retry_after,
        max_retry_after,
    } = given.unwrap_or_default();
    let default = RetryPolicy::default();
    let least = Micros::from_millis(10);
    let initial_delay = time::span_in(
        checks,
        "retry_policy.initial_delay",
        initial_delay,
        (least, DAY),
        default.initial_delay,
    );
    let max_delay =
        time::span_in(checks, "retry_policy.max_delay", max_delay, (least, DELAY_MAX), default.max_delay);
    let why = "must not be below initial_delay";
    checks.check(max_delay >= initial_delay, "retry_policy.max_delay", Rule::Conflict, why);
    let multiplier = if multiplier == 0.0 { default.multiplier } else { multiplier };
    let good = (1.0..=10.0).contains(&multiplier);
    checks.check(good, "retry_policy.multiplier", Rule::OutOfRange, "must be 1 to 10");
    let jitter_ratio = jitter_ratio.unwrap_or(default.jitter_ratio);
    let good = (0.0..=1.0).contains(&jitter_ratio);
    checks.check(good, "retry_policy.jitter_ratio", Rule::OutOfRange, "must be 0 to 1");
    let why = "must have at most 50 delays";
    checks.check(schedule.len() <= DELAYS_MAX, "retry_policy.schedule", Rule::TooMany, why);
    let delay = |(index, delay)| {
        let field = format!("retry_policy.schedule[{index}]");
        let span = time::span(checks, &field, delay);
        let good = (least..=DELAY_MAX).contains(&span);
        checks.check(good, field, Rule::OutOfRange, "must be 10 ms to 30 days");
        span
    };
    let schedule = schedule.into_iter().take(DELAYS_MAX).enumerate().map(delay).collect();
    let retry_statuses = statuses(checks, "retry_policy.retry_status_codes", &retry_status_codes);
    let no_retry_statuses = statuses(checks, "retry_policy.no_retry_status_codes", &no_retry_status_codes);
    for (index, status) in no_retry_statuses.iter().enumerate() {
        let field = format_args!("retry_policy.no_retry_status_codes[{index}]");
        checks.check(!retry_statuses.contains(status), field, Rule::Conflict, "is also to be retried");
    }
    RetryPolicy {
        max_attempts: count(checks, "retry_policy.max_attempts", max_attempts, 50, default.max_attempts),
        initial_delay,
        max_delay,
        multiplier,
        jitter_ratio,
        schedule,
        retry_statuses,
        no_retry_statuses,
        ignore_retry_after,
        max_retry_after: time::span_in(
            checks,
            "retry_policy.max_retry_after",
            max_retry_after,
            (SECOND, DAY),
            default.max_retry_after,
        ),
    }
}

fn statuses(checks: &mut Checks, field: &str, given: &[i32]) -> Vec<u16> {
    checks.check(given.len() <= STATUSES_MAX, field, Rule::TooMany, "must have at most 300 statuses");
    let mut statuses = Vec::with_capacity(given.len().min(STATUSES_MAX));
    for (index, status) in given.iter().take(STATUSES_MAX).enumerate() {
        match u16::try_from(*status).ok().filter(|status| (300..=599).contains(status)) {
            Some(status) => statuses.push(status),
            None => {
                checks.add(format_args!("{field}[{index}]"), Rule::OutOfRange, "must be 300 to 599");
                statuses.push(0);
            }
        }
    }
    statuses
}

pub fn rate_limit(checks: &mut Checks, given: Option<pb::RateLimit>) -> RateLimit {
    let pb::RateLimit { requests_per_second, burst, disabled } = given.unwrap_or_default();
    let default = RateLimit::default();
    let per_second = if requests_per_second == 0.0 { default.per_second } else { requests_per_second };
    let good = per_second > 0.0 && per_second <= 10_000.0;
    let why = "must be above 0 and at most 10000";
    checks.check(good, "rate_limit.requests_per_second", Rule::OutOfRange, why);
    let burst = count(checks, "rate_limit.burst", burst, 100_000, default.burst);
    RateLimit { per_second, burst, disabled }
}

pub fn breaker(checks: &mut Checks, given: Option<pb::CircuitBreaker>) -> BreakerPolicy {
    let pb::CircuitBreaker { failure_threshold, cooldown, disabled } = given.unwrap_or_default();
    let default = BreakerPolicy::default();
    let field = "circuit_breaker.failure_threshold";
    let failure_threshold = count(checks, field, failure_threshold, 1000, default.failure_threshold);
    let limits = (Micros::from_millis(10), DAY);
    let cooldown = time::span_in(checks, "circuit_breaker.cooldown", cooldown, limits, default.cooldown);
    BreakerPolicy { failure_threshold, cooldown, disabled }
}

pub fn dead_letters(checks: &mut Checks, given: Option<pb::DeadLetterPolicy>) -> DeadLetterPolicy {
    let pb::DeadLetterPolicy { retention, disabled } = given.unwrap_or_default();
    let limits = (Micros::from_secs(60), Micros(365 * DAY.0));
    let default = DeadLetterPolicy::default().retention;
    let retention = time::span_in(checks, "dead_letter_policy.retention", retention, limits, default);
    DeadLetterPolicy { retention, disabled }
}

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

/// Extra request headers, their names in lower case.
pub fn headers(
    checks: &mut Checks,
    given: HashMap<String, String>,
    signing: &Signing,
) -> BTreeMap<String, String> {
    let why = "must have at most 50 headers";
    checks.check(given.len() <= PAIRS_MAX, "headers", Rule::TooMany, why);
    let bytes: usize = given.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > HEADER_BYTES_MAX {
        checks.too_large("headers", HEADER_BYTES_MAX, bytes);
        return BTreeMap::new();
    }
    // In order, so that the same mistakes are told in the same words.
    let given: BTreeMap<_, _> = given.into_iter().collect();
    let mut headers = BTreeMap::new();
    for (name, value) in given {
        let (field, lower) = (format!("headers[{name}]"), name.to_ascii_lowercase());
        if header_name(checks, &field, &lower) {
            let signs = signing.signatures.iter().any(|signature| signature.header == lower);
            checks.check(!signs, &field, Rule::Forbidden, "carries a signature");
        }
        let why = "must be visible ASCII, spaces and tabs";
        let good = value.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
        checks.check(good && HeaderValue::from_str(&value).is_ok(), &field, Rule::BadFormat, why);
        let twice = headers.insert(lower, value).is_some();
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

/// A number from 1; zero means the default.
pub fn count(checks: &mut Checks, field: &str, given: i32, most: u32, default: u32) -> u32 {
    match u32::try_from(given) {
        Ok(0) => default,
        Ok(count) if count <= most => count,
        Ok(_) | Err(_) => {
            checks.add(field, Rule::OutOfRange, format!("must be 1 to {most}"));
            default
        }
    }
}

/// Whether a byte may be in a token of RFC 9110.
pub fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
