//! The REST edge as a whole.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::Request,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};
use prost_reflect::MethodDescriptor;
use tonic::Status;

use super::{
    body::{BODY_BYTES_MAX, Bodies, Whole},
    call,
    problem::Problem,
    render,
    request::{assemble, resume_after},
    route::{Error, Found, Route, Table},
    stream::{self, Framing},
    transcode::Refusal,
};
use crate::grpc::{EVENTS_BYTES_MAX, OTHER_BYTES_MAX, Services, weight::is_too_heavy};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Serves every method that has a `google.api.http` rule. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rest(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    table: Table,
    grpc: Services,
    bodies: Bodies,
}

/// A router that serves REST on every path: made to be another router's fallback.
pub fn router(grpc: Services, descriptors: &[u8]) -> Result<Router, Error> {
    let rest = Rest::new(grpc, descriptors)?;
    Ok(Router::new().fallback(move |request: Request| {
        let rest = rest.clone();
        async move { rest.handle(request).await }
    }))
}

impl Rest {
    /// Reads the routes from `descriptors`, a `FileDescriptorSet` with its options
    /// in raw form; calls go to `grpc`.
    pub fn new(grpc: Services, descriptors: &[u8]) -> Result<Self, Error> {
        Ok(Self(Arc::new(Inner { table: Table::new(descriptors)?, grpc, bodies: Bodies::default() })))
    }

    /// Answers one request. Dropping the future or the response's body cancels the
    /// call.
    pub async fn handle(&self, request: Request) -> Response {
        let request_id = request.headers().get(X_REQUEST_ID).cloned();
        match self.route(request).await {
            Ok(response) => response,
            Err(problem) => problem.with_request_id(request_id.as_ref()).into_response(),
        }
    }

    async fn route(&self, request: Request) -> Result<Response, Problem> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        let (route, variables) = match self.0.table.find(&parts.method, path) {
            Found::Route(route, variables) => (route, variables),
            Found::OtherMethods(allow) => return Err(Problem::method_not_allowed(&allow)),
            Found::Nothing => return Err(Problem::no_route(path)),
        };
        let variables = variables.into_iter().map(|(path, text)| (path.to_owned(), text)).collect();
        self.call(Arc::clone(route), variables, parts, body).await
    }

    async fn call(
        &self,
        route: Arc<Route>,
        variables: Vec<(String, String)>,
        mut parts: Parts,
        body: Body,
    ) -> Result<Response, Problem> {
        let streams = route.rpc.is_server_streaming();
        let metadata = call::metadata(&parts.headers);
        let extensions = std::mem::take(&mut parts.extensions);
        let framing = Framing::asked_for(&parts.headers);
        let id = request_id(&parts.headers);
        // Read only when the services ask for it, which is after they know who calls.
        let message = {
            let (rest, route) = (self.clone(), Arc::clone(&route));
            async move {
                let message = rest.message(&route, &variables, &parts, body).await;
                message.map_err(Problem::into_status)
            }
        };
        let request = tonic::Request::from_parts(metadata, extensions, message);
        let (mut response, answer_id) = if streams {
            let answer = call::server_streaming(self.0.grpc.clone(), &route.rpc, request).await;
            let answer = answer.map_err(|status| refused(&status))?;
            let answer_id = request_id(answer.metadata().as_ref());
            let shown = answer_id.clone().or(id);
            let body = route.response_body.clone();
            let response = stream::respond(answer.into_inner(), framing, body, shown).await;
            (response.map_err(|status| refused(&status))?, answer_id)
        } else {
            let answer = call::unary(self.0.grpc.clone(), &route.rpc, request).await;
            let answer = answer.map_err(|status| refused(&status))?;
            let json = render::json(answer.get_ref(), route.response_body.as_ref());
            let mut response = Response::new(Body::from(json.map_err(|status| refused(&status))?));
            *response.status_mut() = success(&route.rpc);
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            (response, request_id(answer.metadata().as_ref()))
        };
        if let Some(id) = answer_id {
            response.headers_mut().insert(X_REQUEST_ID, id);
        }
        Ok(response)
    }

    /// Reads the body of a request and makes its message, in wire form.
    async fn message(
        &self,
        route: &Route,
        variables: &[(String, String)],
        head: &Parts,
        body: Body,
    ) -> Result<Bytes, Problem> {
        let (body_max, wire_max) = match route.publishes {
            true => (BODY_BYTES_MAX, EVENTS_BYTES_MAX),
            false => (OTHER_BYTES_MAX, OTHER_BYTES_MAX),
        };
        let Whole { bytes, room: _room } = self.0.bodies.read(&head.headers, body, body_max).await?;
        let query = head.uri.query().unwrap_or_default();
        let message = route.rpc.input();
        let mut wire = match assemble(route, variables, query, wire_max, &bytes) {
            Ok(wire) => wire,
            Err(Refusal::Invalid(violations)) => return Err(Problem::invalid(violations)),
            Err(Refusal::TooLarge) => return Err(Problem::message_too_large(wire_max as u64)),
        };
        if is_too_heavy(&message, wire.bytes.as_slice()) {
            return Err(Problem::too_heavy());
        }
        if route.rpc.is_server_streaming() {
            let last_event_id = head.headers.get("last-event-id").and_then(|id| id.to_str().ok());
            resume_after(&message, &mut wire, last_event_id.unwrap_or_default());
        }
        Ok(wire.bytes.into())
    }
}

/// The status of success: what was made, what was only taken on, and the rest.
fn success(rpc: &MethodDescriptor) -> StatusCode {
    match rpc.name() {
        "PublishEvent" | "BatchPublishEvents" => StatusCode::ACCEPTED,
        name if name.starts_with("Create") => StatusCode::CREATED,
        _ => StatusCode::OK,
    }
}

/// A failed call, with the request's id if the service sent it only as metadata.
fn refused(status: &Status) -> Problem {
    Problem::from_status(status).with_request_id(request_id(status.metadata().as_ref()).as_ref())
}

fn request_id(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(X_REQUEST_ID).cloned()
}
