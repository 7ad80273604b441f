//! A token bucket.

use crate::domain::{Micros, RateLimit, Timestamp};

/// A token bucket: full at first, one token a request, refilled evenly.
#[derive(Clone, Debug)]
pub struct Bucket {
    limit: RateLimit,
    tokens: f64,
    refilled_at: Timestamp,
}

impl Bucket {
    /// A full bucket.
    pub fn new(limit: RateLimit, now: Timestamp) -> Self {
        Self { limit, tokens: f64::from(limit.burst), refilled_at: now }
    }

    /// A bucket that was empty at an instant.
    pub fn empty(limit: RateLimit, at: Timestamp) -> Self {
        Self { limit, tokens: 0.0, refilled_at: at }
    }

    /// Takes new limits; the tokens at hand stay, within the new size.
    pub fn set_limit(&mut self, limit: RateLimit, now: Timestamp) {
        self.refill(now);
        self.tokens = self.tokens.min(f64::from(limit.burst));
        self.limit = limit;
    }

    /// When a token is at hand: `now` if there is one already.
    pub fn ready_at(&mut self, now: Timestamp) -> Timestamp {
        self.refill(now);
        if self.limit.disabled || self.tokens >= 1.0 {
            return now;
        }
        // Rounded up, so that a wake-up at this instant finds the token there.
        let micros = (1.0 - self.tokens) / self.limit.per_second * 1e6;
        let wait = (micros.ceil() as i64).saturating_add(1);
        now.plus(Micros(wait))
    }

    /// Whether no token is missing.
    pub fn is_full(&mut self, now: Timestamp) -> bool {
        self.refill(now);
        self.limit.disabled || self.tokens >= f64::from(self.limit.burst)
    }

    /// Takes a token. Call only when [`Bucket::ready_at`] says now.
    pub fn take(&mut self) {
        if !self.limit.disabled {
            debug_assert!(self.tokens >= 1.0);
            self.tokens -= 1.0;
        }
    }

    fn refill(&mut self, now: Timestamp) {
        let elapsed = now.since(self.refilled_at);
        if elapsed > Micros::ZERO {
            let gained = elapsed.as_secs_f64() * self.limit.per_second;
            self.tokens = (self.tokens + gained).min(f64::from(self.limit.burst));
            self.refilled_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_window_sees_more_than_burst_plus_rate(
            rate in 1u32..200, burst in 1u32..100, gaps in proptest::collection::vec(0i64..300_000, 1..100),
        ) {
            let limit = RateLimit { per_second: f64::from(rate), burst, disabled: false };
            let mut now = Timestamp(0);
            let mut bucket = Bucket::new(limit, now);
            let mut sent = Vec::new();
            for gap in gaps {
                now = now.plus(Micros(gap));
                while bucket.ready_at(now) == now {
                    bucket.take();
                    sent.push(now);
                }
            }
            for (i, from) in sent.iter().enumerate() {
                for (j, to) in sent.iter().enumerate().skip(i) {
                    let allowed = f64::from(burst) + to.since(*from).as_secs_f64() * f64::from(rate) + 1e-6;
                    prop_assert!((j - i + 1) as f64 <= allowed);
                }
            }
        }

        #[test]
        fn the_promised_instant_has_a_token(rate in 0.01f64..10_000.0, burst in 1u32..10) {
            let limit = RateLimit { per_second: rate, burst, disabled: false };
            let mut bucket = Bucket::new(limit, Timestamp(0));
            for _ in 0..burst { bucket.take(); }
            let at = bucket.ready_at(Timestamp(0));
            prop_assert!(at > Timestamp(0));
            prop_assert_eq!(bucket.ready_at(at), at);
        }
    }
}
