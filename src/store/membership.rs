//! Being a member of a fleet: a session of one's own at the database, which holds the
//! locks of shares and is how the others see that this process lives.
//!
//! The database releases the locks the moment it notices that the session is over. A
//! session killed in the middle of a statement keeps them until that ends, so nothing long
//! runs here.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection, Row as _, postgres::PgListener};
use tokio::time::timeout;

use super::{Error, Location, Store};
use crate::domain::{InstanceId, Shard};

/// First half of the locks of shares; the second is the number of the share.
const SHARES: i32 = 0x686f_6f6b;
/// What all members listen to; each listens to one with its number at the end, too.
const CHANNEL: &str = "hookwire";
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
    ", draining = $2 WHERE id = $1) SELECT i.id, (",
    now_us!(),
    " - i.seen_at) / 1000, i.draining FROM instances i JOIN pg_stat_activity a ON a.pid = i.backend \
     WHERE a.application_name = 'hookwire member ' || i.id ORDER BY i.id"
);
const THROW_OUT: &str = "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a \
     WHERE a.application_name = 'hookwire member ' || $1::int8";

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

/// The session of a member. All is lost with it.
#[derive(Debug)]
pub struct Membership {
    conn: PgConnection,
    me: InstanceId,
}

/// What members tell each other.
#[derive(Debug)]
pub struct Ears(PgListener);

impl Store {
    /// Opens a session as a member; nothing where a process is alone.
    pub async fn join(&self) -> Result<Membership, Error> {
        let Location::Server(server) = &self.config.location else { return Err(Error::Unavailable(None)) };
        let me = self.config.instance;
        let conn = server.connect(&format!("member {}", me.0)).await;
        let mut membership = Membership { conn: conn.map_err(|error| Error::Away(Some(error.into())))?, me };
        let version = env!("CARGO_PKG_VERSION");
        let query = sqlx::query(JOIN).bind(me.0).bind(&self.config.name).bind(version);
        membership.within(async |conn| query.bind(self.config.started_at.0).execute(conn).await).await?;
        Ok(membership)
    }

    /// Listens to what members tell each other.
    pub async fn listen(&self) -> Result<Ears, Error> {
        let super::db::Readers::Postgres(pool) = &self.readers else { return Err(Error::Unavailable(None)) };
        let mut listener = PgListener::connect_with(pool).await?;
        listener.ignore_pool_close_event(true);
        listener.listen_all([CHANNEL, &own_channel(self.config.instance)]).await?;
        Ok(Ears(listener))
    }
}

impl Membership {
    /// Gives a sign of life; who else has a session.
    pub async fn beat(&mut self, draining: bool) -> Result<Vec<Member>, Error> {
        let me = self.me;
        let rows = self
            .within(async |conn| sqlx::query(BEAT).bind(me.0).bind(i64::from(draining)).fetch_all(conn).await)
            .await?;
        let member = |row: &sqlx::postgres::PgRow| {
            let (id, silent_ms): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            Ok(Member { id: InstanceId(id), silent_ms, draining: row.try_get::<i64, _>(2)? != 0 })
        };
        rows.iter().map(member).collect()
    }

    /// Tries to take the locks of shares; which it got.
    pub async fn lock(&mut self, shares: &[Shard]) -> Result<Vec<Shard>, Error> {
        let numbers: Vec<i32> = shares.iter().map(|share| i32::from(share.0)).collect();
        let sql = "SELECT s FROM (SELECT s, pg_try_advisory_lock($1, s) AS got FROM UNNEST($2) AS s) AS tried WHERE got";
        let got: Vec<i32> = self
            .within(async |conn| sqlx::query_scalar(sql).bind(SHARES).bind(numbers).fetch_all(conn).await)
            .await?;
        Ok(got.into_iter().map(|share| Shard(share as u8)).collect())
    }

    /// Gives locks back.
    pub async fn unlock(&mut self, shares: &[Shard]) -> Result<(), Error> {
        let numbers: Vec<i32> = shares.iter().map(|share| i32::from(share.0)).collect();
        let sql = "SELECT pg_advisory_unlock($1, s) FROM UNNEST($2) AS s";
        self.within(async |conn| sqlx::query(sql).bind(SHARES).bind(numbers).execute(conn).await).await?;
        Ok(())
    }

    /// Ends the session of a member that gives no sign of life: it may be frozen, and its
    /// locks with it.
    pub async fn throw_out(&mut self, member: InstanceId) -> Result<(), Error> {
        self.within(async |conn| sqlx::query(THROW_OUT).bind(member.0).execute(conn).await).await?;
        Ok(())
    }

    /// Tells all members, or one.
    pub async fn tell(&mut self, member: Option<InstanceId>, text: &str) -> Result<(), Error> {
        let channel = member.map_or_else(|| CHANNEL.to_owned(), own_channel);
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

fn own_channel(member: InstanceId) -> String {
    format!("{CHANNEL}_{}", member.0)
}
