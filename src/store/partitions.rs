//! History in partitions by day, on PostgreSQL.
//!
//! The rows of a day are a range of positions, see [`first_of`]. A day that is too old
//! is taken out of the tables and dropped whole, after what must be kept of it has moved
//! to where rows without a day of their own go; there the sweep looks at them one by one.

use super::{
    Error,
    db::{Conn, first_of, params},
    tx::Tx,
};
use crate::domain::Pos;

/// Days that have their partitions in advance.
const AHEAD: i64 = 3;

/// The tables, and which rows of an old day are kept: what waits brings its event, and a
/// dead letter its whole history.
const TABLES: [(&str, &str); 3] = [
    (
        "deliveries_over",
        "EXISTS (SELECT 1 FROM dead_letters l WHERE l.delivery = o.pos) OR o.last_change > $1",
    ),
    ("changes", "EXISTS (SELECT 1 FROM deliveries d WHERE d.pos = o.delivery)"),
    (
        "events",
        "EXISTS (SELECT 1 FROM deliveries d WHERE d.pos > o.pos AND d.pos <= o.pos + o.fanout) \
         OR EXISTS (SELECT 1 FROM deliveries r WHERE r.event = o.pos AND r.replay_of IS NOT NULL)",
    ),
];

/// Makes the partitions of a day and of those to come, if they are missing.
pub(super) fn make(conn: &Conn, day: i64) -> Result<(), Error> {
    let made = conn.fact("partitioned")?.unwrap_or(0);
    if made > day {
        return Ok(());
    }
    for day in day.max(made + 1)..=day + AHEAD {
        for (table, _) in TABLES {
            let (from, to) = (first_of(day).0, first_of(day + 1).0);
            // Attached to, not made as a part: that would wait for all readers.
            let sql = format!(
                "CREATE TABLE {table}_{day} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS); \
                 ALTER TABLE {table} ATTACH PARTITION {table}_{day} FOR VALUES FROM ({from}) TO ({to})"
            );
            conn.script(sql)?;
        }
    }
    let sql = "UPDATE meta SET value = $1 WHERE key = 'partitioned'";
    conn.execute(sql, &params![day + AHEAD])?;
    Ok(())
}

/// Drops the oldest day, if all of it is before a position; says whether there was one.
pub(super) fn drop_old(tx: &mut Tx<'_>, before: Pos) -> Result<bool, Error> {
    let sql = "SELECT min(substr(c.relname, 8)::int8) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
         WHERE i.inhparent = 'events'::regclass AND c.relname <> 'events_kept'";
    let Some(day) = tx.conn.number(sql, &[])? else { return Ok(false) };
    if first_of(day + 1) > before {
        return Ok(false);
    }
    for (table, kept) in TABLES {
        tx.conn.script(format!("ALTER TABLE {table} DETACH PARTITION {table}_{day}"))?;
        let kept = kept.replace("$1", &before.0.to_string());
        tx.conn.script(format!("INSERT INTO {table} SELECT o.* FROM {table}_{day} o WHERE {kept}"))?;
    }
    for (table, _) in TABLES {
        tx.conn.script(format!("DROP TABLE {table}_{day}"))?;
    }
    tracing::info!(day, "the history of a day was dropped");
    Ok(true)
}
