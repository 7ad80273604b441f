//! Payloads: bytes inside, three ways to write them outside.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use prost_types::{ListValue, Struct, Value, value::Kind};
use serde::de::IgnoredAny;
use serde_json::Value as Json;

use super::Checks;
use crate::{
    domain::{Payload, Rule},
    grpc::pb::{self, PayloadFormat, payload::Body},
};

/// Longest media type.
const TYPE_BYTES_MAX: usize = 255;

static JSON: LazyLock<Arc<str>> = LazyLock::new(|| "application/json".into());
static BYTES: LazyLock<Arc<str>> = LazyLock::new(|| "application/octet-stream".into());

/// A payload from the wire.
pub fn payload(checks: &mut Checks, given: Option<pb::Payload>, limit: usize) -> Payload {
    let pb::Payload { content_type, body } = given.unwrap_or_default();
    let good = content_type.is_empty() || content_type.len() <= TYPE_BYTES_MAX;
    if checks.check(good, "payload.content_type", Rule::TooLong, "must have at most 255 bytes") {
        let good = content_type.is_empty() || is_media_type(&content_type);
        let why = "must be a media type such as `application/json`";
        checks.check(good, "payload.content_type", Rule::BadFormat, why);
    }
    let (field, data, text) = match body {
        None => ("payload", Bytes::new(), None),
        Some(Body::Data(data)) => ("payload.data", data, None),
        Some(Body::Json(text)) => ("payload.json", Bytes::from(text), Some(())),
        Some(Body::Value(value)) => ("payload.value", written(checks, value), Some(())),
    };
    if data.len() > limit {
        checks.too_large("payload", limit, data.len());
        return Payload::default();
    }
    let content_type: Arc<str> = match (content_type.as_str(), text) {
        ("" | "application/json", Some(())) | ("application/json", None) => Arc::clone(&JSON),
        ("", None) if field == "payload.data" && is_json(&data) => Arc::clone(&JSON),
        ("", None) => Arc::clone(&BYTES),
        (given, _) => given.into(),
    };
    let payload = Payload { content_type, data };
    // Text in `value` was written here, so it is well formed.
    if field != "payload.value" && (text.is_some() || payload.is_json()) {
        checks.check(is_json(&payload.data), field, Rule::BadFormat, "is not well-formed JSON");
    }
    payload
}

/// How a payload is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shown(PayloadFormat);

impl Shown {
    /// As asked for.
    pub fn asked(checks: &mut Checks, format: i32) -> Self {
        Self(PayloadFormat::try_from(format).unwrap_or_else(|_| {
            checks.add("payload_format", Rule::UnknownValue, "is not a known format");
            PayloadFormat::Unspecified
        }))
    }

    /// A payload on the wire.
    pub fn payload(self, payload: Payload) -> pb::Payload {
        let is_json_type = payload.is_json();
        let Payload { content_type, data } = payload;
        let text = |data: &Bytes| std::str::from_utf8(data).ok().map(|text| Body::Json(text.to_owned()));
        let body = match self.0 {
            PayloadFormat::Data => None,
            PayloadFormat::Unspecified => text(&data).filter(|_| is_json_type),
            PayloadFormat::Json => text(&data).filter(|_| is_json(&data)),
            PayloadFormat::Value => serde_json::from_slice(&data).ok().map(|json| Body::Value(value(json))),
        };
        let body = Some(body.unwrap_or(Body::Data(data)));
        pb::Payload { content_type: content_type.as_ref().to_owned(), body }
    }
}

fn is_json(data: &[u8]) -> bool {
    // Spares binary data the parser.
    let first = data.iter().find(|byte| !byte.is_ascii_whitespace());
    let begins = first
        .is_some_and(|byte| matches!(byte, b'{' | b'[' | b'"' | b'-' | b't' | b'f' | b'n' | b'0'..=b'9'));
    // The parser skips over strings without looking at their encoding.
    let text = if begins { std::str::from_utf8(data).ok() } else { None };
    text.is_some_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

fn is_media_type(text: &str) -> bool {
    let mut parts = text.splitn(2, ';');
    // Blanks alone: whatever else counts as white space cannot stand in a header.
    let essence = parts.next().unwrap_or_default().trim_end_matches(' ');
    let Some((kind, subtype)) = essence.split_once('/') else { return false };
    let token = |text: &str| !text.is_empty() && text.bytes().all(super::headers::is_token_byte);
    token(kind)
        && token(subtype)
        && parts.next().unwrap_or_default().bytes().all(|it| matches!(it, b' '..=b'~'))
}

/// Compact JSON with sorted keys.
fn written(checks: &mut Checks, value: Value) -> Bytes {
    let mut finite = true;
    let json = json(value, &mut finite);
    checks.check(finite, "payload.value", Rule::OutOfRange, "must have no NaN and no infinity");
    Bytes::from(json.to_string())
}

fn json(value: Value, finite: &mut bool) -> Json {
    /// Integers up to here are exact as doubles.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(value)) => Json::Bool(value),
        Some(Kind::StringValue(text)) => Json::String(text),
        Some(Kind::NumberValue(number)) if number.fract() == 0.0 && number.abs() <= EXACT => {
            Json::from(number as i64)
        }
        Some(Kind::NumberValue(number)) => {
            *finite &= number.is_finite();
            Json::from(number)
        }
        Some(Kind::ListValue(ListValue { values })) => {
            Json::Array(values.into_iter().map(|value| json(value, finite)).collect())
        }
        // Sorted as they come: the fields are a tree.
        Some(Kind::StructValue(Struct { fields })) => {
            Json::Object(fields.into_iter().map(|(key, value)| (key, json(value, finite))).collect())
        }
    }
}

