//! Circuit breakers that are not closed and silence that endpoints asked for, one row for each
//! endpoint. They outlive the process that owns the endpoint: the next owner, or the same
//! process after a restart, goes on from them.

use super::{
    Error, Store,
    db::{Columns as _, params},
    tx::Tx,
};
use crate::{
    domain::{EndpointKey, Timestamp},
    machine::lane::Kept,
};

const KEEP: &str = "INSERT INTO circuits VALUES ($1, $2, $3, $4) ON CONFLICT (endpoint) DO UPDATE SET \
     failures = excluded.failures, opened_at = excluded.opened_at, quiet_until = excluded.quiet_until";
/// Keeps how lanes stand, or that there is nothing to keep; only those of this home.
fn keep(tx: &mut Tx<'_>, lanes: &[(EndpointKey, Option<Kept>)]) -> Result<(), Error> {
    for (endpoint, kept) in lanes.iter().filter(|(endpoint, _)| tx.shards.is_home(*endpoint)) {
        match kept {
            Some(it) => {
                let values = params![*endpoint, it.failures, it.opened_at, it.quiet_until];
                tx.conn.execute(KEEP, &values)?;
            }
            None => forget(tx, *endpoint)?,
        }
    }
    Ok(())
}

/// Forgets how the lane of an endpoint stood.
pub(super) fn forget(tx: &mut Tx<'_>, endpoint: EndpointKey) -> Result<(), Error> {
    tx.conn.execute("DELETE FROM circuits WHERE endpoint = $1", &params![endpoint])?;
    Ok(())
}

impl Store {
    /// Keeps how lanes stand for the next owner of their endpoints; `None` if the breaker is
    /// closed and the endpoint asked for no silence.
    pub async fn keep_circuits(&self, lanes: Vec<(EndpointKey, Option<Kept>)>) -> Result<(), Error> {
        self.call(move |tx| keep(tx, &lanes)).await
    }

    /// Lets the home of an endpoint close its circuit breaker and end its silence.
    pub async fn reset_circuit(&self, endpoint: EndpointKey) -> Result<(), Error> {
        self.call(move |tx| {
            forget(tx, endpoint)?;
            tx.reset_circuit(endpoint);
            Ok(())
        })
        .await
    }

    /// How lanes stood when they were last kept.
    pub async fn circuits(&self) -> Result<Vec<(EndpointKey, Kept)>, Error> {
        let sql = "SELECT endpoint, failures, opened_at, quiet_until FROM circuits";
        let rows = self.readers.rows(sql, &[]).await?;
        let read = |row: &super::db::Row| {
            let time = |column| Ok::<_, Error>(row.integer(column)?.map(Timestamp));
            let kept = Kept { failures: row.small(1)?, opened_at: time(2)?, quiet_until: time(3)? };
            Ok((EndpointKey(row.number(0)?), kept))
        };
        rows.iter().map(read).collect()
    }
}
