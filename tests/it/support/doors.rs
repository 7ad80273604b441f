//! The same call by every way in: gRPC, gRPC-Web and REST, with or without TLS.
//!
//! Methods and messages are known by their descriptors only, so a test that goes through
//! all of them covers a method that is added later.

use std::{sync::Arc, time::Duration};

use bytes::{Buf, BufMut, Bytes};
use hookwire::grpc::pb;
use http::{HeaderMap, HeaderName, Method, Request, Response, header, uri::PathAndQuery};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, SerializeOptions, Value};
use rustls::pki_types::ServerName;
use serde_json::Value as Json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt as _;
use tonic::{
    Code, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};

use super::reason_of;

/// Longer than any call here takes.
const LONG: Duration = Duration::from_secs(20);
/// Id of every request made here.
pub const REQUEST_ID: &str = "wall";

/// All methods of `hookwire.v1`.
pub fn methods() -> Vec<MethodDescriptor> {
    let pool = DescriptorPool::decode(pb::DESCRIPTORS).expect("descriptors");
    let services: Vec<_> = pool.services().filter(|it| it.package_name() == "hookwire.v1").collect();
    services.iter().flat_map(prost_reflect::ServiceDescriptor::methods).collect()
}

/// A method by its name.
fn method(name: &str) -> MethodDescriptor {
    methods().into_iter().find(|it| it.name() == name).expect("a method of that name")
}

/// The request of a method, given as JSON in proto names.
pub fn request_of(method: &MethodDescriptor, fields: &Json) -> DynamicMessage {
    let text = fields.to_string();
    let mut deserializer = serde_json::Deserializer::from_str(&text);
    DynamicMessage::deserialize(method.input(), &mut deserializer).expect("a request")
}

/// How clients reach a server.
#[derive(Clone)]
pub struct Line {
    port: u16,
    tls: Option<TlsConnector>,
    channel: Channel,
}

impl Line {
    /// In clear text.
    pub fn plain(port: u16) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).expect("a URL");
        Self { port, tls: None, channel: endpoint.connect_lazy() }
    }

    /// By TLS to `localhost`; the connector says whom the client trusts and who it is.
    pub fn tls(port: u16, tls: TlsConnector) -> Self {
        let mut config = rustls::ClientConfig::clone(tls.config());
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        let connect = tower::service_fn(move |_| {
            let connector = connector.clone();
            async move {
                let stream = TcpStream::connect(("127.0.0.1", port)).await?;
                connector.connect(name(), stream).await.map(TokioIo::new)
            }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect);
        Self { port, tls: Some(tls), channel }
    }

    /// Sends one request by HTTP/1.1 on a connection of its own.
    async fn send(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("connect");
        let mut sender = match &self.tls {
            None => {
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("handshake");
                tokio::spawn(connection);
                sender
            }
            Some(tls) => {
                let stream = tls.connect(name(), stream).await.expect("TLS");
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("handshake");
                tokio::spawn(connection);
                sender
            }
        };
        sender.send_request(request).await.expect("an answer")
    }
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("a name")
}

/// A way in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Door {
    Grpc,
    GrpcWeb,
    Rest,
}

/// What an answer comes to, as far as a caller can tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// A gRPC code, or by REST a status.
    pub code: i32,
    /// `ErrorInfo.reason`; empty of a success.
    pub reason: String,
    /// Words and details of an error, or by REST the body.
    pub told: String,
    /// The first message of a success, but by REST.
    pub message: Vec<u8>,
}

impl Outcome {
    pub fn is_success(&self) -> bool {
        self.code == Code::Ok as i32 || (200..300).contains(&self.code)
    }

    fn of(answer: Result<Vec<u8>, Status>) -> Self {
        match answer {
            Ok(message) => {
                Self { code: Code::Ok as i32, reason: String::new(), told: String::new(), message }
            }
            Err(status) => Self {
                code: status.code() as i32,
                reason: reason_of(&status),
                told: format!("{} {}", status.message(), String::from_utf8_lossy(status.details())),
                message: Vec::new(),
            },
        }
    }
}

impl Door {
    pub const ALL: [Self; 3] = [Self::Grpc, Self::GrpcWeb, Self::Rest];

