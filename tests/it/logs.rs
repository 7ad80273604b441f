//! What a server's log says about deliveries, and how its level is changed.

use std::time::Duration;

use hookwire::grpc::pb::{self, DeliveryStatus};
use http::Method;
use serde_json::{Value, json};
use tokio::process::Command;
use tonic::Code;

use crate::support::{
    Answer, PROGRAM, Receiver, Server, event, eventually, http, open_endpoint, reason_of, span, violations_of,
};

/// Longer than any step takes.
const LONG: Duration = Duration::from_secs(20);

/// A retry policy of so many attempts.
fn tries(max_attempts: i32) -> Option<pb::RetryPolicy> {
    Some(pb::RetryPolicy { max_attempts, initial_delay: span(10), max_delay: span(10), ..Default::default() })
}

/// The lines of a server's log with a message.
fn lines(server: &Server, message: &str) -> Vec<Value> {
    let log = server.log();
    let parsed = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    parsed.filter(|line| line["message"].as_str().is_some_and(|it| it.contains(message))).collect()
}

/// Waits for a line.
async fn line(server: &Server, message: &str) -> Value {
    eventually(LONG, &format!("the log says {message:?}"), async || {
        lines(server, message).into_iter().next().ok_or_else(|| server.log())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_in_the_log_with_what_one_needs_to_find_them() {
    let server = Server::start().await;
    let api = server.api();
    let receiver = Receiver::answering(|_| Answer::status(503)).await;
    let endpoint = pb::Endpoint { retry_policy: tries(2), ..open_endpoint(receiver.at("/hook")) };
    let endpoint = api.create_endpoint(endpoint).await;
    let id = api.publish_to_one(event("order.paid", "{}")).await;
    let delivery = api.delivery_in(&id, DeliveryStatus::DeadLetter, LONG).await;

    let dead = line(&server, "became a dead letter").await;
    assert_eq!((&dead["level"], &dead["delivery"]), (&json!("WARN"), &json!(id)));
    assert_eq!((&dead["attempts"], &dead["cause"]), (&json!(2), &json!("server_error")));
    let failed = lines(&server, "an attempt failed");
    assert_eq!(failed.len(), 2, "{failed:?}");
    for (at, line) in failed.iter().enumerate() {
        assert_eq!(line["tenant"], "default");
        assert_eq!(line["endpoint"], json!(endpoint.id));
        assert_eq!(line["event"], json!(delivery.event_id));
        assert_eq!(line["delivery"], json!(id));
        assert_eq!((&line["number"], &line["max_attempts"]), (&json!(at + 1), &json!(2)));
        assert_eq!((&line["cause"], &line["status"]), (&json!("server_error"), &json!(503)));
        assert_eq!(line["next_attempt_time"].is_string(), at == 0, "{line}");
    }
    let told = line(&server, &format!("order.paid to {}: dead letter after 2 attempts", endpoint.id)).await;
    assert!(told["message"].as_str().expect("text").contains("503"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_endpoint_does_not_fill_the_log() {
    let server = Server::start().await;
    let api = server.api();
    let receiver = Receiver::answering(|_| Answer::status(400)).await;
    api.create_endpoint(open_endpoint(receiver.at("/hook"))).await;
    for _ in 0..50 {
        api.publish(event("order.paid", "{}")).await;
    }
    api.all_final(LONG).await;
    let written = lines(&server, "an attempt failed").len();
    // A slow machine may come into a second window of ten seconds, or a third.
    assert!((5..=20).contains(&written), "{written} lines for 50 failed attempts");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opened_and_a_closed_breaker_and_a_disabled_endpoint_are_in_the_log() {
    let server = Server::start().await;
    let api = server.api();
    let receiver = Receiver::answering(|request| {
        Answer::status(match &*request.path {
            "/gone" => 410,
            _ => 500,
        })
    })
    .await;
    let breaker = pb::CircuitBreaker { failure_threshold: 2, ..Default::default() };
    let endpoint = pb::Endpoint {
        event_types: vec!["a".to_owned()],
        retry_policy: tries(1),
        circuit_breaker: Some(breaker),
        ..open_endpoint(receiver.at("/broken"))
    };
    let broken = api.create_endpoint(endpoint).await;
    for _ in 0..2 {
        api.publish(event("a", "{}")).await;
    }
    let opened = line(&server, "a circuit breaker opened").await;
    assert_eq!((&opened["level"], &opened["endpoint"]), (&json!("WARN"), &json!(broken.id)));
    assert!(opened["probe_time"].is_string(), "{opened}");
    let resumed =
        http(server.port, Method::POST, &format!("/v1/endpoints/{}:resume", broken.id), &[], "").await;
    assert_eq!(resumed.status, 200, "{resumed:?}");
    assert_eq!(line(&server, "a circuit breaker closed").await["endpoint"], json!(broken.id));

    let endpoint = pb::Endpoint { event_types: vec!["b".to_owned()], ..open_endpoint(receiver.at("/gone")) };
    let gone = api.create_endpoint(endpoint).await;
    api.publish(event("b", "{}")).await;
    let disabled = line(&server, "an endpoint was disabled").await;
    assert_eq!((&disabled["endpoint"], &disabled["by"]), (&json!(gone.id), &json!("the server")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_level_is_changed_without_a_restart() {
    let server = Server::build().env("LOG_LEVEL", "error").serve(&[]).start().await;
    let set = |directives: &str| {
        let (api, directives) = (server.api(), directives.to_owned());
        async move { api.ops.clone().set_log_filter(pb::SetLogFilterRequest { directives }).await }
    };
    assert_eq!(server.log().lines().filter(|line| line.contains("\"INFO\"")).count(), 0);
    let set_to = set("debug,h2=off").await.expect("SetLogFilter").into_inner().directives;
    assert_eq!(set_to, "debug,h2=off");
    line(&server, "the log filter was changed").await;
    assert_eq!(set("").await.expect("SetLogFilter").into_inner().directives, "error");
    for bad in ["loud", "hookwire", "info,hookwire=loud"] {
        let refused = set(bad).await.expect_err("no filter");
        assert_eq!((refused.code(), &*reason_of(&refused)), (Code::InvalidArgument, "INVALID_FIELD"));
        assert_eq!(violations_of(&refused)[0].0, "directives", "{bad}");
    }

    let url = format!("http://127.0.0.1:{}", server.port);
    let command = async |args: &[&str], token: &str| {
        let mut command = Command::new(PROGRAM);
        command.arg("log-level").args(args).args(["--server", &url]).env("HOOKWIRE_TOKEN", token);
        let output = command.kill_on_drop(true).output().await.expect("it runs");
        let text = if output.status.success() { output.stdout } else { output.stderr };
        (output.status.success(), String::from_utf8(text).expect("text"))
    };
    let token = server.token().expect("a token").to_owned();
    assert_eq!(
        command(&["debug"], &token).await,
        (true, format!("{url} logs by `debug` until it restarts\n"))
    );
    assert_eq!(command(&[], &token).await, (true, format!("{url} logs by `error` until it restarts\n")));
    let (done, why) = command(&["loud"], &token).await;
    assert!(!done && why.contains("directives") && why.contains("debug, trace, off"), "{why}");
    let (_, reader) = server.api().create_key("*", &["ops:read"]).await;
    let (done, why) = command(&["debug"], &reader).await;
    assert!(!done && why.contains("`ops:write`"), "{why}");
}
