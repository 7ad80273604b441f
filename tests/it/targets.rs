//! Where requests may go, as callers and operators are told of it.

use std::time::Duration;

use hookwire::grpc::pb::{self, DeliveryErrorCause as Cause, DeliveryStatus};
use http::Method;
use serde_json::json;
use tonic::Code;

use crate::support::{Receiver, Server, detail, event, http, open_endpoint, reason_of, violations_of};

/// Long enough for any of them on a busy machine.
const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_private_address_is_refused_by_field_and_rule() {
    let server = Server::start().await;
    let api = server.api();
    let own = format!("http://127.0.0.1:{}/test/webhook", server.port);
    let kept = api.create_endpoint(open_endpoint(own)).await;
    for url in ["http://10.1.2.3/", "http://0xa9fea9fe/", "https://[::ffff:7f00:1]/", "http://0/"] {
        let create = pb::CreateEndpointRequest { endpoint: Some(open_endpoint(url)), ..Default::default() };
        let created = api.endpoints.clone().create_endpoint(create).await.expect_err("forbidden");
        let changed = pb::Endpoint { id: kept.id.clone(), url: url.to_owned(), ..Default::default() };
        let update = pb::UpdateEndpointRequest { endpoint: Some(changed), ..Default::default() };
        let updated = api.endpoints.clone().update_endpoint(update).await.expect_err("forbidden");
        for status in [created, updated] {
            assert_eq!((status.code(), &*reason_of(&status)), (Code::InvalidArgument, "URL_FORBIDDEN"));
            assert_eq!(detail(&status, "rule"), "url.address");
            assert_eq!(violations_of(&status), [("endpoint.url".to_owned(), "FORBIDDEN".to_owned())]);
        }
    }
    assert_eq!(api.endpoint(&kept.id).await.url, kept.url);
    let body = json!({ "url": "http://192.168.0.1/" }).to_string();
    let reply = http(server.port, Method::POST, "/v1/endpoints", &[], body).await;
    assert_eq!((reply.status.as_u16(), reply.json()["reason"].as_str()), (400, Some("URL_FORBIDDEN")));
}

#[tokio::test]
async fn an_endpoint_that_became_forbidden_fails_for_good_and_works_again_once_allowed() {
    // Loopback in a form that is not allowed to begin with.
    let allowed = ("HOOKWIRE_ALLOW_TARGETS", "10.0.0.0/8:80,::ffff:127.0.0.0/104");
    let receiver = Receiver::ok().await;
    let url = receiver.at("/hook").replace("127.0.0.1", "[::ffff:127.0.0.1]");
    let mut server = Server::build().restartable().env(allowed.0, allowed.1).start().await;
    let api = server.api();
    let endpoint = api.create_endpoint(open_endpoint(url)).await;
    server.terminate(SOON).await;
    server.restart_with(&[]).await;

    let test = pb::TestEndpointRequest { id: endpoint.id.clone(), ..Default::default() };
    let tested = api.endpoints.clone().test_endpoint(test).await.expect("TestEndpoint").into_inner();
    let error = tested.attempt.and_then(|attempt| attempt.error).expect("an error");
    assert_eq!(error.cause(), Cause::TargetForbidden);
    let id = api.publish_to_one(event("a.b", "{}")).await;
    let dead = api.delivery_in(&id, DeliveryStatus::DeadLetter, SOON).await;
    let error = dead.last_error.expect("an error");
    assert_eq!((dead.attempt_count, error.cause(), error.retryable), (1, Cause::TargetForbidden, false));
    assert!(error.message.contains("forbidden") && !error.message.contains("127"), "{}", error.message);

    server.terminate(SOON).await;
    server.restart_with(&[allowed]).await;
    let id = api.publish_to_one(event("a.b", "{}")).await;
    api.delivery_in(&id, DeliveryStatus::Delivered, SOON).await;
    assert_eq!(receiver.count(), 1);
}

#[tokio::test]
async fn settings_that_cannot_be_meant_are_refused_in_one_sentence() {
    let cases = [
        (
            "HOOKWIRE_ALLOW_TARGETS",
            "10.0.0.0/8,10.*",
            "--allow-target cannot be used: `10.*` is not a network: write it as 10.1.0.0/16, 10.1.2.3:8080, fd00::/8 or [fd00::1]:8080",
        ),
        (
            "HOOKWIRE_DNS_SERVERS",
            "resolver",
            "--dns-server resolver is not an address: write it as 10.0.0.2, 10.0.0.2:53 or [fd00::53]:53",
        ),
        (
            "HOOKWIRE_EGRESS_CA",
            "/dev/null",
            "--egress-ca /dev/null has no certificates that can be read: give a file of PEM certificates",
        ),
        (
            "HOOKWIRE_EGRESS_PROXY",
            "ftp://me:hunter2@proxy",
            "--egress-proxy cannot be used: it must be http://, https:// or socks5:// with a host and no path, such as http://user:password@10.0.0.9:3128",
        ),
    ];
    for (name, value, sentence) in cases {
        let said = Server::build().env(name, value).refused(SOON).await;
        assert_eq!(said.trim(), format!("hookwire: {sentence}"));
        assert!(!said.contains("hunter2"));
    }
}

#[tokio::test]
async fn a_proxy_is_warned_of_and_its_password_is_kept() {
    let server = Server::build().env("HOOKWIRE_EGRESS_PROXY", "http://me:hunter2@127.0.0.1:9").start().await;
    let log = server.log();
    assert!(log.contains("must itself refuse private") && log.contains("http://127.0.0.1:9"), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
}
