//! Requests of `PublishEventStream`, from bytes to an event or to what is wrong with it.
#![no_main]

use hookwire::{
    app::Error,
    domain::{Micros, Timestamp},
    grpc::taken,
};
use libfuzzer_sys::fuzz_target;

const NOW: Timestamp = Timestamp(1_768_996_800_000_000);
const DAY: Micros = Micros::from_secs(24 * 3600);
const PAYLOAD_MAX: usize = 1 << 10;

fuzz_target!(|data: &[u8]| {
    let Ok(taken) = taken(data, NOW, PAYLOAD_MAX) else { return };
    match taken {
        Ok(event) => {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
            assert!((1..=128).contains(&event.event_type.len()) && event.event_type.bytes().all(plain));
            assert!(!event.event_type.starts_with("hookwire."));
            assert!(event.payload.data.len() <= PAYLOAD_MAX);
            // It becomes a header of every request.
            assert!(http::HeaderValue::from_str(&event.payload.content_type).is_ok());
            if event.payload.is_json() {
                let json = serde_json::from_slice::<serde::de::IgnoredAny>(&event.payload.data);
                assert!(json.is_ok(), "called JSON, and is none");
            }
            assert!(event.idempotency_key.len() <= 255);
            assert!((-100..=100).contains(&event.priority));
            assert!(event.deliver_at.is_none_or(|at| at > NOW && at.since(NOW) <= Micros(DAY.0 * 90)));
            assert!(event.expires_at.is_none_or(|at| at > NOW && at.since(NOW) <= Micros(DAY.0 * 365)));
            assert!(event.expires_at.is_none_or(|at| event.deliver_at.is_none_or(|due| due < at)));
            let bytes: usize = event.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
            assert!(bytes <= 8 << 10);
        }
        Err(Error::Invalid { violations, .. }) => {
            assert!(!violations.0.is_empty());
            for violation in &violations.0 {
                assert!(violation.field.starts_with("event"), "{violation:?}");
                assert!(!violation.description.is_empty());
            }
        }
        Err(error) => panic!("neither an event nor a violation: {error}"),
    }
});
