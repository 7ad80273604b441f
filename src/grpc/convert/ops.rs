//! The servers themselves, out.

use super::{Checks, out_span, out_time};
use crate::{
    app::{Error, InstanceView},
    domain::{Instance, Rule, Shard},
    grpc::pb,
};

/// Most characters of a log filter.
const DIRECTIVES_MAX: usize = 1000;

/// A log filter as asked for.
pub fn directives(request: pb::SetLogFilterRequest) -> Result<String, Error> {
    let mut checks = Checks::new();
    let given = request.directives;
    let good = given.chars().count() <= DIRECTIVES_MAX;
    checks.check(good, "directives", Rule::TooLong, "must have at most 1000 characters");
    checks.into_result(given)
}

/// An instance as read.
pub fn out(view: InstanceView) -> pb::Instance {
    let InstanceView { instance, answers } = view;
    let Instance { id, name, version, started_at, seen_at, draining, skew, shards } = instance;
    pb::Instance {
        name,
        id: id.0.to_string(),
        version,
        start_time: Some(out_time(started_at)),
        heartbeat_time: Some(out_time(seen_at)),
        steward: shards.contains(&Shard::STEWARD),
        shards: shards.iter().filter(|it| **it != Shard::STEWARD).map(|it| i32::from(it.0)).collect(),
        draining,
        answers_here: answers,
        clock_skew: Some(out_span(skew)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{InstanceId, Micros, Timestamp};

    #[test]
    fn the_stewards_share_is_no_shard_of_endpoints() {
        let told = |shards| {
            let instance = Instance {
                id: InstanceId(i64::MAX),
                name: "one".to_owned(),
                version: "1.2.3".to_owned(),
                started_at: Timestamp(1_000_000),
                seen_at: Timestamp(2_000_000),
                draining: false,
                skew: Micros(-1_500_000),
                shards,
            };
            out(InstanceView { instance, answers: true })
        };
        let all = told(Shard::all().collect());
        assert_eq!((all.shards.len(), all.shards.last(), all.steward), (64, Some(&63), true));
        assert_eq!(all.id, "9223372036854775807");
        let some = told(vec![Shard(0), Shard(7)]);
        assert_eq!((some.shards, some.steward), (vec![0, 7], false));
        assert_eq!(some.clock_skew, Some(prost_types::Duration { seconds: -1, nanos: -500_000_000 }));
    }
}
