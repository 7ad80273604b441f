//! Calls the gRPC services in this process, with messages known only by descriptor.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header};
use http_body::Frame;
use http_body_util::StreamBody;
use prost_reflect::{DynamicMessage, MessageDescriptor, MethodDescriptor};
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    codec::{DecodeBuf, Decoder},
    metadata::{KeyAndValueRef, MetadataMap},
};
use tower::Service as _;

use crate::grpc::Services;

/// Headers that are about this hop or this body. Everything else is for the
/// service: credentials, `idempotency-key`, `traceparent`, `grpc-timeout`.
const NOT_METADATA: [HeaderName; 13] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::CONNECTION,
    header::EXPECT,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("last-event-id"),
];

/// Calls a method that answers once. The services ask for `message` only after they have
/// let the caller in; an error of it ends the call.
pub(super) async fn unary(
    grpc: Services,
    rpc: &MethodDescriptor,
    request: Request<impl Future<Output = Result<Bytes, Status>> + Send + 'static>,
) -> Result<Response<DynamicMessage>, Status> {
    let (mut metadata, mut answers, extensions) = server_streaming(grpc, rpc, request).await?.into_parts();
    let answer = answers.message().await?;
    let answer = answer.ok_or_else(|| Status::internal("a call ended without its answer"))?;
    if let Some(trailers) = answers.trailers().await? {
        for entry in trailers.iter() {
            if let KeyAndValueRef::Ascii(key, value) = entry {
                metadata.insert(key, value.clone());
            }
        }
    }
    Ok(Response::from_parts(metadata, answer, extensions))
}

/// Calls a method that answers with a stream, as [`unary`] does. Dropping the stream
/// cancels the call.
pub(super) async fn server_streaming(
    mut grpc: Services,
    rpc: &MethodDescriptor,
    request: Request<impl Future<Output = Result<Bytes, Status>> + Send + 'static>,
) -> Result<Response<Streaming<DynamicMessage>>, Status> {
    let (metadata, extensions, message) = request.into_parts();
    let mut call = http::Request::new(body(message));
    *call.method_mut() = Method::POST;
    *call.version_mut() = Version::HTTP_2;
    *call.uri_mut() = path(rpc)?;
    *call.headers_mut() = metadata.into_headers();
    call.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    *call.extensions_mut() = extensions;
    let Ok(answer) = grpc.call(call).await;
    let (head, body) = answer.into_parts();
    if let Some(status) = Status::from_header_map(&head.headers).filter(|it| it.code() != Code::Ok) {
        return Err(status);
    }
    // The services bound their own answers, so no limit is set here.
    let answers =
        Streaming::new_response(DynDecoder(rpc.output()), body, head.status, None, Some(usize::MAX));
    Ok(Response::from_parts(MetadataMap::from_headers(head.headers), answers, head.extensions))
}

/// The body of a gRPC request: one message, once it is there.
fn body(message: impl Future<Output = Result<Bytes, Status>> + Send + 'static) -> Body {
    let frames = stream::once(message).flat_map(|message| {
        stream::iter(match message {
            Ok(message) => {
                let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
                let head = Bytes::from([&[0], length.as_slice()].concat());
                vec![Ok(Frame::data(head)), Ok(Frame::data(message))]
            }
            Err(status) => vec![Err(status)],
        })
    });
    Body::new(StreamBody::new(frames))
}

/// The headers of a request that go on as metadata.
pub(super) fn metadata(headers: &HeaderMap) -> MetadataMap {
    let named = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named: Vec<&str> = named.flat_map(|value| value.split(',')).map(str::trim).collect();
    let end_to_end = headers.iter().filter(|(name, _)| {
        let name = name.as_str();
        let about_body =
            name.starts_with("content-") || name == "grpc-encoding" || name == "grpc-accept-encoding";
        !about_body
            && !NOT_METADATA.iter().any(|hop| hop == name)
            && !named.iter().any(|hop| hop.eq_ignore_ascii_case(name))
    });
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in end_to_end {
        kept.append(name.clone(), value.clone());
    }
    MetadataMap::from_headers(kept)
}

fn path(rpc: &MethodDescriptor) -> Result<Uri, Status> {
    let path = format!("/{}/{}", rpc.parent_service().full_name(), rpc.name());
    Uri::try_from(path).map_err(|error| Status::internal(error.to_string()))
}

/// Protobuf by descriptor.
struct DynDecoder(MessageDescriptor);

impl Decoder for DynDecoder {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        DynamicMessage::decode(self.0.clone(), from)
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn end_to_end_headers_become_metadata_and_others_do_not() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("idempotency-key", "k"),
            ("x-request-id", "r"),
            ("traceparent", "00-0-0-01"),
            ("grpc-timeout", "5S"),
            ("authorization", "Bearer x"),
            ("user-agent", "curl"),
            ("content-type", "application/json"),
            ("content-length", "7"),
            ("accept", "*/*"),
            ("host", "localhost"),
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("last-event-id", "7"),
            ("grpc-encoding", "gzip"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let kept = metadata(&headers).into_headers();
        let mut names: Vec<&str> = kept.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let expected =
            ["authorization", "grpc-timeout", "idempotency-key", "traceparent", "user-agent", "x-request-id"];
        assert_eq!(names, expected);
    }
}
