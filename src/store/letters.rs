//! Dead letters: what is kept of deliveries that were given up.

use sqlx::{QueryBuilder, Row as _, Sqlite, sqlite::SqliteRow};

use super::{
    Error, Store,
    deliveries::{Finish, Steered, repeat},
    read,
    scan::{Scan, any_of},
    tx::Tx,
};
use crate::domain::{
    DeadLetter, Delivery, DeliveryId, EndpointKey, EventId, LetterReason, LetterState, Page, Pattern, Pos,
    State, TenantKey, Timestamp, Trigger, Uid,
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

/// Keeps a dead letter for a delivery just given up.
pub(super) async fn keep(tx: &mut Tx<'_>, finish: &Finish, reason: LetterReason) -> Result<(), sqlx::Error> {
    let after = &finish.after;
    if after.state != State::DeadLetter || after.letter.is_some() {
        return Ok(());
    }
    // Only if the delivery really ended so: a cancel may have come first.
    let current = tx.delivery(after.tenant, after.id).await?;
    let Some(current) = current.filter(|current| current.state == State::DeadLetter) else { return Ok(()) };
    let first_failed_at: Option<i64> = sqlx::query_scalar(
        "WITH RECURSIVE chain (pos) AS (SELECT $1 UNION ALL \
         SELECT c.prev FROM chain JOIN changes c ON c.pos = chain.pos) \
         SELECT min(c.last_at) FROM chain JOIN changes c ON c.pos = chain.pos WHERE c.is_attempt = 1",
    )
    .bind(current.last_change.0.cast_signed())
    .fetch_one(&mut *tx.conn)
    .await?;
    let last_failed_at = after.last.as_ref().map_or(after.updated_at, |last| last.at);
    let message = after.last.as_ref().and_then(|last| last.failure.as_ref()).map(|it| it.message.as_str());
    sqlx::query(
        "INSERT INTO dead_letters VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,0,NULL,NULL) ON CONFLICT DO NOTHING",
    )
    .bind(after.id.pos().0.cast_signed())
    .bind(after.tenant.0)
    .bind(after.endpoint.0)
    .bind(i64::from(LetterState::Open as u8))
    .bind(i64::from(reason as u8))
    .bind(i64::from(after.attempts))
    .bind(message.unwrap_or_default())
    .bind(first_failed_at.unwrap_or(last_failed_at.0))
    .bind(last_failed_at.0)
    .bind(after.updated_at.0)
    .bind(after.updated_at.plus(finish.letters.retention).0)
    .execute(&mut *tx.conn)
    .await?;
    Ok(())
}

/// A replay ended: its dead letter is replayed, or open again.
pub(super) async fn follow(tx: &mut Tx<'_>, delivery: &Delivery) -> Result<(), sqlx::Error> {
    let Some(letter) = delivery.letter.filter(|_| !delivery.is_open()) else { return Ok(()) };
    let delivered = delivery.state == State::Delivered;
    let state = if delivered { LetterState::Replayed } else { LetterState::Open };
    let failure = delivery.last.as_ref().and_then(|last| Some((last.at, last.failure.as_ref()?)));
    sqlx::query(
        "UPDATE dead_letters SET state = $3, attempts = attempts + $4, message = coalesce($5, message), \
         last_failed_at = coalesce($6, last_failed_at) WHERE delivery = $1 AND replay = $2",
    )
    .bind(letter.pos().0.cast_signed())
    .bind(delivery.id.0.to_bytes().to_vec())
    .bind(i64::from(state as u8))
    .bind(i64::from(delivery.attempts))
    .bind(failure.map(|(_, failure)| failure.message.as_str()))
    .bind(failure.map(|(at, _)| at.0))
    .execute(&mut *tx.conn)
    .await?;
    Ok(())
}

/// Sends a dead letter again, as a new delivery.
pub(super) async fn replay(
    tx: &mut Tx<'_>,
    tenant: TenantKey,
    id: DeliveryId,
    now: Timestamp,
) -> Result<Steered, Error> {
    let Some(delivery) = tx.delivery(tenant, id).await? else { return Ok(Steered::NotFound) };
    let state: Option<i64> = sqlx::query_scalar("SELECT state FROM dead_letters WHERE delivery = $1")
        .bind(id.pos().0.cast_signed())
        .fetch_optional(&mut *tx.conn)
        .await?;
    match state.and_then(LetterState::from_number) {
        None => return Ok(Steered::NotFound),
        Some(LetterState::Open) => {}
        Some(state @ (LetterState::Replaying | LetterState::Replayed)) => return Ok(Steered::Letter(state)),
    }
    let steered = repeat(tx, &delivery, Trigger::DeadLetter, Some(id), now).await?;
    if let Steered::Done(new) = &steered {
        sqlx::query(
            "UPDATE dead_letters SET state = $2, replays = replays + 1, last_replay_at = $3, replay = $4 \
             WHERE delivery = $1",
        )
        .bind(id.pos().0.cast_signed())
        .bind(i64::from(LetterState::Replaying as u8))
        .bind(now.0)
        .bind(new.id.0.to_bytes().to_vec())
        .execute(&mut *tx.conn)
        .await?;
    }
    Ok(steered)
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
pub(super) async fn discard(tx: &mut Tx<'_>, tenant: TenantKey, id: DeliveryId) -> Result<Discarded, Error> {
    if tx.delivery(tenant, id).await?.is_none() {
        return Ok(Discarded::NotFound);
    }
    let state: Option<i64> = sqlx::query_scalar("SELECT state FROM dead_letters WHERE delivery = $1")
        .bind(id.pos().0.cast_signed())
        .fetch_optional(&mut *tx.conn)
        .await?;
    match state.and_then(LetterState::from_number) {
        None => Ok(Discarded::NotFound),
        Some(LetterState::Replaying) => Ok(Discarded::Replaying),
        Some(LetterState::Open | LetterState::Replayed) => {
            sqlx::query("DELETE FROM dead_letters WHERE delivery = $1")
                .bind(id.pos().0.cast_signed())
                .execute(&mut *tx.conn)
                .await?;
            Ok(Discarded::Done)
        }
    }
}

impl Store {
    /// One dead letter.
    pub async fn letter(&self, tenant: TenantKey, id: DeliveryId) -> Result<Option<DeadLetter>, Error> {
        let mut query = select(tenant);
        query.push(" AND l.delivery = ").push_bind(id.pos().0.cast_signed());
        let row = query.build().fetch_optional(&self.readers).await?;
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
            let mut query = select(tenant);
            narrow(&mut query, filter);
            query
        };
        let fits = |letter: &DeadLetter| Pattern::any(&filter.event_types, &letter.delivery.event_type);
        let pos = |letter: &DeadLetter| letter.delivery.id.pos();
        Scan { select, column: "l.delivery", decode, fits, pos, heavy: false }.page(&self.readers, page).await
    }

    /// How many dead letters fit a filter, types apart.
    pub async fn count_letters(&self, tenant: TenantKey, filter: &LetterFilter) -> Result<u64, Error> {
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT count(*) FROM dead_letters l JOIN deliveries d ON d.pos = l.delivery WHERE l.tenant = ",
        );
        query.push_bind(tenant.0);
        narrow(&mut query, filter);
        let count: i64 = query.build_query_scalar().fetch_one(&self.readers).await?;
        Ok(count.cast_unsigned())
    }
}

