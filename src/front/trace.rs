//! What became of a request, for whoever asks with `--log-level debug`.
//!
//! Method, path, who asked, and how it ended: never a header, a query or a body, which
//! may hold secrets. While nobody asks, a request pays for one look at a flag.

use std::fmt;

use http::{HeaderMap, Request, Response, Version, header};
use tracing::{Span, debug, debug_span, field::Empty};

use crate::{
    clock::Clock,
    domain::{Micros, Timestamp},
    peer::Peer,
};

/// A request under way. Tells the log how it ended when it is dropped.
pub(super) struct Call {
    span: Span,
    clock: Clock,
    began: Timestamp,
    status: Option<u16>,
    grpc_status: Option<i32>,
    complete: bool,
}

impl Call {
    /// Begins to follow a request; nothing, while nobody listens.
    pub fn begin<B>(request: &Request<B>, clock: &Clock) -> Option<Self> {
        let span = debug_span!(
            "request",
            request_id = text(request.headers(), "x-request-id"),
            method = %request.method(),
            path = request.uri().path(),
            peer = Empty,
            protocol = protocol(request),
        );
        if span.is_disabled() {
            return None;
        }
        if let Some(peer) = request.extensions().get::<Peer>() {
            span.record("peer", tracing::field::display(peer.address));
        }
        let (clock, began) = (clock.clone(), clock.now());
        Some(Self { span, clock, began, status: None, grpc_status: None, complete: false })
    }

    /// What everything about the request is logged within.
    pub fn span(&self) -> Span {
        self.span.clone()
    }

    /// The head of the answer is there.
    pub fn answered<B>(&mut self, response: &Response<B>) {
        self.status = Some(response.status().as_u16());
        self.trailed(response.headers());
    }

    /// The end of a stream is there.
    pub fn trailed(&mut self, trailers: &HeaderMap) {
        let told = trailers.get("grpc-status").and_then(|value| value.to_str().ok());
        self.grpc_status = told.and_then(|value| value.parse().ok()).or(self.grpc_status);
    }

    /// Whether all of the answer has been handed over.
    pub fn over(&mut self, complete: bool) {
        self.complete |= complete;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Micros(duration_us) = self.clock.now().since(self.began);
        let ended = if self.complete { "answered" } else { "left before the end of the answer" };
        debug!(
            parent: &self.span,
            status = self.status,
            grpc_status = self.grpc_status,
            duration_us,
            "{ended}"
        );
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Call").field(&self.span.id()).finish()
    }
}

fn protocol<B>(request: &Request<B>) -> &'static str {
    let media_type = text(request.headers(), header::CONTENT_TYPE.as_str());
    if media_type.starts_with("application/grpc-web") {
        "grpc-web"
    } else if media_type.starts_with("application/grpc") {
        "grpc"
    } else if request.version() == Version::HTTP_2 {
        "http/2"
    } else {
        "http/1.1"
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
