//! Reading `retry-after`: a receiver's input, so anything odd is ignored.

use std::time::SystemTime;

use crate::domain::{Answer, Attempt, Micros, RetryPolicy, Timestamp};

/// How long the endpoint asked us to wait, counted from `now` and capped by the
/// policy. Only 429 and 503 may ask. Seconds or an HTTP date; a date counts from
/// the response's own `date` where it has one, so that a wrong clock over there
/// does no harm.
pub fn asked_wait(policy: &RetryPolicy, answer: &Answer, now: Timestamp) -> Option<Micros> {
    if policy.ignore_retry_after || !matches!(answer.status, 429 | 503) {
        return None;
    }
    let text = answer.retry_after.as_deref()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let seconds = text.parse::<i64>().unwrap_or(i64::MAX);
        Micros(seconds.saturating_mul(1_000_000))
    } else {
        let until = date(text)?;
        let since = answer.date.as_deref().and_then(date).unwrap_or(now);
        until.since(since)
    };
    (wait > Micros::ZERO).then(|| wait.min(policy.max_retry_after))
}

/// Until when the endpoint asked for silence, as an attempt recorded it.
pub fn quiet_until(policy: &RetryPolicy, attempt: &Attempt) -> Option<Timestamp> {
    let status = attempt.status.filter(|status| matches!(status, 429 | 503))?;
    let headers = &attempt.response.as_ref()?.headers;
    let header =
        |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
    let answer =
        Answer { status, retry_after: header("retry-after"), date: header("date"), ..Answer::default() };
    let ended_at = attempt.started_at.plus(attempt.duration);
    asked_wait(policy, &answer, ended_at).map(|wait| ended_at.plus(wait))
}

fn date(text: &str) -> Option<Timestamp> {
    let instant = httpdate::parse_http_date(text).ok()?;
    let span = instant.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Timestamp(Micros::from(span).0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(status: u16, retry_after: &str, date: Option<&str>) -> Option<i64> {
        let answer = Answer {
            status,
            retry_after: Some(retry_after.to_owned()),
            date: date.map(str::to_owned),
            ..Answer::default()
        };
        let now = Timestamp(1_700_000_000_000_000);
        asked_wait(&RetryPolicy::default(), &answer, now).map(|wait| wait.0 / 1_000_000)
    }

    #[test]
    fn seconds_and_dates_are_read_and_capped_at_a_day() {
        assert_eq!(asked(429, "120", None), Some(120));
        assert_eq!(asked(503, " 7 ", None), Some(7));
        assert_eq!(asked(503, "99999999999999999999999", None), Some(86_400));
        let (date, later) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:50:07 GMT");
        assert_eq!(asked(503, later, Some(date)), Some(30));
        assert_eq!(asked(503, "Tue, 14 Nov 2023 22:14:20 GMT", None), Some(60));
    }

    #[test]
    fn anything_else_is_ignored() {
        for bad in ["", "0", "-1", "1.5", "1e300", "NaN", "soon", "Sun, 06 Nov 1994 08:49:37 GMT", "１２"] {
            assert_eq!(asked(429, bad, None), None, "{bad}");
        }
        assert_eq!(asked(500, "120", None), None);
    }

    proptest! {
        #[test]
        fn no_text_can_break_it(text in ".{0,64}", date in proptest::option::of(".{0,40}")) {
            let wait = asked(429, &text, date.as_deref());
            prop_assert!(wait.is_none_or(|wait| (0..=86_400).contains(&wait)));
        }
    }
}
