//! What an endpoint demands of its callers besides a signature: a password, a
//! token, a certificate. All of it is written and never read back.

use std::time::Duration;

use hookwire::grpc::pb::{self, DeliveryErrorCause, DeliveryStatus, authentication::Kind};
use prost_types::FieldMask;
use tonic::Status;

use crate::support::{
    Answer, Api, Authority, Receiver, Server, event, open_endpoint, retrying, violations_of,
};

const SOON: Duration = Duration::from_secs(20);

fn with(kind: Kind) -> Option<pb::Authentication> {
    Some(pb::Authentication { kind: Some(kind) })
}

fn basic(username: &str, password: &str) -> Option<pb::Authentication> {
    let (username, password) = (username.to_owned(), password.to_owned());
    with(Kind::Basic(pb::BasicAuthentication { username, password }))
}

fn bearer(token: &str) -> Option<pb::Authentication> {
    with(Kind::Bearer(pb::BearerAuthentication { token: token.to_owned() }))
}

fn oauth2(token_url: String, client_secret: &str) -> Option<pb::Authentication> {
    let (client_id, client_secret) = ("me".to_owned(), client_secret.to_owned());
    with(Kind::Oauth2(pb::OAuth2ClientCredentials {
        token_url,
        client_id,
        client_secret,
        ..Default::default()
    }))
}

async fn update(api: &Api, endpoint: pb::Endpoint, paths: &[&str]) -> Result<pb::Endpoint, Status> {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    let request =
        pb::UpdateEndpointRequest { endpoint: Some(endpoint), update_mask: Some(FieldMask { paths }) };
    let response = api.endpoints.clone().update_endpoint(request).await?;
    Ok(response.into_inner().endpoint.expect("the endpoint"))
}

async fn refused(api: &Api, endpoint: pb::Endpoint) -> Vec<(String, String)> {
    let request = pb::CreateEndpointRequest { endpoint: Some(endpoint), ..Default::default() };
    violations_of(&api.endpoints.clone().create_endpoint(request).await.expect_err("refused"))
}

