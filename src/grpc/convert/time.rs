//! Instants and spans. Nanoseconds beyond microseconds are dropped.

use std::fmt::Display;

use prost_types::{Duration, Timestamp as PbTimestamp};

use super::Checks;
use crate::domain::{Micros, Rule, TimeRange, Timestamp};
use crate::grpc::pb;

/// What protobuf allows: years 1 to 9999.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
/// What protobuf allows: about 10,000 years.
const SPAN_SECONDS_MAX: u64 = 315_576_000_000;

/// An instant on the wire.
pub fn out_time(at: Timestamp) -> PbTimestamp {
    PbTimestamp { seconds: at.seconds(), nanos: (at.0.rem_euclid(1_000_000) * 1000) as i32 }
}

/// A span on the wire.
pub fn out_span(span: Micros) -> Duration {
    Duration { seconds: span.0 / 1_000_000, nanos: (span.0 % 1_000_000 * 1000) as i32 }
}

/// An instant from the wire.
pub fn time(checks: &mut Checks, field: impl Display, given: PbTimestamp) -> Timestamp {
    let PbTimestamp { seconds, nanos } = given;
    let good = SECONDS.contains(&seconds) && (0..1_000_000_000).contains(&nanos);
    if !checks.check(good, field, Rule::OutOfRange, "must be an instant of the years 1 to 9999") {
        return Timestamp(0);
    }
    Timestamp(seconds * 1_000_000 + i64::from(nanos) / 1000)
}

/// A span from the wire.
pub fn span(checks: &mut Checks, field: impl Display, given: Duration) -> Micros {
    let Duration { seconds, nanos } = given;
    // The least numbers have no positive counterpart, so `abs` would overflow.
    let good = seconds.unsigned_abs() <= SPAN_SECONDS_MAX && nanos.unsigned_abs() < 1_000_000_000;
    if !checks.check(good, field, Rule::OutOfRange, "must be at most 10,000 years") {
        return Micros::ZERO;
    }
    Micros(seconds * 1_000_000 + i64::from(nanos) / 1000)
}

/// A span within limits; unset or zero means the default.
pub fn span_in(
    checks: &mut Checks,
    field: &str,
    given: Option<Duration>,
    (least, most): (Micros, Micros),
    default: Micros,
) -> Micros {
    let Some(given) = given.filter(|span| span.seconds != 0 || span.nanos != 0) else { return default };
    let span = span(checks, field, given);
    if span < least || span > most {
        let (least, most) = (least.as_secs_f64(), most.as_secs_f64());
        checks.add(field, Rule::OutOfRange, format!("must be {least} to {most} s"));
    }
    span
}

/// An interval from the wire.
pub fn range(checks: &mut Checks, field: &str, given: Option<pb::TimeRange>) -> TimeRange {
    let pb::TimeRange { start_time, end_time } = given.unwrap_or_default();
    let start = start_time.map(|at| time(checks, format_args!("{field}.start_time"), at));
    let end = end_time.map(|at| time(checks, format_args!("{field}.end_time"), at));
    if let (Some(start), Some(end)) = (start, end) {
        let field = format_args!("{field}.end_time");
        checks.check(end >= start, field, Rule::Conflict, "must not lie before the start");
    }
    TimeRange { start, end }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_instants_beyond_what_protobuf_allows_are_refused() {
        for seconds in [i64::MIN, i64::MAX, -315_576_000_001, 315_576_000_001] {
            let mut checks = Checks::new();
            assert_eq!(span(&mut checks, "span", Duration { seconds, nanos: 0 }), Micros::ZERO);
            assert!(!checks.is_clean(), "{seconds}");
        }
        for nanos in [i32::MIN, i32::MAX, -1_000_000_000, 1_000_000_000] {
            let mut checks = Checks::new();
            assert_eq!(span(&mut checks, "span", Duration { seconds: 1, nanos }), Micros::ZERO);
            assert!(!checks.is_clean(), "{nanos}");
        }
        for seconds in [i64::MIN, i64::MAX, *SECONDS.start() - 1, *SECONDS.end() + 1] {
            let mut checks = Checks::new();
            time(&mut checks, "time", PbTimestamp { seconds, nanos: 0 });
            assert!(!checks.is_clean(), "{seconds}");
        }
    }

    #[test]
    fn the_longest_span_and_a_negative_one_are_taken_as_they_are() {
        let mut checks = Checks::new();
        let longest = Duration { seconds: 315_576_000_000, nanos: 999_999_999 };
        assert_eq!(span(&mut checks, "span", longest), Micros(315_576_000_000_999_999));
        assert_eq!(span(&mut checks, "span", Duration { seconds: -1, nanos: -1_000 }), Micros(-1_000_001));
        assert!(checks.is_clean());
    }
}
