//! What lanes read: deliveries that wait, and the events they bring.

use std::sync::Arc;

use const_format::concatcp;

use super::{
    Error, Store,
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
pub(super) const EVENTS: &str = concat!(
    event_sql!("e.payload"),
    "length(e.payload) <= 16384 AND e.pos IN (SELECT j.value FROM json_each($1) j)"
);

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
        let mut conn = self.readers.acquire().await?;
        let (turn_at, pos) = (from.0.0, from.1.0.cast_signed());
        let query = sqlx::query(WAITING).bind(endpoint.0).bind(turn_at).bind(pos).bind(limit as i64);
        let rows = query.fetch_all(&mut *conn).await?;
        let page: Result<Vec<_>, _> = rows.iter().map(|row| read::delivery(row).map(Arc::new)).collect();
        let page = page?;
        let missing: Vec<Pos> = self.hot.missing(page.iter().map(|delivery| delivery.event.pos()));
        if missing.is_empty() {
            return Ok(page);
        }
        let missing = serde_json::json!(missing.iter().map(|pos| pos.0).collect::<Vec<_>>()).to_string();
        let rows = sqlx::query(EVENTS).bind(missing).fetch_all(&mut *conn).await?;
        let events: Result<Vec<_>, _> =
            rows.iter().map(|row| event(row).map(|(event, _)| (Arc::new(event), 1))).collect();
        self.hot.insert(events?);
        Ok(page)
    }

    /// Endpoints for which something waits.
    pub async fn endpoints_waiting(&self) -> Result<Vec<EndpointKey>, Error> {
        let keys: Vec<i64> = sqlx::query_scalar(ENDPOINTS_WAITING).fetch_all(&self.readers).await?;
        Ok(keys.into_iter().map(EndpointKey).collect())
    }
}
