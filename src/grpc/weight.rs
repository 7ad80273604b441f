//! How much memory a message takes once it is decoded, found by a walk over its wire form.
//!
//! Two bytes on the wire can be an empty message in a list, which takes hundreds of
//! bytes in memory; so the length of a message does not bound what decoding it costs.

use bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

/// Most bytes that the messages, texts and items within one request may take in memory.
pub const DECODED_BYTES_MAX: usize = 48 << 20;
/// Messages up to this size are not weighed: they take a few MiB at worst.
pub const WEIGHED_BYTES_MIN: usize = 64 << 10;
/// Nested messages that prost reads.
const DEPTH_MAX: usize = 100;

/// Why the walk ends early.
enum Stop {
    /// The message is too heavy.
    Heavy,
    /// It is malformed, which its decoder will say better.
    Malformed,
}

/// Whether the message takes more than [`DECODED_BYTES_MAX`] once it is decoded, by estimate.
pub fn is_too_heavy(message: &MessageDescriptor, mut wire: impl Buf) -> bool {
    let (length, mut left) = (wire.remaining(), DECODED_BYTES_MAX);
    length > WEIGHED_BYTES_MIN && matches!(walk(message, &mut wire, length, &mut left, 0), Err(Stop::Heavy))
}

fn walk(
    message: &MessageDescriptor,
    wire: &mut impl Buf,
    length: usize,
    left: &mut usize,
    depth: usize,
) -> Result<(), Stop> {
    let end = wire.remaining().checked_sub(length).ok_or(Stop::Malformed)?;
    while wire.remaining() > end {
        let (number, wire_type) = decode_key(wire).map_err(|_| Stop::Malformed)?;
        let field = message.get_field(number);
        let size = match wire_type {
            WireType::Varint => {
                decode_varint(wire).map_err(|_| Stop::Malformed)?;
                0
            }
            WireType::ThirtyTwoBit => 4,
            WireType::SixtyFourBit => 8,
            WireType::LengthDelimited => {
                let size = decode_varint(wire).map_err(|_| Stop::Malformed)?;
                usize::try_from(size).map_err(|_| Stop::Malformed)?
            }
            WireType::StartGroup | WireType::EndGroup => return Err(Stop::Malformed),
        };
        if wire.remaining() < end.saturating_add(size) {
            return Err(Stop::Malformed);
        }
        // Unknown fields are skipped and take nothing.
        let Some(field) = field else {
            wire.advance(size);
            continue;
        };
        *left = left.checked_sub(weight(&field, size)).ok_or(Stop::Heavy)?;
        match field.kind().as_message() {
            Some(inner) if wire_type == WireType::LengthDelimited && depth < DEPTH_MAX => {
                walk(inner, wire, size, left, depth + 1)?;
            }
            Some(_) | None => wire.advance(size),
        }
    }
    Ok(())
}

/// What one value of a field takes, but for the fields of a message.
fn weight(field: &FieldDescriptor, size: usize) -> usize {
    let kind = field.kind();
    match kind.as_message() {
        // An entry of a map: both strings and its part of a node.
        Some(_) if field.is_map() => 96,
        Some(message) => match message.full_name() {
            "google.protobuf.Value" => 40,
            "google.protobuf.Struct" | "google.protobuf.ListValue" => 24,
            _ => 32 + 24 * message.fields().len(),
        },
        None if field.is_list() && matches!(kind, Kind::String | Kind::Bytes) => 32 + size,
        // Packed items of one byte take up to eight.
        None if field.is_list() => 8 + 8 * size,
        None => size,
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_reflect::DescriptorPool;

    use super::*;
    use crate::grpc::pb;

    fn batch() -> MessageDescriptor {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        pool.get_message_by_name("hookwire.v1.BatchPublishEventsRequest").unwrap()
    }

    #[test]
    fn many_small_messages_are_heavier_than_their_bytes() {
        let empty_events = [0x0a, 0].repeat(8 << 20);
        assert!(is_too_heavy(&batch(), empty_events.as_slice()));
        assert!(!is_too_heavy(&batch(), &empty_events[..100_000]));
    }

    #[test]
    fn a_full_batch_of_usual_events_is_not_too_heavy() {
        let event = |bytes: usize| {
            let body = pb::payload::Body::Json(format!("\"{}\"", "x".repeat(bytes)));
            let payload = pb::Payload { body: Some(body), ..Default::default() };
            let metadata = (0..10).map(|n| (format!("key-{n}"), "value".to_owned())).collect();
            pb::Event { event_type: "a.b".to_owned(), payload: Some(payload), metadata, ..Default::default() }
        };
        let events = vec![event(16_000); 1000];
        let wire = pb::BatchPublishEventsRequest { events, ..Default::default() }.encode_to_vec();
        assert!(!is_too_heavy(&batch(), wire.as_slice()));
    }

    #[test]
    fn what_is_malformed_is_left_to_the_decoder() {
        let mut wire = vec![0x0a, 0xff, 0x01];
        wire.resize(WEIGHED_BYTES_MIN + 1, 0xff);
        assert!(!is_too_heavy(&batch(), wire.as_slice()));
    }
}
