//! What the holder of a lesser key tries in order to get at what is not theirs, by gRPC,
//! gRPC-Web and REST.

use serde_json::json;

use crate::support::{Authority, Door, Line, Server, fingerprint};

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
