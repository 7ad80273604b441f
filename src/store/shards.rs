//! Who owns which share of the work: rows, and all of them in memory.

use std::sync::{PoisonError, RwLock};

use tokio::sync::watch;

use super::{
    Error, Store,
    db::{Conn, params},
    tx::Tx,
};
use crate::domain::{EndpointKey, InstanceId, Pos, Shard, Tenure};

/// Who owns which share, as far as this process knows; the writer knows it for certain
/// inside each transaction.
#[derive(Debug)]
pub struct Shards {
    me: InstanceId,
    /// How each stands, and the position from which it does.
    tenures: RwLock<Vec<(Tenure, Pos)>>,
    changes: watch::Sender<u64>,
}

impl Shards {
    /// One process owns them all.
    pub(super) fn alone(me: InstanceId) -> Self {
        Self::with(me, Some(me))
    }

    /// Nobody owns any yet.
    pub(super) fn shared(me: InstanceId) -> Self {
        Self::with(me, None)
    }

    fn with(me: InstanceId, owner: Option<InstanceId>) -> Self {
        let tenures = Shard::all().map(|_| (Tenure { epoch: 0, owner }, Pos(0))).collect();
        Self { me, tenures: RwLock::new(tenures), changes: watch::Sender::new(0) }
    }

    /// This process.
    pub fn me(&self) -> InstanceId {
        self.me
    }

    /// How a share stands.
    pub fn tenure(&self, shard: Shard) -> Tenure {
        self.standing(shard).0
    }

    /// How a share stands, and the position from which it does.
    pub fn standing(&self, shard: Shard) -> (Tenure, Pos) {
        self.tenures.read().unwrap_or_else(PoisonError::into_inner)[usize::from(shard.0)]
    }

    /// Tells when shares change hands.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// How all of them stand.
    pub fn all(&self) -> Vec<(Shard, Tenure)> {
        Shard::all().map(|shard| (shard, self.tenure(shard))).collect()
    }

    /// Whether this process owns a share.
    pub fn owns(&self, shard: Shard) -> bool {
        self.tenure(shard).owner == Some(self.me)
    }

    /// How many of the 64 shares of the endpoints this process owns.
    pub fn owned(&self) -> usize {
        let own =
            |(shard, tenure): &&(Shard, Tenure)| *shard != Shard::STEWARD && tenure.owner == Some(self.me);
        self.all().iter().filter(own).count()
    }

    /// Whether this process is the home of an endpoint.
    pub fn is_home(&self, endpoint: EndpointKey) -> bool {
        self.owns(Shard::of(endpoint))
    }

    pub(super) fn apply(&self, changes: &[(Shard, Tenure)], at: Pos) {
        if changes.is_empty() {
            return;
        }
        {
            let mut tenures = self.tenures.write().unwrap_or_else(PoisonError::into_inner);
            for (shard, tenure) in changes {
                tenures[usize::from(shard.0)] = (*tenure, at);
            }
        }
        self.changes.send_modify(|count| *count += 1);
    }
}

const CHANGE: &str = "INSERT INTO shards (shard, epoch, owner) VALUES ($1, $2, $3) \
     ON CONFLICT (shard) DO UPDATE SET epoch = excluded.epoch, owner = excluded.owner";

/// Takes shares, unless they changed hands since they were of these epochs: what others
/// began under them is void from here on.
fn claim(tx: &mut Tx<'_>, shards: &[(Shard, u64)]) -> Result<(), Error> {
    let shared = tx.shards;
    for (shard, seen) in shards.iter().filter(|(shard, seen)| shared.tenure(*shard).epoch == *seen) {
        tenure(tx, *shard, Tenure { epoch: seen + 1, owner: Some(tx.shards.me()) })?;
    }
    Ok(())
}

/// Gives shares up in order, if they are still this process's.
fn release(tx: &mut Tx<'_>, shards: &[Shard]) -> Result<(), Error> {
    for shard in shards.iter().filter(|shard| tx.shards.owns(**shard)) {
        let epoch = tx.shards.tenure(*shard).epoch + 1;
        tenure(tx, *shard, Tenure { epoch, owner: None })?;
    }
    Ok(())
}

fn tenure(tx: &mut Tx<'_>, shard: Shard, tenure: Tenure) -> Result<(), Error> {
    let owner = tenure.owner.map(|owner| owner.0);
    tx.conn.execute(CHANGE, &params![shard.0, tenure.epoch.cast_signed(), owner])?;
    tx.hand_over(shard, tenure);
    Ok(())
}

/// How all shares stand, for the start.
pub(super) fn all(conn: &Conn) -> Result<Vec<(Shard, Tenure)>, Error> {
    conn.rows("SELECT shard, epoch, owner FROM shards", &[], |row| {
        let tenure = Tenure { epoch: row.count(1)?, owner: row.integer(2)?.map(InstanceId) };
        Ok((Shard(row.number(0)? as u8), tenure))
    })
}

impl Store {
    /// Who owns which share of the work.
    pub fn shards(&self) -> &Shards {
        &self.shards
    }

    /// Takes shares that are of these epochs; call only while holding their locks. What
    /// others began under them is void from here on.
    pub async fn claim(&self, shards: Vec<(Shard, u64)>) -> Result<(), Error> {
        self.call(move |tx| claim(tx, &shards)).await
    }

    /// Gives shares up in order: nothing of them is in flight any more.
    pub async fn release(&self, shards: Vec<Shard>) -> Result<(), Error> {
        self.call(move |tx| release(tx, &shards)).await
    }
}
