//! Instances as a table for people.

use crate::{
    domain::{Shard, Timestamp},
    grpc::pb,
};

const TITLES: [&str; 7] = ["NAME", "VERSION", "UP", "SEEN", "CLOCK", "SHARDS", "ROLE"];

/// A line for each instance, and one for what nobody owns.
pub(super) fn table(instances: &[pb::Instance]) -> String {
    // Now, by the clock that heartbeats are told by, as far as they tell: the one of
    // this machine may be another.
    let now = instances.iter().map(|it| time(it.heartbeat_time)).max().unwrap_or_default();
    let mut lines = vec![TITLES.map(str::to_owned)];
    lines.extend(instances.iter().map(|it| {
        [
            it.name.clone(),
            it.version.clone(),
            span(now, time(it.start_time)),
            format!("{} ago", span(now, time(it.heartbeat_time))),
            skew(it),
            it.shards.len().to_string(),
            role(it),
        ]
    }));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths = std::array::from_fn::<_, 7, _>(width);
    let mut out = String::new();
    for line in &lines {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    let owned: usize = instances.iter().map(|it| it.shards.len()).sum();
    let free = usize::from(Shard::COUNT).saturating_sub(owned);
    if free > 0 {
        out.push_str(&format!("nobody's now: {free} of {} shards\n", Shard::COUNT));
    }
    if !instances.iter().any(|it| it.steward) {
        out.push_str("nobody's now: the steward's work\n");
    }
    out
}

/// How far its clock is ahead of the database's.
fn skew(it: &pb::Instance) -> String {
    let skew = it.clock_skew.unwrap_or_default();
    let seconds = skew.seconds as f64 + f64::from(skew.nanos) / 1e9;
    // Not `-0.0s`.
    format!("{:+.1}s", (seconds * 10.0).round() / 10.0 + 0.0)
}

fn role(it: &pb::Instance) -> String {
    let roles = [(it.steward, "steward"), (it.draining, "draining"), (it.answers_here, "answers")];
    roles.into_iter().filter_map(|(is, name)| is.then_some(name)).collect::<Vec<_>>().join(", ")
}

fn time(at: Option<prost_types::Timestamp>) -> Timestamp {
    let at = at.unwrap_or_default();
    Timestamp(at.seconds.saturating_mul(1_000_000).saturating_add(i64::from(at.nanos) / 1000))
}

/// The time from an instant to now, in its two largest units.
fn span(now: Timestamp, since: Timestamp) -> String {
    let seconds = now.since(since).to_std().as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, ..) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(name: &str, start: i64, heartbeat: i64, shards: std::ops::Range<i32>) -> pb::Instance {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        pb::Instance {
            name: name.to_owned(),
            version: "1.2.3".to_owned(),
            start_time: at(start),
            heartbeat_time: at(heartbeat),
            shards: shards.collect(),
            ..Default::default()
        }
    }

    #[test]
    fn a_fleet_is_a_line_for_each() {
        let fleet = [
            pb::Instance { steward: true, answers_here: true, ..instance("alpha:8000", 0, 100_000, 0..40) },
            pb::Instance {
                draining: true,
                clock_skew: Some(prost_types::Duration { seconds: -61, nanos: -240_000_000 }),
                ..instance("β", 99_000, 99_991, 0..0)
            },
            instance("c", 100_001, 99_999, 40..64),
        ];
        let expected = "\
NAME        VERSION  UP       SEEN    CLOCK   SHARDS  ROLE
alpha:8000  1.2.3    1d 3h    0s ago  +0.0s   40      steward, answers
β           1.2.3    16m 40s  9s ago  -61.2s  0       draining
c           1.2.3    0s       1s ago  +0.0s   24
";
        assert_eq!(table(&fleet), expected);
    }

    #[test]
    fn what_nobody_owns_is_told() {
        let told = table(&[instance("a", 0, 1, 0..62)]);
        assert!(
            told.ends_with("\nnobody's now: 2 of 64 shards\nnobody's now: the steward's work\n"),
            "{told}"
        );
    }

    #[test]
    fn a_span_has_its_two_largest_units() {
        let told = [0, 59, 60, 3_599, 3_600, 86_399, 86_400, 90_000_000];
        let told = told.map(|seconds| span(Timestamp(seconds * 1_000_000), Timestamp(0)));
        assert_eq!(told, ["0s", "59s", "1m 0s", "59m 59s", "1h 0m", "23h 59m", "1d 0h", "1041d 16h"]);
    }
}
