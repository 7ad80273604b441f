//! Deliveries and endpoints for tests, plain except for what a test is about.

use std::sync::Arc;

use crate::domain::{
    Delivery, DeliveryId, Endpoint, EndpointKey, EventId, Pos, Signing, State, TenantKey, Timestamp, Trigger,
    Uid,
};

/// An active endpoint with the defaults of the house.
pub fn endpoint(key: i64) -> Endpoint {
    Endpoint {
        key: EndpointKey(key),
        signing: Signing { signatures: Vec::new() },
        ..Endpoint::new(TenantKey::DEFAULT, format!("ep_{key}"), String::new(), Timestamp(0))
    }
}

/// A delivery just made, due at once.
pub fn delivery(endpoint: &Endpoint, pos: Pos, now: Timestamp) -> Delivery {
    let uid = Uid::new(now, 7, pos);
    Delivery {
        id: DeliveryId(uid),
        tenant: endpoint.tenant,
        event: EventId(uid),
        event_type: Arc::clone(&endpoint.id),
        endpoint: endpoint.key,
        endpoint_id: Arc::clone(&endpoint.id),
        trigger: Trigger::Event,
        priority: 0,
        max_attempts: endpoint.retry.max_attempts,
        created_at: now,
        expires_at: None,
        replay_of: None,
        letter: None,
        state: State::Pending,
        attempts: 0,
        due_at: now,
        turn_at: now,
        last: None,
        updated_at: now,
        revision: 1,
        last_change: pos,
        bytes: 0,
    }
}
