//! Dead letters: what is kept of deliveries that were given up.

use super::{
    Error, Store,
    db::{Columns, Dialect, Query, params},
    deliveries::{Finish, Steered, repeat},
    read,
    scan::{Scan, any_of},
    tx::Tx,
};
use crate::domain::{
    DeadLetter, Delivery, DeliveryId, EndpointKey, EventId, LetterReason, LetterState, Page, Pattern, Pos,
    State, TenantKey, Timestamp, Trigger,
};

/// Which dead letters.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LetterFilter {
    /// Only of these endpoints, by key.
    pub endpoints: Option<Vec<i64>>,
    /// Only of these events, by position.
    pub events: Vec<u64>,
    /// Only of types that fit one of these.
    pub event_types: Vec<Pattern>,
    /// Came here in this interval.
    pub created: (Option<i64>, Option<i64>),
    /// Only for these reasons, by number.
    pub reasons: Vec<u8>,
    /// Only in these states, by number.
    pub states: Vec<u8>,
}

const LETTER_COLUMNS: &str = "l.state, l.reason, l.attempts, l.message, l.first_failed_at, l.last_failed_at, \
     l.created_at, l.expires_at, l.replays, l.last_replay_at, l.replay";

/// The time of the first attempt along a delivery's chain.
const FIRST_FAILED: &str = "WITH RECURSIVE chain (pos) AS (SELECT $1 UNION ALL \
     SELECT c.prev FROM chain JOIN changes c ON c.pos = chain.pos) \
     SELECT min(c.last_at) FROM chain JOIN changes c ON c.pos = chain.pos WHERE c.is_attempt = 1";
const FOLLOW: &str = "UPDATE dead_letters SET state = $1, attempts = attempts + $2, message = coalesce($3, message), \
     last_failed_at = coalesce($4, last_failed_at) WHERE delivery = $5 AND replay = $6";
const REPLAY: &str = "UPDATE dead_letters SET state = $1, replays = replays + 1, last_replay_at = $2, replay = $3 \
     WHERE delivery = $4";

/// Keeps a dead letter for a delivery just given up.
pub(super) fn keep(tx: &mut Tx<'_>, finish: &Finish, reason: LetterReason) -> Result<(), Error> {
    let after = &finish.after;
    if after.state != State::DeadLetter || after.letter.is_some() {
        return Ok(());
    }
    // Only if the delivery really ended so: a cancel may have come first.
    let current = tx.delivery(after.tenant, after.id)?;
    let Some(current) = current.filter(|current| current.state == State::DeadLetter) else { return Ok(()) };
    let first_failed_at = tx.conn.number(FIRST_FAILED, &params![current.last_change])?;
    let last_failed_at = after.last.as_ref().map_or(after.updated_at, |last| last.at);
    let message = after.last.as_ref().and_then(|last| last.failure.as_ref()).map(|it| it.message.as_str());
    let never: (Option<Timestamp>, Option<DeliveryId>) = (None, None);
    let row = params![
        after.id.pos(),
        after.tenant,
        after.endpoint,
        LetterState::Open as u8,
        reason as u8,
        after.attempts,
        message.unwrap_or_default(),
        first_failed_at.map_or(last_failed_at, Timestamp),
        last_failed_at,
        after.updated_at,
        after.updated_at.plus(finish.letters.retention),
        0,
        never.0,
        never.1,
    ];
    tx.conn.insert("dead_letters", "ON CONFLICT DO NOTHING", std::iter::once(row))
}

/// A replay ended: its dead letter is replayed, or open again.
pub(super) fn follow(tx: &mut Tx<'_>, delivery: &Delivery) -> Result<(), Error> {
    let Some(letter) = delivery.letter.filter(|_| !delivery.is_open()) else { return Ok(()) };
    let delivered = delivery.state == State::Delivered;
    let state = if delivered { LetterState::Replayed } else { LetterState::Open };
    let failure = delivery.last.as_ref().and_then(|last| Some((last.at, last.failure.as_ref()?)));
    let values = params![
        state as u8,
        delivery.attempts,
        failure.map(|(_, failure)| failure.message.as_str()),
        failure.map(|(at, _)| at),
        letter.pos(),
        delivery.id,
    ];
    tx.conn.execute(FOLLOW, &values)?;
    Ok(())
}

/// Sends a dead letter again, as a new delivery.
pub(super) fn replay(
    tx: &mut Tx<'_>,
    tenant: TenantKey,
    id: DeliveryId,
    now: Timestamp,
) -> Result<Steered, Error> {
    let Some(delivery) = tx.delivery(tenant, id)? else { return Ok(Steered::NotFound) };
    match state(tx, id)? {
        None => return Ok(Steered::NotFound),
        Some(LetterState::Open) => {}
        Some(state @ (LetterState::Replaying | LetterState::Replayed)) => return Ok(Steered::Letter(state)),
    }
    let steered = repeat(tx, &delivery, Trigger::DeadLetter, Some(id), now)?;
    if let Steered::Done(new) = &steered {
        tx.conn.execute(REPLAY, &params![LetterState::Replaying as u8, now, new.id, id.pos()])?;
    }
    Ok(steered)
}

/// The state of a delivery's dead letter, if there is one.
fn state(tx: &Tx<'_>, id: DeliveryId) -> Result<Option<LetterState>, Error> {
    let state = tx.conn.number("SELECT state FROM dead_letters WHERE delivery = $1", &params![id.pos()])?;
    Ok(state.and_then(LetterState::from_number))
}

