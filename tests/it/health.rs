//! Liveness says that the process answers; readiness, that it should be given work.

use std::time::Duration;

use http::Method;
use serde_json::json;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::support::{Reply, Server, event, eventually, http};

/// Longer than any step takes.
const LONG: Duration = Duration::from_secs(30);

pub async fn get(server: &Server, path: &str) -> Reply {
    http(server.port, Method::GET, path, &[], "").await
}

/// What gRPC health says of the server and of a service.
pub async fn serving(server: &Server) -> [ServingStatus; 2] {
    let mut client = HealthClient::new(server.api().channel);
    let mut said = Vec::new();
    for service in ["", "hookwire.v1.EventService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        said.push(client.check(request).await.expect("an answer").into_inner().status());
    }
    [said[0], said[1]]
}

/// Waits until `/readyz` answers so, with a text in it.
pub async fn readyz(server: &Server, status: u16, text: &str) {
    eventually(LONG, &format!("/readyz answers {status} with {text:?}"), async || {
        let reply = get(server, "/readyz").await;
        let said = String::from_utf8_lossy(&reply.body).into_owned();
        if reply.status == status && said.contains(text) {
            Ok(())
        } else {
            Err(format!("{}: {said}", reply.status))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_said_it_is_ready_is() {
    let server = Server::start().await;
    for path in ["/livez", "/healthz", "/readyz"] {
        let reply = get(&server, path).await;
        assert_eq!((reply.status.as_u16(), &*reply.body), (200, &b"ok\n"[..]), "{path}");
        assert_eq!(reply.header("cache-control"), "no-store", "{path}");
    }
    let reply = get(&server, "/health").await;
    assert_eq!(reply.status, 200);
    let checks = json!({"store": "ok", "lease": "ok", "clock": "ok", "drain": "ok"});
    assert_eq!(
        reply.json(),
        json!({"status": "healthy", "version": env!("CARGO_PKG_VERSION"), "checks": checks})
    );
    assert_eq!(serving(&server).await, [ServingStatus::Serving; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_to_stop_is_not_ready_first_and_still_works() {
    // Nobody waits for that long: a second signal ends it.
    let mut server = Server::build().env("HOOKWIRE_DRAIN_DELAY", "1h").start().await;
    server.send_sigterm();
    readyz(&server, 503, "drain: ").await;
    let reply = get(&server, "/health").await;
    assert_eq!((reply.status.as_u16(), reply.json()["status"].clone()), (503, json!("draining")));
    assert_eq!(get(&server, "/livez").await.status, 200);
    eventually(LONG, "gRPC health follows", async || match serving(&server).await {
        [ServingStatus::NotServing, ServingStatus::NotServing] => Ok(()),
        said => Err(format!("{said:?}")),
    })
    .await;
    server.api().publish(event("still.taken", "{}")).await;
    let status = server.terminate(LONG).await;
    assert_eq!(status.code(), Some(130), "a second signal ends at once");
}
