//! A server without its database lives, is not ready, and says why.

use std::time::Duration;

use tonic_health::pb::health_check_response::ServingStatus;

use crate::{
    health::{get, readyz, serving},
    support::{Cluster, Database, Server, alone, eventually, now},
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