    /// Calls a method: by REST by each of its routes. Of a stream only the first answer
    /// is taken.
    pub async fn call(
        self,
        line: &Line,
        method: &MethodDescriptor,
        message: &DynamicMessage,
        token: Option<&str>,
    ) -> Vec<Outcome> {
        match self {
            Self::Grpc => vec![by_grpc(line, method, message, token).await],
            Self::GrpcWeb => vec![by_grpc_web(line, method, message, token).await],
            Self::Rest => by_rest(line, method, message, token).await,
        }
    }

    /// Calls a method given by name with a request given as JSON, and takes the answer of
    /// its first route.
    pub async fn ask(self, line: &Line, name: &str, fields: Json, token: Option<&str>) -> Outcome {
        let method = method(name);
        let message = request_of(&method, &fields);
        self.call(line, &method, &message, token).await.swap_remove(0)
    }

    /// The answer of a success as JSON in proto names. By REST it is the body, which for
    /// some methods is one field of the answer.
    pub fn answer(self, name: &str, outcome: &Outcome) -> Json {
        assert!(outcome.is_success(), "{name} by {self:?}: {outcome:?}");
        if self == Self::Rest {
            return serde_json::from_str(&outcome.told).expect("JSON");
        }
        let answer = DynamicMessage::decode(method(name).output(), &*outcome.message).expect("an answer");
        let options = SerializeOptions::new().use_proto_field_name(true);
        answer.serialize_with_options(serde_json::value::Serializer, &options).expect("JSON")
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

fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

async fn by_grpc(
    line: &Line,
    method: &MethodDescriptor,
    message: &DynamicMessage,
    token: Option<&str>,
) -> Outcome {
    let path = PathAndQuery::try_from(path(method)).expect("a path");
    let mut request = tonic::Request::new(tokio_stream::iter([message.encode_to_vec()]));
    request.metadata_mut().insert("x-request-id", REQUEST_ID.parse().expect("an id"));
    request.set_timeout(LONG);
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a token"));
    }
    let mut client = Grpc::new(line.channel.clone());
    client.ready().await.expect("a connection");
    let answer = async {
        let mut stream = client.streaming(request, path, Raw).await?.into_inner();
        stream.next().await.unwrap_or_else(|| Ok(Vec::new()))
    };
    Outcome::of(answer.await)
}

async fn by_grpc_web(
    line: &Line,
    method: &MethodDescriptor,
    message: &DynamicMessage,
    token: Option<&str>,
) -> Outcome {
    let bytes = message.encode_to_vec();
    let mut body = vec![0];
    body.put_u32(u32::try_from(bytes.len()).expect("a small message"));
    body.extend_from_slice(&bytes);
    let headers = [(header::CONTENT_TYPE, "application/grpc-web+proto"), (header::ACCEPT, "*/*")];
    let request = prepared(Method::POST, &path(method), &headers, token, body);
    let (head, mut body) = line.send(request).await.into_parts();
    if let Some(status) = Status::from_header_map(&head.headers).filter(|it| it.code() != Code::Ok) {
        return Outcome::of(Err(status));
    }
    // A message or the trailers, each a byte of flags and a length of four before it.
    let mut bytes = Vec::new();
    while bytes.len() < 5 || bytes.len() < 5 + length(&bytes) {
        let frame = tokio::time::timeout(LONG, body.frame()).await.expect("in time");
        let Some(frame) = frame else { break };
        bytes.extend_from_slice(&frame.expect("a body").into_data().unwrap_or_default());
    }
    let Some(first) = bytes.get(5..).filter(|it| !it.is_empty() || bytes[0] == 0) else {
        return Outcome::of(Ok(Vec::new()));
    };
    let first = &first[..length(&bytes)];
    Outcome::of(if bytes[0] & 0x80 == 0 {
        Ok(first.to_vec())
    } else {
        Status::from_header_map(&trailers(first))
            .filter(|it| it.code() != Code::Ok)
            .map_or(Ok(Vec::new()), Err)
    })
}

fn length(frame: &[u8]) -> usize {
    u32::from_be_bytes(frame[1..5].try_into().expect("four bytes")) as usize
}

/// The trailers of an answer by gRPC-Web, which are lines of text.
fn trailers(bytes: &[u8]) -> HeaderMap {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let line = |line: &str| {
        let (name, value) = line.split_once(':')?;
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, value.trim().parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

fn prepared(
    method: Method,
    target: &str,
    headers: &[(HeaderName, &str)],
    token: Option<&str>,
    body: impl Into<Bytes>,
) -> Request<Full<Bytes>> {
    let mut request = Request::builder()
        .method(method)
        .uri(target)
        .header(header::HOST, "localhost")
        .header("x-request-id", REQUEST_ID);
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    request.body(Full::new(body.into())).expect("a valid request")
}

async fn by_rest(
    line: &Line,
    method: &MethodDescriptor,
    message: &DynamicMessage,
    token: Option<&str>,
) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::ACCEPT, "application/x-ndjson")];
    for (verb, path, body) in routes(method, message) {
        let response = line.send(prepared(verb, &path, &headers, token, body)).await;
        let (head, mut body) = response.into_parts();
        // Of a stream the first piece is enough.
        let mut data = Vec::new();
        while let Some(frame) = tokio::time::timeout(LONG, body.frame()).await.expect("in time") {
            data.extend_from_slice(&frame.expect("a body").into_data().expect("data"));
            if method.is_server_streaming() {
                break;
            }
        }
        let told = String::from_utf8_lossy(&data).into_owned();
        let reason = serde_json::from_str::<Json>(&told)
            .map(|it| it["reason"].as_str().unwrap_or_default().to_owned());
        let (code, reason) = (head.status.as_u16(), reason.unwrap_or_default());
        outcomes.push(Outcome { code: i32::from(code), reason, told, message: Vec::new() });
    }
    outcomes
}

