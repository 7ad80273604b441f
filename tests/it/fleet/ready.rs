//! A server without its database lives, is not ready, and says why.

use std::time::Duration;

use http::Method;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::{
    health::{get, readyz, serving},
    support::{Cluster, Database, Server, alone, eventually, http, now},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_its_database_lives_and_is_not_ready_until_it_is_back() {
    let _alone = alone().await;
    let cluster = Cluster::new(&["max_connections=30"]);
    let database = Database::on(&cluster);
    let server = Server::build().store(database.url()).start().await;
    readyz(&server, 200, "ok").await;
    for (outage, begin, end) in [
        ("stopped", Cluster::stop as fn(&Cluster), Cluster::start as fn(&Cluster)),
        ("frozen", Cluster::freeze, Cluster::thaw),
    ] {
        begin(&cluster);
        readyz(&server, 503, "store: ").await;
        readyz(&server, 503, "lease: ").await;
        let health = get(&server, "/health").await;
        assert_eq!(
            (health.status.as_u16(), &health.json()["status"]),
            (503, &"unhealthy".into()),
            "{outage}"
        );
        for path in ["/livez", "/healthz"] {
            assert_eq!(get(&server, path).await.status, 200, "{outage}: {path}");
        }
        eventually(Duration::from_secs(10), "gRPC health follows", async || match serving(&server).await {
            [ServingStatus::NotServing, ServingStatus::NotServing] => Ok(()),
            said => Err(format!("{said:?}")),
        })
        .await;
        end(&cluster);
        let back = now();
        readyz(&server, 200, "ok").await;
        println!("readiness: {outage}, ready again {:?} after the database was back", back.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_started_while_its_database_is_away_waits_for_it() {
    let _alone = alone().await;
    let cluster = Cluster::new(&["max_connections=30"]);
    let database = Database::on(&cluster);
    cluster.stop();
    let starting = Server::build().store(database.url()).restartable();
    let (port, log) = (starting.port(), starting.log());
    let starting = tokio::spawn(starting.start());
    let get = async |path: &str| http(port, Method::GET, path, &[], "").await;
    eventually(Duration::from_secs(30), "the port answers", async || {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    let ready = get("/readyz").await;
    let said = String::from_utf8_lossy(&ready.body).into_owned();
    assert_eq!(ready.status, 503);
    assert!(said.contains("store: waiting for the database: cannot connect to PostgreSQL"), "{said}");
    assert_eq!(get("/livez").await.status, 200);
    let call = get("/v1/endpoints").await;
    assert_eq!((call.status.as_u16(), call.header("retry-after")), (503, "1"));
    assert_eq!(call.header("content-type"), "application/problem+json");
    assert!(std::fs::read_to_string(log).expect("a log").contains("the database is away; waiting for it"));
    cluster.start();
    let server = starting.await.expect("it starts");
    readyz(&server, 200, "ok").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_gives_up_after_its_grace_and_says_why() {
    let cluster = Cluster::new(&[]);
    let database = Database::on(&cluster);
    cluster.stop();
    for grace in ["0s", "1ms"] {
        let starting = Server::build().store(database.url()).env("HOOKWIRE_STORE_GRACE", grace);
        let said = starting.refused(Duration::from_secs(60)).await;
        assert!(said.contains("cannot connect to PostgreSQL: check --store"), "{grace}: {said}");
    }
}
