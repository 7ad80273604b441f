//! Messages into JSON.

use prost_reflect::{DynamicMessage, FieldDescriptor, SerializeOptions};
use tonic::Status;

/// Names as in the protos, like the paths of violations and masks. Zero values are
/// written, so that a client can tell "no failures" from "no such field".
const OPTIONS: SerializeOptions =
    SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false);

/// The message, or the field of it that makes up the body, on one line.
pub(super) fn json(message: &DynamicMessage, body: Option<&FieldDescriptor>) -> Result<Vec<u8>, Status> {
    let Some(field) = body else { return write(message) };
    if !message.has_field(field) {
        return Ok(b"{}".to_vec());
    }
    match message.get_field(field).as_message() {
        Some(inner) => write(inner),
        None => Err(Status::internal("the response body is not a message")),
    }
}

fn write(message: &DynamicMessage) -> Result<Vec<u8>, Status> {
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut out);
    message
        .serialize_with_options(&mut serializer, &OPTIONS)
        .map_err(|error| Status::internal(format!("the response does not fit JSON: {error}")))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;
    use serde_json::json;

    use super::*;
    use crate::grpc::pb;

    fn read(json: &[u8]) -> serde_json::Value {
        serde_json::from_slice(json).unwrap()
    }

    #[test]
    fn defaults_are_written_and_unset_messages_are_not() {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        let mut message =
            DynamicMessage::new(pool.get_message_by_name("hookwire.v1.WatchDeliveriesResponse").unwrap());
        let typed = pb::WatchDeliveriesResponse { lag: 1 << 60, ..Default::default() };
        message.transcode_from(&typed).unwrap();
        let expected = json!({"changes": [], "resume_token": "", "lag": "1152921504606846976"});
        assert_eq!(read(&json(&message, None).unwrap()), expected);
    }

    #[test]
    fn a_missing_response_body_is_an_empty_object() {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        let descriptor = pool.get_message_by_name("hookwire.v1.GetOperationResponse").unwrap();
        let body = descriptor.get_field_by_name("operation").unwrap();
        let mut message = DynamicMessage::new(descriptor);
        assert_eq!(json(&message, Some(&body)).unwrap(), b"{}");

        let operation = pb::Operation { id: "op_1".to_owned(), ..Default::default() };
        message.transcode_from(&pb::GetOperationResponse { operation: Some(operation) }).unwrap();
        assert_eq!(read(&json(&message, Some(&body)).unwrap())["id"], "op_1");
    }
}
