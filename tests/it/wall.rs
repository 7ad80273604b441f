//! The wall between tenants, over every method and every route there is.
//!
//! The matrix is made from the descriptors: each method is called for what is one's
//! own, what is another tenant's and what does not exist, by the key of the one, the
//! key of the other, a key that may only read, a revoked key and no key. A method
//! added to `proto/` is in it by itself; if it names things in fields that nothing
//! here knows, the test fails until somebody says what they are.

use hookwire::grpc::pb;
use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MethodDescriptor, ReflectMessage as _, Value};
use serde_json::json;
use tonic::Code;

use crate::support::{
    Answer, Api, Door, Line, Outcome, Receiver, Server, event, eventually, methods, open_endpoint, reason_of,
    request_of,
};

const SOON: std::time::Duration = std::time::Duration::from_secs(20);
/// What stands for an id when answers are compared.
const ID: &str = "<id>";

/// Ids of one thing of each kind.
#[derive(Clone, Debug)]
struct Things {
    endpoint: String,
    secret: String,
    event: String,
    delivery: String,
    dead_letter: String,
    operation: String,
    api_key: String,
    tenant: String,
}

impl Things {
    fn all(&self) -> [&str; 8] {
        let Self { endpoint, secret, event, delivery, dead_letter, operation, api_key, tenant } = self;
        [endpoint, secret, event, delivery, dead_letter, operation, api_key, tenant].map(String::as_str)
    }

    /// Ids of the same form that nothing has.
    fn unknown() -> Self {
        let id = |prefix: &str| format!("{prefix}_{}", "01a2".repeat(8));
        Self {
            endpoint: id("ep"),
            secret: id("sec"),
            event: id("evt"),
            delivery: id("dlv"),
            dead_letter: id("dl"),
            operation: id("op"),
            api_key: id("key"),
            tenant: "nobody".to_owned(),
        }
    }

    /// The thing that a field of a method's request names.
    fn named(&self, service: &str, field: &str) -> Option<&str> {
        let of_service = || match service {
            "EndpointService" => Some(&self.endpoint),
            "EventService" => Some(&self.event),
            "DeliveryService" => Some(&self.delivery),
            "DeadLetterService" => Some(&self.dead_letter),
            "OperationService" => Some(&self.operation),
            "ApiKeyService" => Some(&self.api_key),
            "TenantService" => Some(&self.tenant),
            _ => None,
        };
        let found = match field {
            "id" => of_service(),
            "endpoint_ids" | "resource_id" => Some(&self.endpoint),
            "event_ids" => Some(&self.event),
            "delivery_id" | "delivery_ids" => Some(&self.delivery),
            "dead_letter_ids" => Some(&self.dead_letter),
            "secret_id" => Some(&self.secret),
            "key_id" => Some(&self.api_key),
            "tenant_id" => Some(&self.tenant),
            _ => None,
        };
        found.map(String::as_str)
    }
}

/// Who calls, and what is theirs.
struct Party {
    api: Api,
    token: String,
    reader: String,
    revoked: String,
}

impl Party {
    async fn new(server: &Server, tenant: &str) -> Self {
        let admin = server.api();
        admin.create_tenant(pb::Tenant { id: tenant.to_owned(), ..Default::default() }).await;
        let (_, token) = admin.create_key(tenant, &["*"]).await;
        let readable =
            ["endpoints", "secrets", "events", "deliveries", "dead_letters", "operations", "api_keys"];
        let readable = readable.map(|resource| format!("{resource}:read"));
        let scopes: Vec<_> = readable.iter().map(String::as_str).chain(["tenants:read"]).collect();
        let (_, reader) = admin.create_key(tenant, &scopes).await;
        let (id, revoked) = admin.create_key(tenant, &["*"]).await;
        admin.keys.clone().revoke_api_key(pb::RevokeApiKeyRequest { id }).await.expect("RevokeApiKey");
        Self { api: admin.with_token(&token), token, reader, revoked }
    }

