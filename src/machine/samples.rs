//! Deliveries and endpoints for tests, plain except for what a test is about.

use std::{collections::BTreeMap, sync::Arc};

use crate::domain::{
    BreakerPolicy, DeadLetterPolicy, Delivery, DeliveryId, Endpoint, EndpointKey, EndpointState, Envelope,
    EventId, HttpOptions, Pos, RateLimit, RetryPolicy, Signing, State, TenantKey, Timestamp, Trigger, Uid,
};

/// An active endpoint with the defaults of the house.
pub fn endpoint(key: i64) -> Endpoint {
    Endpoint {
        key: EndpointKey(key),
        id: format!("ep_{key}").into(),
        tenant: TenantKey::DEFAULT,
        name: String::new(),
        description: String::new(),
        url: String::new(),
        state: EndpointState::Active,
        state_reason: String::new(),
        event_types: Vec::new(),
        headers: BTreeMap::new(),
        http: HttpOptions::default(),
        envelope: Envelope::default(),
        signing: Signing { signatures: Vec::new() },
        secrets: Vec::new(),
        retry: RetryPolicy::default(),
        rate_limit: RateLimit::default(),
        max_in_flight: Endpoint::MAX_IN_FLIGHT,
        breaker: BreakerPolicy::default(),
        dead_letters: DeadLetterPolicy::default(),
        metadata: BTreeMap::new(),
        created_at: Timestamp(0),
        updated_at: Timestamp(0),
        version: 1,
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
    }
}
