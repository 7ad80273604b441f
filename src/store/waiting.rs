//! What lanes read: deliveries that wait, and the events they bring.

use std::sync::Arc;

use const_format::concatcp;
use rustc_hash::FxHashMap;

use super::{
    Error, Store,
    db::{Columns as _, Dialect, Query, Row, params},
    lists::{event, event_at, event_columns, event_sql},
    read::{self, DELIVERY, delivery_columns},
};
use crate::{
    domain::{Delivery, EndpointKey, Event, Pos},
    machine::lane::Page,
};

/// A page: all of this can be told from an entry of the index of what waits.
macro_rules! page {
    () => {
        "d.endpoint = $1 AND (d.turn_at, d.pos) >= ($2, $3) AND d.pos <= $4 ORDER BY d.turn_at, d.pos LIMIT $5"
    };
}
/// Open deliveries of an endpoint that have a turn or a later one and a number or an
/// earlier one, nearest first.
pub(super) const WAITING: &str = concatcp!(DELIVERY, " WHERE d.state < 2 AND ", page!());
/// A page of [`WAITING`] with its events, for the server: two round trips cost more than
/// what is read twice. Endpoints are left out: their lanes know them.
pub(super) const PAGE: &str = concat!(
    "SELECT ",
    delivery_columns!("''"),
    ", ",
    event_columns!(),
    " FROM deliveries d JOIN events e ON e.pos = d.event WHERE d.state < 2 AND ",
    page!()
);
/// Endpoints for which something waits: one index seek each.
pub(super) const ENDPOINTS_WAITING: &str = "WITH RECURSIVE w (key) AS (SELECT min(endpoint) FROM deliveries WHERE state < 2 UNION ALL \
     SELECT (SELECT min(endpoint) FROM deliveries WHERE state < 2 AND endpoint > w.key) FROM w \
     WHERE w.key IS NOT NULL) SELECT key FROM w WHERE key IS NOT NULL";
/// Events by position. Larger ones are left out: a page of them might not fit the
/// memory, and reading one alone costs little beside sending it.
pub(super) fn select_payloads(dialect: Dialect, positions: Vec<i64>) -> Query {
    let sql =
        concat!(event_sql!("e.payload"), "length(e.payload) <= 16384 AND e.pos IN (SELECT j.value FROM ");
    let mut query = Query::new(dialect, sql);
    query.list(positions).push(")");
    query
}

/// Events, each with how many deliveries want it.
pub(super) type Events = Vec<(Arc<Event>, u32)>;

impl Store {
    /// A page of the open deliveries of an endpoint. Their events are at hand afterwards,
    /// as far as there is room: reading them one by one would cost more than sending them.
    pub async fn waiting(&self, endpoint: EndpointKey, page: Page) -> Result<Vec<Arc<Delivery>>, Error> {
        let Page { from, upto, limit } = page;
        let values = params![endpoint, from.0, from.1, upto, limit as i64];
        if self.is_shared() {
            return self.with_events(&self.readers.rows(PAGE, &values).await?);
        }
        let rows = self.readers.rows(WAITING, &values).await?;
        let page: Result<Vec<_>, _> = rows.iter().map(|row| read::delivery(row).map(Arc::new)).collect();
        let page = page?;
        self.hot.insert(self.events_of(&page).await?);
        Ok(page)
    }

    /// Deliveries of rows that bring their events, which are at hand afterwards.
    fn with_events(&self, rows: &[Row]) -> Result<Vec<Arc<Delivery>>, Error> {
        let (mut found, mut uses) = (Vec::with_capacity(rows.len()), FxHashMap::default());
        for row in rows {
            let delivery = read::delivery(row)?;
            if row.bytes(read::WIDTH + 12)?.is_some() {
                uses.entry(delivery.event.pos()).or_insert((row, 0)).1 += 1;
            }
            // What has no endpoint any more has no lane to go to either.
            let endpoint = self.routes.get(delivery.endpoint);
            found.extend(
                endpoint.map(|it| Arc::new(Delivery { endpoint_id: Arc::clone(&it.id), ..delivery })),
            );
        }
        let missing = self.hot.missing(uses.keys().copied());
        let events = missing.into_iter().map(|pos| {
            let (row, uses) = uses[&pos];
            Ok((Arc::new(event_at(row, read::WIDTH)?.0), uses))
        });
        self.hot.insert(events.collect::<Result<_, Error>>()?);
        Ok(found)
    }

    /// The events of those of some deliveries that are open, unless they are at hand or large.
    pub(super) async fn events_of(&self, deliveries: &[Arc<Delivery>]) -> Result<Events, Error> {
        let mut uses: FxHashMap<Pos, u32> = FxHashMap::default();
        let open = deliveries.iter().filter(|delivery| delivery.is_open());
        open.for_each(|delivery| *uses.entry(delivery.event.pos()).or_default() += 1);
        let missing = self.hot.missing(uses.keys().copied());
        if missing.is_empty() {
            return Ok(Events::new());
        }
        let missing = missing.iter().map(|pos| pos.0.cast_signed()).collect();
        let rows = self.readers.all(&select_payloads(self.readers.dialect(), missing)).await?;
        let events = rows.iter().map(|row| {
            let (event, _) = event(row)?;
            let uses = uses[&event.id.pos()];
            Ok((Arc::new(event), uses))
        });
        events.collect()
    }

    /// Endpoints for which something waits.
    pub async fn endpoints_waiting(&self) -> Result<Vec<EndpointKey>, Error> {
        let rows = self.readers.rows(ENDPOINTS_WAITING, &[]).await?;
        rows.iter().map(|row| row.number(0).map(EndpointKey)).collect()
    }
}
