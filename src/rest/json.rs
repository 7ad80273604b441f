//! JSON into messages: names checked and made canonical, types left to
//! prost-reflect.
//!
//! Two passes. The first walks the tree beside the descriptors, turns every name
//! into the proto's, and notes all unknown ones at once; the second types the
//! values and stops at the first it cannot take. The paths of both are in proto
//! names whatever the client wrote, as those of the services' own violations are.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value as Json};
use serde_path_to_error::{Path, Segment, Track};

use crate::domain::{Rule, Violations};

/// How deep a `google.protobuf.Value` may be nested. Each level of an object is
/// three messages on the wire and prost stops at 100 of those, which the service
/// behind would report as its own fault.
const FREE_DEPTH_MAX: usize = 30;

/// Makes the names of a message's fields canonical, in place.
pub(super) fn canonicalize(
    message: &MessageDescriptor,
    object: &mut Map<String, Json>,
    at: &str,
    violations: &mut Violations,
) {
    for (name, mut value) in std::mem::take(object) {
        let Some(field) = find(message, &name) else {
            let description = format!("{} has no such field", message.name());
            violations.add(join(at, &name), Rule::UnknownValue, description);
            continue;
        };
        let path = join(at, field.name());
        walk(&field, &mut value, &path, violations);
        if object.insert(field.name().to_owned(), value).is_some() {
            violations.add(path, Rule::Duplicate, format!("is given both as {} and as {name}", field.name()));
        }
    }
}

/// Types a canonical tree.
pub(super) fn to_message(
    message: &MessageDescriptor,
    object: Map<String, Json>,
) -> Result<DynamicMessage, Violations> {
    let mut track = Track::new();
    let tree = Json::Object(object);
    let deserializer = serde_path_to_error::Deserializer::new(&tree, &mut track);
    DynamicMessage::deserialize(message.clone(), deserializer).map_err(|error| {
        let mut violations = Violations::default();
        let description = unquoted(&error.to_string());
        violations.add(path_of(message, &track.path()), rule_of(&description), description);
        violations
    })
}

/// A field by its proto name or its JSON name.
pub(super) fn find(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message.get_field_by_name(name).or_else(|| message.get_field_by_json_name(name))
}

/// A field mask as prost-reflect reads it, which is only in lowerCamelCase.
pub(super) fn camel_mask(mask: &str) -> String {
    let mut camel = String::with_capacity(mask.len());
    let mut chars = mask.chars();
    while let Some(char) = chars.next() {
        match char {
            '_' => camel.extend(chars.next().map(|next| next.to_ascii_uppercase())),
            ' ' => {}
            other => camel.push(other),
        }
    }
    camel
}

fn walk(field: &FieldDescriptor, value: &mut Json, at: &str, violations: &mut Violations) {
    let Kind::Message(message) = field.kind() else { return };
    if field.is_map() {
        let (Kind::Message(inner), Json::Object(entries)) = (message.map_entry_value_field().kind(), value)
        else {
            return;
        };
        for (key, value) in entries {
            walk_message(&inner, value, &format!("{at}[{key}]"), violations);
        }
    } else if field.is_list() {
        let Json::Array(items) = value else { return };
        for (index, item) in items.iter_mut().enumerate() {
            walk_message(&message, item, &format!("{at}[{index}]"), violations);
        }
    } else {
        walk_message(&message, value, at, violations);
    }
}

fn walk_message(message: &MessageDescriptor, value: &mut Json, at: &str, violations: &mut Violations) {
    match (message.full_name(), value) {
        ("google.protobuf.FieldMask", Json::String(mask)) => *mask = camel_mask(mask),
        ("google.protobuf.Value" | "google.protobuf.Struct" | "google.protobuf.ListValue", value) => {
            if is_deeper(value, FREE_DEPTH_MAX) {
                let description =
                    format!("is nested deeper than {FREE_DEPTH_MAX} levels; give it as JSON text");
                violations.add(at, Rule::OutOfRange, description);
            }
        }
        (name, Json::Object(object)) if !name.starts_with("google.protobuf.") => {
            canonicalize(message, object, at, violations);
        }
        // Values of the wrong type are for the second pass to refuse.
        (
            _,
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Array(_) | Json::Object(_),
        ) => {}
    }
}

fn is_deeper(value: &Json, levels: usize) -> bool {
    match value {
        Json::Array(items) => levels == 0 || items.iter().any(|item| is_deeper(item, levels - 1)),
        Json::Object(fields) => levels == 0 || fields.values().any(|field| is_deeper(field, levels - 1)),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => false,
    }
}

