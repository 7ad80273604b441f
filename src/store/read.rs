//! Rows to values.

use std::sync::Arc;

use sqlx::{Row as _, sqlite::SqliteRow};

use crate::domain::{
    Attempt, Cause, Change, ChangeKind, Delivery, DeliveryId, EndpointKey, EventId, Failure, Last, Micros,
    Pos, Response, State, TenantKey, Timestamp, Timings, Trigger, Uid,
};

macro_rules! delivery_columns {
    () => {
        "d.pos, d.tenant, d.event, e.created_at, e.salt, e.type, d.endpoint, p.id, d.salt, d.created_at, d.trigger, \
         d.priority, d.max_attempts, d.expires_at, d.replay_of, d.letter, d.state, d.attempts, d.due_at, d.turn_at, \
         d.updated_at, d.revision, d.last_change, d.last_at, d.last_us, d.status, d.cause, d.retryable, d.message"
    };
}
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
const WIDTH: usize = 29;

/// A value that the code never wrote.
fn corrupt(what: &str, row: i64) -> sqlx::Error {
    sqlx::Error::Decode(format!("bad {what} in row {row}").into())
}

fn pos(row: &SqliteRow, column: usize) -> Result<Pos, sqlx::Error> {
    Ok(Pos(row.try_get::<i64, _>(column)?.cast_unsigned()))
}

fn time(row: &SqliteRow, column: usize) -> Result<Timestamp, sqlx::Error> {
    row.try_get(column).map(Timestamp)
}

fn small(row: &SqliteRow, column: usize) -> Result<u32, sqlx::Error> {
    row.try_get::<i64, _>(column).map(|value| value as u32)
}

fn delivery_id(row: &SqliteRow, column: usize) -> Result<Option<DeliveryId>, sqlx::Error> {
    let bytes: Option<Vec<u8>> = row.try_get(column)?;
    Ok(bytes.and_then(|bytes| Uid::from_bytes(&bytes)).map(DeliveryId))
}

/// Reads the six columns of a last attempt.
fn last(row: &SqliteRow, from: usize) -> Result<Option<Last>, sqlx::Error> {
    let Some(at) = row.try_get::<Option<i64>, _>(from)? else { return Ok(None) };
    let cause: Option<i64> = row.try_get(from + 3)?;
    let failure = match cause {
        None => None,
        Some(number) => Some(Failure {
            cause: Cause::from_number(number).ok_or_else(|| corrupt("cause", number))?,
            retryable: row.try_get::<i64, _>(from + 4)? != 0,
            message: row.try_get(from + 5)?,
        }),
    };
    Ok(Some(Last {
        at: Timestamp(at),
        duration: Micros(row.try_get(from + 1)?),
        status: row.try_get::<Option<i64>, _>(from + 2)?.map(|status| status as u16),
        failure,
    }))
}

/// A delivery as it stands.
pub(super) fn delivery(row: &SqliteRow) -> Result<Delivery, sqlx::Error> {
    let (at, salt) = (time(row, 9)?, small(row, 8)?);
    let key: i64 = row.try_get(0)?;
    let number = |column: usize| row.try_get::<i64, _>(column);
    Ok(Delivery {
        id: DeliveryId(Uid::new(at, salt, pos(row, 0)?)),
        tenant: TenantKey(row.try_get(1)?),
        event: EventId(Uid::new(time(row, 3)?, small(row, 4)?, pos(row, 2)?)),
        event_type: row.try_get::<&str, _>(5)?.into(),
        endpoint: EndpointKey(row.try_get(6)?),
        endpoint_id: row.try_get::<&str, _>(7)?.into(),
        trigger: Trigger::from_number(number(10)?).ok_or_else(|| corrupt("deliveries.trigger", key))?,
        priority: number(11)? as i8,
        max_attempts: small(row, 12)?,
        created_at: at,
        expires_at: row.try_get::<Option<i64>, _>(13)?.map(Timestamp),
        replay_of: delivery_id(row, 14)?,
        letter: delivery_id(row, 15)?,
        state: State::from_number(number(16)?).ok_or_else(|| corrupt("deliveries.state", key))?,
        attempts: small(row, 17)?,
        due_at: time(row, 18)?,
        turn_at: time(row, 19)?,
        last: last(row, 23)?,
        updated_at: time(row, 20)?,
        revision: number(21)?.cast_unsigned(),
        last_change: pos(row, 22)?,
    })
}

/// The change that made a delivery.
pub(super) fn created(row: &SqliteRow) -> Result<Change, sqlx::Error> {
    let now = delivery(row)?;
    let due_at = time(row, WIDTH)?;
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
pub(super) fn change(row: &SqliteRow) -> Result<Change, sqlx::Error> {
    let now = delivery(row)?;
    let change_pos = pos(row, WIDTH)?;
    let key = change_pos.0.cast_signed();
    let state = |column: usize| -> Result<State, sqlx::Error> {
        State::from_number(row.try_get(column)?).ok_or_else(|| corrupt("changes.state", key))
    };
    let (at, previous, state) = (time(row, WIDTH + 1)?, state(WIDTH + 2)?, state(WIDTH + 3)?);
    let due_at = time(row, WIDTH + 5)?;
    let last = last(row, WIDTH + 8)?;
    let delivery = Delivery {
        state,
        attempts: small(row, WIDTH + 4)?,
        due_at,
        turn_at: due_at,
        last,
        updated_at: at,
        revision: row.try_get::<i64, _>(WIDTH + 6)?.cast_unsigned(),
        last_change: change_pos,
        ..now
    };
    let attempt = match &delivery.last {
        Some(last) if row.try_get::<i64, _>(WIDTH + 7)? != 0 => {
            Some(Arc::new(attempt(row, &delivery, last)?))
        }
        _ => None,
    };
    let kind = ChangeKind::between(previous, state);
    Ok(Change { pos: change_pos, at, kind, previous: Some(previous), delivery: Arc::new(delivery), attempt })
}

fn attempt(row: &SqliteRow, delivery: &Delivery, last: &Last) -> Result<Attempt, sqlx::Error> {
    let span = |column: usize| row.try_get::<Option<i64>, _>(column).map(|span| span.map(Micros));
    let response: Option<&str> = row.try_get(WIDTH + 18)?;
    let response: Option<Response> = response
        .map(|text| serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(Box::new(error))))
        .transpose()?;
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
