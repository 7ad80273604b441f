//! The wall between tenants, over every method and every route there is.
//!
//! The matrix is made from the descriptors: each method is called for what is one's
//! own, what is another tenant's and what does not exist, by the key of the one, the
//! key of the other, a key that may only read, a revoked key and no key. A method
//! added to `proto/` is in it by itself; if it names things in fields that nothing
//! here knows, the test fails until somebody says what they are.

use std::collections::BTreeSet;

use bytes::{Buf, BufMut};
use hookwire::grpc::pb;
use http::{Method, uri::PathAndQuery};
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
    ReflectMessage as _, Value,
};
use serde_json::{Value as Json, json};
use tokio_stream::StreamExt as _;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::support::{Answer, Api, Receiver, Server, event, eventually, http, open_endpoint, reason_of};

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
            "endpoint_ids" => Some(&self.endpoint),
            "event_ids" => Some(&self.event),
            "delivery_id" | "delivery_ids" => Some(&self.delivery),
            "dead_letter_ids" => Some(&self.dead_letter),
            "secret_id" => Some(&self.secret),
            "key_id" => Some(&self.api_key),
            "tenant_id" => Some(&self.tenant),
            "resource_id" => Some(&self.endpoint),
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

/// What an answer comes to, as far as a caller can tell.
#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    code: Code,
    reason: String,
    told: String,
    message: Vec<u8>,
}

impl Outcome {
    /// The same whatever id was asked for, and whatever the request was called.
    fn without(mut self, things: &Things, request_id: &str) -> Self {
        for id in things.all() {
            self.told = self.told.replace(id, ID);
        }
        self.told = self.told.replace(request_id, "<request>");
        self
    }

    /// Whether it tells of something that was not there.
    fn is_missing(&self) -> bool {
        self.code == Code::NotFound
    }

    fn tells_of(&self, things: &Things) -> Option<String> {
        let text = String::from_utf8_lossy(&self.message).into_owned() + &self.told;
        things.all().into_iter().find(|id| text.contains(id)).map(str::to_owned)
    }
}

/// Messages as they are.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}

/// Calls a method; of a stream only the first answer.
async fn call(
    api: &Api,
    method: &MethodDescriptor,
    message: &DynamicMessage,
    token: Option<&str>,
) -> Outcome {
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let path = PathAndQuery::try_from(path).expect("a path");
    let mut request = Request::new(tokio_stream::iter([message.encode_to_vec()]));
    request.metadata_mut().insert("x-request-id", "wall".parse().expect("an id"));
    request.set_timeout(SOON);
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a token"));
    }
    let mut client = Grpc::new(api.channel.clone());
    client.ready().await.expect("a connection");
    let answer = async {
        let mut stream = client.streaming(request, path, Raw).await?.into_inner();
        stream.next().await.unwrap_or_else(|| Ok(Vec::new()))
    };
    match answer.await {
        Ok(message) => Outcome { code: Code::Ok, reason: String::new(), told: String::new(), message },
        Err(status) => Outcome {
            code: status.code(),
            reason: reason_of(&status),
            told: format!("{} {}", status.message(), String::from_utf8_lossy(status.details())),
            message: Vec::new(),
        },
    }
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
    let text = more.to_string();
    let mut deserializer = serde_json::Deserializer::from_str(&text);
    let more = DynamicMessage::deserialize(method.input(), &mut deserializer).expect("a request");
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

fn methods() -> Vec<MethodDescriptor> {
    let pool = DescriptorPool::decode(pb::DESCRIPTORS).expect("descriptors");
    let services: Vec<_> = pool.services().filter(|it| it.package_name() == "hookwire.v1").collect();
    services.iter().flat_map(prost_reflect::ServiceDescriptor::methods).collect()
}

fn reads(method: &MethodDescriptor) -> bool {
    let scope = method.parent_pool().get_extension_by_name("hookwire.v1.scope").expect("the option");
    let scope = method.options().get_extension(&scope).into_owned();
    scope.as_str().is_some_and(|scope| scope.ends_with(":read"))
}

