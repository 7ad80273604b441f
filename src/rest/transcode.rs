//! JSON text straight into the wire form of a message, by descriptors.
//!
//! No tree is built in between, so the memory of a request is its text and its wire
//! form, whatever the text consists of. Each value is written as it is read; one that
//! does not fit its field is noted as a violation, and reading goes on, so that the
//! answer names all of them. Paths are in proto names whatever the client wrote.

use std::{borrow::Cow, collections::HashSet, fmt};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint},
};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde::{
    Deserialize as _,
    de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value as Json, value::RawValue};

use super::{free, json, route::Body, wrap};
use crate::domain::{Rule, Violations};

/// Most entries of one map: more than fit into the bytes that any map of the API may have.
const MAP_ENTRIES_MAX: usize = 10_000;
/// Most characters of a name that a path shows.
const SEGMENT_CHARS_MAX: usize = 64;

const ANY_PADDING: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_allow_trailing_bits(true)
    .with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, ANY_PADDING);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, ANY_PADDING);

/// A body in wire form.
#[derive(Debug, Default)]
pub(super) struct Wire {
    pub bytes: Vec<u8>,
    /// The numbers of the message's own fields that the body gives.
    pub fields: Vec<u32>,
}

/// Why a body is no message.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It breaks these rules.
    Invalid(Violations),
    /// Its wire form is over the limit.
    TooLarge,
}

/// Reads `body` as the part of `message` that `rule` says, into at most `limit` bytes.
/// Fields whose paths are in `fixed` may only have the text that stands there.
pub(super) fn transcode(
    message: &MessageDescriptor,
    rule: &Body,
    fixed: &[(&str, &str)],
    limit: usize,
    body: &[u8],
) -> Result<Wire, Refusal> {
    let root = if let Body::Field(field) = rule { field.name() } else { "" };
    let mut writer = Writer {
        out: Vec::with_capacity(body.len().min(limit)),
        limit,
        path: root.to_owned(),
        fixed,
        violations: Violations::default(),
        is_over: false,
    };
    let mut fields = Vec::new();
    // A body that is absent is an empty one.
    if !body.trim_ascii().is_empty() {
        let mut json = serde_json::Deserializer::from_slice(body);
        let is_object = body.trim_ascii_start().first() == Some(&b'{');
        let read = match rule {
            Body::Whole if is_object => {
                Fields { writer: &mut writer, message, given: &mut fields }.deserialize(&mut json)
            }
            Body::Field(field) => {
                Put { writer: &mut writer, field, is_item: false }.deserialize(&mut json).map(|given| {
                    fields.extend(given.then_some(field.number()));
                })
            }
            Body::Whole | Body::None => IgnoredAny::deserialize(&mut json).map(|_| ()),
        };
        match read.and_then(|()| json.end()) {
            Err(_) if writer.is_over => return Err(Refusal::TooLarge),
            Err(error) => {
                // What was found before does not help: the text has to be mended first.
                let mut violations = Violations::default();
                violations.add(root, Rule::BadFormat, format!("the body is not valid JSON: {error}"));
                return Err(Refusal::Invalid(violations));
            }
            Ok(()) => {}
        }
        match rule {
            Body::Whole if !is_object => writer.refuse(Rule::BadFormat, "the body must be a JSON object"),
            // Clients that always send a body send this one.
            Body::None if !is_empty_object(body) => {
                writer.refuse(Rule::Forbidden, "this method takes no body; give the fields in the query");
            }
            Body::Whole | Body::Field(_) | Body::None => {}
        }
    }
    let Writer { out, violations, .. } = writer;
    violations.into_result(Wire { bytes: out, fields }).map_err(Refusal::Invalid)
}

fn is_empty_object(json: &[u8]) -> bool {
    let inner = json.trim_ascii().strip_prefix(b"{").and_then(|rest| rest.strip_suffix(b"}"));
    inner.is_some_and(|inner| inner.trim_ascii().is_empty())
}

