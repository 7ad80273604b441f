//! Rows to values.

use std::sync::Arc;

use super::{Error, db::Columns};
use crate::domain::{
    Attempt, Cause, Change, ChangeKind, Delivery, DeliveryId, EndpointKey, EventId, Failure, Last, Micros,
    Response, State, TenantKey, Timestamp, Timings, Trigger, Uid,
};

macro_rules! delivery_columns {
    () => {
        delivery_columns!("p.id")
    };
    ($endpoint_id:literal) => {
        concat!(
            "d.pos, d.tenant, d.event, e.created_at, e.salt, e.type, d.endpoint, ",
            $endpoint_id,
            ", d.salt, d.created_at, d.trigger, d.priority, d.max_attempts, d.expires_at, d.replay_of, d.letter, \
             d.state, d.attempts, d.due_at, d.turn_at, d.updated_at, d.revision, d.last_change, d.last_at, d.last_us, \
             d.status, d.cause, d.retryable, d.message, CAST(length(e.payload) AS BIGINT)"
        )
    };
}
pub(super) use delivery_columns;
macro_rules! delivery_joins {
    () => {
        "JOIN events e ON e.pos = d.event JOIN endpoints p ON p.key = d.endpoint"
    };
}

/// Selects deliveries as [`delivery`] reads them; goes on with `WHERE`.
pub(super) const DELIVERY: &str =
    concat!("SELECT ", delivery_columns!(), " FROM deliveries d ", delivery_joins!());
/// Selects makings of deliveries as [`created`] reads them.
pub(super) const CREATED: &str =
    concat!("SELECT ", delivery_columns!(), ", d.first_due_at FROM deliveries d ", delivery_joins!());
/// Selects changes as [`change`] reads them.
pub(super) const CHANGE: &str = concat!(
    "SELECT ",
    delivery_columns!(),
    ", c.pos, c.at, c.previous, c.state, c.attempts, c.due_at, c.revision, c.is_attempt, c.last_at, c.last_us, \
     c.status, c.cause, c.retryable, c.message, c.dns_us, c.connect_us, c.tls_us, c.first_byte_us, c.response \
     FROM changes c JOIN deliveries d ON d.pos = c.delivery ",
    delivery_joins!()
);
/// Columns of a delivery.
pub(super) const WIDTH: usize = 30;

/// Reads the six columns of a last attempt.
fn last(row: &dyn Columns, from: usize) -> Result<Option<Last>, Error> {
    let Some(at) = row.integer(from)? else { return Ok(None) };
    let cause = row.integer(from + 3)?;
    let failure = match cause {
        None => None,
        Some(number) => Some(Failure {
            cause: Cause::from_number(number).ok_or_else(|| Error::corrupt("cause", number))?,
            retryable: row.number(from + 4)? != 0,
            message: row.word(from + 5)?.to_owned(),
        }),
    };
    Ok(Some(Last {
        at: Timestamp(at),
        duration: Micros(row.number(from + 1)?),
        status: row.integer(from + 2)?.map(|status| status as u16),
        failure,
    }))
}

/// A delivery as it stands.
pub(super) fn delivery(row: &dyn Columns) -> Result<Delivery, Error> {
    let (at, salt) = (row.time(9)?, row.small(8)?);
    let key = row.number(0)?;
    Ok(Delivery {
        id: DeliveryId(Uid::new(at, salt, row.pos(0)?)),
        tenant: TenantKey(row.number(1)?),
        event: EventId(Uid::new(row.time(3)?, row.small(4)?, row.pos(2)?)),
        event_type: row.word(5)?.into(),
        endpoint: EndpointKey(row.number(6)?),
        endpoint_id: row.word(7)?.into(),
        trigger: Trigger::from_number(row.number(10)?)
            .ok_or_else(|| Error::corrupt("deliveries.trigger", key))?,
        priority: row.number(11)? as i8,
        max_attempts: row.small(12)?,
        created_at: at,
        expires_at: row.time_if(13)?,
        replay_of: row.delivery_id(14)?,
        letter: row.delivery_id(15)?,
        state: State::from_number(row.number(16)?).ok_or_else(|| Error::corrupt("deliveries.state", key))?,
        attempts: row.small(17)?,
        due_at: row.time(18)?,
        turn_at: row.time(19)?,
        last: last(row, 23)?,
        updated_at: row.time(20)?,
        revision: row.count(21)?,
        last_change: row.pos(22)?,
        bytes: row.small(29)?,
    })
}

/// The change that made a delivery.
pub(super) fn created(row: &dyn Columns) -> Result<Change, Error> {
    let now = delivery(row)?;
    let due_at = row.time(WIDTH)?;
    let delivery = Delivery {
        state: State::Pending,
        attempts: 0,
        due_at,
        turn_at: Delivery::turn(now.created_at, due_at, now.priority),
        last: None,
        updated_at: now.created_at,
        revision: 1,
        last_change: now.id.pos(),
        ..now
    };
    Ok(Change {
        pos: delivery.id.pos(),
        at: delivery.created_at,
        kind: ChangeKind::Created,
        previous: None,
        delivery: Arc::new(delivery),
        attempt: None,
    })
}

/// A later change.
pub(super) fn change(row: &dyn Columns) -> Result<Change, Error> {
    let now = delivery(row)?;
    let change_pos = row.pos(WIDTH)?;
    let key = change_pos.0.cast_signed();
    let state = |column: usize| -> Result<State, Error> {
        State::from_number(row.number(column)?).ok_or_else(|| Error::corrupt("changes.state", key))
    };
    let (at, previous, state) = (row.time(WIDTH + 1)?, state(WIDTH + 2)?, state(WIDTH + 3)?);
    let due_at = row.time(WIDTH + 5)?;
    let last = last(row, WIDTH + 8)?;
    let delivery = Delivery {
        state,
        attempts: row.small(WIDTH + 4)?,
        due_at,
        turn_at: due_at,
        last,
        updated_at: at,
        revision: row.count(WIDTH + 6)?,
        last_change: change_pos,
        ..now
    };
    let attempt = match &delivery.last {
        Some(last) if row.number(WIDTH + 7)? != 0 => Some(Arc::new(attempt(row, &delivery, last)?)),
        _ => None,
    };
    let kind = ChangeKind::between(previous, state);
    Ok(Change { pos: change_pos, at, kind, previous: Some(previous), delivery: Arc::new(delivery), attempt })
}

fn attempt(row: &dyn Columns, delivery: &Delivery, last: &Last) -> Result<Attempt, Error> {
    let span = |column: usize| row.integer(column).map(|span| span.map(Micros));
    let response: Option<Response> = row.text(WIDTH + 18)?.map(serde_json::from_str).transpose()?;
    Ok(Attempt {
        id: crate::machine::judge::attempt_id(delivery, last.at, delivery.last_change),
        number: delivery.attempts,
        trigger: delivery.trigger,
        started_at: last.at,
        duration: last.duration,
        timings: Timings {
            dns: span(WIDTH + 14)?,
            connect: span(WIDTH + 15)?,
            tls: span(WIDTH + 16)?,
            first_byte: span(WIDTH + 17)?,
        },
        status: last.status,
        response: response.map(Arc::new),
        failure: last.failure.clone(),
        retry_delay: (delivery.state == State::Retrying).then(|| delivery.due_at.since(delivery.updated_at)),
    })
}
