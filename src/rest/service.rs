//! The REST edge as a whole.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::Request,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use http_body::Body as _;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use prost_reflect::{DynamicMessage, MethodDescriptor};
use tonic::Status;

use super::{
    call, hint,
    linger::lingering,
    media_type,
    message::{Messages, Source},
    problem::Problem,
    render,
    route::{Error, Found, Route, Table},
    stream::{self, Framing},
};
use crate::grpc::{Services, large_body::OwnerCell};

/// What a segment of a path does not escape.
const NON_ALPHANUMERIC_OR_MARK: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The methods of all routes together.
const ALL_METHODS: &str = "GET, HEAD, POST, PATCH, DELETE, OPTIONS";
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Serves every method that has a `google.api.http` rule. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rest(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    table: Table,
    grpc: Services,
    messages: Messages,
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
        let messages = Messages::new(grpc.room());
        Ok(Self(Arc::new(Inner { table: Table::new(descriptors)?, grpc, messages })))
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
        let body = lingering(parts.version, &parts.headers, body);
        let (method, path) = (&parts.method, parts.uri.path());
        let (route, variables) = match self.0.table.find(method, path) {
            Found::Route(route, variables) => (Arc::clone(route), variables),
            Found::OtherMethods(allow) if method == Method::OPTIONS => return Ok(options(&allow)),
            Found::OtherMethods(allow) => return Err(Problem::method_not_allowed(&allow)),
            Found::Nothing if method == Method::OPTIONS && path == "*" => return Ok(options(ALL_METHODS)),
            Found::Nothing => {
                let hint = hint::nearest(&self.0.table, method, path);
                return Err(Problem::no_route(path, hint.as_deref()));
            }
        };
        if let Some(problem) = (!body.is_end_stream()).then(|| media_type::refuse(&parts.headers)).flatten() {
            return Err(problem);
        }
        let variables = variables.into_iter().map(|(path, text)| (path.to_owned(), text)).collect();
        let made_at = (*method == Method::POST).then(|| path.to_owned());
        let mut response = self.call(Arc::clone(&route), variables, parts, body, made_at).await?;
        let headers = response.headers_mut();
        // Answers hold secrets and what only their caller may see.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }

    async fn call(
        &self,
        route: Arc<Route>,
        variables: Vec<(String, String)>,
        mut head: Parts,
        body: Body,
        made_at: Option<String>,
    ) -> Result<Response, Problem> {
        let rpc = &route.rpc;
        let metadata = call::metadata(&head.headers);
        let framing = Framing::asked_for(&head.headers);
        let id = request_id(&head.headers);
        let owner = OwnerCell::default();
        let mut extensions = std::mem::take(&mut head.extensions);
        extensions.insert(owner.clone());
        // Read only when the services ask for it, which is after they know who calls.
        let source = Source { route: Arc::clone(&route), variables, head, owner };
        let rest = Arc::clone(&self.0);
        let message = async move { rest.messages.make(source, body).await };
        let request = tonic::Request::from_parts(metadata, extensions, message);
        let (mut response, answer_id) = if rpc.is_server_streaming() {
            let answer = call::server_streaming(self.0.grpc.clone(), rpc, request).await;
            let answer = answer.map_err(|status| refused(&status))?;
            let answer_id = request_id(answer.metadata().as_ref());
            let shown = answer_id.clone().or(id);
            let body = route.response_body.clone();
            let response = stream::respond(answer.into_inner(), framing, body, shown).await;
            (response.map_err(|status| refused(&status))?, answer_id)
        } else {
            let answer = call::unary(self.0.grpc.clone(), rpc, request).await;
            let answer = answer.map_err(|status| refused(&status))?;
            let json = render::json(answer.get_ref(), route.response_body.as_ref());
            let mut response = Response::new(Body::from(json.map_err(|status| refused(&status))?));
            *response.status_mut() = success(rpc);
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            if rpc.name().starts_with("Create")
                && let Some(location) = made_at.and_then(|path| self.location(&path, answer.get_ref()))
            {
                headers.insert(header::LOCATION, location);
            }
            (response, request_id(answer.metadata().as_ref()))
        };
        if let Some(id) = answer_id {
            response.headers_mut().insert(X_REQUEST_ID, id);
        }
        Ok(response)
    }

    /// Where what was made can be read, if there is such a route.
    fn location(&self, path: &str, answer: &DynamicMessage) -> Option<HeaderValue> {
        let made = answer.fields().find_map(|(_, value)| value.as_message()?.get_field_by_name("id"));
        let id = percent_encode(made?.as_str()?.as_bytes(), NON_ALPHANUMERIC_OR_MARK).to_string();
        let location = format!("{path}/{id}");
        matches!(self.0.table.find(&Method::GET, &location), Found::Route(..))
            .then(|| HeaderValue::from_str(&location).ok())
            .flatten()
    }
}

/// An answer that tells which methods there are.
fn options(allow: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if let Ok(allow) = HeaderValue::from_str(allow) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
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
