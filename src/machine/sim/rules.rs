//! Rate limit, circuit breaker and backoff once more, as the promises put them
//! rather than as the machine does it: an error would have to be made twice.

use crate::{
    domain::{BreakerPolicy, Delivery, Micros, Now, Pos, RateLimit, RetryPolicy, Timestamp},
    machine::breaker::Signal,
};

/// In any window at most burst + rate × window. A level that rises with the rate,
/// never above the burst, and falls by one a request would go below zero exactly
/// if some window had more.
pub struct Rate {
    limit: RateLimit,
    level: f64,
    at: Timestamp,
}

impl Rate {
    /// Nothing sent yet.
    pub fn new(limit: RateLimit, now: Timestamp) -> Self {
        Self { limit, level: f64::from(limit.burst), at: now }
    }

    /// Another limit: windows begin anew, but not at the same limit.
    pub fn change(&mut self, limit: RateLimit, now: Timestamp) {
        if self.limit != limit {
            *self = Self::new(limit, now);
        }
    }

    /// A request goes out; whether it may.
    pub fn sent(&mut self, now: Timestamp) -> bool {
        let gained = now.since(self.at).as_secs_f64() * self.limit.per_second;
        self.level = (self.level + gained).min(f64::from(self.limit.burst)) - 1.0;
        self.at = now;
        self.limit.disabled || self.level > -1e-6
    }
}

/// After so many failures in a row nothing for the cool-down, then one request
/// until it is answered.
pub struct Circuit {
    policy: BreakerPolicy,
    failures: u32,
    /// Open: until when, and the probe if it is out.
    open: Option<(Timestamp, Option<Pos>)>,
}

impl Circuit {
    /// Closed.
    pub fn new(policy: BreakerPolicy) -> Self {
        Self { policy, failures: 0, open: None }
    }

    /// Another policy, or the endpoint is back.
    pub fn change(&mut self, policy: BreakerPolicy, revived: bool) {
        self.policy = policy;
        if policy.disabled || revived {
            (self.failures, self.open) = (0, None);
        }
    }

    /// A request goes out; whether it may.
    pub fn sent(&mut self, pos: Pos, now: Timestamp) -> bool {
        let allowed = self.open.is_none_or(|(until, probe)| now >= until && probe.is_none());
        if let Some((_, probe)) = &mut self.open {
            *probe = Some(pos);
        }
        allowed
    }

    /// The engine hears of an answer. While a probe is out, an older attempt counts
    /// only if it succeeded.
    pub fn answered(&mut self, pos: Pos, signal: Signal, now: Timestamp) {
        let probe = self.open.and_then(|(_, probe)| probe);
        if probe.is_some_and(|probe| probe != pos) && signal != Signal::Success {
            return;
        }
        let probing = probe.is_some();
        match signal {
            Signal::Success => (self.failures, self.open) = (0, None),
            Signal::Neutral | Signal::Gone if probing => (self.failures, self.open) = (0, None),
            Signal::Neutral | Signal::Gone => {}
            Signal::Failure => {
                self.failures += 1;
                let opens =
                    probing || (self.open.is_none() && self.failures >= self.policy.failure_threshold);
                if opens && !self.policy.disabled {
                    self.open = Some((now.plus(self.policy.cooldown), None));
                }
            }
        }
    }
}

/// When a delivery is due: at once, after its wait, or at its time of day; on the steady
/// line.
pub fn due(delivery: &Delivery, now: &Now) -> Timestamp {
    let (set_at, due_at) = (delivery.updated_at, delivery.due_at);
    match delivery.attempts {
        _ if due_at <= set_at => Timestamp::default(),
        0 => now.steady_at(due_at),
        1.. => now.end_of_wait(set_at, due_at),
    }
}

/// The shortest delay a policy allows after this attempt.
pub fn shortest_delay(policy: &RetryPolicy, number: u32) -> Micros {
    let plain = if policy.schedule.is_empty() {
        let grown = (1..number).fold(policy.initial_delay.0 as f64, |delay, _| delay * policy.multiplier);
        grown.min(policy.max_delay.0 as f64)
    } else {
        policy.schedule[policy.schedule.len().min(number as usize) - 1].0 as f64
    };
    // A microsecond for rounding.
    Micros((plain * (1.0 - policy.jitter_ratio)) as i64 - 1)
}

/// What has been cut off three times in a row waits a minute, four times two minutes, and
/// so on, but never longer than an hour.
pub fn shortest_distance(cut_off: u32) -> Micros {
    match cut_off {
        0..=2 => Micros::ZERO,
        3..=8 => Micros::from_secs(60 * (1 << (cut_off - 3))),
        _ => Micros::from_secs(3600),
    }
}
