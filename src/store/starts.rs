//! Starts of attempts that have no result yet, and what becomes of them when their server
//! has ended.
//!
//! A row is written only for an attempt that is still under way some time after it began,
//! and removed by the transaction of its result. So a row that is found by the next owner
//! of its shard belongs to a request that may have been received and has no result.

use std::collections::BTreeSet;

use const_format::concatcp;

use super::{
    Error, Finish, Store,
    db::{Sql, params},
    lists::ATTEMPTS,
    read::{self, DELIVERY},
    tx::Tx,
};
use crate::{
    domain::{Attempt, Cause, Change, Delivery, EndpointKey, Pos, Shard, Start, Timestamp},
    machine::lost::{self, Lost},
};

const REPLACE: &str = "ON CONFLICT (delivery) DO UPDATE SET endpoint = excluded.endpoint, number = excluded.number, \
     started_at = excluded.started_at, epoch = excluded.epoch";
const FORGET: Sql = Sql {
    sqlite: "DELETE FROM starts WHERE delivery = ?",
    postgres: "WITH u (delivery, n) AS (SELECT * FROM {rows} AS r) DELETE FROM starts s USING u \
         WHERE s.delivery = u.delivery RETURNING u.n",
};
const ALL: &str = "SELECT delivery, endpoint, number, started_at, epoch FROM starts ORDER BY delivery";
const ONE: &str = concatcp!(DELIVERY, " WHERE d.pos = $1");

/// A start, as a row has it.
struct Row {
    delivery: Pos,
    endpoint: EndpointKey,
    number: u32,
    started_at: Timestamp,
    epoch: u64,
}

impl Tx<'_> {
    /// Writes starts, but those whose result is written by the same transaction, and those
    /// whose shard has come to another process.
    pub(super) fn begin_attempts(&mut self, starts: &[Start], finishes: &[Finish]) -> Result<(), Error> {
        if starts.is_empty() {
            return Ok(());
        }
        let over: BTreeSet<Pos> = finishes.iter().map(|finish| finish.after.id.pos()).collect();
        let is_valid = |it: &&Start| {
            !over.contains(&it.delivery.pos()) && self.shards.tenure(Shard::of(it.endpoint)).epoch == it.epoch
        };
        let rows = starts.iter().filter(is_valid).map(|it| {
            params![it.delivery.pos(), it.endpoint, it.number, it.started_at, it.epoch.cast_signed()]
        });
        self.conn.insert("starts", REPLACE, rows)
    }

    /// Removes the starts of attempts that have a result.
    pub(super) fn forget_starts(&self, deliveries: impl Iterator<Item = Pos>) -> Result<(), Error> {
        let mut deliveries = deliveries.peekable();
        if deliveries.peek().is_none() {
            return Ok(());
        }
        self.conn.update_each(FORGET, deliveries.map(|delivery| params![delivery]))?;
        Ok(())
    }

    /// What the attempt of a start comes to. `None`: it has a result, or there is no such
    /// delivery or endpoint any more.
    fn lost(&self, row: &Row, epoch: u64, now: Timestamp) -> Result<Option<Finish>, Error> {
        let found = self.conn.rows(ONE, &params![row.delivery], read::delivery)?.pop();
        let (Some(before), Some(endpoint)) = (found, self.endpoint(row.endpoint)) else { return Ok(None) };
        let in_a_row = self.lost_in_a_row(&before)?;
        let lost = lost::lost(&before, &endpoint, (row.number, row.started_at), in_a_row, now);
        Ok(lost.map(|Lost { after, attempt, reason }| Finish {
            before: before.into(),
            after,
            attempt: Some(attempt),
            reason,
            letters: endpoint.dead_letters,
            gone: None,
            epoch,
            started: true,
        }))
    }

    fn lost_in_a_row(&self, delivery: &Delivery) -> Result<u32, Error> {
        let failure = delivery.last.as_ref().and_then(|last| last.failure.as_ref());
        if failure.is_none_or(|failure| failure.cause != Cause::WorkerLost) {
            return Ok(0);
        }
        let history: Vec<Change> = self.conn.rows(ATTEMPTS, &params![delivery.last_change], read::change)?;
        let attempts: Vec<&Attempt> = history.iter().filter_map(|change| change.attempt.as_deref()).collect();
        Ok(lost::in_a_row(attempts.into_iter()))
    }
}

/// Counts the attempts that began before this process owned their shard.
fn count_lost(tx: &mut Tx<'_>, now: Timestamp) -> Result<usize, Error> {
    let rows = tx.conn.rows(ALL, &[], |row| {
        Ok::<_, Error>(Row {
            delivery: row.pos(0)?,
            endpoint: EndpointKey(row.number(1)?),
            number: row.small(2)?,
            started_at: row.time(3)?,
            epoch: row.count(4)?,
        })
    })?;
    let (mut finishes, mut settled) = (Vec::new(), Vec::new());
    for row in rows {
        let shard = Shard::of(row.endpoint);
        let epoch = tx.shards.tenure(shard).epoch;
        // A process that is alone asks before its first attempt: all rows are older.
        if tx.conn.is_shared() && (!tx.shards.owns(shard) || row.epoch >= epoch) {
            continue;
        }
        match tx.lost(&row, epoch, now)? {
            Some(finish) => finishes.push(finish),
            None => settled.push(row.delivery),
        }
    }
    tx.finish(&finishes)?;
    tx.forget_starts(settled.into_iter())?;
    Ok(finishes.len())
}

impl Store {
    /// Writes that attempts have begun, with the next transaction. They are kept in memory
    /// until then.
    pub fn begin_attempts(&self, starts: Vec<Start>) -> Result<(), Error> {
        self.starts.send(starts).map_err(|_| Error::Unavailable(None))
    }

    /// Counts the attempts that were cut off by the end of the server that owned their
    /// shard, of all shards that this process owns now; says how many. A process that is
    /// alone calls it before it sends anything.
    pub async fn count_lost(&self, now: Timestamp) -> Result<usize, Error> {
        self.call(move |tx| count_lost(tx, now)).await
    }
}
