//! A name for every request: `x-request-id`.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use axum::response::Response;
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, Request};
use tower::Service;

use crate::entropy::Entropy;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id taken from a client: room for every usual scheme, short enough to log.
const LENGTH_MAX: usize = 128;

/// Sees to it that every request to `app` has an `x-request-id`, the client's own or
/// a new one of 16 hex digits, and that every response repeats it.
pub fn with_request_ids<S>(app: S, entropy: Entropy) -> WithRequestIds<S> {
    WithRequestIds { app, entropy }
}

/// Made by [`with_request_ids`]. A service of its own, as all that every request
/// passes: a layer of axum's would box and copy each request several times.
#[derive(Clone, Debug)]
pub struct WithRequestIds<S> {
    app: S,
    entropy: Entropy,
}

impl<S, B> Service<Request<B>> for WithRequestIds<S>
where
    S: Service<Request<B>, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.app.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let given = request.headers().get(X_REQUEST_ID).filter(|id| is_fit(id)).cloned();
        let id = given.unwrap_or_else(|| fresh(&self.entropy));
        request.headers_mut().insert(X_REQUEST_ID, id.clone());
        let answer = self.app.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            response.headers_mut().insert(X_REQUEST_ID, id);
            Ok(response)
        })
    }
}

/// Visible ASCII only, so that it can be logged and sent on as it is.
fn is_fit(id: &HeaderValue) -> bool {
    (1..=LENGTH_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
}

fn fresh(entropy: &Entropy) -> HeaderValue {
    let digits = hex::encode(entropy.bytes::<8>());
    HeaderValue::from_str(&digits).unwrap_or_else(|_| HeaderValue::from_static("0000000000000000"))
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, http::HeaderMap, routing::get};
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    async fn name(given: Option<&str>) -> String {
        let seen = |headers: HeaderMap| async move { headers[X_REQUEST_ID].to_str().unwrap().to_owned() };
        let app = with_request_ids(Router::new().route("/", get(seen)), Entropy::seeded(1));
        let mut request = Request::get("/");
        if let Some(id) = given {
            request = request.header(X_REQUEST_ID, id);
        }
        let response = app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let answered = response.headers()[X_REQUEST_ID].to_str().unwrap().to_owned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, answered, "the handler and the client see the same id");
        answered
    }

    #[tokio::test]
    async fn a_fit_id_is_kept() {
        assert_eq!(name(Some("abc-123")).await, "abc-123");
        let longest = "x".repeat(LENGTH_MAX);
        assert_eq!(name(Some(&longest)).await, longest);
    }

    #[tokio::test]
    async fn another_is_replaced_by_sixteen_hex_digits() {
        let too_long = "x".repeat(LENGTH_MAX + 1);
        for given in [None, Some(""), Some("two words"), Some("tab\there"), Some(too_long.as_str())] {
            let id = name(given).await;
            assert_eq!(id.len(), 16);
            assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        }
    }
}
