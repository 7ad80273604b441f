//! The answer as JSON for programs.

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Serializer;

use crate::grpc::pb;

/// Names and values as REST has them.
const LIKE_REST: SerializeOptions =
    SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false);

/// What `GET /v1/instances` answers, on one line.
pub(super) fn json(answer: &pb::ListInstancesResponse) -> String {
    let pool = DescriptorPool::decode(pb::DESCRIPTORS).expect("the descriptors are good");
    let kind = pool.get_message_by_name("hookwire.v1.ListInstancesResponse").expect("it is one of ours");
    let message =
        DynamicMessage::decode(kind, answer.encode_to_vec().as_slice()).expect("it was decoded before");
    let mut out = Vec::new();
    let written = message.serialize_with_options(&mut Serializer::new(&mut out), &LIKE_REST);
    written.expect("texts, numbers and instants are JSON");
    out.push(b'\n');
    String::from_utf8(out).expect("JSON is text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_as_rest_has_it() {
        let start_time = Some(prost_types::Timestamp { seconds: 1, nanos: 500_000_000 });
        let one = pb::Instance { name: "one".to_owned(), start_time, shards: vec![3], ..Default::default() };
        let told = json(&pb::ListInstancesResponse { instances: vec![one] });
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        let one = &told["instances"][0];
        assert_eq!((&one["start_time"], &one["shards"][0]), (&"1970-01-01T00:00:01.500Z".into(), &3.into()));
        assert_eq!(one["draining"], false, "told also if not");
    }
}
