//! The duty to bring one event to one endpoint.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{DeliveryId, Endpoint, EndpointKey, Event, EventId, Failure, Micros, Pos, TenantKey, Timestamp};

/// The duty to bring one event to one endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// Identifier.
    pub id: DeliveryId,
    /// Owner.
    pub tenant: TenantKey,
    /// The event.
    pub event: EventId,
    /// Type of the event.
    pub event_type: Arc<str>,
    /// The endpoint, by key.
    pub endpoint: EndpointKey,
    /// The endpoint, by public id.
    pub endpoint_id: Arc<str>,
    /// What made it.
    pub trigger: Trigger,
    /// Copied from the event.
    pub priority: i8,
    /// Requests allowed in all, fixed when it was made.
    pub max_attempts: u32,
    /// Creation.
    pub created_at: Timestamp,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
    /// The delivery it repeats.
    pub replay_of: Option<DeliveryId>,
    /// The delivery whose dead letter it answers for: set on replays of dead
    /// letters only.
    pub letter: Option<DeliveryId>,

    /// Where it stands, as stored.
    pub state: State,
    /// Requests made.
    pub attempts: u32,
    /// When the next request is due. Meaningless in final states.
    pub due_at: Timestamp,
    /// Its turn among those due, see [`Delivery::turn`].
    pub turn_at: Timestamp,
    /// The last request.
    pub last: Option<Last>,
    /// Last change.
    pub updated_at: Timestamp,
    /// 1 when made, and one more with every change.
    pub revision: u64,
    /// Position of its last change; its history is a chain from here.
    pub last_change: Pos,
    /// Bytes of the payload.
    pub bytes: u32,
}

impl Delivery {
    /// What one step of priority is worth. Priority as a head start rather than
    /// a rank means that nothing starves.
    pub const PRIORITY_STEP: Micros = Micros::from_secs(60);

    /// The delivery of an event to an endpoint, as publishing makes it.
    pub fn first(event: &Event, endpoint: &Endpoint, id: DeliveryId) -> Self {
        let at = event.created_at;
        let due_at = event.deliver_at.map_or(at, |deliver_at| deliver_at.max(at));
        Self {
            id,
            tenant: event.tenant,
            event: event.id,
            event_type: Arc::clone(&event.event_type),
            endpoint: endpoint.key,
            endpoint_id: Arc::clone(&endpoint.id),
            trigger: Trigger::Event,
            priority: event.priority,
            max_attempts: endpoint.retry.max_attempts,
            created_at: at,
            expires_at: event.expires_at,
            replay_of: None,
            letter: None,
            state: State::Pending,
            attempts: 0,
            due_at,
            turn_at: Self::turn(at, due_at, event.priority),
            last: None,
            updated_at: at,
            revision: 1,
            last_change: id.pos(),
            bytes: event.payload.data.len() as u32,
        }
    }

    /// The instant that decides whose turn it is among deliveries that are due.
    /// Priority counts only for what is due when made; retries and scheduled
    /// deliveries take their turn by due time.
    pub fn turn(created_at: Timestamp, due_at: Timestamp, priority: i8) -> Timestamp {
        if due_at > created_at {
            return due_at;
        }
        due_at.minus(Micros(i64::from(priority) * Self::PRIORITY_STEP.0))
    }

    /// Whether more may happen to it.
    pub fn is_open(&self) -> bool {
        self.state.is_open()
    }
}

/// How the last request went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Last {
    /// Its start.
    pub at: Timestamp,
    /// Its duration.
    pub duration: Micros,
    /// HTTP status, if a response came.
    pub status: Option<u16>,
    /// Why it failed; nothing on success.
    pub failure: Option<Failure>,
}

/// Where a delivery stands, as stored. The numbers are stored: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Waiting for its first attempt.
    Pending = 0,
    /// The last attempt failed; another is due.
    Retrying = 1,
    /// Accepted by the endpoint.
    Delivered = 2,
    /// Given up and kept as a dead letter.
    DeadLetter = 3,
    /// Given up, and the endpoint keeps no dead letters.
    Failed = 4,
    /// Stopped by a caller or by the deletion of the endpoint.
    Cancelled = 5,
    /// Ran past its expiration.
    Expired = 6,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Retrying,
        Self::Delivered,
        Self::DeadLetter,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
    ];

    /// Whether more may happen. The other states are final.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Retrying)
    }

    /// The state stored under a number.
    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|state| i64::from(*state as u8) == number)
    }
}

/// What made a delivery. The numbers are stored: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Trigger {
    /// Publishing.
    Event = 1,
    /// RetryDelivery of a finished one.
    ManualRetry = 2,
    /// Replay of a dead letter.
    DeadLetter = 3,
    /// TestEndpoint; never stored.
    Test = 4,
}

impl Trigger {
    /// The trigger stored under a number.
    pub fn from_number(number: i64) -> Option<Self> {
        [Self::Event, Self::ManualRetry, Self::DeadLetter]
            .into_iter()
            .find(|it| i64::from(*it as u8) == number)
    }
}

/// Why an open delivery waits although it is due.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hold {
    /// The endpoint's token bucket is empty.
    Rate,
    /// The endpoint asked to wait.
    RetryAfter,
    /// The circuit breaker is open.
    CircuitOpen,
    /// The endpoint is paused.
    Paused,
    /// The endpoint is disabled.
    Disabled,
    /// The endpoint has all the attempts in flight that it may have.
    MaxInFlight,
}

/// What a lane knows of an open delivery at this moment, besides what is stored.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// An attempt is in flight.
    pub in_flight: bool,
    /// Why it waits.
    pub hold: Option<Hold>,
    /// When the hold ends, if that is known.
    #[serde(default)]
    pub held_until: Option<Timestamp>,
}
