//! What sets a store apart from others in the same database.
//!
//! Advisory locks and notifications belong to a database, not to a schema. So their names
//! carry the identity of the store: the object number of its table of commits. Another
//! schema has another one, and so has a store that was dropped and made again.

use sqlx::{PgConnection, Row as _};

use crate::domain::{InstanceId, Shard};

/// First bits of every lock, so that other programs are unlikely to take the same.
const TAG: i64 = 0x686f << 48;
/// In the place of a shard: the lock of the transactions that write.
const WRITING: i64 = 0xffff;

/// What sets a store apart from others in the same database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity(u32);

impl Identity {
    /// Reads it; the tables have to be there.
    pub async fn read(conn: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let row = sqlx::query("SELECT 'commits'::regclass::oid::int8").fetch_one(conn).await?;
        Ok(Self(row.try_get::<i64, _>(0)? as u32))
    }

    /// The lock that each transaction which writes takes first.
    pub fn writing_lock(self) -> i64 {
        self.lock(WRITING)
    }

    /// The lock that the owner of a shard holds.
    pub fn shard_lock(self, shard: Shard) -> i64 {
        self.lock(i64::from(shard.0))
    }

    /// What all members listen to.
    pub fn channel(self) -> String {
        format!("hookwire_{}", self.0)
    }

    /// What one member listens to.
    pub fn channel_of(self, member: InstanceId) -> String {
        format!("hookwire_{}_{}", self.0, member.0)
    }

    fn lock(self, number: i64) -> i64 {
        TAG | i64::from(self.0) << 16 | number
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_locks_or_channels_are_the_same() {
        let stores = [1, 2, 0xffff, 0x1_0000, u32::MAX].map(Identity);
        let locks =
            |store: Identity| Shard::all().map(move |it| store.shard_lock(it)).chain([store.writing_lock()]);
        let all: BTreeSet<i64> = stores.into_iter().flat_map(locks).collect();
        assert_eq!(all.len(), stores.len() * (Shard::all().count() + 1));
        assert!(all.iter().all(|lock| *lock > 0));
        let channels: BTreeSet<_> =
            stores.into_iter().flat_map(|it| [it.channel(), it.channel_of(InstanceId(1))]).collect();
        assert_eq!(channels.len(), 2 * stores.len());
    }
}
