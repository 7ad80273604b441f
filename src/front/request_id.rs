//! A name for every request: `x-request-id`.

use http::{HeaderName, HeaderValue, Request};

use crate::entropy::Entropy;

/// The header that has it, in requests and in answers.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id taken from a client: room for every usual scheme, short enough to log.
const LENGTH_MAX: usize = 128;

/// Sees to it that a request has an `x-request-id`, the client's own or a new one of
/// 16 hex digits, and returns it.
pub(super) fn give<B>(request: &mut Request<B>, entropy: &Entropy) -> HeaderValue {
    let given = request.headers().get(X_REQUEST_ID).filter(|id| is_fit(id)).cloned();
    let id = given.unwrap_or_else(|| fresh(entropy));
    request.headers_mut().insert(X_REQUEST_ID, id.clone());
    id
}

/// Visible ASCII only, so that it can be logged and sent on as it is.
fn is_fit(id: &HeaderValue) -> bool {
    (1..=LENGTH_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
}

fn fresh(entropy: &Entropy) -> HeaderValue {
    let digits = hex::encode(entropy.bytes::<8>());
    HeaderValue::from_str(&digits).unwrap_or_else(|_| HeaderValue::from_static("0000000000000000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(given: Option<&str>) -> String {
        let mut request = Request::new(());
        if let Some(id) = given {
            request.headers_mut().insert(X_REQUEST_ID, id.parse().unwrap());
        }
        let id = give(&mut request, &Entropy::seeded(1));
        assert_eq!(request.headers()[X_REQUEST_ID], id, "whoever answers sees the same id");
        id.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_fit_id_is_kept() {
        assert_eq!(name(Some("abc-123")), "abc-123");
        let longest = "x".repeat(LENGTH_MAX);
        assert_eq!(name(Some(&longest)), longest);
    }

    #[test]
    fn another_is_replaced_by_sixteen_hex_digits() {
        let too_long = "x".repeat(LENGTH_MAX + 1);
        for given in [None, Some(""), Some("two words"), Some("tab\there"), Some(too_long.as_str())] {
            let id = name(given);
            assert_eq!(id.len(), 16);
            assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        }
    }
}
