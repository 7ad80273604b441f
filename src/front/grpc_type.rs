//! The media types of gRPC and gRPC-Web.

use http::{HeaderMap, HeaderValue, Method, Request, Version, header};

use crate::rest::Problem;

/// What a gRPC method takes.
const ACCEPT: &str = "application/grpc, application/grpc+proto, application/grpc-web, application/grpc-web+proto, \
     application/grpc-web-text, application/grpc-web-text+proto";
/// What is said to a client of the Connect protocol.
const CONNECT: &str = "the Connect protocol is not spoken here: use gRPC, gRPC-Web or the REST routes";

/// The content type, if it is one of gRPC's.
pub(super) fn of(headers: &HeaderMap) -> Option<HeaderValue> {
    let media_type = headers.get(header::CONTENT_TYPE)?;
    media_type.as_bytes().starts_with(b"application/grpc").then(|| media_type.clone())
}

/// Why a call of a gRPC method cannot be understood by its media type, if it cannot.
pub(super) fn refuse<B>(request: &Request<B>) -> Option<Problem> {
    if request.method() != Method::POST {
        return None;
    }
    let headers = request.headers();
    let given = headers.get(header::CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let essence = given.as_deref().unwrap_or_default().split(';').next().unwrap_or_default();
    let essence = essence.trim().to_ascii_lowercase();
    let detail = match &*essence {
        "application/grpc-web"
        | "application/grpc-web+proto"
        | "application/grpc-web-text"
        | "application/grpc-web-text+proto" => return None,
        "application/grpc" | "application/grpc+proto" if request.version() == Version::HTTP_2 => return None,
        "application/grpc" | "application/grpc+proto" => {
            "gRPC needs HTTP/2: use it, or gRPC-Web over HTTP/1.1, or the REST routes".to_owned()
        }
        "application/proto" => CONNECT.to_owned(),
        other if other.starts_with("application/connect+") => CONNECT.to_owned(),
        _ if headers.contains_key("connect-protocol-version") => CONNECT.to_owned(),
        _ => {
            let shown = given.as_deref().filter(|text| !text.is_empty()).unwrap_or("none");
            format!("a gRPC method takes the media types of gRPC and gRPC-Web, and this one is {shown}")
        }
    };
    Some(Problem::unsupported_media_type(detail, ACCEPT))
}
