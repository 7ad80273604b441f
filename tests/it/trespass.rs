//! What the holder of a lesser key tries in order to get at what is not theirs, by gRPC,
//! gRPC-Web and REST.

use hookwire::grpc::pb;
use prost_reflect::{DescriptorPool, ExtensionDescriptor, Kind, MessageDescriptor};
use serde_json::{Value, json};

use crate::support::{Answer, Authority, Door, Line, Receiver, Server, fingerprint};

/// A tenant with a key of all scopes.
async fn token_of(admin: &Line, administrator: &str, tenant: &str) -> String {
    let ask = async |name, fields| Door::Grpc.ask(admin, name, fields, Some(administrator)).await;
    let made = ask("CreateTenant", json!({ "tenant": { "id": tenant } })).await;
    assert!(made.is_success() || made.reason == "ID_TAKEN", "{made:?}");
    let key = json!({ "api_key": { "tenant_id": tenant, "scopes": ["*"] } });
    let made = Door::Grpc.answer("CreateApiKey", &ask("CreateApiKey", key).await);
    made["token"].as_str().expect("a token").to_owned()
}

/// A line by TLS, with a client certificate or none.
fn secure(server: &Server, authority: &Authority, identity: Option<&(String, String)>) -> Line {
    Line::tls(server.port, authority.client(identity))
}