fn value(json: Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(value),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(values) => Kind::ListValue(ListValue { values: values.into_iter().map(value).collect() }),
        Json::Object(fields) => Kind::StructValue(Struct {
            fields: fields.into_iter().map(|(key, json)| (key, value(json))).collect(),
        }),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Error;

    fn take(content_type: &str, body: Option<Body>) -> Result<Payload, Vec<(String, Rule)>> {
        let mut checks = Checks::new();
        let given = pb::Payload { content_type: content_type.to_owned(), body };
        let payload = payload(&mut checks, Some(given), 1000);
        checks.into_result(payload).map_err(|error| {
            let Error::Invalid { violations, .. } = error else { panic!("{error:?}") };
            violations.0.into_iter().map(|violation| (violation.field, violation.rule)).collect()
        })
    }

    fn data(bytes: &'static [u8]) -> Option<Body> {
        Some(Body::Data(Bytes::from_static(bytes)))
    }

    #[test]
    fn the_media_type_follows_from_the_content_unless_given() {
        let json = Some(Body::Json("[1]".to_owned()));
        let cases = [
            ("", None, "application/octet-stream"),
            ("", data(b"{\"a\":1}"), "application/json"),
            ("", data(b"{\"a\":"), "application/octet-stream"),
            ("", data(b"\"\xff\""), "application/octet-stream"),
            ("", json.clone(), "application/json"),
            ("text/x-mine", json, "text/x-mine"),
            ("text/plain; charset=utf-8", data(b"{"), "text/plain; charset=utf-8"),
            ("text/plain ; a=b", data(b"{"), "text/plain ; a=b"),
        ];
        for (given, body, expected) in cases {
            assert_eq!(&*take(given, body.clone()).unwrap().content_type, expected, "{given:?} {body:?}");
        }
    }

    #[test]
    fn what_claims_to_be_json_must_be() {
        let json = |text: &str| Some(Body::Json(text.to_owned()));
        let cases = [
            ("", json("{"), "payload.json"),
            ("", json(""), "payload.json"),
            ("application/json", data(b"{"), "payload.data"),
            ("application/problem+json", data(b"\"\xff\""), "payload.data"),
            ("application/json", None, "payload"),
            ("no type", None, "payload.content_type"),
            ("image/png\r\n", None, "payload.content_type"),
            ("image/png\u{c}; q=1", None, "payload.content_type"),
            ("image/png\u{3000}", None, "payload.content_type"),
            ("image/png; q=\u{7f}", None, "payload.content_type"),
        ];
        for (given, body, field) in cases {
            let found = take(given, body.clone()).unwrap_err();
            assert_eq!(found, [(field.to_owned(), Rule::BadFormat)], "{given:?} {body:?}");
        }
        let nan = Value { kind: Some(Kind::NumberValue(f64::NAN)) };
        assert_eq!(
            take("", Some(Body::Value(nan))).unwrap_err(),
            [("payload.value".to_owned(), Rule::OutOfRange)]
        );
    }

    #[test]
    fn values_are_written_compactly_with_sorted_keys_and_whole_numbers() {
        let text = "{\"b\":[1.0,2.5,-3e0,1e300],\"a\":{\"z\":null,\"y\":true}}";
        let given = value(serde_json::from_str(text).unwrap());
        let payload = take("", Some(Body::Value(given))).unwrap();
        assert_eq!(payload.data, "{\"a\":{\"y\":true,\"z\":null},\"b\":[1,2.5,-3,1e+300]}");
    }

    #[test]
    fn a_payload_is_shown_as_asked_where_it_can_be() {
        let stored = |content_type: &str, data: &'static [u8]| Payload {
            content_type: content_type.into(),
            data: Bytes::from_static(data),
        };
        let shown = |format, payload| Shown(format).payload(payload).body.unwrap();
        let json = || stored("application/json", b"{\"a\": 1}");
        assert_eq!(shown(PayloadFormat::Unspecified, json()), Body::Json("{\"a\": 1}".to_owned()));
        assert!(matches!(shown(PayloadFormat::Data, json()), Body::Data(_)));
        assert!(matches!(shown(PayloadFormat::Value, json()), Body::Value(_)));
        let text = || stored("text/plain", b"[1]");
        assert!(matches!(shown(PayloadFormat::Unspecified, text()), Body::Data(_)));
        assert!(matches!(shown(PayloadFormat::Json, text()), Body::Json(_)));
        let odd = || stored("application/json", b"\xff");
        for format in [PayloadFormat::Unspecified, PayloadFormat::Json, PayloadFormat::Value] {
            assert!(matches!(shown(format, odd()), Body::Data(_)), "{format:?}");
        }
    }
}
