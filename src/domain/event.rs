//! Immutable published facts.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{EventId, TenantKey, Timestamp};

/// A published fact.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Identifier.
    pub id: EventId,
    /// Owner.
    pub tenant: TenantKey,
    /// Dotted name of its kind.
    pub event_type: Arc<str>,
    /// Content.
    pub payload: Payload,
    /// Key that suppresses repeats; empty for none.
    pub idempotency_key: String,
    /// Head start among waiting deliveries, -100 to 100.
    pub priority: i8,
    /// Not before.
    pub deliver_at: Option<Timestamp>,
    /// Not after.
    pub expires_at: Option<Timestamp>,
    /// Opaque pairs.
    pub metadata: BTreeMap<String, String>,
    /// Acceptance.
    pub created_at: Timestamp,
}

#[cfg(test)]
impl Event {
    /// One for tests, plain except for these.
    pub(crate) fn sample(pos: super::Pos, created_at: Timestamp, payload: Payload) -> Self {
        Self {
            id: EventId(super::Uid::new(created_at, 7, pos)),
            tenant: TenantKey::DEFAULT,
            event_type: "user.created".into(),
            payload,
            idempotency_key: String::new(),
            priority: 0,
            deliver_at: None,
            expires_at: None,
            metadata: BTreeMap::new(),
            created_at,
        }
    }
}

/// An event as handed in, checked but not yet stored.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// Owner.
    pub tenant: TenantKey,
    /// Dotted name of its kind.
    pub event_type: Arc<str>,
    /// Content.
    pub payload: Payload,
    /// Key that suppresses repeats; empty for none.
    pub idempotency_key: String,
    /// Head start among waiting deliveries, -100 to 100.
    pub priority: i8,
    /// Not before.
    pub deliver_at: Option<Timestamp>,
    /// Not after.
    pub expires_at: Option<Timestamp>,
    /// Opaque pairs.
    pub metadata: BTreeMap<String, String>,
}

/// A body and its media type: bytes from end to end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// Media type.
    pub content_type: Arc<str>,
    /// Exact bytes.
    pub data: Bytes,
}

impl Payload {
    /// Whether the media type says JSON: `application/json` or `…+json`.
    pub fn is_json(&self) -> bool {
        let essence = self.content_type.split(';').next().unwrap_or("").trim();
        essence.eq_ignore_ascii_case("application/json") || essence.to_ascii_lowercase().ends_with("+json")
    }
}

/// Counts of an event's deliveries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventSummary {
    /// All.
    pub total: u32,
    /// Not in a final state.
    pub open: u32,
    /// Delivered.
    pub delivered: u32,
    /// Ended otherwise.
    pub unsuccessful: u32,
}
