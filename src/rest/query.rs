//! Text from the path and the query into fields.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value as Json};

use super::json;
use crate::domain::{Rule, Violations};

/// A field named by a path such as `filter.create_time.start_time`.
pub(super) struct Target {
    fields: Vec<FieldDescriptor>,
}

impl Target {
    /// Follows the path from the request's message.
    pub(super) fn resolve(message: &MessageDescriptor, path: &str) -> Option<Self> {
        let mut fields: Vec<FieldDescriptor> = Vec::new();
        let mut message = Some(message.clone());
        for name in path.split('.') {
            let field = json::find(&message?, name)?;
            let nests = !field.is_list() && !field.is_map();
            message = field.kind().as_message().filter(|_| nests).cloned();
            fields.push(field);
        }
        Some(Self { fields })
    }

    /// The field of the request that this is, or is in.
    pub(super) fn root(&self) -> Option<&FieldDescriptor> {
        self.fields.first()
    }

    /// The path in proto names.
    pub(super) fn path(&self) -> String {
        self.fields.iter().map(FieldDescriptor::name).collect::<Vec<_>>().join(".")
    }

    /// Puts a value into a canonical tree. A repeated field takes one more item;
    /// another field may be given again only with the same value.
    pub(super) fn set(&self, mut object: &mut Map<String, Json>, text: &str, violations: &mut Violations) {
        let Some((last, outer)) = self.fields.split_last() else { return };
        let value = match value(last, text) {
            Ok(value) => value,
            Err((rule, description)) => return violations.add(self.path(), rule, description),
        };
        for field in outer {
            let inner = object.entry(field.name()).or_insert(Json::Null);
            if inner.is_null() {
                *inner = Json::Object(Map::new());
            }
            // The second pass refuses what is no object, with the right path.
            let Json::Object(inner) = inner else { return };
            object = inner;
        }
        if last.is_list() {
            let list = object.entry(last.name()).or_insert_with(|| Json::Array(Vec::new()));
            if let Json::Array(items) = list {
                items.push(value);
            }
        } else if let Some(given) =
            object.get(last.name()).filter(|given| !given.is_null() && **given != value)
        {
            let description = format!("is given twice, as {given} and as {value}");
            violations.add(self.path(), Rule::Conflict, description);
        } else {
            object.insert(last.name().to_owned(), value);
        }
    }
}

/// Text as the JSON that prost-reflect would take for the field. Numbers, times
/// and durations may be strings there; booleans and enum numbers may not.
fn value(field: &FieldDescriptor, text: &str) -> Result<Json, (Rule, String)> {
    if field.is_map() {
        return Err((Rule::Forbidden, "is a map, which can only be given in a body".to_owned()));
    }
    let kind = field.kind();
    match &kind {
        Kind::Bool => boolean(text),
        Kind::Enum(_) => Ok(text.parse::<i32>().map_or_else(|_| Json::from(text), Json::from)),
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.BoolValue" => boolean(text),
            "google.protobuf.FieldMask" => Ok(Json::from(json::camel_mask(text))),
            "google.protobuf.Any"
            | "google.protobuf.Struct"
            | "google.protobuf.ListValue"
            | "google.protobuf.Empty" => Err((Rule::Forbidden, "can only be given in a body".to_owned())),
            name if name.starts_with("google.protobuf.") => Ok(Json::from(text)),
            name => Err((Rule::BadFormat, format!("is a {name}; name its fields with dots"))),
        },
        Kind::Double
        | Kind::Float
        | Kind::Int32
        | Kind::Int64
        | Kind::Uint32
        | Kind::Uint64
        | Kind::Sint32
        | Kind::Sint64
        | Kind::Fixed32
        | Kind::Fixed64
        | Kind::Sfixed32
        | Kind::Sfixed64
        | Kind::String
        | Kind::Bytes => Ok(Json::from(text)),
    }
}

fn boolean(text: &str) -> Result<Json, (Rule, String)> {
    match text {
        "true" => Ok(Json::Bool(true)),
        "false" => Ok(Json::Bool(false)),
        other => Err((Rule::BadFormat, format!("`{other}` is neither true nor false"))),
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;
    use serde_json::json;

    use super::*;
    use crate::grpc::pb;

    fn set(message: &str, pairs: &[(&str, &str)]) -> Result<Json, Vec<(String, Rule)>> {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        let message = pool.get_message_by_name(&format!("hookwire.v1.{message}")).unwrap();
        let mut object = Map::new();
        let mut violations = Violations::default();
        for (path, text) in pairs {
            let target = Target::resolve(&message, path).expect(path);
            target.set(&mut object, text, &mut violations);
        }
        violations
            .into_result(Json::Object(object))
            .map_err(|found| found.0.into_iter().map(|violation| (violation.field, violation.rule)).collect())
    }

    #[test]
    fn values_go_where_their_paths_lead() {
        let pairs = [
            ("filter.statuses", "DELIVERY_STATUS_DELIVERED"),
            ("filter.statuses", "2"),
            ("startTime", "2026-01-01T00:00:00Z"),
            ("include_attempts", "true"),
            ("max_batch_size", "7"),
            ("progressInterval", "5s"),
        ];
        let expected = json!({
            "filter": {"statuses": ["DELIVERY_STATUS_DELIVERED", 2]},
            "start_time": "2026-01-01T00:00:00Z",
            "include_attempts": true,
            "max_batch_size": "7",
            "progress_interval": "5s",
        });
        assert_eq!(set("WatchDeliveriesRequest", &pairs), Ok(expected));
        let mask = set("UpdateEndpointRequest", &[("update_mask", "event_types,url")]);
        assert_eq!(mask, Ok(json!({"update_mask": "eventTypes,url"})));
    }

    #[test]
    fn a_field_may_be_given_twice_only_with_the_same_value() {
        assert!(set("GetEventRequest", &[("id", "a"), ("id", "a")]).is_ok());
        assert_eq!(
            set("GetEventRequest", &[("id", "a"), ("id", "b")]),
            Err(vec![("id".into(), Rule::Conflict)])
        );
    }

    #[test]
    fn what_no_text_can_say_is_refused() {
        let cases = [("include_attempts", "1", Rule::BadFormat), ("filter", "x", Rule::BadFormat)];
        for (path, text, rule) in cases {
            assert_eq!(set("WatchDeliveriesRequest", &[(path, text)]), Err(vec![(path.to_owned(), rule)]));
        }
        let map = set("UpdateEndpointRequest", &[("endpoint.headers", "x")]);
        assert_eq!(map, Err(vec![("endpoint.headers".to_owned(), Rule::Forbidden)]));
    }

    #[test]
    fn unknown_paths_do_not_resolve() {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        let message = pool.get_message_by_name("hookwire.v1.ListEventsRequest").unwrap();
        for path in ["", "x", "filter.x", "page_size.x", "filter.", "filter.event_types.x"] {
            assert!(Target::resolve(&message, path).is_none(), "{path}");
        }
    }
}
