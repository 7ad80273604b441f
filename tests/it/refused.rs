//! What is refused says what to do instead, and a refused start leaves nothing behind.

use std::{fs, process::Stdio, time::Duration};

use http::Method;
use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};

use crate::support::{PROGRAM, Server, http};

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];
/// Longer than a refusal takes.
const LONG: Duration = Duration::from_secs(20);

/// What a start that is refused says.
async fn refused(args: &[&str]) -> String {
    let mut command = Command::new(PROGRAM);
    command.args(["dev", "--port", "0"]).args(args).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(LONG, command.output()).await.expect("it ends").expect("it runs");
    assert!(!output.status.success(), "{args:?}");
    String::from_utf8(output.stderr).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_start_says_why_in_words_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let data = folder.path().join("data").display().to_string();
    for url in ["mysql://root@localhost/db", "sqlite:///tmp/x", "localhost:5432", "no url"] {
        let why = refused(&["--data-dir", &data, "--store", url]).await;
        assert!(why.contains("postgres://user:password@host:5432/database"), "{url}: {why}");
        assert!(!why.contains("root@"), "it may hold a password: {why}");
    }
    let file = folder.path().join("file");
    fs::write(&file, "x").expect("a file");
    let why = refused(&["--data-dir", &file.display().to_string()]).await;
    assert!(why.contains("is a file: give a directory"), "{why}");
    let why = refused(&["--data-dir", &file.join("data").display().to_string()]).await;
    assert!(why.contains("cannot be made"), "{why}");
    let left: Vec<_> = fs::read_dir(folder.path()).expect("the folder").collect();
    assert_eq!(left.len(), 1, "only the file that was there: {left:?}");
}

/// The description of the one field that a request is refused for.
async fn advice(server: &Server, path: &str, body: &Value) -> String {
    let reply = http(server.port, Method::POST, path, &JSON, body.to_string()).await;
    assert_eq!(reply.status, 400, "{reply:?}");
    reply.json().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_says_what_to_send_instead() {
    let server = Server::start().await;
    let bare = json!({"event_type": "a", "payload": {"user_id": "12345"}});
    let told = advice(&server, "/v1/events", &bare).await;
    assert!(told.contains(r#"{\"value\": {\"user_id\":\"12345\"}}"#), "{told}");
    let told = advice(&server, "/v1/events", &json!({"event_type": "a", "payload": "text"})).await;
    assert!(told.contains("wrap a plain value"), "{told}");

    let endpoint = |extra: Value| {
        let mut endpoint = json!({"url": "http://127.0.0.1:1/"});
        endpoint.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        endpoint
    };
    let told = advice(&server, "/v1/endpoints", &endpoint(json!({"envelope": "ROW"}))).await;
    assert!(told.contains("must be one of ENVELOPE_EVENT, ENVELOPE_RAW"), "{told}");
    let told = advice(&server, "/v1/endpoints", &endpoint(json!({"http": {"timeout": "soon"}}))).await;
    assert!(told.contains("`5m`, `48h` or `1d`"), "{told}");
    for (given, shown) in [("2m", "120s"), ("90s", "90s"), ("1.5s", "1.500s")] {
        let made = endpoint(json!({"http": {"timeout": given}}));
        let reply = http(server.port, Method::POST, "/v1/endpoints", &JSON, made.to_string()).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.json()["http"]["timeout"]),
            (201, &json!(shown)),
            "{given}"
        );
    }
    let made = endpoint(json!({"retry_policy": {"max_attempts": 3, "schedule": ["5s", "1h"]}}));
    let reply = http(server.port, Method::POST, "/v1/endpoints", &JSON, made.to_string()).await;
    assert_eq!(reply.json()["retry_policy"]["schedule"], json!(["5s", "3600s"]), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_lacks_a_scope_is_told_which_and_what_it_has() {
    let server = Server::build().serve(&[]).start().await;
    let (_, token) = server.api().create_key("default", &["events:write", "endpoints:read"]).await;
    let authorization = format!("Bearer {token}");
    let headers = [("authorization", &*authorization), JSON[0]];
    let reply =
        http(server.port, Method::POST, "/v1/endpoints", &headers, "{\"url\":\"https://a.example/\"}").await;
    assert_eq!(reply.status, 403);
    let told = String::from_utf8_lossy(&reply.body).into_owned();
    assert!(
        told.contains("`endpoints:write`") && told.contains("`events:write`, `endpoints:read`"),
        "{told}"
    );
}