    /// New things of its own.
    async fn things(&self, tenant: &str, receiver: &Receiver) -> Things {
        let made = self.api.create_endpoint(open_endpoint(receiver.at("/refuses"))).await;
        let published = self.api.publish(event("a.b", "{\"canary\":\"of one tenant\"}")).await;
        let delivery = published.deliveries.iter().find(|it| it.endpoint_id == made.id).expect("a delivery");
        let dead = eventually(SOON, "there is a dead letter", async || {
            self.api.dead_letters_of(&made.id).await.pop().ok_or_else(|| "none".to_owned())
        });
        let dead = dead.await;
        let filter = pb::DeadLetterFilter { endpoint_ids: vec!["ep_none".to_owned()], ..Default::default() };
        let purge = pb::PurgeDeadLettersRequest { filter: Some(filter), all: false };
        let purged = self.api.dead_letters.clone().purge_dead_letters(purge).await.expect("PurgeDeadLetters");
        let (api_key, _) = self.api.create_key("", &["events:read"]).await;
        Things {
            secret: made.secrets[0].id.clone(),
            endpoint: made.id,
            event: published.event_id,
            delivery: delivery.delivery_id.clone(),
            dead_letter: dead.id,
            operation: purged.into_inner().operation.expect("the operation").id,
            api_key,
            tenant: tenant.to_owned(),
        }
    }
}

/// The same whatever id was asked for, and whatever the request was called.
fn without(mut outcome: Outcome, things: &Things) -> Outcome {
    for id in things.all() {
        outcome.told = outcome.told.replace(id, ID);
    }
    outcome
}

/// Whether both tell the same. What was made or listed has ids and instants of its
/// own, so of two successes the size is compared, which those change by little.
fn are_alike(one: &Outcome, other: &Outcome) -> bool {
    let size = |it: &Outcome| it.message.len() + it.told.len();
    let alike = one.code == other.code && size(one).abs_diff(size(other)) <= 16;
    if one.is_success() { alike } else { one == other }
}

/// What an answer tells of these things, if it is a success: a refusal repeats what was
/// asked for.
fn tells_of(outcome: &Outcome, things: &Things) -> Option<String> {
    if !outcome.is_success() {
        return None;
    }
    let text = String::from_utf8_lossy(&outcome.message).into_owned() + &outcome.told;
    things.all().into_iter().find(|id| text.contains(id)).map(str::to_owned)
}

/// A request of a method about some things, with what else it needs.
fn request(method: &MethodDescriptor, things: &Things) -> DynamicMessage {
    let mut message = DynamicMessage::new(method.input());
    name_all(&mut message, method.parent_service().name(), things, "");
    let more = match method.name() {
        "CreateEndpoint" => json!({"endpoint": {"url": "https://example.com/"}}),
        "UpdateEndpoint" => json!({"endpoint": {"id": things.endpoint, "name": "x"}}),
        "PublishEvent" => json!({"event": {"event_type": "c.d", "payload": {"json": "{}"}}}),
        "BatchPublishEvents" => json!({"events": [{"event_type": "c.d", "payload": {"json": "{}"}}]}),
        "PublishEventStream" => {
            json!({"sequence": "1", "event": {"event_type": "c.d", "payload": {"json": "{}"}}})
        }
        "CreateApiKey" => json!({"api_key": {"scopes": ["events:read"], "tenant_id": things.tenant}}),
        "CreateTenant" => json!({"tenant": {"id": things.tenant}}),
        "UpdateTenant" => json!({"tenant": {"id": things.tenant, "name": "x"}}),
        "TestEndpoint" => json!({"id": things.endpoint}),
        _ => return message,
    };
    let more = request_of(method, &more);
    message.merge(more.encode_to_vec().as_slice()).expect("the same message");
    message
}