pub(super) fn select(tenant: TenantKey) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new(read::DELIVERY.replace(" FROM", &format!(", {LETTER_COLUMNS} FROM")));
    query.push(" JOIN dead_letters l ON l.delivery = d.pos WHERE l.tenant = ").push_bind(tenant.0);
    query
}

pub(super) fn narrow(query: &mut QueryBuilder<Sqlite>, filter: &LetterFilter) {
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
        query.push(" AND l.created_at >= ").push_bind(start);
    }
    if let Some(end) = filter.created.1 {
        query.push(" AND l.created_at < ").push_bind(end);
    }
}

fn some<T: Copy>(values: &[T], convert: impl Fn(T) -> i64) -> Option<Vec<i64>> {
    (!values.is_empty()).then(|| values.iter().map(|value| convert(*value)).collect())
}

fn decode(row: &SqliteRow) -> Result<DeadLetter, sqlx::Error> {
    const FROM: usize = 29;
    let delivery = read::delivery(row)?;
    let bad = |what: &str| sqlx::Error::Decode(format!("bad dead_letters.{what} of {}", delivery.id).into());
    let time = |column: usize| row.try_get::<i64, _>(FROM + column).map(Timestamp);
    let replay: Option<Vec<u8>> = row.try_get(FROM + 10)?;
    let last_replay = match row.try_get::<Option<i64>, _>(FROM + 9)? {
        Some(at) => replay.as_deref().and_then(Uid::from_bytes).map(|id| (Timestamp(at), DeliveryId(id))),
        None => None,
    };
    Ok(DeadLetter {
        state: LetterState::from_number(row.try_get(FROM)?).ok_or_else(|| bad("state"))?,
        reason: LetterReason::from_number(row.try_get(FROM + 1)?).ok_or_else(|| bad("reason"))?,
        attempts: row.try_get::<i64, _>(FROM + 2)? as u32,
        message: row.try_get(FROM + 3)?,
        first_failed_at: time(4)?,
        last_failed_at: time(5)?,
        created_at: time(6)?,
        expires_at: time(7)?,
        replays: row.try_get::<i64, _>(FROM + 8)? as u32,
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