/// What is written, and where in the message that is.
pub(super) struct Writer<'f> {
    out: Vec<u8>,
    limit: usize,
    path: String,
    fixed: &'f [(&'f str, &'f str)],
    violations: Violations,
    is_over: bool,
}

impl Writer<'_> {
    /// Notes that the value at the current path breaks a rule.
    pub(super) fn refuse(&mut self, rule: Rule, description: impl Into<String>) {
        self.violations.add(self.path.as_str(), rule, description);
    }

    /// Writes bytes as they are.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// How much is written.
    pub(super) fn mark(&self) -> usize {
        self.out.len()
    }

    /// Forgets what was written after a mark.
    pub(super) fn undo(&mut self, mark: usize) {
        self.out.truncate(mark);
    }

    /// Writes a field of text or bytes. Fails once all that is written is over the limit.
    pub(super) fn put_bytes<E: Error>(&mut self, number: u32, bytes: &[u8]) -> Result<(), E> {
        encode_key(number, WireType::LengthDelimited, &mut self.out);
        encode_varint(bytes.len() as u64, &mut self.out);
        self.out.extend_from_slice(bytes);
        self.check()
    }

    /// Writes a field whose content is what `write` writes.
    pub(super) fn nest<T, E: Error>(
        &mut self,
        number: u32,
        write: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        encode_key(number, WireType::LengthDelimited, &mut self.out);
        // Most lengths take one byte; the content moves if this one takes more.
        let at = self.out.len();
        self.out.push(0);
        let written = write(self)?;
        let length = self.out.len() - at - 1;
        match u8::try_from(length) {
            Ok(short) if short < 0x80 => self.out[at] = short,
            _ => {
                let mut varint = Vec::with_capacity(10);
                encode_varint(length as u64, &mut varint);
                self.out.splice(at..=at, varint);
            }
        }
        self.check()?;
        Ok(written)
    }

    fn check<E: Error>(&mut self) -> Result<(), E> {
        self.is_over = self.out.len() > self.limit;
        if self.is_over { Err(E::custom("the message is too large")) } else { Ok(()) }
    }

    fn enter(&mut self, name: &str) -> usize {
        let before = self.path.len();
        if before > 0 {
            self.path.push('.');
        }
        self.path.push_str(&shown(name));
        before
    }
}

/// A name as a path shows it: whole unless it is absurdly long.
fn shown(name: &str) -> Cow<'_, str> {
    match name.char_indices().nth(SEGMENT_CHARS_MAX) {
        Some((end, _)) => Cow::Owned(format!("{}…", &name[..end])),
        None => Cow::Borrowed(name),
    }
}

/// The fields of a message, from an object.
struct Fields<'w, 'f, 'm> {
    writer: &'w mut Writer<'f>,
    message: &'m MessageDescriptor,
    given: &'m mut Vec<u32>,
}

impl<'de> DeserializeSeed<'de> for Fields<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let Self { writer, message, given } = self;
        let mut seen: Vec<u32> = Vec::new();
        let mut choices: Vec<(String, String)> = Vec::new();
        let mut is_advised = false;
        while let Some(name) = object.next_key::<Cow<'_, str>>()? {
            let Some(field) = json::find(message, &name) else {
                let before = writer.enter(&name);
                if message.full_name() == wrap::PAYLOAD && !is_advised {
                    is_advised = true;
                    let value = object.next_value::<&RawValue>()?;
                    writer.refuse(Rule::UnknownValue, wrap::advice(&name, value));
                } else {
                    writer.refuse(Rule::UnknownValue, format!("{} has no such field", message.name()));
                    object.next_value::<IgnoredAny>()?;
                }
                writer.path.truncate(before);
                continue;
            };
            let before = writer.enter(field.name());
            if seen.contains(&field.number()) {
                writer.refuse(Rule::Duplicate, format!("is given twice, the second time as {name}"));
                object.next_value::<IgnoredAny>()?;
                writer.path.truncate(before);
                continue;
            }
            seen.push(field.number());
            let is_given = object.next_value_seed(Put { writer, field: &field, is_item: false })?;
            writer.path.truncate(before);
            if is_given {
                given.push(field.number());
                if let Some(oneof) = field.containing_oneof().filter(|it| it.fields().len() > 1) {
                    match choices.iter().find(|(choice, _)| choice == oneof.name()) {
                        Some((_, first)) => writer.refuse(
                            Rule::Conflict,
                            format!("may have only one of {first} and {}", field.name()),
                        ),
                        None => choices.push((oneof.name().to_owned(), field.name().to_owned())),
                    }
                }
            }
        }
        Ok(())
    }
}

