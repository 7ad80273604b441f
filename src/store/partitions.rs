//! History in partitions by day, on PostgreSQL.
//!
//! The rows of a day are a range of positions, see [`first_of`]. A day that is too old
//! is taken out of the tables and dropped whole, after what must be kept of it has moved
//! to where rows without a day of their own go; there the sweep looks at them one by one.

use super::{
    Error,
    db::{Conn, first_of, params},
    deliveries::Step,
    tx::Tx,
};
use crate::domain::{Micros, Pos};

/// Days that have their partitions in advance.
const AHEAD: i64 = 3;
/// The tables that have partitions by day, in the order in which readers lock them.
const TABLES: [&str; 3] = ["changes", "deliveries_over", "events"];
/// A delivery that ends so long after it was made is looked for when its day is dropped.
const LATE: Micros = Micros::from_secs(86_400);

/// Takes a day out of the tables. What is kept of it is found from the few that need it,
/// not by reading the day: others wait for this transaction.
const DROP: &str = "
-- Dead letters, and what has just ended.
CREATE TEMP TABLE kept_deliveries ON COMMIT DROP AS
    SELECT delivery AS pos FROM dead_letters WHERE delivery >= {from} AND delivery < {to}
    UNION SELECT l.pos FROM late_endings l JOIN deliveries d ON d.pos = l.pos
    WHERE l.pos >= {from} AND l.pos < {to} AND d.last_change > {before};
-- The histories of these, of what waits, and of what was kept of earlier days.
CREATE TEMP TABLE kept_changes ON COMMIT DROP AS
    WITH RECURSIVE chain (pos) AS (
        SELECT d.last_change FROM deliveries d WHERE d.pos IN (SELECT pos FROM kept_deliveries)
        UNION ALL SELECT o.last_change FROM deliveries_open o WHERE o.pos < {to} AND o.last_change >= {from}
        UNION ALL SELECT k.last_change FROM deliveries_kept k WHERE k.pos < {to} AND k.last_change >= {from}
        UNION ALL SELECT c.prev FROM chain JOIN changes c ON c.pos = chain.pos WHERE chain.pos >= {from}
    ) SELECT DISTINCT pos FROM chain WHERE pos >= {from} AND pos < {to};
-- The events of these, of what waits, and of replays.
CREATE TEMP TABLE kept_events ON COMMIT DROP AS
    SELECT d.event AS pos FROM deliveries d WHERE d.pos IN (SELECT pos FROM kept_deliveries)
    UNION SELECT o.event FROM deliveries_open o WHERE o.pos >= {from} AND o.pos < {to}
    UNION SELECT r.event FROM deliveries r
    WHERE r.replay_of IS NOT NULL AND r.event >= {from} AND r.event < {to};
ALTER TABLE changes DETACH PARTITION changes_{day};
ALTER TABLE deliveries_over DETACH PARTITION deliveries_over_{day};
ALTER TABLE events DETACH PARTITION events_{day};
INSERT INTO deliveries_over
    SELECT o.* FROM deliveries_over_{day} o WHERE o.pos IN (SELECT pos FROM kept_deliveries);
INSERT INTO changes SELECT o.* FROM changes_{day} o WHERE o.pos IN (SELECT pos FROM kept_changes);
INSERT INTO events SELECT o.* FROM events_{day} o WHERE o.pos IN (SELECT pos FROM kept_events);
DROP TABLE deliveries_over_{day}, changes_{day}, events_{day};
DELETE FROM late_endings WHERE pos < {to}";

/// Makes the partitions of a day and of those to come, if they are missing. While somebody
/// looks at the tables for long it waits for another time: there are days in advance.
pub(super) fn make(conn: &Conn, today: i64) -> Result<(), Error> {
    let made = conn.fact("partitioned")?.unwrap_or(0);
    for day in today.max(made + 1)..=today + AHEAD {
        let (from, to) = (first_of(day).0, first_of(day + 1).0);
        let mut script = format!("UPDATE meta SET value = {day} WHERE key = 'partitioned'");
        for table in TABLES {
            // Attached to, not made as a part: that would wait for all readers.
            script += &format!(
                "; CREATE TABLE {table}_{day} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS); \
                 ALTER TABLE {table} ATTACH PARTITION {table}_{day} FOR VALUES FROM ({from}) TO ({to})"
            );
        }
        if !conn.attempt(script)? {
            break;
        }
    }
    Ok(())
}

/// Drops the oldest day, if all of it is before a position; says whether it did.
pub(super) fn drop_old(tx: &mut Tx<'_>, before: Pos) -> Result<bool, Error> {
    let sql = "SELECT min(substr(c.relname, 8)::int8) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
         WHERE i.inhparent = 'events'::regclass AND c.relname <> 'events_kept'";
    let Some(day) = tx.conn.number(sql, &[])? else { return Ok(false) };
    // A day more, so that what ended on the next is old, too.
    if first_of(day + 2) > before {
        return Ok(false);
    }
    let numbers =
        [("{day}", day.cast_unsigned()), ("{from}", first_of(day).0), ("{to}", first_of(day + 1).0)];
    let script =
        numbers.iter().fold(DROP.to_owned(), |it, (name, number)| it.replace(name, &number.to_string()));
    let dropped = tx.conn.attempt(script.replace("{before}", &before.0.to_string()))?;
    if dropped {
        tracing::info!(day, "the history of a day was dropped");
    }
    Ok(dropped)
}

/// Notes deliveries that ended long after they were made.
pub(super) fn note_late(conn: &Conn, steps: &[Step]) -> Result<(), Error> {
    let late = |step: &&Step| {
        let it = &step.after;
        step.previous.is_open() && !it.is_open() && it.updated_at.since(it.created_at) > LATE
    };
    let rows = steps.iter().filter(late).map(|step| params![step.after.id.pos()]);
    conn.insert("late_endings", "ON CONFLICT DO NOTHING", rows)
}
