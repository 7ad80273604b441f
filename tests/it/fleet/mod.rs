//! Instances on one database are one server.
//!
//! Three of them share the work by endpoint: each endpoint has a home, which alone sends
//! for it. A client may call any of them and must not be able to tell which. So the
//! claims here are those made of one server elsewhere, made again of three that are
//! killed, frozen, cut off and restarted, and a few about who takes over from whom.
//!
//! These tests are about PostgreSQL in every run, so `tests/run` leaves them out of the
//! run on SQLite.

mod crash;
mod doubt;
mod frozen;
mod limits;
mod live;
mod outages;
mod own_writes;
mod ready;
mod recorded;
mod rolling;
mod schemas;
mod snapshot;
mod takeover;
mod watch;

use std::{collections::HashMap, time::Duration};

use url::Url;

use crate::support::{Api, Database, Server, eventually};

/// What the members are called.
const NAMES: [&str; 3] = ["one", "two", "three"];
/// What each of three has of 64 shares at least, once they have shared them out: one of
/// them may have something else to do besides.
const FAIR: usize = 64 / 3 - 1;
/// Cuts every connection that any instance has to a database.
const CUT_ALL: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
     WHERE datname = current_database() AND application_name LIKE 'hookwire%'";

/// Three instances on a database of their own.
struct Fleet {
    members: Vec<Server>,
    // Dropped after its members.
    database: Database,
}

impl Fleet {
    /// A running one in which each member has its share.
    async fn start() -> Self {
        Self::with(Database::new(), &[]).await
    }

    /// The same on this database and with these environment variables.
    async fn with(database: Database, env: &[(&'static str, &str)]) -> Self {
        let mut first = Server::build().store(database.url()).restartable();
        for &(name, value) in env {
            first = first.env(name, value);
        }
        let mut members: Vec<Server> = Vec::new();
        for name in NAMES {
            let next = members.first().map_or_else(|| first.clone(), Server::fellow);
            members.push(next.env("HOOKWIRE_INSTANCE_NAME", name).start().await);
        }
        let fleet = Self { members, database };
        fleet.settled().await;
        fleet
    }

    /// Where they listen.
    fn ports(&self) -> Vec<u16> {
        self.members.iter().map(|member| member.port).collect()
    }

    /// Clients of each of them.
    fn apis(&self) -> Vec<Api> {
        self.members.iter().map(Server::api).collect()
    }

    /// SIGKILL to one of them, and a new start.
    async fn kill9_and_restart(&mut self, member: usize) {
        self.members[member].kill9();
        self.members[member].restart().await;
    }

    /// How many shares of the endpoints each of them has, by its present run.
    fn shares(&self) -> [usize; 3] {
        let found = self.database.query(
            "SELECT name, count(*) FROM shards JOIN \
             (SELECT DISTINCT ON (name) id, name FROM instances ORDER BY name, started_at DESC) AS present \
             ON owner = id WHERE shard < 64 GROUP BY name",
        );
        let mut shares = [0; 3];
        for line in found.lines() {
            let (name, count) = line.split_once('|').expect("two columns");
            let member = NAMES.iter().position(|it| *it == name).expect("a member");
            shares[member] = count.parse().expect("a number");
        }
        shares
    }

    /// Returns once each of them has its part of the shares.
    async fn settled(&self) {
        eventually(Duration::from_secs(60), "the shares are shared out", async || {
            let shares = self.shares();
            let fair = shares.iter().sum::<usize>() == 64 && shares.iter().all(|share| *share >= FAIR);
            if fair { Ok(()) } else { Err(format!("{shares:?}")) }
        })
        .await;
    }

    /// Which member is the home of each endpoint, by the id of the endpoint. The share that
    /// an endpoint falls into is the first six bits of its key times a constant.
    fn homes(&self) -> HashMap<String, usize> {
        let found = self.database.query(
            "SELECT e.id, i.name FROM endpoints e JOIN shards s \
             ON s.shard = div(e.key * 11400714819323198485 % 18446744073709551616, 288230376151711744) \
             JOIN instances i ON i.id = s.owner",
        );
        let home = |line: &str| {
            let (endpoint, name) = line.split_once('|').expect("two columns");
            let member = NAMES.iter().position(|it| *it == name).expect("a member");
            (endpoint.to_owned(), member)
        };
        found.lines().map(home).collect()
    }

    /// The home of an endpoint, once it has one.
    async fn home_of(&self, endpoint: &str) -> usize {
        eventually(Duration::from_secs(15), "the endpoint has a home", async || {
            self.homes().remove(endpoint).ok_or_else(|| "none".to_owned())
        })
        .await
    }

    /// Cuts every connection that a member has to the database; how many.
    fn cut(&self, member: usize) -> usize {
        let url = Url::parse(&self.database.url()).expect("a URL");
        let ports = self.members[member].ports_to(url.port().expect("a port"));
        let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
        let sql = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE client_port IN ({})",
            ports.join(", ")
        );
        self.database.query(&sql).parse().expect("a number")
    }
}
