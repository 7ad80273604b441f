//! Operators see which servers there are.

use std::time::Duration;

use hookwire::grpc::pb;
use http::{Method, StatusCode};
use serde_json::json;
use tonic::Code;

use crate::support::{Server, eventually, http, reason_of};

/// Longer than any step takes.
const LONG: Duration = Duration::from_secs(20);

/// The one instance there is, once it owns everything.
async fn alone(server: &Server) -> pb::Instance {
    eventually(LONG, "one instance owns all shards", async || {
        let answer = server.api().ops.list_instances(pb::ListInstancesRequest {}).await;
        let instances = answer.expect("ListInstances").into_inner().instances;
        match &instances[..] {
            [one] if one.shards.len() == 64 && one.steward => Ok(one.clone()),
            _ => Err(format!("{instances:?}")),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_its_own_is_the_one_instance_and_owns_everything() {
    let mut server = Server::build().restartable().start().await;
    let one = alone(&server).await;
    assert!(one.name.ends_with(&format!(":{}", server.port)), "{one:?}");
    assert_eq!(one.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(one.shards, (0..64).collect::<Vec<_>>());
    assert!(one.answers_here && !one.draining, "{one:?}");
    let nanos =
        |at: &Option<prost_types::Timestamp>| at.map(|at| (at.seconds, at.nanos)).expect("an instant");
    assert!(nanos(&one.start_time) <= nanos(&one.heartbeat_time), "{one:?}");

    let answer = http(server.port, Method::GET, "/v1/instances", &[], "").await;
    assert_eq!(answer.status, StatusCode::OK);
    let told = &answer.json()["instances"][0];
    assert_eq!((&told["name"], &told["id"]), (&json!(one.name), &json!(one.id)));
    assert_eq!(told["shards"].as_array().map(Vec::len), Some(64));
    assert_eq!((&told["steward"], &told["answers_here"]), (&json!(true), &json!(true)));

    server.terminate(LONG).await;
    server.restart().await;
    let next = alone(&server).await;
    assert_eq!(next.name, one.name);
    assert_ne!(next.id, one.id, "another run");
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_are_for_administrators() {
    let server = Server::build().serve(&["--instance-name", "alpha"]).start().await;
    assert_eq!(alone(&server).await.name, "alpha");
    let admin = server.api();
    admin.create_tenant(pb::Tenant { id: "acme".to_owned(), ..Default::default() }).await;
    let (_, token) = admin.create_key("acme", &["*"]).await;
    let refused = admin.with_token(&token).ops.list_instances(pb::ListInstancesRequest {}).await;
    let refused = refused.expect_err("a tenant's key");
    assert_eq!((refused.code(), &*reason_of(&refused)), (Code::PermissionDenied, "SCOPE_MISSING"));
    let authorization = format!("Bearer {token}");
    let headers = [("authorization", &*authorization)];
    let refused = http(server.port, Method::GET, "/v1/instances", &headers, "").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let (_, token) = admin.create_key("*", &["ops:read"]).await;
    admin
        .with_token(&token)
        .ops
        .list_instances(pb::ListInstancesRequest {})
        .await
        .expect("an operator's key");
}
