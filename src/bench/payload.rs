//! Payloads that say which event they belong to.

use bytes::Bytes;

/// What stands before the number in a payload, and nowhere else in a request.
const MARK: &[u8] = br#"{"n":"#;
/// How far into a request's body the number may begin: beyond any envelope.
const SEARCHED: usize = 256;

/// The payload of an event: `{"n":7,"pad":"xxx"}` of exactly so many bytes, of
/// which there must be at least 32.
pub fn payload(number: u64, bytes: usize) -> Bytes {
    let mut out = Vec::with_capacity(bytes);
    write(&mut out, number, bytes);
    Bytes::from(out)
}

/// Adds a payload to a text.
pub fn write(out: &mut Vec<u8>, number: u64, bytes: usize) {
    let end = out.len() + bytes - 2;
    out.extend_from_slice(MARK);
    out.extend_from_slice(number.to_string().as_bytes());
    out.extend_from_slice(br#","pad":""#);
    out.resize(end, b'x');
    out.extend_from_slice(br#""}"#);
}

/// The number in a body, in an envelope or not.
pub fn number(body: &[u8]) -> Option<u64> {
    let head = &body[..body.len().min(SEARCHED)];
    let at = head.windows(MARK.len()).position(|window| window == MARK)?;
    let digits = head[at + MARK.len()..].iter().take_while(|byte| byte.is_ascii_digit());
    let mut digits = digits.map(|digit| u64::from(digit - b'0')).peekable();
    digits.peek()?;
    digits.try_fold(0_u64, |number, digit| number.checked_mul(10)?.checked_add(digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_json_of_the_length_asked_for() {
        for (of, bytes) in [(0, 32), (7, 33), (9_999_999_999, 32), (123, 512), (5, 10_240)] {
            let made = payload(of, bytes);
            assert_eq!(made.len(), bytes);
            let json: serde_json::Value = serde_json::from_slice(&made).unwrap();
            assert_eq!(json["n"], of);
            assert_eq!(number(&made), Some(of));
        }
    }

    #[test]
    fn the_number_is_found_in_an_envelope() {
        let body =
            [br#"{"id":"evt_1","event":"a.b","timestamp":"t","data":"#, &*payload(42, 64), b"}"].concat();
        assert_eq!(number(&body), Some(42));
        assert_eq!(number(b"{}"), None);
        assert_eq!(number(br#"{"n":x}"#), None);
    }
}
