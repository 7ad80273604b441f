//! Deliveries that entries of the journal tell of, read for their home.

use std::sync::Arc;

use const_format::concatcp;

use super::{
    Error, Store,
    db::{Columns as _, Sql, Value},
    journal::{Mention, Source},
    lists::{event, event_columns},
    read::{self, DELIVERY},
};
use crate::domain::{Delivery, DeliveryId, Event, Pos, Uid};

/// Events in runs of numbers; for the server, which alone has others. Run by run, see
/// `deliveries::UPDATE`.
pub(super) const RUNS: &str = concat!(
    "SELECT t.* FROM UNNEST($1::int8[], $2::int8[]) AS run (low, high) CROSS JOIN LATERAL (SELECT ",
    event_columns!(),
    " FROM events e WHERE e.pos BETWEEN run.low AND run.high OFFSET 0) AS t"
);
/// Deliveries by their numbers. On the server one by one, likewise.
pub(super) const NUMBERED: Sql = Sql {
    sqlite: concatcp!(DELIVERY, " WHERE d.pos IN (SELECT j.value FROM json_each($1) j)"),
    postgres: concatcp!(
        "SELECT t.* FROM UNNEST($1::int8[]) AS j (value) CROSS JOIN LATERAL (",
        DELIVERY,
        " WHERE d.pos = j.value OFFSET 0) AS t"
    ),
};
/// Events this near to each other are of one run. A run costs as much as what few others
/// may lie in between.
const NEAR: u64 = 4;

/// An event, how many bytes its payload has, and whether it is here.
struct Found {
    event: Arc<Event>,
    bytes: u32,
    is_whole: bool,
    /// How many deliveries want it.
    uses: u32,
}

impl Store {
    /// Deliveries that others made or changed. The events of those in open states are at hand
    /// afterwards, as far as there is room.
    pub async fn mentioned(&self, mentions: &[Mention]) -> Result<Vec<Arc<Delivery>>, Error> {
        let changed = mentions.iter().filter(|it| it.source.is_none());
        let changed: Vec<Pos> = changed.map(|it| it.pos).collect();
        let mut found = Vec::new();
        if !changed.is_empty() {
            found = self.numbered(&changed).await?;
            self.hot.publish(self.events_of(&found).await?);
        }
        found.extend(self.made(mentions).await?);
        Ok(found)
    }

    /// Deliveries by their numbers, as they are now.
    pub async fn numbered(&self, numbers: &[Pos]) -> Result<Vec<Arc<Delivery>>, Error> {
        let numbers = numbers.iter().map(|pos| pos.0.cast_signed()).collect();
        let rows = self.readers.rows(NUMBERED, &[Value::List(numbers)]).await?;
        rows.iter().map(|row| read::delivery(row).map(Arc::new)).collect()
    }

    /// Those that publishing made, as it made them: their events say all about them, and
    /// are wanted anyway.
    async fn made(&self, mentions: &[Mention]) -> Result<Vec<Arc<Delivery>>, Error> {
        let made = || mentions.iter().filter_map(|it| it.source.map(|source| (it, source)));
        let mut events: Vec<u64> = made().map(|(_, source)| source.event.0).collect();
        if events.is_empty() {
            return Ok(Vec::new());
        }
        events.sort_unstable();
        let mut events = self.events_among(&events).await?;
        let mut found = Vec::with_capacity(mentions.len());
        for (it, Source { event, max_attempts }) in made() {
            // What has no endpoint any more has no lane to go to either.
            let Some(endpoint) = self.routes.get(it.endpoint) else { continue };
            let Ok(at) = events.binary_search_by_key(&event, |found| found.event.id.pos()) else { continue };
            let Found { event, bytes, uses, .. } = &mut events[at];
            *uses += 1;
            let id = DeliveryId(Uid::new(event.created_at, event.id.0.salt(), it.pos));
            let first = Delivery::first(event, &endpoint, id);
            found.push(Arc::new(Delivery { max_attempts, bytes: *bytes, ..first }));
        }
        let wanted = events.into_iter().filter(|it| it.uses > 0 && it.is_whole);
        self.hot.publish(wanted.map(|it| (it.event, it.uses)).collect());
        Ok(found)
    }

    /// Events by their numbers, which are in order; so are the events.
    async fn events_among(&self, numbers: &[u64]) -> Result<Vec<Found>, Error> {
        let runs = runs(numbers);
        let ends = |end: fn(&(u64, u64)) -> u64| {
            Value::List(runs.iter().map(|run| end(run).cast_signed()).collect())
        };
        let rows = self.readers.rows(RUNS, &[ends(|run| run.0), ends(|run| run.1)]).await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            // Others may lie in between.
            if numbers.binary_search(&row.pos(0)?.0).is_err() {
                continue;
            }
            let (event, bytes) = event(row)?;
            let (event, bytes, is_whole) = (Arc::new(event), bytes as u32, row.bytes(12)?.is_some());
            found.push(Found { event, bytes, is_whole, uses: 0 });
        }
        found.sort_unstable_by_key(|it| it.event.id.pos());
        Ok(found)
    }
}

/// Runs of numbers that lie near each other, of numbers in order.
fn runs(numbers: &[u64]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, high)) if number - *high <= NEAR => *high = *number,
            Some(_) | None => runs.push((*number, *number)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_goes_on_while_numbers_are_near() {
        assert_eq!(runs(&[]), []);
        assert_eq!(runs(&[7, 7, 9, 13, 18, 90]), [(7, 13), (18, 18), (90, 90)]);
    }
}