/// Fills in every field that names a thing.
fn name_all(message: &mut DynamicMessage, service: &str, things: &Things, within: &str) {
    for field in message.descriptor().fields().collect::<Vec<_>>() {
        let is_text = matches!(field.kind(), Kind::String) && !field.is_map();
        if is_text && names_a_thing(&field) && !output_only(&field) {
            // Ids that a caller chooses, and in messages that describe a thing.
            if field.name() == "endpoint_id" || !within.is_empty() && field.name() == "id" {
                continue;
            }
            let Some(id) = things.named(service, field.name()) else {
                panic!(
                    "{}: what does `{}` name? say so in this test",
                    message.descriptor().full_name(),
                    field.name()
                )
            };
            let value = Value::String(id.to_owned());
            message.set_field(&field, if field.is_list() { Value::List(vec![value]) } else { value });
        }
        if let Kind::Message(inner) = field.kind()
            && field.name() == "filter"
        {
            let mut filter = DynamicMessage::new(inner);
            name_all(&mut filter, service, things, "filter");
            message.set_field(&field, Value::Message(filter));
        }
    }
}

fn names_a_thing(field: &FieldDescriptor) -> bool {
    field.name() == "id" || field.name().ends_with("_id") || field.name().ends_with("_ids")
}

fn output_only(field: &FieldDescriptor) -> bool {
    let behaviors =
        field.parent_pool().get_extension_by_name("google.api.field_behavior").expect("the option");
    format!("{:?}", field.options().get_extension(&behaviors)).contains("EnumNumber(3)")
}

fn reads(method: &MethodDescriptor) -> bool {
    let scope = method.parent_pool().get_extension_by_name("hookwire.v1.scope").expect("the option");
    let scope = method.options().get_extension(&scope).into_owned();
    scope.as_str().is_some_and(|scope| scope.ends_with(":read"))
}

/// What only administrators may do, whatever it is about.
fn is_administrative(method: &MethodDescriptor) -> bool {
    let service = method.parent_service();
    ["AuditService", "OpsService"].contains(&service.name())
        || service.name() == "TenantService" && !reads(method)
}

/// The code or status of a reason.
fn expected(by: Door, reason: &str) -> (i32, String) {
    let (code, status) = match reason {
        "CREDENTIAL_MISSING" | "CREDENTIAL_INVALID" => (Code::Unauthenticated, 401),
        _ => (Code::PermissionDenied, 403),
    };
    (if by == Door::Rest { status } else { code as i32 }, reason.to_owned())
}

fn is_missing(by: Door, outcome: &Outcome) -> bool {
    outcome.code == if by == Door::Rest { 404 } else { Code::NotFound as i32 }
}

