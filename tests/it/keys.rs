//! Keys: what they let their holders do, and how that ends.

use std::{process::Command, time::Duration};

use hookwire::grpc::pb::{self, DeliveryStatus};
use http::Method;
use tonic::{Code, Status};

use crate::support::{
    Database, PROGRAM, Receiver, Server, detail, event, eventually, http, now, open_endpoint, reason_of, span,
};

/// Within which a revoked key is of no use any more.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(20);

async fn tenant_of(server: &Server, id: &str) -> (String, String) {
    let admin = server.api();
    admin.create_tenant(pb::Tenant { id: id.to_owned(), ..Default::default() }).await;
    admin.create_key(id, &["*"]).await
}

fn code<T>(outcome: Result<T, Status>) -> Code {
    outcome.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_a_key_ends_its_calls_and_its_open_streams() {
    let server = Server::build().serve(&["--allow-http-targets"]).start().await;
    let admin = server.api();
    let (id, token) = tenant_of(&server, "acme").await;
    let holder = admin.with_token(&token);
    let (mut watch, _) = holder.watch(pb::WatchDeliveriesRequest::default()).await.expect("a watch");
    let (requests, taken) = tokio::sync::mpsc::channel(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(taken);
    let mut publishing =
        holder.events.clone().publish_event_stream(stream).await.expect("a stream").into_inner();
    let request = pb::PublishEventStreamRequest { sequence: 1, event: Some(event("a.b", "{}")) };
    requests.send(request).await.expect("sent");
    assert!(publishing.message().await.expect("acknowledged").is_some());
    let authorization = format!("Bearer {token}");
    let headers = [("authorization", &*authorization), ("accept", "text/event-stream")];
    let mut sse =
        crate::support::http_stream(server.port, Method::GET, "/v1/deliveries:watch", &headers, "").await;

    let revoked_at = now();
    let request = pb::RevokeApiKeyRequest { id: id.clone() };
    let revoked = admin.keys.clone().revoke_api_key(request).await.expect("RevokeApiKey").into_inner();
    assert!(revoked.api_key.expect("the key").revoked);
    let call = holder.endpoints.clone().list_endpoints(pb::ListEndpointsRequest::default()).await;
    let refused = call.expect_err("the key is revoked");
    assert_eq!(
        (refused.code(), reason_of(&refused)),
        (Code::Unauthenticated, "CREDENTIAL_INVALID".to_owned())
    );
    let ends = async {
        loop {
            match watch.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the watch ended without a status"),
                Err(status) => break status,
            }
        }
    };
    let ended = tokio::time::timeout(REVOKED_WITHIN, ends).await.expect("the watch has ended");
    assert_eq!(reason_of(&ended), "CREDENTIAL_INVALID");
    let ended =
        tokio::time::timeout(REVOKED_WITHIN, publishing.message()).await.expect("the stream has ended");
    assert_eq!(code(ended), Code::Unauthenticated);
    let end = async {
        use http_body_util::BodyExt as _;
        while let Some(Ok(_)) = sse.body_mut().frame().await {}
    };
    tokio::time::timeout(REVOKED_WITHIN, end).await.expect("the server-sent events have ended");
    println!("revocation: calls and three open streams ended within {:?}", revoked_at.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_works_on_for_its_grace_only() {
    let server = Server::build().serve(&[]).start().await;
    let admin = server.api();
    let (id, first) = tenant_of(&server, "acme").await;
    let rotate = async |grace| {
        let request = pb::RotateApiKeyRequest { id: id.clone(), grace_period: grace };
        admin.keys.clone().rotate_api_key(request).await.expect("RotateApiKey").into_inner().token
    };
    let works = async |token: &str| {
        let list = pb::ListEndpointsRequest::default();
        code(admin.with_token(token).endpoints.clone().list_endpoints(list).await) == Code::Ok
    };
    let (mut watch, _) =
        admin.with_token(&first).watch(pb::WatchDeliveriesRequest::default()).await.expect("a watch");
    let second = rotate(span(1500)).await;
    assert!(works(&second).await && works(&first).await, "both within the grace");
    eventually(SOON, "the first token has ended", async || {
        if works(&first).await { Err("it still works".to_owned()) } else { Ok(()) }
    })
    .await;
    let ended = async { while let Ok(Some(_)) = watch.message().await {} };
    tokio::time::timeout(REVOKED_WITHIN, ended).await.expect("what the first token opened has ended, too");
    let third = rotate(None).await;
    assert!(works(&third).await && !works(&second).await && !works(&first).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_does_what_its_scopes_say_and_grants_no_more() {
    let server = Server::build().serve(&["--allow-http-targets"]).start().await;
    let admin = server.api();
    admin.create_tenant(pb::Tenant { id: "acme".to_owned(), ..Default::default() }).await;
    let (_, token) = admin.create_key("acme", &["events:write", "api_keys:*"]).await;
    let publisher = admin.with_token(&token);
    publisher.publish(event("a.b", "{}")).await;
    let list = pb::ListEndpointsRequest::default();
    let refused = publisher.endpoints.clone().list_endpoints(list).await.expect_err("no scope");
    assert_eq!((refused.code(), reason_of(&refused)), (Code::PermissionDenied, "SCOPE_MISSING".to_owned()));
    assert_eq!(detail(&refused, "scope"), "endpoints:read");
    let grant = async |key: pb::ApiKey| {
        let request = pb::CreateApiKeyRequest { api_key: Some(key) };
        publisher.keys.clone().create_api_key(request).await
    };
    let scopes = |scopes: &[&str]| pb::ApiKey {
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        ..Default::default()
    };
    for more in ["*", "events:*", "endpoints:read"] {
        let refused = grant(scopes(&[more])).await.expect_err("more than it has");
        assert_eq!(reason_of(&refused), "SCOPE_MISSING", "{more}");
    }
    let other = pb::ApiKey { tenant_id: "default".to_owned(), ..scopes(&["events:write"]) };
    assert_eq!(reason_of(&grant(other).await.expect_err("another's")), "TENANT_NOT_FOUND");
    let any = pb::ApiKey { tenant_id: "*".to_owned(), ..scopes(&["events:write"]) };
    assert_eq!(reason_of(&grant(any).await.expect_err("everybody's")), "TENANT_NOT_FOUND");
    // Nor by the token of another key.
    let (greater, _) = admin.create_key("acme", &["*"]).await;
    let rotate = pb::RotateApiKeyRequest { id: greater, ..Default::default() };
    let refused = publisher.keys.clone().rotate_api_key(rotate).await.expect_err("a greater key");
    assert_eq!(reason_of(&refused), "SCOPE_MISSING");
    let less = grant(scopes(&["events:write"])).await.expect("less than it has").into_inner();
    admin.with_token(&less.token).publish(event("a.b", "{}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_over_the_limit_of_a_key_or_a_tenant_are_refused_with_a_time() {
    let server = Server::build().serve(&[]).start().await;
    let admin = server.api();
    let limit = |burst| Some(pb::RateLimit { requests_per_second: 0.1, burst, ..Default::default() });
    let tenant = pb::Tenant { id: "acme".to_owned(), call_rate_limit: limit(5), ..Default::default() };
    admin.create_tenant(tenant).await;
    let api_key = pb::ApiKey {
        tenant_id: "acme".to_owned(),
        scopes: vec!["*".to_owned()],
        rate_limit: limit(2),
        ..Default::default()
    };
    let request = pb::CreateApiKeyRequest { api_key: Some(api_key) };
    let slow = admin.keys.clone().create_api_key(request).await.expect("CreateApiKey").into_inner().token;
    let (_, quick) = admin.create_key("acme", &["*"]).await;
    let call = async |token: &str| {
        let mut client = admin.with_token(token).endpoints;
        client.list_endpoints(pb::ListEndpointsRequest::default()).await
    };
    let refused_by = |status: &Status| {
        use tonic_types::StatusExt as _;
        let wait = status.get_details_retry_info().expect("RetryInfo").retry_delay.expect("a delay");
        assert!(wait > Duration::from_secs(5) && wait <= Duration::from_secs(10), "{wait:?}");
        assert!(status.metadata().contains_key("grpc-retry-pushback-ms"));
        (status.code(), reason_of(status), detail(status, "limit"))
    };
    let limited = |by: &str| (Code::ResourceExhausted, "RATE_LIMITED".to_owned(), by.to_owned());
    for _ in 0..2 {
        call(&slow).await.expect("within the limit of the key");
    }
    assert_eq!(refused_by(&call(&slow).await.expect_err("over")), limited("key"));
    for _ in 0..3 {
        call(&quick).await.expect("within the limit of the tenant");
    }
    assert_eq!(refused_by(&call(&quick).await.expect_err("over")), limited("tenant"));
    let authorization = format!("Bearer {quick}");
    let reply =
        http(server.port, Method::GET, "/v1/endpoints", &[("authorization", &authorization)], "").await;
    assert_eq!(reply.status, 429);
    assert!(reply.header("retry-after").parse::<u64>().is_ok_and(|seconds| (5..=10).contains(&seconds)));
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_of_a_tenant_are_exact_and_told() {
    let server = Server::build().serve(&["--allow-http-targets"]).start().await;
    let admin = server.api();
    let (_, token) = tenant_of(&server, "acme").await;
    let set = async |tenant: pb::Tenant| {
        let request = pb::UpdateTenantRequest {
            tenant: Some(pb::Tenant { id: "acme".to_owned(), ..tenant }),
            update_mask: None,
        };
        admin.tenants.clone().update_tenant(request).await.expect("UpdateTenant")
    };
    set(pb::Tenant {
        max_endpoints: 1,
        max_events_per_day: 50,
        max_queued_bytes: 1000,
        ..Default::default()
    })
    .await;
    let holder = admin.with_token(&token);
    let paused = holder.create_endpoint(open_endpoint("http://receiver.invalid/")).await;
    let request = pb::CreateEndpointRequest {
        endpoint: Some(open_endpoint("http://receiver.invalid/")),
        ..Default::default()
    };
    let refused = holder.endpoints.clone().create_endpoint(request).await.expect_err("the second");
    assert_eq!(
        (reason_of(&refused), detail(&refused, "quota")),
        ("QUOTA_EXCEEDED".to_owned(), "endpoints".to_owned())
    );
    let pause = pb::PauseEndpointRequest { id: paused.id, ..Default::default() };
    holder.endpoints.clone().pause_endpoint(pause).await.expect("PauseEndpoint");
    // Nine payloads of 100 bytes and one of 99 fit; after them not one byte more.
    let body = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    for bytes in [100; 9] {
        holder.publish(event("a.b", body(bytes))).await;
    }
    let publish = async |bytes| {
        let request =
            pb::PublishEventRequest { event: Some(event("a.b", body(bytes))), ..Default::default() };
        holder.events.clone().publish_event(request).await
    };
    let refused = publish(101).await.expect_err("over the bytes");
    assert_eq!(detail(&refused, "quota"), "queued bytes");
    publish(100).await.expect("exactly the bytes");
    let events = (0..3).map(|_| event("a.b", body(10))).collect();
    let request = pb::BatchPublishEventsRequest { events, atomic: true };
    let batch = holder.events.clone().batch_publish_events(request).await;
    assert_eq!(detail(&batch.expect_err("all or nothing"), "quota"), "queued bytes");
    let get = pb::GetTenantRequest { id: "self".to_owned() };
    let seen = holder.tenants.clone().get_tenant(get).await.expect("GetTenant").into_inner();
    let usage = seen.tenant.and_then(|tenant| tenant.usage).expect("usage");
    assert_eq!(
        usage,
        pb::TenantUsage { endpoints: 1, events_today: 10, open_deliveries: 10, queued_bytes: 1000 }
    );

    // Concurrent publishes of another kind, which no endpoint is to get: 40 more fit
    // into the day, whoever comes first.
    let delete =
        pb::DeleteEndpointRequest { id: "none".to_owned(), allow_missing: true, ..Default::default() };
    holder.endpoints.clone().delete_endpoint(delete).await.expect("DeleteEndpoint");
    set(pb::Tenant { max_queued_bytes: 1_000_000, ..Default::default() }).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let mut events = holder.events.clone();
        let request = pb::PublishEventRequest { event: Some(event("a.b", "{}")), ..Default::default() };
        calls.spawn(async move { events.publish_event(request).await });
    }
    let outcomes = calls.join_all().await;
    let refused: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert_eq!(outcomes.len() - refused.len(), 40);
    assert!(refused.iter().all(|status| detail(status, "quota") == "events per day"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_tenant_calls_nothing_and_gets_nothing_until_it_is_let_go_on() {
    let server =
        Server::build().serve(&["--allow-http-targets", "--allow-target", "127.0.0.0/8"]).start().await;
    let admin = server.api();
    let (_, token) = tenant_of(&server, "acme").await;
    let (holder, receiver) = (admin.with_token(&token), Receiver::ok().await);
    holder.create_endpoint(open_endpoint(receiver.at("/"))).await;
    let (mut watch, _) = holder.watch(pb::WatchDeliveriesRequest::default()).await.expect("a watch");
    let suspend = async |suspended| {
        let request = pb::UpdateTenantRequest {
            tenant: Some(pb::Tenant {
                id: "acme".to_owned(),
                suspended: Some(suspended),
                ..Default::default()
            }),
            update_mask: None,
        };
        admin.tenants.clone().update_tenant(request).await.expect("UpdateTenant");
    };
    suspend(true).await;
    let list = pb::ListEndpointsRequest::default();
    let refused = holder.endpoints.clone().list_endpoints(list.clone()).await.expect_err("suspended");
    assert_eq!(
        (reason_of(&refused), detail(&refused, "why")),
        ("TENANT_FORBIDDEN".to_owned(), "suspended".to_owned())
    );
    let ended = async { while let Ok(Some(_)) = watch.message().await {} };
    tokio::time::timeout(REVOKED_WITHIN, ended).await.expect("its watch has ended");
    // The administrator publishes for it: the delivery is made, and held.
    let acting = admin.for_tenant(server.token().expect("a token"), "acme");
    let delivery = acting.publish_to_one(event("a.b", "{}")).await;
    let held = eventually(SOON, "the delivery is held", async || {
        let delivery = acting.delivery(&delivery).await;
        if delivery.hold_reason() == pb::HoldReason::EndpointPaused {
            Ok(delivery)
        } else {
            Err(format!("{delivery:?}"))
        }
    });
    assert_eq!(held.await.attempt_count, 0);
    assert_eq!(receiver.count(), 0);
    suspend(false).await;
    acting.delivery_in(&delivery, DeliveryStatus::Delivered, SOON).await;
    holder.endpoints.clone().list_endpoints(list).await.expect("its key works again");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_tells_who_changed_what_also_when_refused() {
    let server = Server::build().serve(&["--allow-http-targets"]).start().await;
    let admin = server.api();
    let (id, token) = tenant_of(&server, "acme").await;
    let holder = admin.with_token(&token);
    let endpoint = holder.create_endpoint(open_endpoint("http://receiver.invalid/")).await;
    let reveal = pb::RevealSecretsRequest { id: endpoint.id.clone() };
    holder.endpoints.clone().reveal_secrets(reveal).await.expect("RevealSecrets");
    holder.endpoint(&endpoint.id).await;
    holder.publish(event("a.b", "{}")).await;
    let create =
        pb::CreateTenantRequest { tenant: Some(pb::Tenant { id: "mine".to_owned(), ..Default::default() }) };
    assert_eq!(code(holder.tenants.clone().create_tenant(create).await), Code::PermissionDenied);
    let list = async |filter| {
        let request = pb::ListAuditEntriesRequest { filter: Some(filter), ..Default::default() };
        admin.audit.clone().list_audit_entries(request).await.expect("ListAuditEntries").into_inner().entries
    };
    let of_key = list(pb::AuditFilter { key_id: id.clone(), ..Default::default() }).await;
    let told: Vec<_> = of_key
        .iter()
        .map(|it| {
            (it.method.rsplit('/').next().unwrap_or_default(), &*it.resource_id, it.code, &*it.tenant_id)
        })
        .collect();
    let endpoint = &*endpoint.id;
    let expected = [
        ("CreateTenant", "", 7, "acme"),
        ("RevealSecrets", endpoint, 0, "acme"),
        ("CreateEndpoint", endpoint, 0, "acme"),
    ];
    assert_eq!(told, expected);
    assert!(
        of_key.iter().all(|it| !it.request_id.is_empty() && it.address.starts_with("127.")),
        "{of_key:?}"
    );
    let about = list(pb::AuditFilter { resource_id: endpoint.to_owned(), ..Default::default() }).await;
    assert_eq!(about.len(), 2);
    let call = holder.audit.clone().list_audit_entries(pb::ListAuditEntriesRequest::default()).await;
    assert_eq!(code(call), Code::PermissionDenied, "it is for administrators");
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_calls_share_entries_of_the_audit_log_and_each_is_counted() {
    const CALLS: usize = 300;
    let mut server = Server::build().restartable().serve(&[]).start().await;
    let admin = server.api();
    let (id, token) = tenant_of(&server, "acme").await;
    let (reader, reading) = admin.create_key("acme", &["endpoints:read"]).await;
    let (mut mangled, last) = (token.clone(), token.chars().last());
    mangled.pop();
    mangled.push(if last == Some('0') { '1' } else { '0' });
    for token in [&reading, &mangled] {
        let api = admin.with_token(token);
        for _ in 0..CALLS {
            let delete = pb::DeleteEndpointRequest { id: "none".to_owned(), ..Default::default() };
            api.endpoints.clone().delete_endpoint(delete).await.expect_err("denied");
        }
    }
    let authorization = format!("Bearer {}", server.token().expect("a token"));
    let headers = [("authorization", &*authorization)];
    let metrics = http(server.port, Method::GET, "/metrics", &headers, "").await;
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    let counted = format!("hookwire_refused_credentials_total{{reason=\"invalid\"}} {CALLS}");
    assert!(metrics.contains(&counted), "{metrics}");
    let logged = server.log().lines().filter(|line| line.contains("a credential was refused")).count();
    assert!((1..CALLS / 4).contains(&logged), "{logged} lines");
    assert!(server.log().contains(&id), "the line names the key");

    assert!(server.terminate(SOON).await.success());
    server.restart().await;
    for (key, code, tenant) in [(reader, 7, "acme"), (id, 16, "")] {
        let filter = pb::AuditFilter { key_id: key, ..Default::default() };
        let request = pb::ListAuditEntriesRequest { filter: Some(filter), ..Default::default() };
        let list = server.api().audit.clone().list_audit_entries(request).await.expect("ListAuditEntries");
        let entries = list.into_inner().entries;
        let same = |it: &pb::AuditEntry| {
            (it.code, &*it.tenant_id) == (code, tenant) && it.address.starts_with("127.")
        };
        assert!(entries.iter().all(same), "{entries:?}");
        // Two for each minute that the calls fell into.
        assert!((2..=6).contains(&entries.len()), "{entries:?}");
        assert_eq!(entries.iter().map(|it| it.call_count).sum::<i64>(), CALLS as i64, "{entries:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_a_limit_has_that_of_the_server_but_for_publishing() {
    let server = Server::build().serve(&["--key-rate", "1"]).start().await;
    let token = server.token().expect("a token").to_owned();
    let api = server.api().with_token(&token);
    for _ in 0..50 {
        api.publish(event("a.b", "{}")).await;
    }
    // Two at once, and one a second.
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let mut endpoints = api.endpoints.clone();
        calls.spawn(async move { endpoints.list_endpoints(pb::ListEndpointsRequest::default()).await });
    }
    let refused: Vec<_> = calls.join_all().await.into_iter().filter_map(Result::err).collect();
    assert!(!refused.is_empty() && refused.len() < 100, "{} of 100", refused.len());
    for status in refused {
        let why = (reason_of(&status), detail(&status, "limit"));
        assert_eq!(why, ("RATE_LIMITED".to_owned(), "key".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_bound_to_networks_works_only_there() {
    let server = Server::build().serve(&[]).start().await;
    let admin = server.api();
    let make = async |network: &str| {
        let api_key = pb::ApiKey {
            scopes: vec!["*".to_owned()],
            allowed_networks: vec![network.to_owned()],
            ..Default::default()
        };
        let request = pb::CreateApiKeyRequest { api_key: Some(api_key) };
        admin.keys.clone().create_api_key(request).await.expect("CreateApiKey").into_inner().token
    };
    let (here, elsewhere) = (make("127.0.0.0/8").await, make("10.0.0.0/8").await);
    let call = async |token: &str| {
        let mut client = admin.with_token(token).endpoints;
        client.list_endpoints(pb::ListEndpointsRequest::default()).await
    };
    call(&here).await.expect("from here");
    let refused = call(&elsewhere).await.expect_err("not from here");
    assert_eq!(
        (reason_of(&refused), detail(&refused, "why")),
        ("TENANT_FORBIDDEN".to_owned(), "network".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_for_administrators_and_health_is_for_all() {
    let server = Server::build().serve(&[]).start().await;
    let (_, tenants) = tenant_of(&server, "acme").await;
    let admins = server.token().expect("a token").to_owned();
    let get = async |path: &str, token: Option<&str>| {
        let authorization = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<_> = authorization.iter().map(|it| ("authorization", &**it)).collect();
        http(server.port, Method::GET, path, &headers, "").await.status.as_u16()
    };
    assert_eq!(get("/health", None).await, 200);
    assert_eq!((get("/metrics", None).await, get("/metrics", Some(&tenants)).await), (401, 403));
    assert_eq!(get("/metrics", Some(&admins)).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_nobody_could_administer_does_not_start() {
    let mut server = Server::build().serve(&[]).start().await;
    let admin = server.api();
    let get = pb::ListApiKeysRequest::default();
    let keys = admin.keys.clone().list_api_keys(get).await.expect("ListApiKeys").into_inner().api_keys;
    let [key] = &keys[..] else { panic!("one key: {keys:?}") };
    let revoke = pb::RevokeApiKeyRequest { id: key.id.clone() };
    admin.keys.clone().revoke_api_key(revoke).await.expect("RevokeApiKey");
    assert!(server.terminate(SOON).await.success());
    let data = server.data_dir();
    let master = data.parent().expect("a folder").join("master.key");
    let start = |more: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(["serve", "--port", "0"]).args(server.place());
        let output = command.arg("--master-key-file").arg(&master).args(more).output().expect("hookwire");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let sentence = told.lines().filter(|line| line.starts_with("hookwire: ")).collect::<Vec<_>>();
        assert!(!output.status.success() && sentence.len() == 1, "{told}");
        sentence[0].to_owned()
    };
    assert!(start(&[]).contains("every administrator's key was revoked or has expired"));
    // The file that it was made by does not bring a revoked key back.
    let file = data.parent().expect("a folder").join("administrator").display().to_string();
    assert!(start(&["--admin-key-file", &file]).contains("every administrator's key was revoked"));
    let no_key_file = master.display().to_string();
    assert!(start(&["--admin-key-file", &no_key_file]).contains("is not an administrator's key file"));
    assert!(start(&["--admin-key-file", "/nowhere"]).contains("cannot use /nowhere"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_makes_a_key_and_shows_it_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, master) = (folder.path().join("data"), folder.path().join("master.key"));
    let made = Command::new(PROGRAM).args(["keygen", "--out"]).arg(&master).output().expect("hookwire");
    assert!(made.status.success());
    let database = Server::on_postgres().then(Database::new);
    let store = database.iter().flat_map(|database| ["--store".to_owned(), database.url()]);
    let store: Vec<_> = store.collect();
    // Where it cannot be shown, no key is stored.
    let mut command = Command::new(PROGRAM);
    command.args(["serve", "--port", "0", "--data-dir"]).arg(&data).arg("--master-key-file").arg(&master);
    let full = std::fs::File::options().write(true).open("/dev/full").expect("a full device");
    let refused = command.args(&store).env("LOG_LEVEL", "off").stdout(full).output().expect("hookwire");
    let told = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(told.lines().count() == 1 && told.contains("cannot be written to the standard output"), "{told}");
    let mut started = Vec::new();
    for _ in 0..2 {
        let mut command = tokio::process::Command::new(PROGRAM);
        command.args(["serve", "--port", "0", "--data-dir"]).arg(&data).arg("--master-key-file").arg(&master);
        command.args(&store);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).kill_on_drop(true);
        let mut server = command.spawn().expect("hookwire");
        let output = server.stdout.take().expect("its output");
        let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(output));
        let mut told = Vec::new();
        while let Some(line) = lines.next_line().await.expect("a line") {
            let ready = line.starts_with("Hookwire is ready");
            told.push(line);
            if ready {
                break;
            }
        }
        server.kill().await.expect("killed");
        started.push(told);
    }
    assert!(started[0][0].contains("administrator's key") && started[0][1].starts_with("hw_"), "{started:?}");
    assert_eq!(started[1].len(), 1, "{started:?}");
}

#[test]
fn each_refusal_to_make_or_take_an_administrators_key_is_one_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("admin");
    let file = file.to_str().expect("a path");
    let command = || {
        let mut command = Command::new(PROGRAM);
        command.args(["admin-key", "--out", file]);
        command
    };
    let full = std::fs::File::options().write(true).open("/dev/full").expect("a full device");
    let unseen = command().stdout(full).output().expect("hookwire");
    let told = String::from_utf8_lossy(&unseen.stderr);
    assert!(unseen.status.code() == Some(1) && told.contains("cannot be written"), "{told}");
    let make = || command().output().expect("hookwire");
    assert!(make().status.success());
    let again = make();
    let told = String::from_utf8_lossy(&again.stderr);
    assert!(!again.status.success() && told.lines().count() == 1 && told.contains("cannot use"), "{told}");
}
