//! Which processes use the database now.

use super::{
    Error, Store,
    db::{Columns, params},
};
use crate::domain::{Instance, InstanceId, Micros, Timestamp};

/// How long a process is a member after its last heartbeat.
const MEMBER_FOR: Micros = Micros::from_secs(15);

/// Heartbeats are told by the server's clock, so it also says what is long ago.
const MEMBERS: &str = "SELECT id, name, version, started_at, seen_at, draining, skew_us FROM instances \
     WHERE seen_at > floor(extract(epoch FROM clock_timestamp()) * 1000000)::int8 - $1";

impl Store {
    /// Those that share the work, by name, each with its shares as far as this process
    /// knows. Alone it is this process, seen at `now`.
    pub async fn instances(&self, now: Timestamp) -> Result<Vec<Instance>, Error> {
        let mut all = if self.is_shared() {
            let rows = self.readers.rows(MEMBERS, &params![MEMBER_FOR.0]).await?;
            rows.iter().map(|row| decode(row)).collect::<Result<_, _>>()?
        } else {
            vec![self.this_instance(now)]
        };
        for (shard, tenure) in self.shards.all() {
            if let Some(owner) = all.iter_mut().find(|it| Some(it.id) == tenure.owner) {
                owner.shards.push(shard);
            }
        }
        all.sort_by(|one, other| (&one.name, one.id).cmp(&(&other.name, other.id)));
        Ok(all)
    }

    /// This process, seen at `now`, as it is before it owns anything.
    pub fn this_instance(&self, now: Timestamp) -> Instance {
        Instance {
            id: self.config.instance,
            name: self.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.config.started_at,
            seen_at: now,
            draining: false,
            skew: Micros::ZERO,
            shards: Vec::new(),
        }
    }
}

fn decode(row: &dyn Columns) -> Result<Instance, Error> {
    Ok(Instance {
        id: InstanceId(row.number(0)?),
        name: row.word(1)?.to_owned(),
        version: row.word(2)?.to_owned(),
        started_at: row.time(3)?,
        seen_at: row.time(4)?,
        draining: row.number(5)? != 0,
        skew: Micros(row.number(6)?),
        shards: Vec::new(),
    })
}
