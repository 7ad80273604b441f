//! Whose things are.

use std::{collections::BTreeMap, sync::Arc};

use super::{RateLimit, TenantKey, Timestamp};

/// A customer or team. Nothing is shared between tenants.
#[derive(Clone, Debug, PartialEq)]
pub struct Tenant {
    /// Key of its row.
    pub key: TenantKey,
    /// Public identifier.
    pub id: Arc<str>,
    /// Display name.
    pub name: String,
    /// Calls fail and deliveries are held.
    pub suspended: bool,
    /// Token bucket over the calls of all its keys; nothing: no limit.
    pub call_rate: Option<RateLimit>,
    /// How much it may use.
    pub quota: Quota,
    /// Share of the attempts in flight, relative to other tenants.
    pub weight: u32,
    /// Opaque pairs.
    pub metadata: BTreeMap<String, String>,
    /// Counts the changes.
    pub version: u64,
    /// Creation.
    pub created_at: Timestamp,
    /// Last change.
    pub updated_at: Timestamp,
}

impl Tenant {
    /// Id of the tenant that every store has.
    pub const DEFAULT_ID: &str = "default";
    /// Weight unless another is given.
    pub const WEIGHT: u32 = 10;
    /// Most characters of an id.
    pub const ID_MAX: usize = 63;

    /// A tenant with the defaults.
    pub fn new(key: TenantKey, id: impl Into<Arc<str>>, at: Timestamp) -> Self {
        Self {
            key,
            id: id.into(),
            name: String::new(),
            suspended: false,
            call_rate: None,
            quota: Quota::default(),
            weight: Self::WEIGHT,
            metadata: BTreeMap::new(),
            version: 1,
            created_at: at,
            updated_at: at,
        }
    }

    /// Whether a text may be an id: a letter, then letters, digits and hyphens.
    pub fn is_id(text: &str) -> bool {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        text.len() <= Self::ID_MAX
            && text.bytes().all(fits)
            && text.starts_with(|first: char| first.is_ascii_lowercase())
    }
}

/// How much a tenant may use; zero is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Endpoints.
    pub endpoints: u64,
    /// Events in one UTC day.
    pub events_per_day: u64,
    /// Bytes of payloads that wait, once for each open delivery.
    pub queued_bytes: u64,
}

/// What a tenant uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The UTC day that events are counted for, by its number since 1970.
    pub day: i64,
    /// Events published on that day.
    pub events: u64,
    /// Open deliveries.
    pub open: i64,
    /// Bytes of payloads that wait.
    pub queued_bytes: i64,
}

impl Usage {
    /// Number of the UTC day of an instant.
    pub fn day_of(at: Timestamp) -> i64 {
        at.0.div_euclid(86_400_000_000)
    }

    /// Events published on a day: none on one that was not counted yet.
    pub fn events_on(&self, day: i64) -> u64 {
        if day > self.day { 0 } else { self.events }
    }

    /// Counts events published at an instant. Days only go forward: a clock that was
    /// set back counts on the day reached.
    pub fn publish(&mut self, events: u64, at: Timestamp) {
        let day = Self::day_of(at).max(self.day);
        self.events = self.events_on(day) + events;
        self.day = day;
    }

    /// Counts deliveries that became open (or were ended, by a negative number) and
    /// their payloads.
    pub fn open(&mut self, deliveries: i64, bytes: i64) {
        self.open += deliveries;
        self.queued_bytes += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_letter_then_letters_digits_and_hyphens() {
        let longest = "a".repeat(63);
        for good in ["a", "acme", "acme-2", "a--", &longest] {
            assert!(Tenant::is_id(good), "{good}");
        }
        let too_long = "a".repeat(64);
        for bad in ["", "-a", "2a", "Acme", "a_b", "a.b", "*", "self ", &too_long] {
            assert!(!Tenant::is_id(bad), "{bad}");
        }
    }

    #[test]
    fn events_are_counted_by_the_day_and_days_go_forward() {
        let day = |day: i64| Timestamp(day * 86_400_000_000);
        let mut usage = Usage::default();
        usage.publish(3, day(5));
        usage.publish(2, Timestamp(day(6).0 - 1));
        assert_eq!((usage.events_on(5), usage.events_on(6)), (5, 0));
        usage.publish(1, day(6));
        assert_eq!(usage.events_on(6), 1);
        usage.publish(1, day(4));
        assert_eq!((usage.day, usage.events_on(4)), (6, 2));
    }
}
