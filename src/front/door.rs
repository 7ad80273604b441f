//! What every request passes, whatever it is for.
//!
//! One service with one future of its own: as layers, each of these would box and copy
//! every request once more.

use std::{
    any::Any,
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use http::{HeaderValue, Request, header};
use http_body::{Body as _, Frame, SizeHint};
use tonic::{Code, Status};
use tower::Service;
use tracing::{Instrument as _, Span};

use super::{app::grpc_type, request_id, trace::Call};
use crate::{clock::Clock, entropy::Entropy, grpc, rest::Problem};

/// What somebody is told whose request met a bug.
const BUG: &str = "the server met a bug; quote the request id";

/// Names each request to `app`, follows it, and answers it even if `app` panics.
pub fn door<S>(app: S, clock: Clock, entropy: Entropy) -> Door<S> {
    Door { app, clock, entropy }
}

/// Made by [`door`].
#[derive(Clone, Debug)]
pub struct Door<S> {
    app: S,
    clock: Clock,
    entropy: Entropy,
}

impl<S, B> Service<Request<B>> for Door<S>
where
    S: Service<Request<B>, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Watched>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.app.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let id = request_id::give(&mut request, &self.entropy);
        let mut call = Call::begin(&request, &self.clock);
        let span = call.as_ref().map_or_else(Span::none, Call::span);
        let grpc_type = grpc_type(request.headers());
        let begun = span.in_scope(|| catch_unwind(AssertUnwindSafe(|| self.app.call(request))));
        let answer = async move {
            let answered = match begun {
                Ok(answer) => AssertUnwindSafe(answer).catch_unwind().await,
                Err(panic) => Err(panic),
            };
            let mut response = match answered {
                Ok(Ok(response)) => response,
                Err(panic) => after(&*panic, &id, grpc_type),
            };
            response.headers_mut().insert(request_id::X_REQUEST_ID, id.clone());
            if let Some(call) = &mut call {
                call.answered(&response);
                call.over(response.body().is_end_stream());
            }
            Ok(response.map(|body| Watched { body, id, call }))
        };
        Box::pin(answer.instrument(span))
    }
}

/// The answer to a request that panicked, and a word to the log. Methods of services
/// have a guard of their own, so this is about all around them.
fn after(panic: &(dyn Any + Send), id: &HeaderValue, grpc_type: Option<HeaderValue>) -> Response {
    log(panic, id);
    match grpc_type {
        Some(media_type) => {
            let mut response = Status::internal(BUG).into_http::<Body>();
            response.headers_mut().insert(header::CONTENT_TYPE, media_type);
            response
        }
        None => Problem::new(Code::Internal, "", BUG).with_request_id(Some(id)).into_response(),
    }
}

fn log(panic: &(dyn Any + Send), id: &HeaderValue) {
    let request_id = id.to_str().unwrap_or_default();
    tracing::error!(request_id, panic = grpc::said(panic), "a request met a bug");
}

/// The body of an answer on its way out. One that panics breaks off, as a length or a
/// status may have been sent already.
#[derive(Debug)]
pub struct Watched {
    body: Body,
    id: HeaderValue,
    call: Option<Call>,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut self.body).poll_frame(context)));
        let polled = polled.unwrap_or_else(|panic| {
            log(&*panic, &self.id);
            self.body = Body::empty();
            Poll::Ready(Some(Err(axum::Error::new(BUG))))
        });
        let Self { body, call, .. } = &mut *self;
        if let Some(call) = call {
            if let Poll::Ready(Some(Ok(frame))) = &polled
                && let Some(trailers) = frame.trailers_ref()
            {
                call.trailed(trailers);
            }
            let broken = matches!(polled, Poll::Ready(Some(Err(_))));
            call.over(!broken && (matches!(polled, Poll::Ready(None)) || body.is_end_stream()));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
