//! Small trees of JSON into messages: what the query and the path give, and single
//! values of a body. Types are left to prost-reflect.

use prost_reflect::{DynamicMessage, FieldDescriptor, MessageDescriptor};
use serde_json::{Map, Value as Json};
use serde_path_to_error::{Path, Segment, Track};

use crate::domain::{Micros, NotASpan, Rule, Violations};

const DURATION: &str = "google.protobuf.Duration";

/// Types a canonical tree.
pub(super) fn to_message(
    message: &MessageDescriptor,
    mut object: Map<String, Json>,
) -> Result<DynamicMessage, Violations> {
    canonical_spans(message, &mut object);
    let mut track = Track::new();
    let tree = Json::Object(object);
    let deserializer = serde_path_to_error::Deserializer::new(&tree, &mut track);
    DynamicMessage::deserialize(message.clone(), deserializer).map_err(|error| {
        let mut violations = Violations::default();
        let mut description = unquoted(&error.to_string());
        let (rule, path) = (rule_of(&description), track.path());
        if let Some(expected) = field_at(message, &path).and_then(|field| expected(&field)) {
            description = expected;
        }
        violations.add(path_of(message, &path), rule, description);
        violations
    })
}

/// Writes durations as protobuf's JSON has them: `48h` and `1d` become seconds.
fn canonical_spans(message: &MessageDescriptor, object: &mut Map<String, Json>) {
    for (name, value) in object {
        let Some(field) = find(message, name) else { continue };
        let kind = field.kind();
        let Some(inner) = kind.as_message() else { continue };
        match value {
            Json::String(text) if inner.full_name() == DURATION => canonical_span(text),
            Json::Array(items) if inner.full_name() == DURATION => {
                for item in items {
                    if let Json::String(text) = item {
                        canonical_span(text);
                    }
                }
            }
            Json::Object(object) if !inner.full_name().starts_with("google.protobuf.") => {
                canonical_spans(inner, object);
            }
            Json::Null
            | Json::Bool(_)
            | Json::Number(_)
            | Json::String(_)
            | Json::Array(_)
            | Json::Object(_) => {}
        }
    }
}

fn canonical_span(text: &mut String) {
    if let Ok(span) = text.parse::<Micros>() {
        let (sign, micros) = (if span.0 < 0 { "-" } else { "" }, span.0.unsigned_abs());
        *text = format!("{sign}{}.{:06}s", micros / 1_000_000, micros % 1_000_000);
    }
}

/// What a field takes, where protobuf's own words do not say it.
fn expected(field: &FieldDescriptor) -> Option<String> {
    let kind = field.kind();
    if let Some(kind) = kind.as_enum() {
        // Zero means that none is given.
        let names: Vec<_> =
            kind.values().filter(|it| it.number() != 0).map(|it| it.name().to_owned()).collect();
        return Some(format!("must be one of {}", names.join(", ")));
    }
    match kind.as_message()?.full_name() {
        DURATION => Some(NotASpan.to_string()),
        "google.protobuf.Timestamp" => Some("must be a time such as `2026-01-31T12:00:00Z`".to_owned()),
        _ => None,
    }
}

/// The field that a path of serde's leads to.
fn field_at(message: &MessageDescriptor, path: &Path) -> Option<FieldDescriptor> {
    let (mut message, mut found) = (Some(message.clone()), None::<FieldDescriptor>);
    for segment in path {
        if let Segment::Map { key } = segment {
            if found.as_ref().is_some_and(FieldDescriptor::is_map) {
                return None;
            }
            found = message.as_ref().and_then(|message| message.get_field_by_name(key));
            message = found.as_ref().and_then(value_message);
        }
    }
    found
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
    use super::*;

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
}
