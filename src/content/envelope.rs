//! The envelope: `{"id","event","timestamp","data"}` around a payload.
//!
//! The timestamp is the event's creation in UTC, always with three digits of a second:
//! `2026-01-21T12:00:00.000Z`.

use std::{
    io::Write as _,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;

use crate::domain::{Envelope, Event};

/// Media type of an envelope; shared, so that a body costs no copy of it.
static JSON: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("application/json"));

/// Keys and punctuation (46), the id (36), the timestamp (24) and some characters to
/// escape in the type.
const ENVELOPE_LEN: usize = 128;

/// The body of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// Media type.
    pub content_type: Arc<str>,
    /// Exact bytes, as signed and sent.
    pub data: Bytes,
}

/// The body that brings an event in the given shape.
///
/// Only JSON can stand inside the JSON of an envelope: any other payload goes
/// out as it is, under its own media type. A payload whose media type says JSON
/// was checked to be well-formed when it was published.
pub fn body(event: &Event, envelope: Envelope) -> Body {
    match envelope {
        Envelope::Event if event.payload.is_json() => {
            Body { content_type: Arc::clone(&JSON), data: wrap(event) }
        }
        Envelope::Event | Envelope::Raw => {
            Body { content_type: Arc::clone(&event.payload.content_type), data: event.payload.data.clone() }
        }
    }
}

/// Splices the payload's bytes into an envelope, in one allocation.
fn wrap(event: &Event) -> Bytes {
    let payload = &event.payload.data;
    let mut out = Vec::with_capacity(ENVELOPE_LEN + event.event_type.len() + payload.len());
    // Writing to a vector cannot fail, and neither can serialising a string.
    let _ = write!(out, r#"{{"id":"{}","event":"#, event.id);
    let _ = serde_json::to_writer(&mut out, &*event.event_type);
    let _ = write!(out, r#","timestamp":"{}","data":"#, event.created_at.in_millis());
    out.extend_from_slice(payload);
    out.push(b'}');
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{Payload, Pos, Timestamp};

    fn event(content_type: &str, data: impl Into<Bytes>) -> Event {
        let payload = Payload { content_type: content_type.into(), data: data.into() };
        Event::sample(Pos(9), Timestamp(1_768_996_800_000_000), payload)
    }

    fn wrapped(event: &Event, data: &[u8]) -> Vec<u8> {
        let head = format!(
            r#"{{"id":"{}","event":"user.created","timestamp":"2026-01-21T12:00:00.000Z","data":"#,
            event.id
        );
        [head.as_bytes(), data, b"}"].concat()
    }

    #[test]
    fn json_is_wrapped_without_a_byte_changed() {
        let cases: [&[u8]; 7] = [
            br#"{"z":1,"a":2,"z":3}"#,
            br#"{"n":123456789012345678901234567890,"f":1.10,"e":1E400}"#,
            "{\"name\":\"Zoë ☕\",\"esc\":\"\\u00eb\"}".as_bytes(),
            b" {\n\t\"spaced\" : true\r\n} ",
            b"null",
            b"\"text\"",
            b"[1,2]",
        ];
        for data in cases {
            let event = event("application/json", data);
            let body = body(&event, Envelope::Event);
            assert_eq!(body.data, wrapped(&event, data));
            assert_eq!(&*body.content_type, "application/json");
        }
    }

    #[test]
    fn every_json_media_type_is_wrapped_and_the_envelope_is_plain_json() {
        for content_type in ["application/json; charset=utf-8", "application/vnd.x+json", "Application/JSON"]
        {
            let event = event(content_type, "{}");
            let body = body(&event, Envelope::Event);
            assert_eq!(
                (&*body.content_type, &body.data[..]),
                ("application/json", &wrapped(&event, b"{}")[..])
            );
        }
    }

    #[test]
    fn odd_types_stay_valid_json() {
        let mut event = event("application/json", "1");
        event.event_type = "a\"b\\c\u{1}".into();
        let body: serde_json::Value = serde_json::from_slice(&body(&event, Envelope::Event).data).unwrap();
        assert_eq!(body["event"], "a\"b\\c\u{1}");
    }

    #[test]
    fn the_timestamp_has_three_digits_of_a_second_whatever_they_are() {
        let cases = [
            (1_768_996_800_000_000, "2026-01-21T12:00:00.000Z"),
            (1_768_996_800_000_999, "2026-01-21T12:00:00.000Z"),
            (1_768_996_800_100_000, "2026-01-21T12:00:00.100Z"),
            (1_768_996_800_123_456, "2026-01-21T12:00:00.123Z"),
            (1_768_996_800_999_999, "2026-01-21T12:00:00.999Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ];
        for (created_at, expected) in cases {
            let event = Event { created_at: Timestamp(created_at), ..event("application/json", "1") };
            let body: serde_json::Value =
                serde_json::from_slice(&body(&event, Envelope::Event).data).unwrap();
            assert_eq!(body["timestamp"], expected);
        }
    }

    #[test]
    fn what_is_not_json_goes_out_as_it_is() {
        let cases: [(&str, &[u8]); 4] = [
            ("text/plain", b"hello"),
            ("application/octet-stream", b"\0\xff\xfe\0"),
            ("application/octet-stream", b""),
            ("", b"{}"),
        ];
        for (content_type, data) in cases {
            let body = body(&event(content_type, data), Envelope::Event);
            assert_eq!((&*body.content_type, &body.data[..]), (content_type, data));
        }
    }

    #[test]
    fn raw_is_the_payload_itself_and_not_a_copy() {
        for content_type in ["application/json; charset=utf-8", "image/png"] {
            let event = event(content_type, vec![b'1'; 100]);
            let body = body(&event, Envelope::Raw);
            assert_eq!((&*body.content_type, &body.data), (content_type, &event.payload.data));
            assert_eq!(body.data.as_ptr(), event.payload.data.as_ptr());
        }
    }

    #[test]
    fn the_usual_envelope_is_written_in_one_allocation() {
        let event = event("application/json", vec![b'1'; 10_000]);
        let out = wrap(&event);
        assert!(out.len() <= ENVELOPE_LEN + event.event_type.len() + 10_000);
    }

    proptest! {
        #[test]
        fn any_payload_stands_between_the_same_bytes(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let event = event("application/json", data.clone());
            prop_assert_eq!(&body(&event, Envelope::Event).data[..], &wrapped(&event, &data)[..]);
        }
    }
}
