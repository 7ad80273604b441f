//! Calls the gRPC services in this process, with messages known only by descriptor.

use http::{HeaderMap, HeaderName, header, uri::PathAndQuery};
use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor, MethodDescriptor};
use tonic::{
    Request, Response, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
};

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

/// Calls a method that answers once.
pub(super) async fn unary(
    grpc: Services,
    rpc: &MethodDescriptor,
    request: Request<DynamicMessage>,
) -> Result<Response<DynamicMessage>, Status> {
    client(grpc).unary(request, path(rpc)?, DynCodec(rpc.output())).await
}

/// Calls a method that answers with a stream. Dropping the stream cancels the call.
pub(super) async fn server_streaming(
    grpc: Services,
    rpc: &MethodDescriptor,
    request: Request<DynamicMessage>,
) -> Result<Response<Streaming<DynamicMessage>>, Status> {
    client(grpc).server_streaming(request, path(rpc)?, DynCodec(rpc.output())).await
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

/// The services answer in this process and bound their own messages, so the client's
/// default of 4 MiB would only turn long pages into errors.
fn client(grpc: Services) -> Grpc<Services> {
    Grpc::new(grpc).max_decoding_message_size(usize::MAX)
}

fn path(rpc: &MethodDescriptor) -> Result<PathAndQuery, Status> {
    let path = format!("/{}/{}", rpc.parent_service().full_name(), rpc.name());
    PathAndQuery::try_from(path).map_err(|error| Status::internal(error.to_string()))
}

/// Protobuf by descriptor.
#[derive(Clone)]
struct DynCodec(MessageDescriptor);

impl Codec for DynCodec {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for DynCodec {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, message: DynamicMessage, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(into).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for DynCodec {
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
