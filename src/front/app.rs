//! Which part of the house a request is for.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::Request,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderValue, header};
use tonic::Status;
use tonic_web::GrpcWebLayer;

use crate::rest::{Error, Rest};

/// Everything on one router: the services of `grpc` by their paths, the routes of
/// `extra`, and REST for the rest.
///
/// Neither router may have a fallback, as only one can be merged: make `grpc` by
/// `Routes::from(Router::new()).add_service(…).into_axum_router()`, since
/// `Routes::default()` brings one. `descriptors` are those of the services in raw
/// form, see [`Rest::new`].
pub fn app(grpc: Router, extra: Router, descriptors: &[u8]) -> Result<Router, Error> {
    // Before the layer: REST calls are plain gRPC and need no translation.
    let rest = Arc::new(Rest::new(grpc.clone(), descriptors)?);
    // Only on the services: it refuses all HTTP/1 requests that are not gRPC-Web.
    let grpc = grpc.layer(GrpcWebLayer::new());
    Ok(grpc.merge(extra).fallback(move |request: Request| {
        let rest = rest.clone();
        async move {
            match grpc_type(request.headers()) {
                Some(media_type) => no_service(request.uri().path(), media_type),
                None => rest.handle(request).await,
            }
        }
    }))
}

/// The content type, if it is one of gRPC's.
fn grpc_type(headers: &HeaderMap) -> Option<HeaderValue> {
    let media_type = headers.get(header::CONTENT_TYPE)?;
    media_type.as_bytes().starts_with(b"application/grpc").then(|| media_type.clone())
}

/// What a gRPC client understands, where a plain 404 would be UNKNOWN to it.
fn no_service(path: &str, media_type: HeaderValue) -> Response {
    let status = Status::unimplemented(format!("there is no service at {path}"));
    let mut response = status.into_http::<Body>().into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    response
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use http::{StatusCode, Version};
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;
    use crate::{entropy::Entropy, front::with_request_ids, grpc::pb, rest::fake::Fake};

    fn extra() -> Router {
        Router::new().route("/health", get(|| async { "ok" }))
    }

    async fn send(request: http::request::Builder, body: &'static [u8]) -> Response {
        let app = app(Fake::default().router(), extra(), pb::DESCRIPTORS).unwrap();
        app.oneshot(request.body(Body::from(body)).unwrap()).await.unwrap()
    }

    async fn text(response: Response) -> Vec<u8> {
        response.into_body().collect().await.unwrap().to_bytes().to_vec()
    }

    #[tokio::test]
    async fn extra_routes_and_rest_stand_side_by_side() {
        let response = send(Request::get("/health"), b"").await;
        assert_eq!(text(response).await, b"ok");

        let response = send(Request::get("/v1/operations/op_1"), b"").await;
        assert_eq!(response.status(), StatusCode::OK);

        let response = send(Request::get("/nowhere"), b"").await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    }

    #[tokio::test]
    async fn request_ids_are_given_on_every_way_in() {
        let app = app(Fake::default().router(), extra(), pb::DESCRIPTORS).unwrap();
        let app = with_request_ids(app, Entropy::seeded(1));
        let problem = Request::get("/v1/endpoints/missing").body(Body::empty()).unwrap();
        let response = app.clone().oneshot(problem).await.unwrap();
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        let body = String::from_utf8(text(response).await).unwrap();
        assert!(body.contains(&format!("\"request_id\":\"{id}\"")), "{body}");

        let grpc = Request::post("/other.v1.Service/Method").header(header::CONTENT_TYPE, "application/grpc");
        for request in [grpc, Request::get("/health")] {
            let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
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