/// The value of a field, or of one item of it. Tells whether it was given: `null` is
/// how JSON leaves a field out.
struct Put<'w, 'f, 'm> {
    writer: &'w mut Writer<'f>,
    field: &'m FieldDescriptor,
    /// Whether it is an item of a list or the value of a map's entry.
    is_item: bool,
}

/// How JSON shows a field.
enum Shape {
    Object(MessageDescriptor),
    List,
    Map(MessageDescriptor),
    Free(free::Kind),
    /// One text, number or truth value.
    Leaf,
}

impl Put<'_, '_, '_> {
    fn shape(&self) -> Shape {
        if self.field.is_list() && !self.is_item {
            return Shape::List;
        }
        let kind = self.field.kind();
        let Some(message) = kind.as_message() else { return Shape::Leaf };
        match message.full_name() {
            _ if self.field.is_map() => Shape::Map(message.clone()),
            "google.protobuf.Value" => Shape::Free(free::Kind::Value),
            "google.protobuf.Struct" => Shape::Free(free::Kind::Struct),
            "google.protobuf.ListValue" => Shape::Free(free::Kind::List),
            name if name.starts_with("google.protobuf.") => Shape::Leaf,
            _ => Shape::Object(message.clone()),
        }
    }

    fn refuse_type(self) -> bool {
        let expected = match self.shape() {
            Shape::Object(message) if message.full_name() == wrap::PAYLOAD => {
                "an object: wrap a plain value as {\"value\": …} or, as text, as {\"json\": \"…\"}"
            }
            Shape::Object(_) | Shape::Map(_) | Shape::Free(free::Kind::Struct) => "an object",
            Shape::List | Shape::Free(free::Kind::List) => "a list",
            Shape::Free(free::Kind::Value) => "a value",
            Shape::Leaf => match self.field.kind() {
                Kind::Bool => "true or false",
                Kind::Bytes => "text in base64",
                Kind::String | Kind::Enum(_) | Kind::Message(_) => "text",
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
                | Kind::Sfixed64 => "a number",
            },
        };
        self.writer.refuse(Rule::BadFormat, format!("must be {expected}"));
        true
    }

    fn leaf<E: Error>(mut self, value: Json) -> Result<bool, E> {
        match self.shape() {
            Shape::Leaf => {
                self.typed(value);
                self.writer.check().map(|()| true)
            }
            Shape::Free(free::Kind::Value) => {
                self.writer.nest(self.field.number(), |writer| free::scalar(writer, &value)).map(|()| true)
            }
            Shape::Object(_) | Shape::Map(_) | Shape::List | Shape::Free(_) => Ok(self.refuse_type()),
        }
    }

    /// Lets prost-reflect say what a leaf is, by a message that has nothing else.
    fn typed(&mut self, value: Json) {
        let value = if self.field.is_list() { Json::Array(vec![value]) } else { value };
        let alone = Map::from_iter([(self.field.name().to_owned(), value)]);
        match json::to_message(self.field.parent_message(), alone) {
            // A vector takes all.
            Ok(message) => message.encode(&mut self.writer.out).unwrap_or_default(),
            Err(violations) => {
                for violation in violations.0 {
                    self.writer.refuse(violation.rule, violation.description);
                }
            }
        }
    }

    fn text<E: Error>(mut self, text: &str) -> Result<bool, E> {
        let (shape, number) = (self.shape(), self.field.number());
        match (shape, self.field.kind()) {
            (Shape::Leaf, Kind::String) => {
                let fixed = self.writer.fixed.iter().find(|(path, _)| *path == self.writer.path);
                if let Some((_, other)) = fixed.filter(|(_, other)| *other != text) {
                    let description = format!("is given twice, as {:?} and as {other:?}", shown(text));
                    self.writer.refuse(Rule::Conflict, description);
                }
                self.writer.put_bytes(number, text.as_bytes()).map(|()| true)
            }
            (Shape::Leaf, Kind::Bytes) => match bytes(text) {
                Ok(bytes) => self.writer.put_bytes(number, &bytes).map(|()| true),
                Err(error) => {
                    self.writer.refuse(Rule::BadFormat, format!("is not base64: {error}"));
                    Ok(true)
                }
            },
            (Shape::Leaf, Kind::Message(message)) if message.full_name() == "google.protobuf.FieldMask" => {
                self.typed(Json::from(json::camel_mask(text)));
                Ok(true)
            }
            (Shape::Free(free::Kind::Value), _) => {
                self.writer.nest(number, |writer| free::text(writer, text)).map(|()| true)
            }
            _ => self.leaf(Json::from(text)),
        }
    }

    fn entries<'de, A: MapAccess<'de>>(
        self,
        entry: &MessageDescriptor,
        mut object: A,
    ) -> Result<bool, A::Error> {
        let (key_field, value_field) = (entry.map_entry_key_field(), entry.map_entry_value_field());
        let Self { writer, field, .. } = self;
        let (mut keys, before) = (HashSet::new(), writer.path.len());
        while let Some(key) = object.next_key::<String>()? {
            if keys.len() == MAP_ENTRIES_MAX {
                writer.refuse(Rule::TooMany, format!("has more than {MAP_ENTRIES_MAX} entries"));
                object.next_value::<IgnoredAny>()?;
                while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                break;
            }
            writer.path.push_str(&format!("[{}]", shown(&key)));
            if keys.contains(&key) {
                writer.refuse(Rule::Duplicate, "is given twice");
                object.next_value::<IgnoredAny>()?;
            } else {
                writer.nest(field.number(), |writer| {
                    Put { writer, field: &key_field, is_item: true }.text(&key)?;
                    object.next_value_seed(Put { writer, field: &value_field, is_item: true })
                })?;
                keys.insert(key);
            }
            writer.path.truncate(before);
        }
        Ok(true)
    }
}

