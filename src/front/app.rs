//! Which part of the house a request is for.

use std::{
    convert::Infallible,
    fmt::Display,
    task::{Context, Poll},
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::future::{BoxFuture, ready};
use http::{HeaderValue, Method, StatusCode, header};
use http_body::Body as HttpBody;
use tonic_web::GrpcWebLayer;
use tower::{BoxError, Layer as _, Service};

use super::{grpc_type, plain};
use crate::{
    grpc::Services,
    rest::{Error, Problem, Rest},
};

/// Everything as one service: the services of `grpc` by their paths, the routes of
/// `extra`, and REST for the rest.
///
/// `extra` may not have a fallback. `descriptors` are those of the services in raw
/// form, see [`Rest::new`].
pub fn app(grpc: Services, extra: Router, descriptors: &[u8]) -> Result<App, Error> {
    let rest = Rest::new(grpc.clone(), descriptors)?;
    let unknown = grpc.clone();
    let others = extra.method_not_allowed_fallback(other_method).fallback(move |request: Request| {
        let (rest, unknown) = (rest.clone(), unknown.clone());
        async move {
            match grpc_type::of(request.headers()) {
                Some(media_type) => no_service(unknown, request, media_type).await,
                None => rest.handle(request).await,
            }
        }
    });
    Ok(App { grpc, others })
}

/// Made by [`app`].
#[derive(Clone, Debug)]
pub struct App {
    grpc: Services,
    others: Router,
}

impl<B> Service<Request<B>> for App
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + Display,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if let Some(uri) = plain::uri(request.uri()) {
            *request.uri_mut() = uri;
        }
        if self.grpc.serve(request.uri().path()) {
            if let Some(problem) = grpc_type::refuse(&request) {
                return Box::pin(ready(Ok(problem.into_response())));
            }
            // Only for the services: it refuses all HTTP/1 requests that are not gRPC-Web.
            let answer = GrpcWebLayer::new().layer(self.grpc.clone()).call(request);
            Box::pin(async { Ok(answer.await?.map(Body::new)) })
        } else {
            Box::pin(self.others.call(request.map(Body::new)))
        }
    }
}

/// What a path of `extra` is answered with for a method that it does not take. The router
/// adds the header `allow`.
async fn other_method(request: Request) -> Response {
    match request.method() {
        &Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        _ => Problem::method_not_allowed("").into_response(),
    }
}

/// What a gRPC client understands, where a plain 404 would be UNKNOWN to it.
async fn no_service(mut grpc: Services, request: Request, media_type: HeaderValue) -> Response {
    let Ok(response) = grpc.call(request.map(tonic::body::Body::new)).await;
    let mut response = response.map(Body::new);
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    response
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use http::Version;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;
    use crate::{clock::Clock, entropy::Entropy, front::door, grpc::pb, rest::fake::Fake};

    fn extra() -> Router {
        Router::new().route("/health", get(|| async { "ok" }))
    }

    async fn send(request: http::request::Builder, body: &'static [u8]) -> Response {
        let app = app(Fake::default().services(), extra(), pb::DESCRIPTORS).unwrap();
        app.oneshot(request.body(Body::from(body)).unwrap()).await.unwrap()
    }

    async fn text<B>(response: Response<B>) -> Vec<u8>
    where
        B: HttpBody<Error: std::fmt::Debug>,
    {
        response.into_body().collect().await.unwrap().to_bytes().to_vec()
    }

    #[tokio::test]
    async fn extra_routes_and_rest_stand_side_by_side() {
        let response = send(Request::get("/health"), b"").await;
        assert_eq!(text(response).await, b"ok");

        let response = send(Request::get("/v1/operations/op_1"), b"").await;
        assert_eq!(response.status(), StatusCode::OK);

        let response = send(Request::get("/%68ealth"), b"").await;
        assert_eq!(text(response).await, b"ok", "an escape of a letter is that letter");

        let response = send(Request::post("/health"), b"").await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()[header::ALLOW], "GET,HEAD");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");

        let response = send(Request::get("/nowhere"), b"").await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    }

    #[tokio::test]
    async fn request_ids_are_given_on_every_way_in() {
        let app = app(Fake::default().services(), extra(), pb::DESCRIPTORS).unwrap();
        let app = door(app, Clock::system(), Entropy::seeded(1));
        let problem =
            Request::get("/v1/endpoints/missing").header("host", "localhost").body(Body::empty()).unwrap();
        let response = app.clone().oneshot(problem).await.unwrap();
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        let body = String::from_utf8(text(response).await).unwrap();
        assert!(body.contains(&format!("\"request_id\":\"{id}\"")), "{body}");

        let grpc = Request::post("/other.v1.Service/Method").header(header::CONTENT_TYPE, "application/grpc");
        for request in [grpc, Request::get("/health")] {
            let request = request.header("host", "localhost").body(Body::empty()).unwrap();
            let response = app.clone().oneshot(request).await.unwrap();
            assert!(response.headers().contains_key("x-request-id"));
        }
    }

    #[tokio::test]
    async fn grpc_to_unknown_services_is_unimplemented() {
        for media_type in ["application/grpc", "application/grpc+proto", "application/grpc-web+proto"] {
            let request = Request::post("/other.v1.Service/Method").header(header::CONTENT_TYPE, media_type);
            let response = send(request.version(Version::HTTP_2), b"").await;
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()["grpc-status"], "12");
            assert_eq!(response.headers()[header::CONTENT_TYPE], media_type);
        }
    }

    #[tokio::test]
    async fn a_grpc_method_refuses_other_media_types_in_words() {
        let path = "/hookwire.v1.OperationService/GetOperation";
        let cases = [
            (None, Version::HTTP_2, "none"),
            (Some("application/json"), Version::HTTP_2, "application/json"),
            (Some("text/plain"), Version::HTTP_11, "text/plain"),
            (Some("application/grpc"), Version::HTTP_11, "HTTP/2"),
            (Some("application/grpc-web+json"), Version::HTTP_11, "application/grpc-web+json"),
            (Some("application/proto"), Version::HTTP_2, "Connect"),
            (Some("application/connect+json"), Version::HTTP_11, "Connect"),
        ];
        for (media_type, version, told) in cases {
            let mut request = Request::post(path).version(version);
            if let Some(media_type) = media_type {
                request = request.header(header::CONTENT_TYPE, media_type);
            }
            let response = send(request, b"{}").await;
            assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{media_type:?}");
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
            assert!(response.headers()["accept-post"].to_str().unwrap().starts_with("application/grpc,"));
            let body = String::from_utf8(text(response).await).unwrap();
            assert!(body.contains(told), "{media_type:?}: {body}");
        }
    }

    #[tokio::test]
    async fn grpc_web_over_http_1_reaches_the_services() {
        let request = Request::post("/hookwire.v1.OperationService/GetOperation")
            .header(header::CONTENT_TYPE, "application/grpc-web+proto");
        // One uncompressed message of six bytes: field 1, "op_1".
        let response = send(request, b"\0\0\0\0\x06\x0a\x04op_1").await;
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/grpc-web+proto");
        let body = text(response).await;
        let trailer = b"grpc-status:0";
        assert!(body.windows(trailer.len()).any(|window| window == trailer), "{body:?}");
    }
}