fn join(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

/// Writes serde's path as ours, which differ in the keys of maps: `headers[x-a]`.
fn path_of(message: &MessageDescriptor, path: &Path) -> String {
    let mut text = String::new();
    let mut message = Some(message.clone());
    let mut in_map = false;
    for segment in path {
        match segment {
            Segment::Seq { index } => text.push_str(&format!("[{index}]")),
            Segment::Map { key } if in_map => {
                text.push_str(&format!("[{key}]"));
                in_map = false;
            }
            Segment::Map { key } => {
                text = join(&text, key);
                let field = message.as_ref().and_then(|message| message.get_field_by_name(key));
                in_map = field.as_ref().is_some_and(FieldDescriptor::is_map);
                message = field.and_then(|field| value_message(&field));
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    text
}

fn value_message(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    let kind = field.kind();
    let message = kind.as_message()?;
    if field.is_map() {
        message.map_entry_value_field().kind().as_message().cloned()
    } else {
        Some(message.clone())
    }
}

/// A refusal without the value refused, which may be a secret in the wrong place:
/// `invalid type: string "…", expected a map`.
fn unquoted(description: &str) -> String {
    const START: &str = "string \"";
    match (description.find(START), description.rfind("\", expected")) {
        (Some(start), Some(end)) if start + START.len() <= end => {
            format!("{}{}", &description[..start + START.len() - 2], &description[end + 1..])
        }
        _ => description.to_owned(),
    }
}

/// prost-reflect has no kinds of errors, only their texts.
fn rule_of(description: &str) -> Rule {
    if description.starts_with("unrecognized") {
        Rule::UnknownValue
    } else if description.starts_with("multiple fields provided for oneof") {
        Rule::Conflict
    } else if description.contains("out of range") || description.contains("number too") {
        Rule::OutOfRange
    } else {
        Rule::BadFormat
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;
    use serde_json::json;

    use super::*;
    use crate::grpc::pb;

    fn read(message: &str, json: Json) -> Result<DynamicMessage, Vec<(String, Rule)>> {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        let message = pool.get_message_by_name(&format!("hookwire.v1.{message}")).unwrap();
        let Json::Object(mut object) = json else { panic!("not an object") };
        let mut violations = Violations::default();
        canonicalize(&message, &mut object, "", &mut violations);
        violations
            .into_result(object)
            .and_then(|object| to_message(&message, object))
            .map_err(|found| found.0.into_iter().map(|violation| (violation.field, violation.rule)).collect())
    }

    #[test]
    fn what_is_refused_is_not_repeated() {
        assert_eq!(
            unquoted("invalid type: string \"a\", expected b\", expected a map"),
            "invalid type: string, expected a map"
        );
        for plain in
            ["invalid type: null, expected a map", "unrecognized enum value 'X'", "string \", expected"]
        {
            assert_eq!(unquoted(plain), plain);
        }
    }

    fn refused(message: &str, json: Json) -> Vec<(String, Rule)> {
        read(message, json).unwrap_err()
    }

    #[test]
    fn both_spellings_of_a_name_are_taken() {
        let request =
            read("PublishEventRequest", json!({"includeDeliveries": true, "event": {"event_type": "a"}}));
        let request = request.unwrap();
        assert_eq!(request.get_field_by_name("include_deliveries").unwrap().as_bool(), Some(true));
        assert_eq!(
            refused("PublishEventRequest", json!({"event": {"event_type": "a", "eventType": "b"}})),
            [("event.event_type".to_owned(), Rule::Duplicate)]
        );
    }

    #[test]
    fn unknown_fields_are_all_named_with_their_paths() {
        let found = refused(
            "BatchPublishEventsRequest",
            json!({"events": [{}, {"eventType": "a", "typo": 1, "payload": {"jsn": "1"}}], "atomc": true}),
        );
        let expected = ["atomc", "events[1].payload.jsn", "events[1].typo"];
        assert_eq!(found, expected.map(|path| (path.to_owned(), Rule::UnknownValue)));
    }

    #[test]
    fn values_of_the_wrong_type_are_refused_with_their_paths() {
        let cases = [
            (json!({"events": [{"eventType": 1}]}), "events[0].event_type", Rule::BadFormat),
            (json!({"events": [{"metadata": {"a": 1}}]}), "events[0].metadata[a]", Rule::BadFormat),
            (json!({"events": {}}), "events", Rule::BadFormat),
            (
                json!({"events": [{"payload": {"json": "1", "data": ""}}]}),
                "events[0].payload",
                Rule::Conflict,
            ),
            (json!({"atomic": "yes"}), "atomic", Rule::BadFormat),
        ];
        for (json, path, rule) in cases {
            assert_eq!(refused("BatchPublishEventsRequest", json), [(path.to_owned(), rule)]);
        }
        let cases = [
            (json!({"view": "VIEW_ALL"}), "view", Rule::UnknownValue),
            (json!({"page_size": 3_000_000_000_u64}), "page_size", Rule::OutOfRange),
        ];
        for (json, path, rule) in cases {
            assert_eq!(refused("ListEventsRequest", json), [(path.to_owned(), rule)]);
        }
    }

    #[test]
    fn field_masks_are_taken_in_both_spellings() {
        for mask in ["retry_policy.max_attempts,url", "retryPolicy.maxAttempts, url"] {
            let request = read("UpdateEndpointRequest", json!({"update_mask": mask})).unwrap();
            let mask = request.get_field_by_name("update_mask").unwrap().into_owned();
            let mask: prost_types::FieldMask = mask.as_message().unwrap().transcode_to().unwrap();
            assert_eq!(mask.paths, ["retry_policy.max_attempts", "url"]);
        }
    }

    #[test]
    fn free_values_are_kept_and_too_deep_ones_are_refused() {
        let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!({ "a": inner }));
        let event = |value: Json| json!({"events": [{"payload": {"value": value}}]});
        assert!(read("BatchPublishEventsRequest", event(json!({"anyName": [null, 1.5, "x"]}))).is_ok());

        let deepest = read("BatchPublishEventsRequest", event(nested(FREE_DEPTH_MAX))).unwrap();
        let wire = prost::Message::encode_to_vec(&deepest);
        let typed: pb::BatchPublishEventsRequest = prost::Message::decode(wire.as_slice()).unwrap();
        assert_eq!(typed.events.len(), 1);

        assert_eq!(
            refused("BatchPublishEventsRequest", event(nested(FREE_DEPTH_MAX + 1))),
            [("events[0].payload.value".to_owned(), Rule::OutOfRange)]
        );
    }
}
