//! Reads of events and deliveries.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Error, Store,
    db::{Columns, Dialect, Query, params},
    read::{self, CHANGE, CREATED, DELIVERY},
    scan::{Scan, any_of},
};
use crate::domain::{
    Attempt, Change, Delivery, DeliveryId, EndpointKey, Event, EventId, EventSummary, Page, Pattern, Payload,
    Pos, State, TenantKey, TimeRange, Timestamp, Uid,
};
use bytes::Bytes;
use const_format::concatcp;

/// A page of the feed: deliveries made.
pub(super) const FEED_MADE: &str =
    concatcp!(CREATED, " WHERE d.pos > $1 AND d.pos <= $2 ORDER BY d.pos LIMIT $3");
/// A page of the feed: later changes.
pub(super) const FEED_LATER: &str =
    concatcp!(CHANGE, " WHERE c.pos > $1 AND c.pos <= $2 ORDER BY c.pos LIMIT $3");
/// The attempts along a delivery's chain.
pub(super) const ATTEMPTS: &str = concatcp!(
    "WITH RECURSIVE chain (pos) AS (SELECT $1 UNION ALL SELECT x.prev FROM chain JOIN changes x \
     ON x.pos = chain.pos) ",
    CHANGE,
    " JOIN chain ON chain.pos = c.pos WHERE c.is_attempt = 1 ORDER BY c.pos"
);
/// Positions of an event's deliveries: those that follow it, and its replays.
pub(super) const OF_EVENT: &str = "(SELECT r.pos FROM deliveries r, events x WHERE x.pos = $1 AND r.pos > x.pos AND r.pos <= x.pos + x.fanout \
     UNION ALL SELECT r.pos FROM deliveries r WHERE r.event = $1 AND r.replay_of IS NOT NULL)";
/// Counts of an event's deliveries by state.
pub(super) const EVENT_SUMMARY: &str =
    concatcp!("SELECT d.state, count(*) FROM deliveries d WHERE d.pos IN ", OF_EVENT, " GROUP BY 1");

/// Which deliveries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeliveryFilter {
    /// Only of these events.
    pub events: Option<Vec<EventId>>,
    /// Only to these endpoints, by public id.
    pub endpoints: Option<Vec<Arc<str>>>,
    /// Only of types that fit one of these.
    pub event_types: Vec<Pattern>,
    /// Only in these states; with `scheduled` telling the two kinds of pending
    /// apart.
    pub states: Vec<State>,
    /// Of pending ones: only those scheduled (true) or not (false).
    pub scheduled: Option<bool>,
    /// Created in this interval.
    pub created: TimeRange,
}

impl DeliveryFilter {
    /// Whether a delivery fits, as it stood at an instant.
    pub fn fits(&self, it: &Delivery, at: Timestamp) -> bool {
        self.events.as_ref().is_none_or(|events| events.contains(&it.event))
            && self.endpoints.as_ref().is_none_or(|ids| ids.contains(&it.endpoint_id))
            && Pattern::any(&self.event_types, &it.event_type)
            && (self.states.is_empty() || self.states.contains(&it.state))
            && self.scheduled.is_none_or(|wanted| it.state != State::Pending || wanted == (it.due_at > at))
            && self.created.contains(it.created_at)
    }
}

/// Which events.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventFilter {
    /// Only of types that fit one of these.
    pub event_types: Vec<Pattern>,
    /// Created in this interval.
    pub created: TimeRange,
    /// Only with this key.
    pub idempotency_key: Option<String>,
}

/// The columns of events as [`event`] reads them; the payload comes last in the row, so
/// a read without it does not touch its pages. Of many events those payloads are read that
/// are not large: reading such a one alone costs little beside sending it.
macro_rules! event_columns {
    () => {
        event_columns!("CASE WHEN length(e.payload) <= 16384 THEN e.payload END")
    };
    ($payload:literal) => {
        concat!(
            "e.pos, e.tenant, e.salt, e.created_at, e.priority, e.deliver_at, e.expires_at, e.type, \
             e.idempotency_key, e.metadata, e.content_type, CAST(length(e.payload) AS BIGINT), ",
            $payload
        )
    };
}
pub(super) use event_columns;
/// Selects events as [`event`] reads them; goes on with a condition.
macro_rules! event_sql {
    ($payload:literal) => {
        concat!("SELECT ", event_columns!($payload), " FROM events e WHERE ")
    };
}
pub(super) use event_sql;

