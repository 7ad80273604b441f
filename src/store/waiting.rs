//! What lanes read: deliveries that wait, and the events they bring.

use std::sync::Arc;

use const_format::concatcp;
use rustc_hash::FxHashMap;

use super::{
    Error, Store,
    db::{Columns as _, Dialect, Query, params},
    lists::{event, event_sql},
    read::{self, DELIVERY},
};
use crate::{
    domain::{Delivery, EndpointKey, Pos},
    machine::lane::Turn,
};

/// Open deliveries of an endpoint that have a turn or a later one, nearest first.
pub(super) const WAITING: &str = concatcp!(
    DELIVERY,
    " WHERE d.state < 2 AND d.endpoint = $1 AND (d.turn_at, d.pos) >= ($2, $3) ORDER BY d.turn_at, d.pos LIMIT $4"
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

impl Store {
    /// Open deliveries of an endpoint that have this turn or a later one, nearest
    /// first. Their events are at hand afterwards, as far as there is room: reading
    /// them one by one would cost more than sending them.
    pub async fn waiting(
        &self,
        endpoint: EndpointKey,
        from: Turn,
        limit: usize,
    ) -> Result<Vec<Arc<Delivery>>, Error> {
        let rows = self.readers.rows(WAITING, &params![endpoint, from.0, from.1, limit as i64]).await?;
        let page: Result<Vec<_>, _> = rows.iter().map(|row| read::delivery(row).map(Arc::new)).collect();
        self.with_events(page?).await
    }

    /// Deliveries by their numbers, as they are now. The events of those in open states
    /// are at hand afterwards.
    pub async fn fetch(&self, numbers: &[Pos]) -> Result<Vec<Arc<Delivery>>, Error> {
        let found = self.numbered(numbers).await?;
        self.with_events(found).await
    }

    /// Deliveries by their numbers, as they are now.
    pub async fn numbered(&self, numbers: &[Pos]) -> Result<Vec<Arc<Delivery>>, Error> {
        let mut query = self.readers.query(concatcp!(DELIVERY, " WHERE d.pos IN (SELECT j.value FROM "));
        query.list(numbers.iter().map(|pos| pos.0.cast_signed()).collect()).push(")");
        let rows = self.readers.all(&query).await?;
        rows.iter().map(|row| read::delivery(row).map(Arc::new)).collect()
    }

    async fn with_events(&self, page: Vec<Arc<Delivery>>) -> Result<Vec<Arc<Delivery>>, Error> {
        let open = page.iter().filter(|delivery| delivery.is_open());
        let mut uses: FxHashMap<Pos, u32> = FxHashMap::default();
        open.for_each(|delivery| *uses.entry(delivery.event.pos()).or_default() += 1);
        let missing = self.hot.missing(uses.keys().copied());
        if missing.is_empty() {
            return Ok(page);
        }
        let missing = missing.iter().map(|pos| pos.0.cast_signed()).collect();
        let rows = self.readers.all(&select_payloads(self.readers.dialect(), missing)).await?;
        let events: Result<Vec<_>, _> =
            rows.iter().map(|row| event(row).map(|(event, _)| (uses[&event.id.pos()], event))).collect();
        self.hot.insert(events?.into_iter().map(|(uses, event)| (Arc::new(event), uses)).collect());
        Ok(page)
    }

    /// Endpoints for which something waits.
    pub async fn endpoints_waiting(&self) -> Result<Vec<EndpointKey>, Error> {
        let rows = self.readers.rows(ENDPOINTS_WAITING, &[]).await?;
        rows.iter().map(|row| row.number(0).map(EndpointKey)).collect()
    }
}
