//! Operators see which servers there are.

use std::time::Duration;

use hookwire::grpc::pb;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::process::Command;
use tonic::Code;

use crate::support::{Authority, PROGRAM, Server, eventually, http, reason_of};

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

/// What `hookwire status` prints of a server, or says why not.
async fn status(args: &[&str], token: Option<&str>) -> Result<String, String> {
    let mut command = Command::new(PROGRAM);
    command.arg("status").args(args).env("HOOKWIRE_TOKEN", token.unwrap_or_default()).kill_on_drop(true);
    let output = command.output().await.expect("it runs");
    let (told, complaint) = (text(output.stdout), text(output.stderr));
    if output.status.success() {
        assert_eq!(complaint, "");
        return Ok(told);
    }
    assert_eq!((output.status.code(), &*told, complaint.lines().count()), (Some(1), "", 1), "{complaint}");
    Err(complaint)
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_people_by_a_table_and_programs_by_json() {
    let server = Server::build().serve(&["--instance-name", "alpha"]).start().await;
    let one = alone(&server).await;
    let url = format!("http://127.0.0.1:{}", server.port);
    let told = status(&["--server", &url], server.token()).await.expect("a table");
    let lines: Vec<Vec<_>> = told.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "VERSION", "UP", "SEEN", "CLOCK", "SHARDS", "ROLE"]);
    assert_eq!(
        (lines.len(), lines[1][..2].to_vec()),
        (2, vec!["alpha", env!("CARGO_PKG_VERSION")]),
        "{told}"
    );
    assert!(told.ends_with("0s  64      steward, answers\n"), "{told}");
    let told = status(&["--server", &url, "--json"], server.token()).await.expect("JSON");
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(
        (&told["instances"][0]["id"], &told["instances"][0]["shards"][63]),
        (&json!(one.id), &json!(63))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_in_one_sentence_why_it_has_nothing_to_tell() {
    let server = Server::build().serve(&[]).start().await;
    let url = format!("http://127.0.0.1:{}", server.port);
    let encrypted = format!("https://127.0.0.1:{}", server.port);
    let nobody = format!("http://127.0.0.1:{}", unused_port());
    let (_, reader) = server.api().create_key("default", &["*"]).await;
    for (args, token, advice) in [
        (&["--server", &*url][..], None, "HOOKWIRE_TOKEN"),
        (&["--server", &url], Some("hw_made_up"), "HOOKWIRE_TOKEN"),
        (&["--server", &url], Some(&*reader), "`ops:read`"),
        (&["--server", &url], Some("with\nlines"), "hookwire admin-key"),
        (&["--server", &url, "--ca", "/dev/null"], None, "https://"),
        (&["--server", &encrypted], None, "http:// or https://"),
        (&["--server", &encrypted, "--ca", "/dev/null"], None, "/dev/null"),
        (&["--server", &nobody], None, "check --server"),
        (&["--server", "127.0.0.1:8000"], None, "http://127.0.0.1:8000"),
    ] {
        let complaint = status(args, token).await.expect_err("nothing to tell");
        assert!(complaint.starts_with("hookwire: ") && complaint.contains(advice), "{args:?}: {complaint}");
    }
}

/// One that nobody listens on, unless somebody takes it just now.
fn unused_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("its address").port()
}

#[tokio::test(flavor = "multi_thread")]
async fn status_asks_by_tls_whom_an_authority_vouches_for() {
    let authority = Authority::new();
    let (certificate, key) = authority.issue("127.0.0.1");
    let folder = tempfile::tempdir().expect("temporary directory");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let (cert, key) = (file("cert.pem", &certificate), file("key.pem", &key));
    let server = Server::build().serve(&["--tls-cert", &cert, "--tls-key", &key]).start().await;
    let url = format!("https://127.0.0.1:{}", server.port);
    let ca = authority.file().display().to_string();
    let told = status(&["--server", &url, "--ca", &ca], server.token()).await.expect("a table");
    assert!(told.starts_with("NAME "), "{told}");
    let refused = status(&["--server", &url], server.token()).await.expect_err("nobody vouches for it");
    assert!(refused.contains("certificate"), "{refused}");
}
