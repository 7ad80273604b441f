//! How fast keys and tenants may call.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::{App, Error, Principal};
use crate::{
    domain::{ApiKeyId, Micros, RateLimit, TenantKey, Timestamp},
    machine::bucket::Bucket,
};

/// Buckets of those that have a limit.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    keys: Mutex<HashMap<ApiKeyId, Bucket>>,
    tenants: Mutex<HashMap<TenantKey, Bucket>>,
}

impl App {
    /// Counts a call of a principal; refuses one too many. What a publishing call costs is
    /// limited by other means, so only a limit of the key's own counts it.
    pub fn pace(&self, principal: &Principal, publishes: bool) -> Result<(), Error> {
        let now = self.clock.now();
        if let Some(key) = principal.credential()
            && let Some(limit) = key.call_rate.or(self.limits.key_rate.filter(|_| !publishes))
        {
            draw(&self.buckets.keys, key.id, limit, now)
                .map_err(|after| Error::RateLimited { of: "key", after })?;
        }
        if let Some(limit) = principal.call_rate() {
            draw(&self.buckets.tenants, principal.tenant(), limit, now)
                .map_err(|after| Error::RateLimited { of: "tenant", after })?;
        }
        Ok(())
    }
}

/// Takes a token, or tells when there will be one.
fn draw<K: Eq + std::hash::Hash>(
    buckets: &Mutex<HashMap<K, Bucket>>,
    key: K,
    limit: RateLimit,
    now: Timestamp,
) -> Result<(), Micros> {
    let mut buckets = buckets.lock().unwrap_or_else(PoisonError::into_inner);
    let bucket = buckets.entry(key).or_insert_with(|| Bucket::new(limit, now));
    bucket.set_limit(limit, now);
    let ready_at = bucket.ready_at(now);
    if ready_at > now {
        return Err(ready_at.since(now));
    }
    bucket.take();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_and_then_the_rate_and_changes_count_at_once() {
        let buckets = Mutex::default();
        let limit = RateLimit { per_second: 2.0, burst: 3, disabled: false };
        let at = |millis: i64, limit| draw(&buckets, 1, limit, Timestamp(millis * 1000));
        assert!((0..3).all(|_| at(0, limit).is_ok()));
        let wait = at(0, limit).unwrap_err();
        assert!(wait > Micros::from_millis(499) && wait < Micros::from_millis(501), "{wait:?}");
        assert!(at(510, limit).is_ok() && at(510, limit).is_err());
        assert!(at(511, RateLimit { disabled: true, ..limit }).is_ok());
        assert!(draw(&buckets, 2, limit, Timestamp(0)).is_ok(), "each has its own");
    }
}
