//! Fleets in schemas of one database do not hear of each other.

use std::time::Duration;

use crate::support::{Database, Receiver, Server, create_stubborn, event, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn two_fleets_in_two_schemas_of_one_database_both_deliver() {
    let database = Database::new();
    database.query("CREATE SCHEMA first; CREATE SCHEMA second");
    let mut servers = Vec::new();
    for schema in ["first", "second"] {
        let url = format!("{}?options=-csearch_path%3D{schema}", database.url());
        servers.push(Server::build().store(url).start().await);
    }
    for (number, server) in servers.iter().enumerate() {
        let receiver = Receiver::ok().await;
        let api = server.api();
        create_stubborn(&api, &receiver, 1).await;
        api.publish(event("user.created", "{}")).await;
        eventually(Duration::from_secs(30), "the event arrives", async || match receiver.count() {
            0 => Err(format!("nothing came from fleet {number}")),
            _ => Ok(()),
        })
        .await;
    }
}
