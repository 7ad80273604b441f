//! What a seed decides before time begins: endpoints, faults, and what is called
//! from outside and when.

use std::sync::Arc;

use super::{
    agenda::{Agenda, Happening},
    chance::Chance,
};
use crate::{
    domain::{BreakerPolicy, DeadLetterPolicy, Endpoint, Micros, RateLimit, RetryPolicy, Timestamp},
    machine::samples,
};

/// When every story begins: some day in 2023.
pub const BEGIN: Timestamp = Timestamp(1_700_000_000_000_000);

/// How often what goes wrong: drawn anew for every seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A crash, per happening.
    pub crash: f64,
    /// A commit that had no effect, per commit.
    pub commit_fails: f64,
    /// A commit that took effect although the writer hears otherwise.
    pub commit_lies: f64,
    /// A page that cannot be read.
    pub page_fails: f64,
    /// A commit or a wake-up that takes up to a second.
    pub slow: f64,
    /// A page that takes up to five seconds.
    pub slow_page: f64,
    /// More urgent events than a window holds just while a page is read.
    pub rush: f64,
}

/// A story before it is told.
pub struct Scenario {
    /// Where events go.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// What goes wrong.
    pub faults: Faults,
    /// Calls from outside, and when all ends well.
    pub agenda: Agenda,
}

impl Scenario {
    /// The story of a seed.
    pub fn random(chance: &mut Chance) -> Self {
        let count = if chance.happens(0.5) { chance.within(1, 2) } else { chance.within(1, 8) };
        let endpoints = (1..=count).map(|key| Arc::new(endpoint(chance, key))).collect::<Vec<_>>();
        let faults = Faults {
            crash: chance.weight(0.01),
            commit_fails: chance.weight(0.3),
            commit_lies: chance.weight(0.3),
            page_fails: chance.weight(0.5),
            slow: chance.weight(0.3),
            slow_page: chance.weight(1.0),
            rush: if chance.happens(0.2) { chance.weight(1.0) } else { 0.0 },
        };
        let mut agenda = Agenda::default();
        let length = chance.pick(&[5_000, 30_000, 120_000, 600_000]);
        let at = |chance: &mut Chance| BEGIN.plus(chance.millis(0, length));
        agenda.add(BEGIN, Happening::Start);
        for _ in 0..chance.within(1, 12) {
            let (at, endpoint) = (at(chance), chance.below(endpoints.len()));
            let count = chance.pick(&[1, 1, 2, 5, 10, 30]);
            agenda.add(at, Happening::Publish { endpoint, count, urgent: chance.happens(0.1) });
        }
        if chance.happens(0.3) {
            // More than a window holds, in one go or in waves.
            let (endpoint, begin) = (chance.below(endpoints.len()), at(chance));
            let apart = chance.pick(&[10, 1_000, 10_000, length]);
            for _ in 0..chance.within(1, 6) {
                let (at, count) = (begin.plus(chance.millis(0, apart)), chance.within(60, 400) as usize);
                agenda.add(at, Happening::Publish { endpoint, count, urgent: chance.happens(0.1) });
            }
        }
        let (meddling, changing) = (chance.weight(40.0) as usize, chance.weight(25.0) as usize);
        for _ in 0..meddling {
            agenda.add(at(chance), Happening::Meddle);
        }
        for _ in 0..changing {
            agenda.add(at(chance), Happening::Reconfigure);
        }
        if chance.happens(0.3) {
            agenda.add(at(chance), Happening::Crash);
        }
        if chance.happens(0.3) {
            for _ in 0..chance.within(1, 4) {
                let span = chance.pick(&[2, 20, 300, 3_600]);
                let by = Micros::from_secs(if chance.happens(0.5) { span } else { -span });
                agenda.add(at(chance), Happening::Step { by });
            }
        }
        agenda.add(BEGIN.plus(Micros::from_millis(length)), Happening::Heal);
        Self { endpoints, faults, agenda }
    }
}

fn endpoint(chance: &mut Chance, key: i64) -> Endpoint {
    Endpoint {
        retry: retry(chance),
        rate_limit: rate_limit(chance),
        max_in_flight: chance.pick(&[1, 2, 10, 300]),
        breaker: breaker(chance),
        dead_letters: DeadLetterPolicy { disabled: chance.happens(0.3), ..DeadLetterPolicy::default() },
        ..samples::endpoint(key)
    }
}

/// Any retry policy.
pub fn retry(chance: &mut Chance) -> RetryPolicy {
    let steps = if chance.happens(0.3) { chance.within(1, 4) } else { 0 };
    RetryPolicy {
        max_attempts: chance.pick(&[1, 2, 3, 5, 8]),
        initial_delay: chance.millis(10, 3_000),
        max_delay: chance.millis(3_000, 60_000),
        multiplier: 1.0 + chance.unit() * 4.0,
        jitter_ratio: chance.pick(&[0.0, 0.25, 1.0]),
        schedule: (0..steps).map(|_| chance.millis(10, 20_000)).collect(),
        retry_statuses: if chance.happens(0.2) { vec![404] } else { Vec::new() },
        no_retry_statuses: if chance.happens(0.2) { vec![500, 410] } else { Vec::new() },
        ignore_retry_after: chance.happens(0.2),
        max_retry_after: chance.millis(1_000, 60_000),
    }
}

/// Any rate limit.
pub fn rate_limit(chance: &mut Chance) -> RateLimit {
    let per_second = chance.pick(&[0.7, 5.0, 10.0, 100.0]);
    RateLimit { per_second, burst: chance.pick(&[1, 3, 10, 50]), disabled: chance.happens(0.3) }
}

/// Any breaker.
pub fn breaker(chance: &mut Chance) -> BreakerPolicy {
    let failure_threshold = chance.pick(&[1, 2, 5]);
    BreakerPolicy { failure_threshold, cooldown: chance.millis(100, 20_000), disabled: chance.happens(0.3) }
}
