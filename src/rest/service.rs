//! The REST edge as a whole.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::Request,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};
use prost_reflect::{DynamicMessage, MethodDescriptor};
use tonic::Status;

use super::{
    body::{Bodies, Whole},
    call,
    problem::Problem,
    render,
    request::{assemble, resume_after},
    route::{Error, Found, Route, Table},
    stream::{self, Framing},
};
use crate::grpc::Services;

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
        let Whole { bytes, room: _room } = self.0.bodies.read(&parts.headers, body).await?;
        let query = parts.uri.query().unwrap_or_default();
        let message = assemble(route, &variables, query, &bytes).map_err(Problem::invalid)?;
        drop(bytes);
        self.call(route, parts, message).await
    }

    async fn call(
        &self,
        route: &Route,
        parts: Parts,
        mut message: DynamicMessage,
    ) -> Result<Response, Problem> {
        let streams = route.rpc.is_server_streaming();
        let last_event_id = parts.headers.get("last-event-id").and_then(|id| id.to_str().ok());
        if let Some(id) = last_event_id.filter(|_| streams) {
            resume_after(&mut message, id);
        }
        let metadata = call::metadata(&parts.headers);
        let request = tonic::Request::from_parts(metadata, parts.extensions, message);
        let (mut response, answer_id) = if streams {
            let answer = call::server_streaming(self.0.grpc.clone(), &route.rpc, request).await;
            let answer = answer.map_err(|status| refused(&status))?;
            let answer_id = request_id(answer.metadata().as_ref());
            let shown = answer_id.clone().or_else(|| request_id(&parts.headers));
            let framing = Framing::asked_for(&parts.headers);
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
