//! Denied calls in the audit log.
//!
//! A caller can be denied thousands of times a second, and must not fill the disk with it.
//! The first denied call of a key, a method and a minute is entered before it is answered.
//! The others of that minute are counted in memory, and entered as one when it is over.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use crate::domain::{ApiKeyId, AuditEntry, Micros, Timestamp};

const WINDOW: Micros = Micros::from_secs(60);
/// gRPC codes of calls that were denied: PERMISSION_DENIED and UNAUTHENTICATED.
const DENIED: [i32; 2] = [7, 16];

/// What denied calls have in common that share an entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    key: Option<ApiKeyId>,
    tenant: Arc<str>,
    method: String,
    code: i32,
}

/// The denied calls of one kind in one minute.
#[derive(Debug)]
struct Window {
    minute: i64,
    /// Those after the first.
    others: Option<AuditEntry>,
}

/// Denied calls whose minute is not over, or that are still to be entered.
#[derive(Debug, Default)]
pub(super) struct Denials(HashMap<Kind, Window>);

impl Denials {
    /// Whether an entry is of a denied call.
    pub fn concern(entry: &AuditEntry) -> bool {
        DENIED.contains(&entry.code)
    }

    /// Takes a denied call; what is to be entered now.
    pub fn note(&mut self, entry: AuditEntry) -> Vec<AuditEntry> {
        let minute = minute(entry.at);
        let kind = Kind {
            key: entry.key,
            tenant: Arc::clone(&entry.tenant),
            method: entry.method.clone(),
            code: entry.code,
        };
        match self.0.entry(kind) {
            Entry::Occupied(mut known) if known.get().minute == minute => {
                let calls = known.get().others.as_ref().map_or(0, |others| others.calls) + 1;
                known.get_mut().others = Some(AuditEntry { calls, ..entry });
                Vec::new()
            }
            Entry::Occupied(mut known) => {
                let over = known.insert(Window { minute, others: None });
                over.others.into_iter().chain([entry]).collect()
            }
            Entry::Vacant(vacant) => {
                vacant.insert(Window { minute, others: None });
                vec![entry]
            }
        }
    }

    /// What is to be entered of the minutes that are over.
    pub fn take_over(&mut self, now: Timestamp) -> Vec<AuditEntry> {
        let over = self.0.extract_if(|_, window| window.minute != minute(now));
        over.filter_map(|(_, window)| window.others).collect()
    }

    /// All that is still to be entered.
    pub fn take_all(&mut self) -> Vec<AuditEntry> {
        self.0.drain().filter_map(|(_, window)| window.others).collect()
    }
}

fn minute(at: Timestamp) -> i64 {
    at.0.div_euclid(WINDOW.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(method: &str, seconds: i64) -> AuditEntry {
        AuditEntry {
            sequence: 0,
            at: Timestamp(seconds * 1_000_000),
            key: None,
            tenant: "mine".into(),
            method: method.to_owned(),
            resource: String::new(),
            code: 7,
            address: None,
            request_id: seconds.to_string(),
            calls: 1,
        }
    }

    fn told(entries: &[AuditEntry]) -> Vec<(&str, &str, u64)> {
        entries.iter().map(|it| (&*it.method, &*it.request_id, it.calls)).collect()
    }

    #[test]
    fn denied_calls_of_a_minute_have_two_entries_and_none_is_lost() {
        let mut denials = Denials::default();
        assert_eq!(told(&denials.note(entry("a", 60))), [("a", "60", 1)], "the first is entered at once");
        for second in 61..120 {
            assert!(denials.note(entry("a", second)).is_empty());
        }
        assert_eq!(told(&denials.note(entry("b", 119))), [("b", "119", 1)], "each method has its own");
        assert!(denials.take_over(Timestamp(119_999_999)).is_empty());
        assert_eq!(told(&denials.note(entry("a", 120))), [("a", "119", 59), ("a", "120", 1)]);
        assert!(denials.note(entry("a", 121)).is_empty());
        assert!(denials.take_over(Timestamp(121_000_000)).is_empty(), "one call alone needs no other entry");
        assert_eq!(told(&denials.take_over(Timestamp(180_000_000))), [("a", "121", 1)]);
        denials.note(entry("a", 180));
        denials.note(entry("a", 181));
        assert_eq!(told(&denials.take_all()), [("a", "181", 1)]);
        assert_eq!(denials.0.len(), 0);
    }
}
