//! While the database is away nothing is acknowledged, and callers hear of it in time.
//!
//! A server without its database cannot keep a promise, so it makes none: it answers
//! UNAVAILABLE well before its callers give up. It does not end, and serves again by
//! itself soon after the database is back.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hookwire::grpc::pb::{self, DeliveryStatus};
use sqlx::{Executor as _, PgConnection, Row as _};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::CUT_ALL;
use crate::support::{Api, Cluster, Database, Receiver, Server, alone, event, eventually, now, stubborn};

/// What callers allow a call.
const DEADLINE: Duration = Duration::from_secs(10);
const BACK_WITHIN: Duration = Duration::from_secs(5);
const CALLERS: usize = 6;
/// Between the calls of one caller.
const PAUSE: Duration = Duration::from_millis(50);

/// One publish, and the id of the event or why there is none.
struct Call {
    began: Instant,
    ended: Instant,
    outcome: Result<String, Status>,
}

/// What became of each publish, in the order in which they ended.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<Call>>>);

impl Calls {
    fn all(&self) -> MutexGuard<'_, Vec<Call>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes one event after the other, and none of them twice.
    async fn go_on(self, api: Api) {
        loop {
            let began = now();
            let outcome = api.publish_within(DEADLINE, event("tick", "{}")).await;
            self.all().push(Call { began, ended: now(), outcome });
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// One server on a cluster of its own, and those who publish to it all the while.
struct House {
    // Dropped in this order.
    server: Server,
    database: Database,
    cluster: Cluster,
    receiver: Receiver,
    calls: Calls,
    callers: JoinSet<()>,
}

impl House {
    async fn new() -> Self {
        let cluster = Cluster::new(&["max_connections=30"]);
        let database = Database::on(&cluster);
        let server = Server::build().store(database.url()).start().await;
        let receiver = Receiver::ok().await;
        server.api().create_endpoint(stubborn(receiver.at("/hook"))).await;
        let (calls, mut callers) = (Calls::default(), JoinSet::new());
        for _ in 0..CALLERS {
            callers.spawn(calls.clone().go_on(server.api()));
        }
        Self { server, database, cluster, receiver, calls, callers }
    }

    /// An event is taken in and delivered. How long that took.
    async fn serves(&self, limit: Duration) -> Duration {
        let (start, api) = (now(), self.server.api());
        let id = eventually(limit, "an event is taken in", async || {
            let published = api.publish_within(DEADLINE, event("tick", "{}")).await;
            published.map_err(|status| format!("{status:?}"))
        })
        .await;
        eventually(limit, "it is delivered", async || {
            let came = self.receiver.ledger().iter().rev().any(|request| request.event_id() == id);
            if came { Ok(()) } else { Err(format!("{} requests", self.receiver.count())) }
        })
        .await;
        start.elapsed()
    }

    /// Lets an outage happen. If it is to last, then until callers were refused.
    async fn through<T>(
        &self,
        what: &str,
        lasts: bool,
        begin: impl AsyncFnOnce() -> T,
        end: impl AsyncFnOnce(T),
    ) {
        self.serves(Duration::from_secs(10)).await;
        let first = self.calls.all().len();
        let held = begin().await;
        let away = now();
        if lasts {
            eventually(Duration::from_secs(40), &format!("callers are refused: {what}"), async || {
                let calls = self.calls.all();
                match calls[first..].iter().filter(|call| call.began >= away).count() {
                    answered if answered >= 2 * CALLERS => Ok(()),
                    answered => Err(format!("{answered} were answered")),
                }
            })
            .await;
        }
        let over = now();
        end(held).await;
        let took = self.serves(BACK_WITHIN).await;
        assert!(took <= BACK_WITHIN, "{what}: serves again only after {took:?}");

        let calls = self.calls.all();
        let (mut refused, mut slowest) = (0, Duration::ZERO);
        for call in &calls[first..] {
            slowest = slowest.max(call.ended - call.began);
            match &call.outcome {
                Ok(id) => {
                    let inside = lasts && call.began >= away && call.ended <= over;
                    assert!(!inside, "{what}: {id} was acknowledged without a database");
                }
                Err(status) => {
                    assert_eq!(status.code(), Code::Unavailable, "{what}: {status:?}");
                    refused += 1;
                }
            }
        }
        println!(
            "outage: {what}, {refused} refused, the slowest after {slowest:?}, serves again after {took:?}"
        );
        assert!(slowest <= DEADLINE, "{what}: a call took {slowest:?}");
        assert!(refused > 0 || !lasts, "{what}: nobody noticed");
    }
}

/// Takes every connection that the database allows, those of the server included.
async fn take_all_connections(database: &Database) -> Vec<PgConnection> {
    let mut taken = vec![database.connect().await.expect("a connection")];
    let mut none_left = 0;
    eventually(Duration::from_secs(30), "all connections are somebody else's", async || {
        let row = taken[0].fetch_one(CUT_ALL).await.expect("a row");
        let cut: i64 = row.get(0);
        none_left = if cut == 0 { none_left + 1 } else { 0 };
        // A process of the database that was told to end takes a moment to do so, and then
        // the server is quick to ask for another one.
        for _ in 0..100 {
            match database.connect().await {
                Ok(connection) => taken.push(connection),
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
        // Once is not enough: one may have been about to begin.
        if none_left == 2 { Ok(()) } else { Err(format!("{cut} were the server's")) }
    })
    .await;
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_its_database_refuses_in_time_acknowledges_nothing_and_serves_again() {
    let _alone = alone().await;
    let mut house = House::new().await;
    let process = house.server.pid();
    let (cluster, database) = (&house.cluster, &house.database);
    house.through("stopped", true, async || cluster.stop(), async |()| cluster.start()).await;
    house.through("frozen", true, async || cluster.freeze(), async |()| cluster.thaw()).await;
    house.through("killed", true, async || cluster.kill9(), async |()| cluster.start()).await;
    let restart = async || {
        cluster.stop();
        cluster.start();
    };
    house.through("restarted", false, restart, async |()| ()).await;
    let cut = async || drop(database.query(CUT_ALL));
    house.through("its connections cut", false, cut, async |()| ()).await;
    let take = async || take_all_connections(database).await;
    house.through("no connection left", true, take, async |taken| drop(taken)).await;

    house.callers.shutdown().await;
    let api = house.server.api();
    api.all_final(Duration::from_secs(30)).await;
    let deliveries = api.all_deliveries(pb::DeliveryFilter::default()).await;
    let delivered: HashSet<_> = deliveries
        .iter()
        .filter(|delivery| delivery.status() == DeliveryStatus::Delivered)
        .map(|delivery| delivery.event_id.as_str())
        .collect();
    let calls = house.calls.all();
    let acked: Vec<_> = calls.iter().filter_map(|call| call.outcome.as_ref().ok()).collect();
    let lost: Vec<_> = acked.iter().filter(|id| !delivered.contains(id.as_str())).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged events are nowhere: {lost:?}", lost.len(), acked.len());
    assert_eq!(house.server.pid(), process, "one process went through all of it");
    println!("outages: {} of {} calls acknowledged, and all of those delivered", acked.len(), calls.len());
}