/// The requests that the REST routes of a method want: verb, target and body.
fn routes(method: &MethodDescriptor, message: &DynamicMessage) -> Vec<(Method, String, String)> {
    let option = method.parent_pool().get_extension_by_name("google.api.http").expect("the option");
    let rule = method.options().get_extension(&option).into_owned();
    let Value::Message(rule) = rule else { return Vec::new() };
    let more = rule.get_field_by_name("additional_bindings").expect("the field").into_owned();
    let more = more.as_list().expect("a list").to_vec();
    let rules = std::iter::once(rule).chain(more.into_iter().filter_map(|it| it.as_message().cloned()));
    let options = SerializeOptions::new().use_proto_field_name(true);
    let whole = message.serialize_with_options(serde_json::value::Serializer, &options).expect("JSON");
    rules.filter_map(|rule| route(&rule, whole.clone())).collect()
}

fn route(rule: &DynamicMessage, mut fields: Json) -> Option<(Method, String, String)> {
    let text = |field: &str| {
        rule.get_field_by_name(field).and_then(|it| it.as_str().map(str::to_owned)).unwrap_or_default()
    };
    let verbs = ["get", "post", "put", "patch", "delete"];
    let (verb, mut path) =
        verbs.map(|verb| (verb, text(verb))).into_iter().find(|(_, path)| !path.is_empty())?;
    while let Some((before, rest)) = path.clone().split_once('{') {
        let (name, after) = rest.split_once('}').expect("a variable ends");
        let mut at = &mut fields;
        let mut steps = name.split('.').peekable();
        let value = loop {
            let step = steps.next().expect("a name");
            let object = at.as_object_mut().expect("an object");
            if steps.peek().is_none() {
                break object.remove(step).unwrap_or_default();
            }
            at = object.get_mut(step).expect("a message");
        };
        path = format!("{before}{}{after}", value.as_str().unwrap_or("x"));
    }
    let body = match text("body").as_str() {
        "" => String::new(),
        "*" => fields.take().to_string(),
        field => fields.as_object_mut().expect("an object").remove(field).unwrap_or_default().to_string(),
    };
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    flatten("", &fields, &mut query);
    let query = query.finish();
    let path = if query.is_empty() { path } else { format!("{path}?{query}") };
    Some((verb.to_uppercase().parse().expect("a verb"), path, body))
}

fn flatten(name: &str, value: &Json, query: &mut url::form_urlencoded::Serializer<'_, String>) {
    match value {
        Json::Object(fields) => fields.iter().for_each(|(field, value)| {
            let dot = if name.is_empty() { "" } else { "." };
            flatten(&format!("{name}{dot}{field}"), value, query);
        }),
        Json::Array(items) => items.iter().for_each(|item| flatten(name, item, query)),
        Json::Null => {}
        Json::String(text) => drop(query.append_pair(name, text)),
        Json::Bool(_) | Json::Number(_) => drop(query.append_pair(name, &value.to_string())),
    }
}