/// An event and the size of its payload, which may be left out.
pub type SizedEvent = (Event, u64);

impl Store {
    /// One event with its payload.
    pub async fn event(&self, id: EventId) -> Result<Option<Event>, Error> {
        let sql = concat!(event_sql!("e.payload"), "e.pos = $1");
        let row = self.readers.row(sql, &params![id.pos()]).await?;
        let event = row.map(|row| event(&row)).transpose()?;
        Ok(event.map(|(event, _)| event).filter(|event| event.id == id))
    }

    /// A page of events and where the next one starts.
    pub async fn events(
        &self,
        tenant: TenantKey,
        filter: &EventFilter,
        payloads: bool,
        page: Page,
    ) -> Result<(Vec<SizedEvent>, Option<Pos>), Error> {
        let select = || select_events(self.readers.dialect(), tenant, filter, payloads);
        let fits = |(event, _): &SizedEvent| Pattern::any(&filter.event_types, &event.event_type);
        let pos = |(event, _): &SizedEvent| event.id.pos();
        let scan = Scan { select, column: "e.pos", decode: event, fits, pos, heavy: payloads };
        scan.page(&self.readers, page).await
    }

    /// Counts an event's deliveries.
    pub async fn event_summary(&self, event: EventId) -> Result<EventSummary, Error> {
        let rows = self.readers.rows(EVENT_SUMMARY, &params![event.pos()]).await?;
        let mut summary = EventSummary::default();
        for row in rows {
            let count = row.small(1)?;
            summary.total += count;
            match State::from_number(row.number(0)?) {
                Some(State::Pending | State::Retrying) => summary.open += count,
                Some(State::Delivered) => summary.delivered += count,
                _ => summary.unsuccessful += count,
            }
        }
        Ok(summary)
    }

    /// One delivery.
    pub async fn delivery(&self, tenant: TenantKey, id: DeliveryId) -> Result<Option<Delivery>, Error> {
        let sql = concatcp!(DELIVERY, " WHERE d.pos = $1");
        let row = self.readers.row(sql, &params![id.pos()]).await?;
        let delivery = row.map(|row| read::delivery(&row)).transpose()?;
        Ok(delivery.filter(|it| it.tenant == tenant && it.id == id))
    }

    /// A page of deliveries and where the next one starts.
    pub async fn deliveries(
        &self,
        tenant: TenantKey,
        filter: &DeliveryFilter,
        page: Page,
        now: Timestamp,
    ) -> Result<(Vec<Delivery>, Option<Pos>), Error> {
        let select = || select_deliveries(self.readers.dialect(), tenant, filter);
        let fits = |delivery: &Delivery| filter.fits(delivery, now);
        let pos = |delivery: &Delivery| delivery.id.pos();
        let scan = Scan { select, column: "d.pos", decode: read::delivery, fits, pos, heavy: false };
        scan.page(&self.readers, page).await
    }

    /// The attempts of a delivery, first to last: a walk along its chain.
    pub async fn attempts(&self, delivery: &Delivery) -> Result<Vec<Arc<Attempt>>, Error> {
        let rows = self.readers.rows(ATTEMPTS, &params![delivery.last_change]).await?;
        let changes: Result<Vec<Change>, _> = rows.iter().map(|row| read::change(row)).collect();
        Ok(changes?.into_iter().filter_map(|change| change.attempt).collect())
    }

    /// The keys of endpoints by public id, deleted ones included.
    pub async fn endpoint_keys(
        &self,
        tenant: TenantKey,
        ids: &[Arc<str>],
    ) -> Result<Vec<EndpointKey>, Error> {
        let mut query = self.readers.query("SELECT key FROM endpoints WHERE tenant = ");
        query.bind(tenant).push(" AND id IN (").bind_all(ids).push(")");
        self.readers.all(&query).await?.iter().map(|row| row.number(0).map(EndpointKey)).collect()
    }