/// Asks for everything in every way, and counts the cells of the matrix.
async fn matrix(by: Door) {
    let server =
        Server::build().serve(&["--allow-http-targets", "--allow-target", "127.0.0.0/8"]).start().await;
    let receiver = Receiver::answering(|_| Answer::status(400)).await;
    let (mine, theirs) = (Party::new(&server, "mine").await, Party::new(&server, "theirs").await);
    let (foreign, unknown) = (theirs.things("theirs", &receiver).await, Things::unknown());
    let (line, mut cells) = (Line::plain(server.port), 0);
    for method in methods() {
        let name = method.full_name().to_owned();
        let own = mine.things("mine", &receiver).await;
        let mut ask = async |things: &Things, token: Option<&str>| {
            let outcomes = by.call(&line, &method, &request(&method, things), token).await;
            cells += outcomes.len();
            let told = outcomes.iter().find_map(|it| tells_of(it, &foreign));
            assert_eq!(told, None, "{name} tells of another tenant");
            outcomes.into_iter().map(|it| without(it, things)).collect::<Vec<_>>()
        };
        let refused = |outcomes: &[Outcome], reason: &str| {
            for it in outcomes {
                assert_eq!((it.code, it.reason.clone()), expected(by, reason), "{name}: {it:?}");
            }
        };
        for things in [&own, &foreign, &unknown] {
            refused(&ask(things, None).await, "CREDENTIAL_MISSING");
            refused(&ask(things, Some(&mine.revoked)).await, "CREDENTIAL_INVALID");
            if !reads(&method) {
                refused(&ask(things, Some(&mine.reader)).await, "SCOPE_MISSING");
            }
        }
        let tokens = if reads(&method) { vec![&mine.token, &mine.reader] } else { vec![&mine.token] };
        for token in tokens {
            let to_foreign = ask(&foreign, Some(token)).await;
            let to_unknown = ask(&unknown, Some(token)).await;
            for (foreign, unknown) in to_foreign.iter().zip(&to_unknown) {
                let same = are_alike(foreign, unknown);
                assert!(same, "{name} tells a foreign thing from an unknown one: {foreign:?} {unknown:?}");
            }
            if is_administrative(&method) {
                refused(&to_foreign, "SCOPE_MISSING");
            }
        }
        // The same asked by the other side, and by the owner at last: what is one's own
        // is found.
        let by_other = by.call(&line, &method, &request(&method, &own), Some(&theirs.token)).await;
        assert_eq!(by_other.iter().find_map(|it| tells_of(it, &own)), None, "{name} tells of another tenant");
        let by_owner = ask(&own, Some(&mine.token)).await;
        for (way, it) in by_owner.iter().enumerate() {
            // What the first route did away with, the second does not find.
            assert!(way > 0 || !is_missing(by, it), "{name} does not find what is one's own: {it:?}");
            let denied = it.reason == "SCOPE_MISSING" || it.reason.starts_with("CREDENTIAL");
            assert_eq!(denied, is_administrative(&method), "{name}: {it:?}");
        }
        cells += by_other.len();
    }
    // Nothing of theirs was changed by all that.
    let endpoint = theirs.api.endpoint(&foreign.endpoint).await;
    assert_eq!((endpoint.state(), &*endpoint.name), (pb::endpoint::State::Active, ""));
    let (letter, _) = theirs.api.dead_letter(&foreign.dead_letter).await;
    assert_eq!(letter.state(), pb::dead_letter::State::Open);
    let get = pb::GetApiKeyRequest { id: foreign.api_key.clone() };
    let key = theirs.api.keys.clone().get_api_key(get).await.expect("GetApiKey").into_inner().api_key;
    assert!(!key.expect("the key").revoked);
    println!("wall by {by:?}: {} methods, {cells} cells", methods().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_method_tells_a_foreign_thing_from_one_that_is_not_there() {
    Box::pin(matrix(Door::Grpc)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_method_tells_so_by_grpc_web_either() {
    Box::pin(matrix(Door::GrpcWeb)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_tells_a_foreign_thing_from_one_that_is_not_there() {
    Box::pin(matrix(Door::Rest)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_cannot_act_for_another_tenant_nor_tell_whether_there_is_one() {
    let server = Server::build().serve(&[]).start().await;
    let (mine, theirs) = (Party::new(&server, "mine").await, Party::new(&server, "theirs").await);
    let ask = async |tenant: &str| {
        let api = mine.api.for_tenant(&mine.token, tenant);
        let outcome = api.endpoints.clone().list_endpoints(pb::ListEndpointsRequest::default()).await;
        outcome.map_err(|status| (status.code(), reason_of(&status), status.message().to_owned()))
    };
    assert!(ask("mine").await.is_ok());
    let foreign = ask("theirs").await.expect_err("another's");
    assert_eq!(foreign, ask("nobody").await.expect_err("nobody's"));
    assert_eq!((foreign.0, &*foreign.1), (Code::PermissionDenied, "TENANT_FORBIDDEN"));
    // Tokens of lists and watches are their tenant's own, too.
    let first = theirs.api.watch(pb::WatchDeliveriesRequest::default()).await.expect("a watch").1;
    let watch = |token: String| pb::WatchDeliveriesRequest {
        start: Some(pb::watch_deliveries_request::Start::ResumeToken(token)),
        ..Default::default()
    };
    let taken = mine.api.watch(watch(first.resume_token)).await.expect_err("another's token");
    let made_up = mine.api.watch(watch("made-up".to_owned())).await.expect_err("no token");
    assert_eq!((taken.code(), taken.message()), (made_up.code(), made_up.message()));
}
