//! A REST request as a whole: method, path, query and body into one message.
#![no_main]

use std::{
    cell::RefCell,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use axum::body::Body;
use bytes::Bytes;
use hookwire::{
    grpc::{Services, pb},
    rest::Rest,
};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use tokio::runtime::Runtime;

/// The call that a request became: its path and its body.
type Called = Arc<Mutex<Option<(String, Bytes)>>>;

struct Rig {
    runtime: Runtime,
    rest: Rest,
    pool: DescriptorPool,
    called: Called,
}

thread_local! {
    static RIG: RefCell<Rig> = RefCell::new(rig());
}

fn rig() -> Rig {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let called = Called::default();
    let note = Arc::clone(&called);
    // Every method: asks for the message, as all do, notes the call and implements nothing.
    let service = tower::service_fn(move |request: Request<tonic::body::Body>| {
        let note = Arc::clone(&note);
        let answer: std::pin::Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move {
            let path = request.uri().path().to_owned();
            let status = match request.into_body().collect().await {
                Ok(body) => {
                    let called = Some((path, body.to_bytes()));
                    *note.lock().unwrap_or_else(PoisonError::into_inner) = called;
                    tonic::Status::unimplemented("")
                }
                Err(status) => status,
            };
            Ok::<Response<tonic::body::Body>, Infallible>(status.into_http())
        });
        answer
    });
    let services = Services::default().with_path("/".to_owned(), service);
    Rig {
        runtime: runtime.expect("a runtime"),
        rest: Rest::new(services, pb::DESCRIPTORS).expect("routes"),
        pool: DescriptorPool::decode(pb::DESCRIPTORS).expect("descriptors"),
        called,
    }
}

// A line with method and path, and a body below it.
fuzz_target!(init: RIG.with(|_| ()), |data: &[u8]| {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let Ok(line) = std::str::from_utf8(&data[..end]) else { return };
    let Some((method, uri)) = line.split_once(' ') else { return };
    let (Ok(method), Ok(uri)) = (method.parse::<Method>(), uri.parse::<Uri>()) else { return };
    let body = Bytes::copy_from_slice(data.get(end + 1..).unwrap_or_default());
    RIG.with_borrow(|rig| rig.run(method, uri, body));
});

impl Rig {
    fn run(&self, method: Method, uri: Uri, body: Bytes) {
        let is_options = method == Method::OPTIONS;
        let mut request = Request::new(Body::from(body));
        let json = http::HeaderValue::from_static("application/json");
        request.headers_mut().insert(http::header::CONTENT_TYPE, json);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        let (status, answer) = self.runtime.block_on(async {
            let response = self.rest.handle(request).await;
            let status = response.status();
            (status, response.into_body().collect().await.expect("an answer").to_bytes())
        });
        if status == StatusCode::NO_CONTENT {
            assert!(is_options && answer.is_empty());
            return;
        }
        let problem: serde_json::Value = serde_json::from_slice(&answer).expect("a problem is JSON");
        assert_eq!(problem["status"], status.as_u16());
        match self.called.lock().unwrap_or_else(PoisonError::into_inner).take() {
            None => {
                let refused =
                    [StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED];
                assert!(refused.contains(&status), "{status}: {problem}");
                let errors = problem["errors"].as_array();
                assert_eq!(errors.is_some_and(|it| !it.is_empty()), status == StatusCode::BAD_REQUEST);
            }
            Some((path, framed)) => {
                assert_eq!(status, StatusCode::NOT_IMPLEMENTED, "{problem}");
                self.check_message(&path, framed);
            }
        }
    }

    /// What was made of a request is a message of its method, and can be written as JSON and
    /// read again.
    fn check_message(&self, path: &str, framed: Bytes) {
        let (service, method) = path[1..].split_once('/').expect("a path of gRPC");
        let service = self.pool.get_service_by_name(service).expect("a service");
        let method = service.methods().find(|it| it.name() == method).expect("a method");
        let bytes = framed.slice(5..);
        let message = DynamicMessage::decode(method.input(), bytes).expect("a message of the method");
        let options = SerializeOptions::new().use_proto_field_name(true);
        let mut text = Vec::new();
        let mut json = serde_json::Serializer::new(&mut text);
        message.serialize_with_options(&mut json, &options).expect("a message can be written");
        let mut json = serde_json::Deserializer::from_slice(&text);
        let again = DynamicMessage::deserialize(method.input(), &mut json);
        let again = again.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&text)));
        // Maps have no order in bytes, and what was sent may state what holds anyway.
        assert_eq!(again.encoded_len(), message.encoded_len(), "{}", String::from_utf8_lossy(&text));
    }
}