/// What only administrators may do, whatever it is about.
fn is_administrative(method: &MethodDescriptor) -> bool {
    let service = method.parent_service();
    service.name() == "AuditService" || service.name() == "TenantService" && !reads(method)
}

/// Whether a request names something besides its own tenant.
fn is_about_something(message: &DynamicMessage, things: &Things) -> bool {
    let text = String::from_utf8_lossy(&message.encode_to_vec()).into_owned();
    things.all().into_iter().any(|id| text.contains(id))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_method_tells_a_foreign_thing_from_one_that_is_not_there() {
    let server =
        Server::build().serve(&["--allow-http-targets", "--allow-target", "127.0.0.0/8"]).start().await;
    let receiver = Receiver::answering(|_| Answer::status(400)).await;
    let (mine, theirs) = (Party::new(&server, "mine").await, Party::new(&server, "theirs").await);
    let (foreign, unknown) = (theirs.things("theirs", &receiver).await, Things::unknown());
    let mut cells = 0;
    for method in methods() {
        let name = method.full_name().to_owned();
        let own = mine.things("mine", &receiver).await;
        let about = |things: &Things| request(&method, things);
        let ask = async |things: &Things, token: Option<&str>| {
            call(&mine.api, &method, &about(things), token).await.without(things, "wall")
        };
        for things in [&own, &foreign, &unknown] {
            let none = ask(things, None).await;
            assert_eq!((none.code, &*none.reason), (Code::Unauthenticated, "CREDENTIAL_MISSING"), "{name}");
            let revoked = ask(things, Some(&mine.revoked)).await;
            assert_eq!(
                (revoked.code, &*revoked.reason),
                (Code::Unauthenticated, "CREDENTIAL_INVALID"),
                "{name}"
            );
            if !reads(&method) {
                let reader = ask(things, Some(&mine.reader)).await;
                assert_eq!(
                    (reader.code, &*reader.reason),
                    (Code::PermissionDenied, "SCOPE_MISSING"),
                    "{name}"
                );
                cells += 1;
            }
            cells += 2;
        }
        let tokens = if reads(&method) { vec![&mine.token, &mine.reader] } else { vec![&mine.token] };
        for token in tokens {
            let to_foreign = ask(&foreign, Some(token)).await;
            let to_unknown = ask(&unknown, Some(token)).await;
            assert_eq!(to_foreign.tells_of(&foreign), None, "{name} tells of another tenant");
            if method.name() == "CreateEndpoint"
                || method.name().starts_with("Publish")
                || method.name() == "BatchPublishEvents"
            {
                assert_eq!(
                    (to_foreign.code, to_unknown.code),
                    (Code::Ok, Code::Ok),
                    "{name} is about nothing"
                );
            } else {
                assert_eq!(to_foreign, to_unknown, "{name} tells a foreign thing from an unknown one");
            }
            if is_administrative(&method) {
                assert_eq!(to_foreign.reason, "SCOPE_MISSING", "{name}");
            }
            cells += 2;
        }
        // The same asked by the other side, and by the owner at last: what is one's own
        // is found.
        let by_other = call(&mine.api, &method, &about(&own), Some(&theirs.token)).await;
        assert_eq!(by_other.tells_of(&own), None, "{name} tells of another tenant");
        let by_owner = ask(&own, Some(&mine.token)).await;
        assert!(!by_owner.is_missing(), "{name} does not find what is one's own: {by_owner:?}");
        if is_about_something(&about(&own), &own) && !is_administrative(&method) {
            let denied = by_owner.code == Code::PermissionDenied || by_owner.code == Code::Unauthenticated;
            assert!(!denied, "{name}: {by_owner:?}");
        }
        cells += 2;
    }
    // Nothing of theirs was changed by all that.
    let endpoint = theirs.api.endpoint(&foreign.endpoint).await;
    assert_eq!((endpoint.state(), &*endpoint.name), (pb::endpoint::State::Active, ""));
    assert_eq!(theirs.api.dead_letters_of(&foreign.endpoint).await.len(), 1);
    println!("wall: {} methods, {cells} cells", methods().len());
}