    /// Up to `limit` changes after `after` and not beyond `upto`, and the position
    /// they reach.
    pub async fn changes(
        &self,
        after: Pos,
        upto: Pos,
        limit: usize,
    ) -> Result<(Vec<Arc<Change>>, Pos), Error> {
        let mut found = Vec::new();
        let bounds = params![after, upto, limit as i64];
        for row in self.readers.rows(FEED_MADE, &bounds).await? {
            found.push(Arc::new(read::created(&row)?));
        }
        for row in self.readers.rows(FEED_LATER, &bounds).await? {
            found.push(Arc::new(read::change(&row)?));
        }
        found.sort_by_key(|change| change.pos);
        found.truncate(limit);
        let reached =
            if found.len() == limit { found.last().map_or(upto, |change| change.pos) } else { upto };
        Ok((found, reached))
    }

    /// The position from which every change at or after an instant follows.
    pub async fn position_at(&self, at: Timestamp) -> Result<Pos, Error> {
        let sql = "SELECT pos FROM marks WHERE at < $1 ORDER BY at DESC LIMIT 1";
        let row = self.readers.row(sql, &params![at]).await?;
        row.map_or(Ok(Pos(0)), |row| row.pos(0))
    }
}

pub(super) fn select_events(
    dialect: Dialect,
    tenant: TenantKey,
    filter: &EventFilter,
    payloads: bool,
) -> Query {
    let sql = if payloads { event_sql!("e.payload") } else { event_sql!("NULL") };
    let mut query = Query::new(dialect, sql);
    query.push("e.tenant = ").bind(tenant);
    if let Some(key) = &filter.idempotency_key {
        query.push(" AND e.pos = (SELECT i.event FROM idempotency i WHERE i.tenant = ").bind(tenant);
        query.push(" AND i.key = ").bind(key).push(")");
    }
    created(&mut query, "e.created_at", filter.created);
    query
}

pub(super) fn select_deliveries(dialect: Dialect, tenant: TenantKey, filter: &DeliveryFilter) -> Query {
    let mut query = Query::new(dialect, DELIVERY);
    query.push(" WHERE d.tenant = ").bind(tenant);
    if let Some(events) = &filter.events {
        let positions: Vec<_> = events.iter().map(|event| event.pos().0.cast_signed()).collect();
        query.push(" AND d.pos IN (SELECT r.pos FROM ").list(positions.clone());
        query.push(" JOIN events x ON x.pos = j.value JOIN deliveries r ON r.pos > x.pos AND r.pos <= x.pos + x.fanout");
        query.push(" UNION ALL SELECT r.pos FROM ").list(positions);
        query.push(" JOIN deliveries r ON r.event = j.value WHERE r.replay_of IS NOT NULL)");
    }
    if let Some(ids) = &filter.endpoints {
        query.push(" AND d.endpoint IN (SELECT n.key FROM endpoints n WHERE n.tenant = ").bind(tenant);
        query.push(" AND n.id IN (").bind_all(ids).push("))");
    }
    if !filter.states.is_empty() {
        let states: Vec<_> = filter.states.iter().map(|state| i64::from(*state as u8)).collect();
        any_of(&mut query, "d.state", &states);
    }
    created(&mut query, "d.created_at", filter.created);
    query
}

pub(super) fn created(query: &mut Query, column: &str, range: TimeRange) {
    if let Some(start) = range.start {
        query.push(" AND ").push(column).push(" >= ").bind(start);
    }
    if let Some(end) = range.end {
        query.push(" AND ").push(column).push(" < ").bind(end);
    }
}

pub(super) fn event(row: &dyn Columns) -> Result<SizedEvent, Error> {
    event_at(row, 0)
}

/// An event whose columns begin at one.
pub(super) fn event_at(row: &dyn Columns, from: usize) -> Result<SizedEvent, Error> {
    let created_at = row.time(from + 3)?;
    let metadata: Option<BTreeMap<String, String>> =
        row.text(from + 9)?.map(serde_json::from_str).transpose()?;
    let event = Event {
        id: EventId(Uid::new(created_at, row.small(from + 2)?, row.pos(from)?)),
        tenant: TenantKey(row.number(from + 1)?),
        event_type: row.word(from + 7)?.into(),
        payload: Payload {
            content_type: row.word(from + 10)?.into(),
            data: Bytes::copy_from_slice(row.bytes(from + 12)?.unwrap_or_default()),
        },
        idempotency_key: row.text(from + 8)?.unwrap_or_default().to_owned(),
        priority: row.number(from + 4)? as i8,
        deliver_at: row.time_if(from + 5)?,
        expires_at: row.time_if(from + 6)?,
        metadata: metadata.unwrap_or_default(),
        created_at,
    };
    Ok((event, row.count(from + 11)?))
}
