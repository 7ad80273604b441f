//! Being a member of a fleet: a session of one's own at the database, which holds the
//! locks of shares and is how the others see that this process lives.
//!
//! The database releases the locks the moment it notices that the session is over. A
//! session killed in the middle of a statement keeps them until that ends, so nothing long
//! runs here.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection, Row as _, postgres::PgListener};
use tokio::time::timeout;

use super::{
    Error, Location, Store,
    db::{Columns as _, Identity},
};
use crate::domain::{InstanceId, Micros, Shard, Timestamp};

/// A statement that is not answered by then is given up, with the session.
const PATIENCE: Duration = Duration::from_millis(2_000);
/// Microseconds since 1970 by the server's clock.
macro_rules! now_us {
    () => {
        "(extract(epoch FROM clock_timestamp()) * 1000000)::int8"
    };
}
/// Members that were not seen for a day are forgotten.
const JOIN: &str = concat!(
    "WITH gone AS (DELETE FROM instances WHERE seen_at < ",
    now_us!(),
    " - 86400000000) INSERT INTO instances (id, name, version, backend, started_at, seen_at) VALUES ($1, $2, $3, \
     pg_backend_pid(), $4, ",
    now_us!(),
    ") ON CONFLICT (id) DO UPDATE SET backend = excluded.backend, seen_at = excluded.seen_at, draining = 0"
);
const BEAT: &str = concat!(
    "WITH me AS (UPDATE instances SET seen_at = ",
    now_us!(),
    ", draining = $2, skew_us = $3 WHERE id = $1) SELECT i.id, (",
    now_us!(),
    " - i.seen_at) / 1000, i.draining, ",
    now_us!(),
    " FROM instances i JOIN pg_stat_activity a ON a.pid = i.backend \
     WHERE a.application_name = 'hookwire fleet ' || i.id ORDER BY i.id"
);
const THROW_OUT: &str = "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a \
     WHERE a.application_name = 'hookwire fleet ' || $1::int8";

/// A process with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which.
    pub id: InstanceId,
    /// Milliseconds since it last gave a sign of life.
    pub silent_ms: i64,
    /// It is about to stop and wants no shares.
    pub draining: bool,
}

/// What the database said to a sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Those that have a session.
    pub members: Vec<Member>,
    /// The time by the database's clock.
    pub time: Timestamp,
}

/// The session of a member. All is lost with it.
#[derive(Debug)]
pub struct Membership {
    conn: PgConnection,
    me: InstanceId,
    identity: Identity,
}

/// What members tell each other.
#[derive(Debug)]
pub struct Ears(PgListener);

impl Store {
    /// Opens a session as a member, of a process whose clock is `skew` ahead of the
    /// database's. An error where a process is alone.
    pub async fn join(&self, skew: Micros) -> Result<Membership, Error> {
        let Location::Server(server) = &self.config.location else { return Err(Error::Unavailable(None)) };
        let me = self.config.instance;
        let conn = server.connect(&format!("fleet {}", me.0)).await;
        let mut conn = conn.map_err(|error| Error::Away(Some(error.into())))?;
        let identity = match timeout(PATIENCE, Identity::read(&mut conn)).await {
            Ok(identity) => identity?,
            Err(elapsed) => return Err(Error::Away(Some(elapsed.into()))),
        };
        let mut membership = Membership { conn, me, identity };
        let version = env!("CARGO_PKG_VERSION");
        let query = sqlx::query(JOIN).bind(me.0).bind(&self.config.name).bind(version);
        membership
            .within(async |conn| query.bind(self.config.started_at.minus(skew).0).execute(conn).await)
            .await?;
        Ok(membership)
    }

    /// The time by the clock of the database server; `None` where a process is alone.
    pub async fn server_time(&self) -> Result<Option<Timestamp>, Error> {
        if !self.is_shared() {
            return Ok(None);
        }
        let row = self.readers.rows(concat!("SELECT ", now_us!()), &[]).await?;
        row.first().ok_or(Error::Away(None))?.time(0).map(Some)
    }