/// The tenant that a caller acts for.
async fn tenant_of(door: Door, line: &Line, token: Option<&str>) -> String {
    let answer = door.ask(line, "GetTenant", json!({ "id": "self" }), token).await;
    let answer = door.answer("GetTenant", &answer);
    let tenant = answer.get("tenant").unwrap_or(&answer);
    tenant["id"].as_str().expect("an id").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tenant_claims_a_certificate_but_that_of_its_own_connection() {
    let authority = Authority::new();
    let args = authority.server_args();
    let server = Server::build().serve(&args.iter().map(String::as_str).collect::<Vec<_>>()).start().await;
    let administrator = server.token().expect("a token");
    let line = |identity: Option<&_>| secure(&server, &authority, identity);
    let (plain, admin) = (line(None), line(None));
    let mine = token_of(&admin, administrator, "mine").await;
    let theirs = token_of(&admin, administrator, "theirs").await;
    for door in Door::ALL {
        let (attacker, owner, other) =
            (authority.issue("attacker"), authority.issue("owner"), authority.issue("other"));
        let (attackers, owners) = (line(Some(&attacker)), line(Some(&owner)));
        let register = async |line: &Line, of: &(String, String), token: &str| {
            let key = json!({ "scopes": ["*"], "client_certificates": [fingerprint(&of.0)] });
            door.ask(line, "CreateApiKey", json!({ "api_key": key }), Some(token)).await
        };
        // Before the owner has it, and from a connection with or without a certificate.
        let first = register(&plain, &owner, &mine).await;
        assert_eq!(first.reason, "INVALID_FIELD", "{door:?}: {first:?}");
        assert!(first.told.contains("api_key.client_certificates[0]"), "{first:?}");
        assert_eq!(register(&attackers, &owner, &mine).await, first, "{door:?}");

        let made = register(&owners, &owner, &theirs).await;
        assert!(made.is_success(), "{door:?}: its own is registered by the owner: {made:?}");
        assert_eq!(tenant_of(door, &owners, None).await, "theirs");

        // The answer is the same now that another tenant has it, and if nobody has it.
        assert_eq!(register(&plain, &owner, &mine).await, first, "{door:?}");
        assert_eq!(register(&attackers, &owner, &mine).await, first, "{door:?}");
        assert_eq!(register(&attackers, &other, &mine).await, first, "{door:?}");
        assert_eq!(tenant_of(door, &owners, None).await, "theirs");

        assert!(register(&admin, &other, administrator).await.is_success(), "an administrator may");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_bound_to_a_certificate_needs_the_token_and_the_certificate() {
    let authority = Authority::new();
    let args = authority.server_args();
    let server = Server::build().serve(&args.iter().map(String::as_str).collect::<Vec<_>>()).start().await;
    let administrator = server.token().expect("a token");
    let line = |identity: Option<&_>| secure(&server, &authority, identity);
    let (own, other) = (authority.issue("own"), authority.issue("other"));
    let (bare, with, wrong) = (line(None), line(Some(&own)), line(Some(&other)));
    let mine = token_of(&bare, administrator, "mine").await;
    for door in Door::ALL {
        let make = async |line: &Line, token: &str, required: &[String]| {
            let key = json!({ "scopes": ["*"], "required_client_certificates": required });
            let made = door.ask(line, "CreateApiKey", json!({ "api_key": key }), Some(token)).await;
            door.answer("CreateApiKey", &made)
        };
        let made = make(&bare, &mine, &[fingerprint(&own.0)]).await;
        let bound = made["token"].as_str().expect("a token");
        assert_eq!(tenant_of(door, &with, Some(bound)).await, "mine");
        for line in [&bare, &wrong] {
            let refused = door.ask(line, "GetTenant", json!({ "id": "self" }), Some(bound)).await;
            assert_eq!(refused.reason, "TENANT_FORBIDDEN", "{door:?}: {refused:?}");
            assert!(refused.told.contains("client certificate"), "{refused:?}");
        }
        let alone = door.ask(&with, "GetTenant", json!({ "id": "self" }), None).await;
        assert_eq!(alone.reason, "CREDENTIAL_MISSING", "{door:?}: the certificate alone is no key");

        // What it makes is bound as well, and it gets no token of a key that is not.
        let heir = make(&with, bound, &[]).await;
        assert_eq!(heir["api_key"]["required_client_certificates"], json!([fingerprint(&own.0)]));
        let free = make(&bare, &mine, &[]).await;
        let free = json!({ "id": free["api_key"]["id"] });
        let refused = door.ask(&with, "RotateApiKey", free, Some(bound)).await;
        assert_eq!(refused.reason, "INVALID_FIELD", "{door:?}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_makes_no_key_faster_and_a_replaced_token_changes_no_keys() {
    let server = Server::build().serve(&[]).start().await;
    let line = Line::plain(server.port);
    let mine = token_of(&line, server.token().expect("a token"), "mine").await;
    for door in Door::ALL {
        let ask = async |name, fields, token: &str| door.ask(&line, name, fields, Some(token)).await;
        let slow = json!({ "requests_per_second": 100, "burst": 100 });
        let key = json!({ "scopes": ["*"], "rate_limit": slow });
        let made = ask("CreateApiKey", json!({ "api_key": key }), &mine).await;
        let slow = door.answer("CreateApiKey", &made);
        let (slow, slow_id) = (slow["token"].as_str().expect("a token"), &slow["api_key"]["id"]);
        let made = ask("CreateApiKey", json!({ "api_key": { "scopes": ["*"] } }), &mine).await;
        let fast = door.answer("CreateApiKey", &made);
        let refused = ask("RotateApiKey", json!({ "id": fast["api_key"]["id"] }), slow).await;
        assert_eq!(refused.reason, "INVALID_FIELD", "{door:?}: {refused:?}");

        let rotated = ask("RotateApiKey", json!({ "id": slow_id, "grace_period": "3600s" }), slow).await;
        let next = door.answer("RotateApiKey", &rotated);
        let next = next["token"].as_str().expect("a token");
        let list = ask("ListEndpoints", json!({}), slow).await;
        assert!(list.is_success(), "{door:?}: it works for its grace period: {list:?}");
        let changes = [
            ("CreateApiKey", json!({ "api_key": { "scopes": ["*"] } })),
            ("RotateApiKey", json!({ "id": slow_id })),
            ("RevokeApiKey", json!({ "id": slow_id })),
        ];
        for (name, fields) in changes {
            let refused = ask(name, fields, slow).await;
            assert_eq!(refused.reason, "TENANT_FORBIDDEN", "{door:?} {name}: {refused:?}");
            assert!(refused.told.contains("replaced"), "{refused:?}");
        }
        let revoked = ask("RevokeApiKey", json!({ "id": slow_id }), next).await;
        assert!(revoked.is_success(), "{door:?}: the new token may: {revoked:?}");
    }
}

/// Paths of all fields of an endpoint that hold a stored secret.
fn secret_fields() -> Vec<String> {
    fn walk(message: &MessageDescriptor, within: &str, secret: &ExtensionDescriptor) -> Vec<String> {
        let mut found = Vec::new();
        for field in message.fields() {
            let path = format!("{within}{}", field.name());
            if field.options().get_extension(secret).as_bool() == Some(true) {
                found.push(path);
            } else if let Kind::Message(inner) = field.kind()
                && !field.is_map()
            {
                found.extend(walk(&inner, &format!("{path}."), secret));
            }
        }
        found
    }
    let pool = DescriptorPool::decode(pb::DESCRIPTORS).expect("descriptors");
    let secret = pool.get_extension_by_name("hookwire.v1.secret").expect("the option");
    walk(&pool.get_message_by_name("hookwire.v1.Endpoint").expect("the message"), "", &secret)
}

/// What an endpoint needs besides its URL to have a value in a secret field.
fn with_secret(field: &str, value: &str, token_url: &str, certificate: &str) -> Value {
    match field {
        "sensitive_headers" => json!({ "sensitive_headers": { "x-key": value } }),
        "authentication.basic.password" => {
            json!({ "authentication": { "basic": { "username": "me", "password": value } } })
        }
        "authentication.bearer.token" => json!({ "authentication": { "bearer": { "token": value } } }),
        "authentication.oauth2.client_secret" => json!({ "authentication": { "oauth2": {
            "token_url": token_url, "client_id": "me", "client_secret": value,
        } } }),
        "tls.client_key_pem" => {
            json!({ "tls": { "client_certificate_pem": certificate, "client_key_pem": value } })
        }
        "secrets.value" => json!({ "secrets": [{ "value": value }] }),
        _ => panic!("what has a secret in `{field}`? say so in this test"),
    }
}

fn merged(mut fields: Value, more: &Value) -> Value {
    fields.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    fields
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_secrets_do_not_follow_an_endpoint_that_a_lesser_key_moves() {
    let args = ["--allow-http-targets", "--allow-target", "127.0.0.0/8"];
    let server = Server::build().serve(&args).start().await;
    let line = Line::plain(server.port);
    let owner = token_of(&line, server.token().expect("a token"), "mine").await;
    let key = json!({ "api_key": { "scopes": ["endpoints:*"] } });
    let made = Door::Grpc.ask(&line, "CreateApiKey", key, Some(&owner)).await;
    let made = Door::Grpc.answer("CreateApiKey", &made);
    let attacker = made["token"].as_str().expect("a token");
    let token = json!({ "access_token": "granted", "token_type": "bearer", "expires_in": 600 }).to_string();
    let rightful = Receiver::answering(move |_| Answer::ok().body(token.clone())).await;
    let (certificate, private_key) = Authority::new().issue("client");
    let fields = secret_fields();
    assert!(fields.len() >= 6, "{fields:?}");
    for (door, field) in Door::ALL.into_iter().flat_map(|door| fields.iter().map(move |it| (door, it))) {
        let case = format!("{field} by {door:?}");
        let thief = Receiver::ok().await;
        let ask =
            async |name: &str, fields: Value, token: &str| door.ask(&line, name, fields, Some(token)).await;
        let is_tls = field.starts_with("tls.");
        let at = |receiver: &Receiver| {
            let url = receiver.at("/hook");
            if is_tls { url.replace("http://", "https://") } else { url }
        };
        let secret = |value: &str| {
            let value = if is_tls && !value.is_empty() { &*private_key } else { value };
            with_secret(field, value, &rightful.at("/token"), &certificate)
        };
        let endpoint = merged(json!({ "url": at(&rightful) }), &secret("the-owners-secret-value"));
        let made = ask("CreateEndpoint", json!({ "endpoint": endpoint }), &owner).await;
        let made = door.answer("CreateEndpoint", &made);
        let id = made.get("endpoint").unwrap_or(&made)["id"].clone();
        let moved = json!({ "id": id, "url": at(&thief) });
        if field == "secrets.value" {
            let answer = ask("UpdateEndpoint", json!({ "endpoint": moved }), attacker).await;
            let answer = door.answer("UpdateEndpoint", &answer);
            let made = &answer.get("endpoint").unwrap_or(&answer)["secrets"][0]["value"];
            assert!(made.as_str().is_some_and(|it| it.starts_with("whsec_")), "{case}: {answer}");
            let live = ask("RevealSecrets", json!({ "id": id }), &owner).await;
            let live = door.answer("RevealSecrets", &live);
            let live: Vec<_> =
                live["secrets"].as_array().expect("secrets").iter().map(|it| &it["value"]).collect();
            assert_eq!(live, [made], "{case}: what signs now is the new secret alone");
            continue;
        }

        // Without a word of the secret, and with the word that stands for it.
        let blank = if field == "sensitive_headers" { "***" } else { "" };
        for attempt in [moved.clone(), merged(moved.clone(), &secret(blank))] {
            let refused = ask("UpdateEndpoint", json!({ "endpoint": attempt }), attacker).await;
            assert_eq!(refused.reason, "INVALID_FIELD", "{case}: {refused:?}");
            assert!(refused.told.contains(&format!("endpoint.{field}")), "{case}: {refused:?}");
            assert!(refused.told.contains("secrets:write"), "{case}: it says how: {refused:?}");
        }
        if field.contains("oauth2") {
            let mut authentication = secret("");
            authentication["authentication"]["oauth2"]["token_url"] = json!(thief.at("/token"));
            let attempt = merged(json!({ "id": id }), &authentication);
            let refused = ask("UpdateEndpoint", json!({ "endpoint": attempt }), attacker).await;
            assert_eq!(refused.reason, "INVALID_FIELD", "{case}: the token server: {refused:?}");
        }
        if !is_tls {
            let before = rightful.count();
            let tested = ask("TestEndpoint", json!({ "id": id }), attacker).await;
            assert!(tested.is_success(), "{case}: {tested:?}");
            assert!(rightful.count() > before, "{case}: it goes where it went");
        }
        assert_eq!(thief.count(), 0, "{case}");

        // A path of the same origin is no move, nor is one with the secret sent anew, nor
        // one by who may write secrets.
        let path = json!({ "id": id, "url": format!("{}/other", at(&rightful)) });
        let anew = merged(moved.clone(), &secret("a-new-value-of-16-bytes"));
        let back = json!({ "id": id, "url": at(&rightful) });
        for (change, token) in [(path, attacker), (anew, attacker), (back, &*owner)] {
            let done = ask("UpdateEndpoint", json!({ "endpoint": change }), token).await;
            assert!(done.is_success(), "{case}: {change}: {done:?}");
        }
    }
}
