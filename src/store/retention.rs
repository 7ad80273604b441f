//! What is forgotten, and when. In small steps, so that no publish waits long.

use super::{
    Error,
    db::{Sql, params},
    deliveries, partitions, tenants,
    tx::Tx,
};
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

/// How long entries of the journal are kept. A process that was away for longer ends.
const JOURNAL_KEPT: Micros = Micros::from_secs(3600);
/// Entries of the journal removed in one transaction at most: an index seek each.
const JOURNAL_STEP: i64 = 5_000;

/// Never the last one, which says where the feed stands.
const OLD_COMMITS: &str = "DELETE FROM commits WHERE pos IN \
     (SELECT pos FROM commits WHERE pos < $1 AND pos < $2 ORDER BY pos LIMIT $3)";
const EXPIRED_KEYS: &str = "DELETE FROM idempotency WHERE (tenant, key) IN \
     (SELECT tenant, key FROM idempotency WHERE expires_at <= $1 LIMIT $2)";
const EXPIRED_LETTERS: &str = "DELETE FROM dead_letters WHERE delivery IN \
     (SELECT delivery FROM dead_letters WHERE expires_at <= $1 AND state <> 2 LIMIT $2)";
const OLD_OPERATIONS: &str =
    "DELETE FROM operations WHERE seq IN (SELECT seq FROM operations WHERE ended_at <= $1 LIMIT $2)";
/// By their order, which is that of their time.
const OLD_ENTRIES: &str = "DELETE FROM audit WHERE at <= $1 AND sequence IN \
     (SELECT sequence FROM audit ORDER BY sequence LIMIT $2)";
const OLD_MARKS: &str = "DELETE FROM marks WHERE at IN (SELECT at FROM marks WHERE at < $1 LIMIT $2)";
/// Rows of the sweep: all of them in a file; on the server those that were kept when
/// their day was dropped.
macro_rules! swept {
    ($table:literal, $condition:literal) => {
        Sql {
            sqlite: concat!("DELETE FROM ", $table, " WHERE pos > $1 AND pos <= $2 AND ", $condition),
            postgres: concat!(
                "DELETE FROM ",
                $table,
                "_kept AS ",
                $table,
                " WHERE pos > $1 AND pos <= $2 AND ",
                $condition
            ),
        }
    };
}
const SWEEP: [Sql; 3] = [
    // By its last change, not by its making: one that waited long has just ended.
    swept!(
        "deliveries",
        "state >= 2 AND last_change <= $3 \
         AND NOT EXISTS (SELECT 1 FROM dead_letters l WHERE l.delivery = deliveries.pos)"
    ),
    swept!("changes", "pos <= $3 AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.pos = changes.delivery)"),
    swept!(
        "events",
        "pos <= $3 AND NOT EXISTS \
         (SELECT 1 FROM deliveries d WHERE d.pos > events.pos AND d.pos <= events.pos + events.fanout) \
         AND NOT EXISTS (SELECT 1 FROM deliveries r WHERE r.event = events.pos AND r.replay_of IS NOT NULL)"
    ),
];
/// Where so many rows further on is.
const FURTHER: Sql = Sql {
    sqlite: "SELECT $1 + $2",
    postgres: "SELECT pos FROM changes_kept WHERE pos > $1 ORDER BY pos OFFSET $2 LIMIT 1",
};

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
        let removed = tx.conn.execute(sql, &params![bound, STEP])?;
        more |= removed == STEP as usize;
    }
    if sweep.reached >= history && cutoff.now.since(sweep.started_at) >= PASS_EVERY {
        sweep = Sweep { reached: 0, started_at: cutoff.now };
    }
    if sweep.reached < history {
        let further = tx.conn.number(FURTHER, &params![sweep.reached, SPAN])?;
        let upto = further.map_or(history, |further| history.min(further));
        for sql in SWEEP {
            tx.conn.execute(sql, &params![sweep.reached, upto, history])?;
        }
        sweep.reached = upto;
        more |= upto < history;
    }
    Ok((compacted, sweep, more))
}

/// What there is to do once a round where processes share a database; says whether there
/// is more of it.
pub(super) fn close(tx: &mut Tx<'_>, cutoff: Cutoff) -> Result<bool, Error> {
    let more = fold(tx, cutoff.now)?;
    partitions::make(tx.conn, tx.day())?;
    let (_, history) = mark(tx, cutoff.history)?.unwrap_or_default();
    Ok(partitions::drop_old(tx, Pos(history.cast_unsigned()))? || more)
}

/// Writes what tenants use into its table and forgets entries of the journal that nobody
/// reads any more; says whether there are more of those.
fn fold(tx: &mut Tx<'_>, now: Timestamp) -> Result<bool, Error> {
    let (usage, position) = tx.all_usage();
    tenants::put_usage(tx.conn, &usage)?;
    tx.conn.execute("UPDATE meta SET value = $1 WHERE key = 'folded'", &params![position])?;
    let Some((_, pos)) = mark(tx, now.minus(JOURNAL_KEPT))? else { return Ok(false) };
    let removed = tx.conn.execute(OLD_COMMITS, &params![pos, position, JOURNAL_STEP])?;
    Ok(removed as i64 == JOURNAL_STEP)
}

/// Moves the start of the feed; whole marks at a time, never past the instant.
fn compact(tx: &mut Tx<'_>, before: Timestamp) -> Result<Pos, Error> {
    let compacted = tx.conn.fact("compacted")?.unwrap_or(0);
    let Some((at, pos)) = mark(tx, before)?.filter(|(_, pos)| *pos > compacted) else {
        return Ok(Pos(compacted.cast_unsigned()));
    };
    tx.conn.execute("UPDATE meta SET value = $1 WHERE key = 'compacted'", &params![pos])?;
    tracing::debug!(pos, at, "the feed was trimmed");
    Ok(Pos(pos.cast_unsigned()))
}

/// The newest mark not after an instant.
fn mark(tx: &mut Tx<'_>, at: Timestamp) -> Result<Option<(i64, i64)>, Error> {
    let sql = "SELECT at, pos FROM marks WHERE at <= $1 ORDER BY at DESC LIMIT 1";
    tx.conn.row(sql, &params![at], |row| Ok((row.number(0)?, row.number(1)?)))
}
