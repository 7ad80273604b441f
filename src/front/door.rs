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
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Either},
};
use http::{HeaderValue, Request, header};
use http_body::{Body as _, Frame, SizeHint};
use tonic::{Code, Status};
use tower::Service;
use tracing::{Instrument as _, Span};

use super::{grpc_type, head, request_id, trace::Call};
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
        let grpc_type = grpc_type::of(request.headers());
        let begun = head::fault(&request).map_or_else(
            || span.in_scope(|| catch_unwind(AssertUnwindSafe(|| self.app.call(request)))).map(Either::Left),
            |fault| Ok(Either::Right(fault.with_request_id(Some(&id)))),
        );
        let answer = async move {
            let answered = match begun {
                Ok(Either::Left(answer)) => AssertUnwindSafe(answer).catch_unwind().await,
                Ok(Either::Right(fault)) => Ok(Ok(fault.into_response())),
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

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        io,
        sync::{Arc, Mutex, Once},
    };

    use axum::{Router, routing::get};
    use futures_util::{StreamExt as _, stream};
    use http::StatusCode;
    use http_body_util::BodyExt as _;
    use serde_json::Value;
    use tower::ServiceExt as _;
    use tracing::Level;
    use tracing_subscriber::{
        filter::dynamic_filter_fn, layer::SubscriberExt as _, util::SubscriberInitExt as _,
    };

    use super::*;
    use crate::peer::Peer;

    /// Panics at `/bug`, and at `/stream` once it has sent something.
    fn buggy() -> Door<Router> {
        async fn bug() -> StatusCode {
            panic!("what was wrong")
        }
        let pieces = || {
            let first = stream::iter([Ok::<_, io::Error>("first")]);
            Body::from_stream(first.chain(stream::once(async { panic!("what was wrong") })))
        };
        let app = Router::new()
            .route("/bug", get(bug).post(bug))
            .route("/stream", get(async move || pieces()))
            .route("/", get(async || "fine"));
        door(app, Clock::system(), Entropy::seeded(1))
    }

    async fn send(request: http::request::Builder) -> http::Response<Watched> {
        buggy().oneshot(request.header("host", "localhost").body(Body::empty()).unwrap()).await.unwrap()
    }

    /// What is logged while this is.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    thread_local! {
        /// What the test of this thread listens to.
        static HEARD: RefCell<Option<(Level, Log)>> = const { RefCell::new(None) };
    }

    /// Ends the listening.
    struct Listening;

    impl Drop for Listening {
        fn drop(&mut self) {
            HEARD.set(None);
        }
    }

    impl Log {
        /// Keeps what is said on this thread. There is one subscriber for all tests: of
        /// several that come and go at once, each could have a place in the code
        /// remembered as of interest to nobody, for all of them.
        fn listen(&self, level: Level) -> Listening {
            static ONCE: Once = Once::new();
            ONCE.call_once(|| {
                let wanted =
                    |level: &Level| HEARD.with_borrow(|it| it.as_ref().is_some_and(|it| *level <= it.0));
                let filter = dynamic_filter_fn(move |metadata, _| wanted(metadata.level()));
                let writer =
                    || HEARD.with_borrow(|it| it.as_ref().map(|it| it.1.clone()).unwrap_or_default());
                let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(writer);
                tracing_subscriber::registry().with(lines).with(filter).init();
            });
            HEARD.set(Some((level, self.clone())));
            Listening
        }

        /// What the house said, of the given level.
        fn of(&self, level: &str) -> Vec<Value> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            lines
                .filter(|line| line["level"] == level)
                .filter(|line| line["target"].as_str().unwrap().starts_with("hookwire"))
                .collect()
        }
    }

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_bug_is_answered_with_the_request_s_id_and_told_to_the_log() {
        let log = Log::default();
        let _listening = log.listen(Level::INFO);
        let response = send(Request::get("/bug").header("x-request-id", "r-1")).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()["x-request-id"], "r-1");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let problem: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&problem["code"], &problem["request_id"]), (&"INTERNAL".into(), &"r-1".into()));
        assert!(!problem.to_string().contains("what was wrong"));
        let logged = log.of("ERROR");
        assert_eq!(
            (&logged[0]["panic"], &logged[0]["request_id"]),
            (&"what was wrong".into(), &"r-1".into())
        );
    }

    #[tokio::test]
    async fn a_bug_is_internal_to_a_grpc_client() {
        let response = send(Request::post("/bug").header("content-type", "application/grpc")).await;
        assert_eq!(
            (response.status(), &response.headers()["grpc-status"]),
            (StatusCode::OK, &"13".parse().unwrap())
        );
        assert_eq!(response.headers()["content-type"], "application/grpc");
    }

    #[tokio::test]
    async fn a_body_with_a_bug_breaks_off() {
        let mut body = send(Request::get("/stream")).await.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
        body.frame().await.unwrap().unwrap_err();
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn debug_tells_of_each_request_and_nothing_of_what_it_carried() {
        let log = Log::default();
        let _listening = log.listen(Level::DEBUG);
        let peer = Peer { address: "192.0.2.1:5".parse().unwrap(), certificate: None, proxied: false };
        let request = || {
            let request = Request::get("/?token=secret").header("authorization", "secret");
            request.header("x-request-id", "r-1").extension(peer)
        };
        send(request()).await.into_body().collect().await.unwrap();
        drop(send(request().uri("/stream?token=secret")).await);
        drop(buggy().call(request().header("host", "localhost").body(Body::empty()).unwrap()));

        let lines = log.of("DEBUG");
        let [whole, left, never] = &lines[..] else { panic!("three requests: {lines:#?}") };
        assert_eq!((&whole["status"], &whole["message"]), (&200.into(), &"answered".into()));
        let span = &whole["span"];
        assert_eq!((&span["method"], &span["path"]), (&"GET".into(), &"/".into()));
        assert_eq!((&span["peer"], &span["request_id"]), (&"192.0.2.1:5".into(), &"r-1".into()));
        assert_eq!(span["protocol"], "http/1.1");
        assert!(whole["duration_us"].is_i64(), "{whole}");
        assert_eq!(left["message"], "left before the end of the answer");
        assert_eq!((never["status"].is_null(), &never["message"]), (true, &left["message"]));
        assert!(lines.iter().all(|line| !line.to_string().contains("secret")));
    }

    #[tokio::test]
    async fn nobody_is_followed_while_nobody_listens() {
        let log = Log::default();
        let _listening = log.listen(Level::INFO);
        let body = send(Request::get("/")).await.into_body();
        assert!(body.call.is_none());
        assert!(log.of("DEBUG").is_empty());
    }
}
