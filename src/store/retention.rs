//! What is forgotten, and when. In small steps, so that no publish waits long.

use rusqlite::OptionalExtension as _;

use super::{Error, deliveries, tx::Tx};
use crate::domain::{Micros, Pos, Timestamp};

/// Rows removed in one transaction at most.
const STEP: i64 = 500;

/// What goes, by the time it became too old.
#[derive(Clone, Copy, Debug)]
pub struct Cutoff {
    /// The time now.
    pub now: Timestamp,
    /// Changes before this leave the feed.
    pub feed: Timestamp,
    /// Finished deliveries before this, their changes and events, are removed.
    pub history: Timestamp,
    /// Operations that ended before this are removed.
    pub operations: Timestamp,
    /// Entries of the audit log before this are removed.
    pub audit: Timestamp,
}

/// How far the sweep over history has come. Rows that must stay are passed once a
/// pass, not once a step.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sweep {
    reached: i64,
    started_at: Timestamp,
}

/// Positions looked at in one step of the sweep.
const SPAN: i64 = 5_000;
/// Time between passes over history.
const PASS_EVERY: Micros = Micros::from_secs(3600);
/// A delivery past its end is left to its lane for this long, more than an attempt
/// may take: it may be in flight. Lanes end what they hold on time; this is for
/// what waits behind.
const EXPIRY_SLACK: Micros = Micros::from_secs(150);

const EXPIRED_KEYS: &str = "DELETE FROM idempotency WHERE (tenant, key) IN \
     (SELECT tenant, key FROM idempotency WHERE expires_at <= $1 LIMIT $2)";
const EXPIRED_LETTERS: &str = "DELETE FROM dead_letters WHERE delivery IN \
     (SELECT delivery FROM dead_letters WHERE expires_at <= $1 AND state <> 2 LIMIT $2)";
const OLD_OPERATIONS: &str =
    "DELETE FROM operations WHERE seq IN (SELECT seq FROM operations WHERE ended_at <= $1 LIMIT $2)";
/// By their order, which is that of their time.
const OLD_ENTRIES: &str = "DELETE FROM audit WHERE sequence IN \
     (SELECT sequence FROM (SELECT sequence, at FROM audit ORDER BY sequence LIMIT $2) WHERE at <= $1)";
const OLD_MARKS: &str = "DELETE FROM marks WHERE at IN (SELECT at FROM marks WHERE at < $1 LIMIT $2)";
/// By its last change, not by its making: one that waited long has just ended.
const OLD_DELIVERIES: &str = "DELETE FROM deliveries WHERE pos > $1 AND pos <= $2 AND state >= 2 \
     AND last_change <= $3 AND NOT EXISTS (SELECT 1 FROM dead_letters l WHERE l.delivery = deliveries.pos)";
const OLD_CHANGES: &str = "DELETE FROM changes WHERE pos > $1 AND pos <= $2 AND pos <= $3 \
     AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.pos = changes.delivery)";
const OLD_EVENTS: &str = "DELETE FROM events WHERE pos > $1 AND pos <= $2 AND pos <= $3 \
     AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.pos > events.pos AND d.pos <= events.pos + events.fanout) \
     AND NOT EXISTS (SELECT 1 FROM deliveries r WHERE r.event = events.pos AND r.replay_of IS NOT NULL)";

/// Removes a little of everything that is too old; says where the feed now starts,
/// how far the sweep has come and whether there is more to remove.
pub(super) fn step(tx: &mut Tx<'_>, cutoff: Cutoff, mut sweep: Sweep) -> Result<(Pos, Sweep, bool), Error> {
    tx.mark(cutoff.now)?;
    let compacted = compact(tx, cutoff.feed)?;
    let expired = deliveries::expire(tx, cutoff.now.minus(EXPIRY_SLACK), STEP, cutoff.now)?;
    let mut more = i64::from(expired) == STEP;
    let (marked_at, history) = mark(tx, cutoff.history)?.unwrap_or((i64::MIN, 0));
    let removals = [
        (EXPIRED_KEYS, cutoff.now.0),
        (EXPIRED_LETTERS, cutoff.now.0),
        (OLD_OPERATIONS, cutoff.operations.0),
        (OLD_ENTRIES, cutoff.audit.0),
        (OLD_MARKS, marked_at),
    ];
    for (sql, bound) in removals {
        let removed = tx.conn.prepare_cached(sql)?.execute([bound, STEP])?;
        more |= removed == STEP as usize;
    }
    if sweep.reached >= history && cutoff.now.since(sweep.started_at) >= PASS_EVERY {
        sweep = Sweep { reached: 0, started_at: cutoff.now };
    }
    if sweep.reached < history {
        let upto = history.min(sweep.reached + SPAN);
        for sql in [OLD_DELIVERIES, OLD_CHANGES, OLD_EVENTS] {
            tx.conn.prepare_cached(sql)?.execute([sweep.reached, upto, history])?;
        }
        sweep.reached = upto;
        more |= upto < history;
    }
    Ok((compacted, sweep, more))
}

/// Moves the start of the feed; whole marks at a time, never past the instant.
fn compact(tx: &mut Tx<'_>, before: Timestamp) -> Result<Pos, Error> {
    let mut query = tx.conn.prepare_cached("SELECT value FROM meta WHERE key = 'compacted'")?;
    let compacted: i64 = query.query_row([], |row| row.get(0))?;
    let Some((at, pos)) = mark(tx, before)?.filter(|(_, pos)| *pos > compacted) else {
        return Ok(Pos(compacted.cast_unsigned()));
    };
    tx.conn.prepare_cached("UPDATE meta SET value = ? WHERE key = 'compacted'")?.execute([pos])?;
    tracing::debug!(pos, at, "the feed was trimmed");
    Ok(Pos(pos.cast_unsigned()))
}

/// The newest mark not after an instant.
fn mark(tx: &mut Tx<'_>, at: Timestamp) -> Result<Option<(i64, i64)>, Error> {
    let mut query =
        tx.conn.prepare_cached("SELECT at, pos FROM marks WHERE at <= ? ORDER BY at DESC LIMIT 1")?;
    Ok(query.query_row([at], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}
