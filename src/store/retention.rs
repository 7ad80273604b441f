//! What is forgotten, and when. In small steps, so that no publish waits long.

use super::{Error, tx::Tx};
use crate::domain::{LetterState, Pos, State, Timestamp};

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
}

/// Removes a little of everything that is too old; says where the feed now starts
/// and whether there is more to remove.
pub(super) async fn step(tx: &mut Tx<'_>, cutoff: Cutoff) -> Result<(Pos, bool), Error> {
    tx.mark(cutoff.now).await?;
    let compacted = compact(tx, cutoff.feed).await?;
    let (marked_at, history) = mark(tx, cutoff.history).await?.unwrap_or((i64::MIN, 0));
    let removals: [(&'static str, i64, i64); 7] = [
        (
            "DELETE FROM idempotency WHERE (tenant, key) IN \
          (SELECT tenant, key FROM idempotency WHERE expires_at <= $1 LIMIT $2)",
            cutoff.now.0,
            0,
        ),
        (
            "DELETE FROM dead_letters WHERE delivery IN \
          (SELECT delivery FROM dead_letters WHERE expires_at <= $1 AND state <> $3 LIMIT $2)",
            cutoff.now.0,
            LetterState::Replaying as i64,
        ),
        ("DELETE FROM marks WHERE at IN (SELECT at FROM marks WHERE at < $1 LIMIT $2)", marked_at, 0),
        (
            "DELETE FROM operations WHERE seq IN \
          (SELECT seq FROM operations WHERE ended_at <= $1 LIMIT $2)",
            cutoff.operations.0,
            0,
        ),
        (
            "DELETE FROM deliveries WHERE pos IN (SELECT d.pos FROM deliveries d WHERE d.pos <= $1 AND d.state >= $3 \
          AND NOT EXISTS (SELECT 1 FROM dead_letters l WHERE l.delivery = d.pos) ORDER BY d.pos LIMIT $2)",
            history,
            State::Delivered as i64,
        ),
        (
            "DELETE FROM changes WHERE pos IN (SELECT c.pos FROM changes c WHERE c.pos <= $1 \
          AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.pos = c.delivery) ORDER BY c.pos LIMIT $2)",
            history,
            0,
        ),
        (
            "DELETE FROM events WHERE pos IN (SELECT e.pos FROM events e WHERE e.pos <= $1 \
          AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.pos > e.pos AND d.pos <= e.pos + e.fanout) \
          AND NOT EXISTS (SELECT 1 FROM deliveries r WHERE r.event = e.pos AND r.replay_of IS NOT NULL) \
          ORDER BY e.pos LIMIT $2)",
            history,
            0,
        ),
    ];
    let mut more = false;
    for (sql, bound, extra) in removals {
        let done = sqlx::query(sql).bind(bound).bind(STEP).bind(extra).execute(&mut *tx.conn).await?;
        more |= done.rows_affected() == STEP.cast_unsigned();
    }
    Ok((compacted, more))
}

/// Moves the start of the feed; whole marks at a time, never past the instant.
async fn compact(tx: &mut Tx<'_>, before: Timestamp) -> Result<Pos, Error> {
    let compacted: i64 =
        sqlx::query_scalar("SELECT value FROM meta WHERE key = 'compacted'").fetch_one(&mut *tx.conn).await?;
    let Some((at, pos)) = mark(tx, before).await?.filter(|(_, pos)| *pos > compacted) else {
        return Ok(Pos(compacted.cast_unsigned()));
    };
    sqlx::query("UPDATE meta SET value = $1 WHERE key = 'compacted'")
        .bind(pos)
        .execute(&mut *tx.conn)
        .await?;
    tracing::debug!(pos, at, "the feed was trimmed");
    Ok(Pos(pos.cast_unsigned()))
}

/// The newest mark not after an instant.
async fn mark(tx: &mut Tx<'_>, at: Timestamp) -> Result<Option<(i64, i64)>, Error> {
    Ok(sqlx::query_as("SELECT at, pos FROM marks WHERE at <= $1 ORDER BY at DESC LIMIT 1")
        .bind(at.0)
        .fetch_optional(&mut *tx.conn)
        .await?)
}
