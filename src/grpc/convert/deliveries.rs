//! Deliveries and their changes, out.

use super::{
    attempts::{self, error, trigger},
    out_span, out_time,
};
use crate::{
    app::{Batch, Seen, Show},
    domain::{Change, ChangeKind, DeadLetterId, Delivery, Hold, Live, State, Timestamp},
    grpc::pb::{self, DeliveryStatus, HoldReason, delivery_change::Kind},
};

/// A delivery as it stands.
pub fn seen(seen: Seen, tenant_id: String) -> pb::Delivery {
    let Seen { delivery, live, at } = seen;
    let status = status(&delivery, live, at);
    self::delivery(&delivery, status, live, at, tenant_id)
}

fn status(it: &Delivery, live: Live, now: Timestamp) -> DeliveryStatus {
    let held_back = matches!(live.hold, Some(Hold::Rate | Hold::RetryAfter));
    match it.state {
        State::Pending | State::Retrying if live.in_flight => DeliveryStatus::InProgress,
        State::Pending if it.due_at > now => DeliveryStatus::Scheduled,
        State::Pending | State::Retrying if held_back => DeliveryStatus::RateLimited,
        State::Pending
        | State::Retrying
        | State::Delivered
        | State::DeadLetter
        | State::Failed
        | State::Cancelled
        | State::Expired => stored_status(it.state),
    }
}

fn stored_status(state: State) -> DeliveryStatus {
    match state {
        State::Pending => DeliveryStatus::Pending,
        State::Retrying => DeliveryStatus::Retrying,
        State::Delivered => DeliveryStatus::Delivered,
        State::DeadLetter => DeliveryStatus::DeadLetter,
        State::Failed => DeliveryStatus::Failed,
        State::Cancelled => DeliveryStatus::Cancelled,
        State::Expired => DeliveryStatus::Expired,
    }
}

fn hold(hold: Hold) -> HoldReason {
    match hold {
        Hold::Rate => HoldReason::EndpointRate,
        Hold::RetryAfter => HoldReason::RetryAfter,
        Hold::CircuitOpen => HoldReason::CircuitOpen,
        Hold::Paused => HoldReason::EndpointPaused,
        Hold::Disabled => HoldReason::EndpointDisabled,
        Hold::MaxInFlight => HoldReason::MaxInFlight,
    }
}

/// When the next attempt may begin; `None` while the endpoint is paused or disabled.
fn next_attempt(it: &Delivery, live: Live, now: Timestamp) -> Option<Timestamp> {
    match live.hold {
        None => Some(it.due_at),
        Some(Hold::Paused | Hold::Disabled) => None,
        Some(Hold::Rate | Hold::RetryAfter | Hold::CircuitOpen | Hold::MaxInFlight) => {
            Some(it.due_at.max(live.held_until.unwrap_or(now)))
        }
    }
}

fn delivery(
    it: &Delivery,
    status: DeliveryStatus,
    live: Live,
    now: Timestamp,
    tenant_id: String,
) -> pb::Delivery {
    let open = it.is_open();
    let waits =
        matches!(status, DeliveryStatus::Pending | DeliveryStatus::Retrying | DeliveryStatus::RateLimited);
    let hold_reason = live.hold.filter(|_| waits).map_or(HoldReason::Unspecified, hold);
    let last = it.last.as_ref();
    let ended_at = (!open).then(|| out_time(it.updated_at));
    let letter = (it.state == State::DeadLetter).then(|| DeadLetterId(it.letter.unwrap_or(it.id).0));
    pb::Delivery {
        id: it.id.to_string(),
        event_id: it.event.to_string(),
        endpoint_id: it.endpoint_id.as_ref().to_owned(),
        event_type: it.event_type.as_ref().to_owned(),
        status: status.into(),
        hold_reason: hold_reason.into(),
        trigger: trigger(it.trigger).into(),
        attempt_count: (it.attempts + u32::from(open && live.in_flight)).cast_signed(),
        max_attempts: it.max_attempts.cast_signed(),
        next_attempt_time: if open { next_attempt(it, live, now).map(out_time) } else { None },
        last_attempt_time: last.map(|last| out_time(last.at)),
        last_error: last.and_then(|last| Some(error(last.failure.as_ref()?, last.status))),
        response_status_code: last.and_then(|last| last.status).map_or(0, i32::from),
        response_time: last.map(|last| out_span(last.duration)),
        priority: it.priority.into(),
        replay_of: it.replay_of.map(|id| id.to_string()).unwrap_or_default(),
        dead_letter_id: letter.map(|id| id.to_string()).unwrap_or_default(),
        tenant_id,
        create_time: Some(out_time(it.created_at)),
        update_time: Some(out_time(it.updated_at)),
        deliver_time: ended_at.filter(|_| it.state == State::Delivered),
        complete_time: ended_at,
        expire_time: it.expires_at.map(out_time),
        revision: it.revision,
    }
}

/// A response of a watch.
pub fn batch(batch: Batch, attempts: bool, tenant_id: &str) -> pb::WatchDeliveriesResponse {
    let Batch { changes, token, at, lag } = batch;
    pb::WatchDeliveriesResponse {
        changes: changes.iter().map(|it| change(it, attempts, tenant_id)).collect(),
        resume_token: token,
        server_time: Some(out_time(at)),
        lag,
    }
}

fn change(it: &Change, attempts: bool, tenant_id: &str) -> pb::DeliveryChange {
    let kind = match it.kind {
        ChangeKind::Created => Kind::Created,
        ChangeKind::StateChanged => Kind::StatusChanged,
        ChangeKind::Updated => Kind::Updated,
    };
    let known = Live::default();
    let delivery = &*it.delivery;
    // An end leaves the due time as it was, so it tells what was not due yet.
    let was_scheduled = !delivery.is_open() && delivery.due_at > it.at && delivery.attempts == 0;
    let previous = match it.previous {
        None => DeliveryStatus::Unspecified,
        Some(State::Pending) if was_scheduled => DeliveryStatus::Scheduled,
        Some(state) => stored_status(state),
    };
    let attempt = it.attempt.as_deref().filter(|_| attempts);
    pb::DeliveryChange {
        sequence: it.pos.0,
        change_time: Some(out_time(it.at)),
        kind: kind.into(),
        delivery: Some(self::delivery(
            delivery,
            status(delivery, known, it.at),
            known,
            it.at,
            tenant_id.to_owned(),
        )),
        previous_status: previous.into(),
        attempt: attempt
            .map(|it| attempts::attempt(it, delivery.id.to_string(), &delivery.endpoint_id, Show::Basic)),
    }
}