async fn deliver(api: &Api) -> pb::Delivery {
    let id = api.publish_to_one(event("user.created", "{}")).await;
    api.delivery_in(&id, DeliveryStatus::Delivered, SOON).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_sent_kept_over_updates_and_never_shown() {
    let server = Server::start().await;
    let (api, receiver) = (server.api(), Receiver::ok().await);
    let hidden = [("X-Api-Key".to_owned(), "k3y".to_owned())].into();
    let created = api
        .create_endpoint(pb::Endpoint {
            authentication: basic("me", "pässword"),
            sensitive_headers: hidden,
            ..open_endpoint(receiver.at("/"))
        })
        .await;
    assert_eq!(created.authentication, basic("me", ""), "written only");
    assert_eq!(created.sensitive_headers["x-api-key"], "***");
    deliver(&api).await;

    // What was read can be written back, and a part can be changed alone.
    let mut whole = created.clone();
    whole.secrets.clear();
    update(&api, whole, &["*"]).await.expect("as it was");
    let renamed =
        pb::Endpoint { id: created.id.clone(), authentication: basic("you", ""), ..Default::default() };
    update(&api, renamed.clone(), &["authentication"]).await.expect("another name");
    deliver(&api).await;
    let seen = receiver.ledger();
    assert_eq!(seen[0].header("authorization"), "Basic bWU6cMOkc3N3b3Jk");
    assert_eq!(seen[1].header("authorization"), "Basic eW91OnDDpHNzd29yZA==");
    assert!(seen.iter().all(|request| request.header("x-api-key") == "k3y"));

    // Another kind has nothing that could stay.
    let other = pb::Endpoint { authentication: bearer(""), ..renamed.clone() };
    let refused = violations_of(&update(&api, other, &["authentication"]).await.expect_err("no token"));
    assert_eq!(refused, [("endpoint.authentication.bearer.token".to_owned(), "REQUIRED".to_owned())]);
    let other = pb::Endpoint { authentication: bearer("t0ken"), ..renamed.clone() };
    update(&api, other, &["authentication"]).await.expect("a token");
    deliver(&api).await;
    assert_eq!(receiver.ledger()[2].header("authorization"), "Bearer t0ken");
    let none = pb::Endpoint { id: created.id.clone(), ..Default::default() };
    let none = update(&api, none, &["authentication", "sensitive_headers"]).await.expect("nothing");
    assert_eq!((none.authentication, none.sensitive_headers.len()), (None, 0));
    deliver(&api).await;
    let last = &receiver.ledger()[3];
    assert_eq!((last.header("authorization"), last.header("x-api-key")), ("", ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_by_field() {
    let server = Server::start().await;
    let api = server.api();
    let named = |found: &[(String, String)]| -> Vec<String> {
        found
            .iter()
            .map(|(field, rule)| format!("{} {rule}", field.trim_start_matches("endpoint.")))
            .collect()
    };
    let open = || open_endpoint("https://example.com/".to_owned());
    let pair = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
    let cases = [
        (
            pb::Endpoint { authentication: basic("a:b", ""), ..open() },
            vec!["authentication.basic.password REQUIRED", "authentication.basic.username BAD_FORMAT"],
        ),
        (
            pb::Endpoint { authentication: Some(pb::Authentication { kind: None }), ..open() },
            vec!["authentication REQUIRED"],
        ),
        (
            pb::Endpoint { authentication: bearer("two words"), ..open() },
            vec!["authentication.bearer.token BAD_FORMAT"],
        ),
        (
            pb::Endpoint { authentication: oauth2("ftp://example.com".to_owned(), ""), ..open() },
            vec!["authentication.oauth2.client_secret REQUIRED", "authentication.oauth2.token_url FORBIDDEN"],
        ),
        (
            pb::Endpoint {
                authentication: bearer("t0ken"),
                headers: pair("Authorization", "other"),
                ..open()
            },
            vec!["headers[Authorization] CONFLICT"],
        ),
        (
            pb::Endpoint { headers: pair("x-key", "1"), sensitive_headers: pair("X-Key", "***"), ..open() },
            vec!["sensitive_headers[X-Key] DUPLICATE", "sensitive_headers[X-Key] REQUIRED"],
        ),
    ];
    for (endpoint, expected) in cases {
        assert_eq!(named(&refused(&api, endpoint).await), expected);
    }

    let authority = Authority::new();
    let (certificate, key) = authority.issue("client");
    let (_, other) = authority.issue("client");
    let tls = |ca: &str, certificate: &str, key: &str| {
        Some(pb::TlsOptions {
            ca_certificates_pem: ca.to_owned(),
            client_certificate_pem: certificate.to_owned(),
            client_key_pem: key.to_owned(),
        })
    };
    let cases = [
        (tls("nothing", "", ""), "tls.ca_certificates_pem BAD_FORMAT"),
        (tls("", &certificate, ""), "tls.client_key_pem REQUIRED"),
        (tls("", "", &key), "tls.client_certificate_pem REQUIRED"),
        (tls("", "nothing", &key), "tls.client_certificate_pem BAD_FORMAT"),
        (tls("", &certificate, "nothing"), "tls.client_key_pem BAD_FORMAT"),
        (tls("", &certificate, &other), "tls.client_key_pem BAD_FORMAT"),
        (tls(&"x".repeat(65_537), "", ""), "tls.ca_certificates_pem TOO_LONG"),
    ];
    for (tls, expected) in cases {
        assert_eq!(named(&refused(&api, pb::Endpoint { tls, ..open() }).await), [expected]);
    }
    let plain = pb::Endpoint {
        tls: tls(&authority.pem(), "", ""),
        ..open_endpoint("http://example.com/".to_owned())
    };
    assert_eq!(named(&refused(&api, plain).await), ["tls CONFLICT"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_fetched_used_and_replaced_when_it_is_refused() {
    let server = Server::start().await;
    let api = server.api();
    let granting = Receiver::answering(|request| {
        let token =
            format!(r#"{{"access_token":"t{}","token_type":"Bearer","expires_in":600}}"#, request.number);
        Answer::ok().body(token)
    })
    .await;
    let receiver = Receiver::ok().await;
    let created = api
        .create_endpoint(pb::Endpoint {
            authentication: oauth2(granting.at("/token"), "s3cret"),
            retry_policy: retrying(100, 200),
            circuit_breaker: Some(pb::CircuitBreaker { disabled: true, ..Default::default() }),
            ..open_endpoint(receiver.at("/"))
        })
        .await;
    deliver(&api).await;
    deliver(&api).await;
    assert_eq!(granting.count(), 1, "one token for both");
    assert_eq!(granting.ledger()[0].header("authorization"), "Basic bWU6czNjcmV0");

    // The token is withdrawn: 401 is not retried as a rule, but this one is.
    receiver.answer_with(|request| {
        let old = request.header("authorization") == "Bearer t0";
        if old { Answer::status(401) } else { Answer::ok() }
    });
    let delivery = deliver(&api).await;
    assert_eq!((delivery.attempt_count, granting.count()), (2, 2));

    // No token, no request; and it goes on once there is one.
    granting.answer_with(|_| Answer::status(400).body(r#"{"error":"invalid_client"}"#));
    let seen = receiver.count();
    let moved = pb::Endpoint { id: created.id.clone(), name: "anew".to_owned(), ..Default::default() };
    update(&api, moved, &["name"]).await.expect("a version of its own has a token of its own");
    let id = api.publish_to_one(event("user.created", "{}")).await;
    let retrying = api.delivery_in(&id, DeliveryStatus::Retrying, SOON).await;
    let error = retrying.last_error.expect("an error");
    assert_eq!((error.cause(), error.retryable), (DeliveryErrorCause::Authentication, true));
    assert_eq!(error.message, "the token URL answered HTTP 400 (invalid_client)");
    assert_eq!(receiver.count(), seen, "nothing was sent");
    granting.answer_with(|_| Answer::ok().body(r#"{"access_token":"t9"}"#));
    api.delivery_in(&id, DeliveryStatus::Delivered, SOON).await;
    assert_eq!(receiver.ledger().last().expect("a request").header("authorization"), "Bearer t9");

    // The secret goes to no other server by accident.
    let elsewhere = Receiver::ok().await;
    let moved = pb::Endpoint {
        id: created.id,
        authentication: oauth2(elsewhere.at("/token"), ""),
        ..Default::default()
    };
    let refused = violations_of(&update(&api, moved, &["authentication"]).await.expect_err("refused"));
    assert_eq!(refused, [("endpoint.authentication.oauth2.client_secret".to_owned(), "REQUIRED".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_asks_for_a_certificate_gets_that_of_its_own_alone() {
    let server = Server::start().await;
    let api = server.api();
    let authority = Authority::new();
    let receiver = authority.receiver().await;
    let (certificate, key) = authority.issue("client");
    let tls = |certificate: &str, key: &str| {
        Some(pb::TlsOptions {
            ca_certificates_pem: authority.pem(),
            client_certificate_pem: certificate.to_owned(),
            client_key_pem: key.to_owned(),
        })
    };
    let known = pb::Endpoint { tls: tls(&certificate, &key), ..open_endpoint(receiver.url.clone()) };
    let known = api.create_endpoint(known).await;
    assert_eq!(known.tls, tls(&certificate, ""), "the key is written only");
    deliver(&api).await;
    deliver(&api).await;
    assert_eq!(receiver.requests().len(), 2);

    // The same origin without a certificate: no connection of the other is used.
    let mut whole = known.clone();
    whole.secrets.clear();
    let kept = update(&api, whole, &["*"]).await.expect("as it was");
    let stranger = pb::Endpoint { tls: tls("", ""), ..open_endpoint(receiver.url.clone()) };
    let stranger = api.create_endpoint(stranger).await;
    let test = pb::TestEndpointRequest { id: stranger.id, ..Default::default() };
    let attempt = api.endpoints.clone().test_endpoint(test).await.expect("TestEndpoint").into_inner().attempt;
    let error = attempt.and_then(|attempt| attempt.error).expect("an error");
    assert_eq!(error.cause(), DeliveryErrorCause::Tls, "{error:?}");
    assert_eq!(receiver.requests().len(), 2);
    let test = pb::TestEndpointRequest { id: kept.id, ..Default::default() };
    let attempt = api.endpoints.clone().test_endpoint(test).await.expect("TestEndpoint").into_inner().attempt;
    assert_eq!(attempt.expect("an attempt").error, None, "the key was kept");
}
