//! What was found: a table for people, JSON for programs.

use std::io::Write as _;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::{
    sample::{COLUMNS, Sample},
    stats::Spread,
};
use crate::config::{Bench, Scenario};

/// The rounds of every scenario, in the order in which they ran.
#[derive(Default)]
pub struct Report(Vec<(&'static str, Vec<Sample>)>);

impl Report {
    /// Adds a round.
    pub fn add(&mut self, scenario: Scenario, sample: Sample) {
        match self.0.iter_mut().find(|(name, _)| *name == scenario.name()) {
            Some((_, rounds)) => rounds.push(sample),
            None => self.0.push((scenario.name(), vec![sample])),
        }
    }

    /// Prints it as asked for; nothing if there is nothing to tell.
    pub fn print(&self, options: &Bench) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let text = if options.json { format!("{:#}\n", self.json(options)) } else { self.table() };
        Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
    }

    fn json(&self, options: &Bench) -> Value {
        let scenario = |(name, rounds): &(&str, Vec<Sample>)| {
            let mut told = Map::new();
            told.insert("name".to_owned(), json!(name));
            told.insert("rounds".to_owned(), json!(rounds.len()));
            for name in names(rounds) {
                let values = values(rounds, name);
                if let Some(Spread { median, min, max }) = Spread::of(&values) {
                    let figure = json!({"median": median, "min": min, "max": max, "rounds": values});
                    told.insert(name.to_owned(), figure);
                }
            }
            Value::Object(told)
        };
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "payload_bytes": options.payload,
            "scenarios": self.0.iter().map(scenario).collect::<Vec<_>>(),
        })
    }

    /// One line per scenario: the median and, if the rounds differ, from where
    /// to where they reached. What has no column follows on lines of its own.
    fn table(&self) -> String {
        let mut lines = vec![vec!["scenario".to_owned()]];
        lines[0].extend(COLUMNS.iter().map(|(_, title)| (*title).to_owned()));
        for (name, rounds) in &self.0 {
            let mut line = vec![(*name).to_owned()];
            line.extend(COLUMNS.iter().map(|(name, _)| cell(rounds, name)));
            lines.push(line);
        }
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..=COLUMNS.len()).map(width).collect();
        let mut out = String::new();
        for (index, line) in lines.iter().enumerate() {
            let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            out.push('\n');
            let rounds = index.checked_sub(1).map_or(&[][..], |index| &self.0[index].1);
            let others =
                names(rounds).into_iter().filter(|name| COLUMNS.iter().all(|(known, _)| known != name));
            let facts: Vec<_> =
                others.map(|name| format!("{}: {}", title(name), cell(rounds, name))).collect();
            if !facts.is_empty() {
                out.push_str(&format!("  {}\n", facts.join(" · ")));
            }
        }
        out
    }
}

/// Every name that any of the rounds has, in order of appearance.
fn names(rounds: &[Sample]) -> Vec<&'static str> {
    let mut names = Vec::new();
    for name in rounds.iter().flat_map(Sample::names) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn values(rounds: &[Sample], name: &str) -> Vec<f64> {
    rounds.iter().filter_map(|round| round.get(name)).collect()
}

fn cell(rounds: &[Sample], name: &str) -> String {
    let values = values(rounds, name);
    let Some(Spread { median, min, max }) = Spread::of(&values) else { return "-".to_owned() };
    let (scale, unit) = unit(name, median);
    let told = |value: f64| digits(value / scale);
    let (min, max) = (told(min), told(max));
    let spread = if min == max { String::new() } else { format!(" ({min}..{max})") };
    format!("{}{unit}{spread}", told(median))
}

/// A name without its unit, in words.
fn title(name: &str) -> String {
    let units = ["_ms", "_bytes", "_seconds"];
    units.iter().find_map(|unit| name.strip_suffix(unit)).unwrap_or(name).replace('_', " ")
}

/// How many of what the name counts make one of what is told, and its sign.
fn unit(name: &str, value: f64) -> (f64, &'static str) {
    match name {
        name if name.ends_with("_ms") => (1.0, " ms"),
        name if name.ends_with("_seconds") => (1.0, " s"),
        name if !name.contains("bytes") => (1.0, ""),
        _ if value >= 1e6 => (1e6, " MB"),
        _ if value >= 1e3 => (1e3, " kB"),
        _ => (1.0, " B"),
    }
}

/// Three digits that count, and all of those before the point.
fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || size.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};

    use super::*;
    use crate::bench::sample;

    fn report() -> Report {
        let mut report = Report::default();
        for (rate, ratio) in [(12_345.6, 2.5), (12_000.0, 2.25), (13_000.0, 3.0)] {
            let mut sample = Sample::default();
            sample.set(sample::RATE, rate);
            sample.set(sample::RATIO, ratio);
            sample.set("fdatasync_p50_ms", 0.154);
            report.add(Scenario::Stream, sample);
        }
        report
    }

    #[test]
    fn a_line_tells_median_and_spread_and_the_next_what_has_no_column() {
        let table = report().table();
        let lines: Vec<_> = table.lines().collect();
        assert!(lines[0].starts_with("scenario  deliveries/s"), "{table}");
        assert!(lines[1].starts_with("stream    12346 (12000..13000)"), "{table}");
        assert!(lines[1].contains("2.50 (2.25..3)"), "{table}");
        assert_eq!(lines[2], "  fdatasync p50: 0.154 ms");
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn json_has_every_round() {
        let matches = Bench::augment_args(clap::Command::new("bench")).get_matches_from(["bench"]);
        let json = report().json(&Bench::from_arg_matches(&matches).unwrap());
        let stream = &json["scenarios"][0];
        assert_eq!((&stream["name"], &stream["rounds"]), (&json!("stream"), &json!(3)));
        assert_eq!(
            stream[sample::RATIO],
            json!({"median": 2.5, "min": 2.25, "max": 3.0, "rounds": [2.5, 2.25, 3.0]})
        );
    }

    #[test]
    fn numbers_are_told_with_the_digits_that_count_and_a_unit() {
        let told = [
            ("a", 12_345.6),
            ("a", 12.345),
            ("a", 0.12345),
            ("a_ms", 1.5),
            ("a_bytes", 48_000_000.0),
            ("written_bytes_per_delivery", 1_900.0),
            ("a", 0.0),
        ];
        let told = told.map(|(name, value)| {
            let mut sample = Sample::default();
            sample.set(name, value);
            cell(&[sample], name)
        });
        assert_eq!(told, ["12346", "12.3", "0.123", "1.50 ms", "48 MB", "1.90 kB", "0"]);
    }
}