    /// Listens to what members tell each other.
    pub async fn listen(&self) -> Result<Ears, Error> {
        let super::db::Readers::Postgres(pool) = &self.readers else { return Err(Error::Unavailable(None)) };
        let mut conn = pool.acquire().await?;
        let identity = Identity::read(&mut conn).await?;
        drop(conn);
        let mut listener = PgListener::connect_with(pool).await?;
        listener.ignore_pool_close_event(true);
        let own = identity.channel_of(self.config.instance);
        listener.listen_all([&*identity.channel(), &*own]).await?;
        Ok(Ears(listener))
    }
}

impl Membership {
    /// Gives a sign of life, and says how far the clock of this process is ahead; who else
    /// has a session, and what time it is there.
    pub async fn beat(&mut self, draining: bool, skew: Micros) -> Result<Beat, Error> {
        let query = sqlx::query(BEAT).bind(self.me.0).bind(i64::from(draining)).bind(skew.0);
        let rows = self.within(async |conn| query.fetch_all(conn).await).await?;
        let member = |row: &sqlx::postgres::PgRow| {
            let (id, silent_ms): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            Ok(Member { id: InstanceId(id), silent_ms, draining: row.try_get::<i64, _>(2)? != 0 })
        };
        let members = rows.iter().map(member).collect::<Result<_, Error>>()?;
        // The latest: rows are made one after the other. Without a row of its own a member was
        // thrown out.
        let time = rows.last().ok_or(Error::Away(None))?.try_get(3)?;
        Ok(Beat { members, time: Timestamp(time) })
    }

    /// Tries to take the locks of shares; which it got.
    pub async fn lock(&mut self, shares: &[Shard]) -> Result<Vec<Shard>, Error> {
        let locks = self.locks(shares);
        let sql = "SELECT lock FROM (SELECT lock, pg_try_advisory_lock(lock) AS got FROM UNNEST($1) AS lock) AS tried WHERE got";
        let query = sqlx::query_scalar(sql).bind(&locks);
        let got: Vec<i64> = self.within(async |conn| query.fetch_all(conn).await).await?;
        Ok(shares
            .iter()
            .zip(&locks)
            .filter(|(_, lock)| got.contains(lock))
            .map(|(share, _)| *share)
            .collect())
    }

    /// Gives locks back.
    pub async fn unlock(&mut self, shares: &[Shard]) -> Result<(), Error> {
        let query =
            sqlx::query("SELECT pg_advisory_unlock(lock) FROM UNNEST($1) AS lock").bind(self.locks(shares));
        self.within(async |conn| query.execute(conn).await).await?;
        Ok(())
    }

    fn locks(&self, shares: &[Shard]) -> Vec<i64> {
        shares.iter().map(|share| self.identity.shard_lock(*share)).collect()
    }

    /// Ends the session of a member that gives no sign of life: it may be frozen, and its
    /// locks with it.
    pub async fn throw_out(&mut self, member: InstanceId) -> Result<(), Error> {
        self.within(async |conn| sqlx::query(THROW_OUT).bind(member.0).execute(conn).await).await?;
        Ok(())
    }

    /// Tells all members, or one.
    pub async fn tell(&mut self, member: Option<InstanceId>, text: &str) -> Result<(), Error> {
        let all = || self.identity.channel();
        let channel = member.map_or_else(all, |member| self.identity.channel_of(member));
        let query = sqlx::query("SELECT pg_notify($1, $2)").bind(channel).bind(text);
        self.within(async |conn| query.execute(conn).await).await?;
        Ok(())
    }

    /// Leaves in order.
    pub async fn leave(mut self) -> Result<(), Error> {
        let me = self.me;
        self.within(async |conn| {
            sqlx::query("DELETE FROM instances WHERE id = $1").bind(me.0).execute(conn).await
        })
        .await?;
        Ok(self.conn.close().await?)
    }

    async fn within<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, Error> {
        match timeout(PATIENCE, work(&mut self.conn)).await {
            Ok(done) => Ok(done?),
            Err(elapsed) => Err(Error::Away(Some(elapsed.into()))),
        }
    }
}

impl Ears {
    /// What was told next; nothing: some of it may have been missed.
    pub async fn hear(&mut self) -> Result<Option<String>, Error> {
        Ok(self.0.try_recv().await?.map(|told| told.payload().to_owned()))
    }
}
