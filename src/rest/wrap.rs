//! What to do with a payload that stands there bare.

use serde_json::{Value as Json, json, value::RawValue};

/// The message that wraps a payload.
pub(super) const PAYLOAD: &str = "hookwire.v1.Payload";
/// Most characters of the caller's own payload that are shown.
const SHOWN_CHARS_MAX: usize = 60;

/// How to wrap a payload of which this field was found in place of a wrapper's.
pub(super) fn advice(name: &str, value: &RawValue) -> String {
    let name = Json::from(name).to_string();
    let field = format!("{name}:{}", value.get());
    let bare = match field.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{{{}…}}", &field[..end]),
        None => format!("{{{field}}}"),
    };
    format!(
        "is no field of Payload; wrap a plain object as {{\"value\": {bare}}} or, to keep each byte of it, as text: \
         {}",
        json!({ "json": bare })
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advise(name: &str, value: &str) -> String {
        advice(name, &RawValue::from_string(value.to_owned()).unwrap())
    }

    #[test]
    fn the_callers_own_payload_is_the_example() {
        let told = advise("user_id", "\"12345\"");
        assert!(told.contains(r#"{"value": {"user_id":"12345"}}"#), "{told}");
        assert!(told.contains(r#"{"json":"{\"user_id\":\"12345\"}"}"#), "{told}");
    }

    #[test]
    fn a_long_payload_is_shortened() {
        let told = advise("text", &format!("\"{}\"", "é".repeat(1000)));
        assert!(told.len() < 500 && told.contains('…'), "{told}");
    }
}