/// What became of a discard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discarded {
    /// Gone.
    Done,
    /// There is no such dead letter.
    NotFound,
    /// A replay is under way.
    Replaying,
}

/// Removes a dead letter for good.
pub(super) fn discard(tx: &mut Tx<'_>, tenant: TenantKey, id: DeliveryId) -> Result<Discarded, Error> {
    if tx.delivery(tenant, id)?.is_none() {
        return Ok(Discarded::NotFound);
    }
    match state(tx, id)? {
        None => Ok(Discarded::NotFound),
        Some(LetterState::Replaying) => Ok(Discarded::Replaying),
        Some(LetterState::Open | LetterState::Replayed) => {
            tx.conn.execute("DELETE FROM dead_letters WHERE delivery = $1", &params![id.pos()])?;
            Ok(Discarded::Done)
        }
    }
}

impl Store {
    /// One dead letter.
    pub async fn letter(&self, tenant: TenantKey, id: DeliveryId) -> Result<Option<DeadLetter>, Error> {
        let mut query = select(self.readers.dialect(), tenant);
        query.push(" AND l.delivery = ").bind(id.pos());
        let row = self.readers.all(&query).await?.into_iter().next();
        let letter = row.map(|row| decode(&row)).transpose()?;
        Ok(letter.filter(|letter| letter.delivery.id == id))
    }

    /// A page of dead letters in the order of their deliveries, and where the next
    /// one starts.
    pub async fn letters(
        &self,
        tenant: TenantKey,
        filter: &LetterFilter,
        page: Page,
    ) -> Result<(Vec<DeadLetter>, Option<Pos>), Error> {
        let select = || {
            let mut query = select(self.readers.dialect(), tenant);
            narrow(&mut query, filter);
            query
        };
        let fits = |letter: &DeadLetter| Pattern::any(&filter.event_types, &letter.delivery.event_type);
        let pos = |letter: &DeadLetter| letter.delivery.id.pos();
        Scan { select, column: "l.delivery", decode, fits, pos, heavy: false }.page(&self.readers, page).await
    }

    /// How many dead letters fit a filter, types apart.
    pub async fn count_letters(&self, tenant: TenantKey, filter: &LetterFilter) -> Result<u64, Error> {
        let mut query = self.readers.query(
            "SELECT count(*) FROM dead_letters l JOIN deliveries d ON d.pos = l.delivery WHERE l.tenant = ",
        );
        query.bind(tenant);
        narrow(&mut query, filter);
        let row = self.readers.all(&query).await?.into_iter().next();
        row.map_or(Ok(0), |row| row.count(0))
    }
}

pub(super) fn select(dialect: Dialect, tenant: TenantKey) -> Query {
    let columns = read::DELIVERY.replace(" FROM", &format!(", {LETTER_COLUMNS} FROM"));
    let mut query = Query::new(dialect, columns);
    query.push(" JOIN dead_letters l ON l.delivery = d.pos WHERE l.tenant = ").bind(tenant);
    query
}

pub(super) fn narrow(query: &mut Query, filter: &LetterFilter) {
    let lists: [(&str, Option<Vec<i64>>); 4] = [
        ("l.endpoint", filter.endpoints.clone()),
        ("d.event", some(&filter.events, u64::cast_signed)),
        ("l.reason", some(&filter.reasons, i64::from)),
        ("l.state", some(&filter.states, i64::from)),
    ];
    for (column, values) in lists {
        if let Some(values) = values {
            any_of(query, column, &values);
        }
    }
    if let Some(start) = filter.created.0 {
        query.push(" AND l.created_at >= ").bind(start);
    }
    if let Some(end) = filter.created.1 {
        query.push(" AND l.created_at < ").bind(end);
    }
}

fn some<T: Copy>(values: &[T], convert: impl Fn(T) -> i64) -> Option<Vec<i64>> {
    (!values.is_empty()).then(|| values.iter().map(|value| convert(*value)).collect())
}

fn decode(row: &dyn Columns) -> Result<DeadLetter, Error> {
    const FROM: usize = read::WIDTH;
    let delivery = read::delivery(row)?;
    let bad = |what: &str| Error::Corrupt(format!("dead_letters.{what} of {}", delivery.id));
    let last_replay = row.time_if(FROM + 9)?.zip(row.delivery_id(FROM + 10)?);
    Ok(DeadLetter {
        state: LetterState::from_number(row.number(FROM)?).ok_or_else(|| bad("state"))?,
        reason: LetterReason::from_number(row.number(FROM + 1)?).ok_or_else(|| bad("reason"))?,
        attempts: row.small(FROM + 2)?,
        message: row.word(FROM + 3)?.to_owned(),
        first_failed_at: row.time(FROM + 4)?,
        last_failed_at: row.time(FROM + 5)?,
        created_at: row.time(FROM + 6)?,
        expires_at: row.time(FROM + 7)?,
        replays: row.small(FROM + 8)?,
        last_replay,
        delivery,
    })
}

impl LetterFilter {
    /// Narrows to endpoints by key.
    pub fn set_endpoints(&mut self, keys: impl IntoIterator<Item = EndpointKey>) {
        self.endpoints = Some(keys.into_iter().map(|key| key.0).collect());
    }

    /// Narrows to events.
    pub fn set_events(&mut self, events: &[EventId]) {
        self.events = events.iter().map(|id| id.pos().0).collect();
    }
}
