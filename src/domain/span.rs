//! How people write spans of time.

use std::{fmt, str::FromStr};

use super::Micros;

/// The units, each with its length in microseconds; longer names first where one
/// begins like another.
const UNITS: [(&str, i64); 6] = [
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("m", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

/// A text is not a span of time. Says how one is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotASpan;

impl fmt::Display for NotASpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be a duration such as `30s`, `1.5s`, `5m`, `48h` or `1d`")
    }
}

impl std::error::Error for NotASpan {}

/// Reads a decimal number and a unit: `us`, `ms`, `s`, `m`, `h` or `d`. Several parts may
/// follow each other: `1h30m`. A sign may precede them. Digits beyond microseconds are
/// dropped.
impl FromStr for Micros {
    type Err = NotASpan;

    fn from_str(text: &str) -> Result<Self, NotASpan> {
        let (sign, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text),
        };
        if rest.is_empty() {
            return Err(NotASpan);
        }
        let mut total: i64 = 0;
        while !rest.is_empty() {
            let end = rest.find(|char: char| !(char.is_ascii_digit() || char == '.')).ok_or(NotASpan)?;
            let (number, tail) = rest.split_at(end);
            let unit_end = tail.find(|char: char| !char.is_ascii_alphabetic()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_end);
            let (_, length) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(NotASpan)?;
            total = total.checked_add(part(number, *length)?).ok_or(NotASpan)?;
            rest = tail;
        }
        Ok(Self(sign * total))
    }
}

/// A decimal number of units of `length` microseconds.
fn part(number: &str, length: i64) -> Result<i64, NotASpan> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_decimal = |digits: &str| !digits.is_empty() && digits.bytes().all(|it| it.is_ascii_digit());
    if !is_decimal(whole) || !is_decimal(fraction) {
        return Err(NotASpan);
    }
    let whole: i64 = whole.parse().map_err(|_| NotASpan)?;
    let whole = whole.checked_mul(length).ok_or(NotASpan)?;
    let (mut rest, mut scale) = (0, length);
    for digit in fraction.bytes() {
        // Exact as long as the unit divides; what is left is below a microsecond.
        let digit = i64::from(digit - b'0');
        rest += digit * scale / 10;
        scale /= 10;
        if scale == 0 {
            break;
        }
    }
    whole.checked_add(rest).ok_or(NotASpan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_in_the_units_that_people_use() {
        for (text, micros) in [
            ("0s", 0),
            ("172800s", 172_800_000_000),
            ("48h", 172_800_000_000),
            ("2d", 172_800_000_000),
            ("5m", 300_000_000),
            ("1h30m", 5_400_000_000),
            ("1.5s", 1_500_000),
            ("0.000001s", 1),
            ("0.0000019s", 1),
            ("250ms", 250_000),
            ("7us", 7),
            ("0.5d", 43_200_000_000),
            ("-5s", -5_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Micros(micros)), "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_spans() {
        for text in [
            "",
            "-",
            "5",
            "s",
            ".s",
            "1.s",
            ".5s",
            "1..5s",
            "5 m",
            "5M",
            "1w",
            "1h30",
            "+5s",
            "99999999999999d",
            "١s",
        ] {
            assert_eq!(text.parse::<Micros>(), Err(NotASpan), "{text}");
        }
    }
}