/// Base64 of either alphabet, with or without padding.
fn bytes(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    if text.contains(['-', '_']) { URL_SAFE.decode(text) } else { STANDARD.decode(text) }
}

impl<'de> DeserializeSeed<'de> for Put<'_, '_, '_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Put<'_, '_, '_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        match self.shape() {
            Shape::Free(free::Kind::Value) => self.leaf(Json::Null),
            Shape::Object(_) | Shape::List | Shape::Map(_) | Shape::Free(_) | Shape::Leaf => {
                Ok(if self.is_item { self.refuse_type() } else { false })
            }
        }
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
        self.leaf(Json::from(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<bool, E> {
        self.leaf(Json::from(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<bool, E> {
        self.leaf(Json::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<bool, E> {
        self.leaf(Json::from(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<bool, E> {
        self.text(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<bool, A::Error> {
        match self.shape() {
            Shape::List => {
                let Self { writer, field, .. } = self;
                let before = writer.path.len();
                for index in 0_usize.. {
                    writer.path.push_str(&format!("[{index}]"));
                    let item = list.next_element_seed(Put { writer, field, is_item: true })?;
                    writer.path.truncate(before);
                    if item.is_none() {
                        break;
                    }
                }
                Ok(true)
            }
            Shape::Free(kind @ (free::Kind::Value | free::Kind::List)) => {
                self.writer.nest(self.field.number(), |writer| free::list(writer, kind, list))?;
                Ok(true)
            }
            Shape::Object(_) | Shape::Map(_) | Shape::Free(free::Kind::Struct) | Shape::Leaf => {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(self.refuse_type())
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<bool, A::Error> {
        match self.shape() {
            Shape::Object(message) => {
                self.writer.nest(self.field.number(), |writer| {
                    Fields { writer, message: &message, given: &mut Vec::new() }.visit_map(object)
                })?;
                Ok(true)
            }
            Shape::Map(entry) => self.entries(&entry, object),
            Shape::Free(kind @ (free::Kind::Value | free::Kind::Struct)) => {
                self.writer.nest(self.field.number(), |writer| free::object(writer, kind, object))?;
                Ok(true)
            }
            Shape::List | Shape::Free(free::Kind::List) | Shape::Leaf => {
                while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(self.refuse_type())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::{DescriptorPool, DynamicMessage};
    use serde_json::json;

    use super::*;
    use crate::grpc::pb;

    fn descriptor(message: &str) -> MessageDescriptor {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        pool.get_message_by_name(&format!("hookwire.v1.{message}")).unwrap()
    }

    fn read_text(message: &str, text: &str) -> Result<DynamicMessage, Violations> {
        let message = descriptor(message);
        match transcode(&message, &Body::Whole, &[], 1 << 20, text.as_bytes()) {
            Ok(wire) => Ok(DynamicMessage::decode(message, wire.bytes.as_slice()).unwrap()),
            Err(Refusal::Invalid(violations)) => Err(violations),
            Err(Refusal::TooLarge) => panic!("too large"),
        }
    }

    fn read(message: &str, json: &Json) -> Result<DynamicMessage, Vec<(String, Rule)>> {
        read_text(message, &json.to_string())
            .map_err(|found| found.0.into_iter().map(|violation| (violation.field, violation.rule)).collect())
    }

    fn refused(message: &str, json: &Json) -> Vec<(String, Rule)> {
        read(message, json).unwrap_err()
    }

    #[test]
    fn both_spellings_of_a_name_are_taken() {
        let request =
            read("PublishEventRequest", &json!({"includeDeliveries": true, "event": {"event_type": "a"}}));
        let request = request.unwrap();
        assert_eq!(request.get_field_by_name("include_deliveries").unwrap().as_bool(), Some(true));
        assert_eq!(
            refused("PublishEventRequest", &json!({"event": {"event_type": "a", "eventType": "b"}})),
            [("event.event_type".to_owned(), Rule::Duplicate)]
        );
    }

    #[test]
    fn unknown_fields_are_all_named_with_their_paths() {
        let found = refused(
            "BatchPublishEventsRequest",
            &json!({"events": [{}, {"eventType": "a", "typo": 1, "payload": {"jsn": "1"}}], "atomc": true}),
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
            assert_eq!(refused("BatchPublishEventsRequest", &json), [(path.to_owned(), rule)]);
        }
        let cases = [
            (json!({"view": "VIEW_ALL"}), "view", Rule::UnknownValue),
            (json!({"page_size": 3_000_000_000_u64}), "page_size", Rule::OutOfRange),
        ];
        for (json, path, rule) in cases {
            assert_eq!(refused("ListEventsRequest", &json), [(path.to_owned(), rule)]);
        }
    }

    #[test]
    fn field_masks_are_taken_in_both_spellings() {
        for mask in ["retry_policy.max_attempts,url", "retryPolicy.maxAttempts, url"] {
            let request = read("UpdateEndpointRequest", &json!({"update_mask": mask})).unwrap();
            let mask = request.get_field_by_name("update_mask").unwrap().into_owned();
            let mask: prost_types::FieldMask = mask.as_message().unwrap().transcode_to().unwrap();
            assert_eq!(mask.paths, ["retry_policy.max_attempts", "url"]);
        }
    }

    #[test]
    fn free_values_are_kept_and_too_deep_ones_are_refused() {
        let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!({ "a": inner }));
        let event = |value: Json| json!({"events": [{"payload": {"value": value}}]});
        assert!(read("BatchPublishEventsRequest", &event(json!({"anyName": [null, 1.5, "x"]}))).is_ok());

        let deepest = read("BatchPublishEventsRequest", &event(nested(free::DEPTH_MAX))).unwrap();
        let wire = prost::Message::encode_to_vec(&deepest);
        let typed: pb::BatchPublishEventsRequest = prost::Message::decode(wire.as_slice()).unwrap();
        assert_eq!(typed.events.len(), 1);

        assert_eq!(
            refused("BatchPublishEventsRequest", &event(nested(free::DEPTH_MAX + 1))),
            [("events[0].payload.value".to_owned(), Rule::OutOfRange)]
        );
    }

    #[test]
    fn a_name_given_twice_is_refused_but_within_a_free_value() {
        let cases = [
            (r#"{"atomic": true, "atomic": true}"#, "atomic"),
            (r#"{"events": [{"id": "a", "id": "b"}]}"#, "events[0].id"),
            (r#"{"events": [{"metadata": {"a": "1", "a": "2"}}]}"#, "events[0].metadata[a]"),
        ];
        for (text, path) in cases {
            let found = read_text("BatchPublishEventsRequest", text).unwrap_err().0;
            assert_eq!((found[0].field.as_str(), found[0].rule), (path, Rule::Duplicate), "{text}");
        }
        let free = r#"{"events": [{"payload": {"value": {"a": 1, "a": 2}}}]}"#;
        assert!(read_text("BatchPublishEventsRequest", free).is_ok());
    }

    #[test]
    fn what_is_written_is_what_prost_reflect_would_write() {
        let text = r#"{"requestId": "r", "events": [
            {"event_type": "a", "metadata": {"k": "v", "": ""}, "deliverTime": "2026-01-01T00:00:00.5Z",
             "payload": {"contentType": "a/b", "value": {"a": [1, -2.5, null, true, "x", {}, []], "b": {"c": "é\n"}}}},
            {"payload": {"data": "_-8"}}, {}]}"#;
        let message = descriptor("BatchPublishEventsRequest");
        let mut json: Json = serde_json::from_str(text).unwrap();
        json.as_object_mut().unwrap().remove("requestId");
        let text = json.to_string();
        let expected = DynamicMessage::deserialize(message, &json).unwrap();
        let typed =
            |message: &DynamicMessage| message.transcode_to::<pb::BatchPublishEventsRequest>().unwrap();
        assert_eq!(typed(&read_text("BatchPublishEventsRequest", &text).unwrap()), typed(&expected));
    }

    #[test]
    fn long_names_and_many_violations_are_told_in_short() {
        let long = format!(r#"{{"{}": 1}}"#, "x".repeat(5000));
        assert!(read_text("ListEventsRequest", &long).unwrap_err().0[0].field.len() < 100);
        let names: Vec<String> = (0..100_000).map(|n| format!(r#""x{n}":0"#)).collect();
        let found = read_text("ListEventsRequest", &format!("{{{}}}", names.join(","))).unwrap_err();
        assert_eq!((found.0.len(), found.count()), (101, 100_000));
    }

    #[test]
    fn what_is_over_the_limit_is_given_up_at_once() {
        let body = format!(r#"{{"events": [{}{{}}]}}"#, "{},".repeat(10_000));
        let refused =
            transcode(&descriptor("BatchPublishEventsRequest"), &Body::Whole, &[], 1000, body.as_bytes());
        assert!(matches!(refused, Err(Refusal::TooLarge)));
    }
}
