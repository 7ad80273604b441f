//! How an endpoint is to be called, in. Unset takes the default; what is read back
//! is always what is in force.

use super::{Checks, time};
use crate::{
    domain::{BreakerPolicy, DeadLetterPolicy, HttpOptions, Micros, RateLimit, RetryPolicy, Rule},
    grpc::pb,
};

const SECOND: Micros = Micros::from_secs(1);
const DAY: Micros = Micros::from_secs(24 * 3600);
/// Delays may be longer than the first one, but not without end.
const DELAY_MAX: Micros = Micros(30 * DAY.0);
/// Statuses, or delays, in one list at most.
const STATUSES_MAX: usize = 300;
const DELAYS_MAX: usize = 50;

/// Time limits of a request.
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

/// When a failed delivery is tried again.
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

/// A token bucket.
pub fn rate_limit(checks: &mut Checks, field: &str, given: Option<pb::RateLimit>) -> RateLimit {
    let pb::RateLimit { requests_per_second, burst, disabled } = given.unwrap_or_default();
    let default = RateLimit::default();
    let per_second = if requests_per_second == 0.0 { default.per_second } else { requests_per_second };
    let good = (0.001..=10_000.0).contains(&per_second);
    let why = "must be 0.001 to 10000";
    checks.check(good, format_args!("{field}.requests_per_second"), Rule::OutOfRange, why);
    let burst = count(checks, &format!("{field}.burst"), burst, 100_000, default.burst);
    RateLimit { per_second, burst, disabled }
}

/// A token bucket on the wire.
pub fn rate_limit_out(limit: RateLimit) -> pb::RateLimit {
    let RateLimit { per_second, burst, disabled } = limit;
    pb::RateLimit { requests_per_second: per_second, burst: burst.cast_signed(), disabled }
}

/// When to stop calling; `default_cooldown` stands in for a cool-down of zero.
pub fn breaker(
    checks: &mut Checks,
    given: Option<pb::CircuitBreaker>,
    default_cooldown: Micros,
) -> BreakerPolicy {
    let pb::CircuitBreaker { failure_threshold, cooldown, disabled } = given.unwrap_or_default();
    let default = BreakerPolicy::default();
    let field = "circuit_breaker.failure_threshold";
    let failure_threshold = count(checks, field, failure_threshold, 1000, default.failure_threshold);
    let limits = (Micros::from_millis(10), DAY);
    let cooldown = time::span_in(checks, "circuit_breaker.cooldown", cooldown, limits, default_cooldown);
    BreakerPolicy { failure_threshold, cooldown, disabled }
}

/// What happens to what is given up.
pub fn dead_letters(checks: &mut Checks, given: Option<pb::DeadLetterPolicy>) -> DeadLetterPolicy {
    let pb::DeadLetterPolicy { retention, disabled } = given.unwrap_or_default();
    let limits = (Micros::from_secs(60), Micros(365 * DAY.0));
    let default = DeadLetterPolicy::default().retention;
    let retention = time::span_in(checks, "dead_letter_policy.retention", retention, limits, default);
    DeadLetterPolicy { retention, disabled }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_limit_has_a_least_and_a_most() {
        let good = |requests_per_second| {
            let mut checks = Checks::new();
            rate_limit(
                &mut checks,
                "rate_limit",
                Some(pb::RateLimit { requests_per_second, ..Default::default() }),
            );
            checks.is_clean()
        };
        assert!([0.0, 0.001, 10.0, 10_000.0].into_iter().all(good));
        let bad = [f64::MIN_POSITIVE, 0.000_9, 10_000.1, -1.0, f64::NAN, f64::INFINITY];
        assert!(!bad.into_iter().any(good));
    }
}
