//! Keeps secrets that were sent out of what is recorded: some receivers answer with
//! the very request they got.

use crate::domain::{Authentication, Endpoint, Response, SecretText};

/// Shorter values stand in any text by chance.
const LENGTH_MIN: usize = 6;
/// What stands in their place.
const HIDDEN: &[u8] = b"***";

/// What an endpoint's requests say that must not come back.
pub(super) fn spoken(endpoint: &Endpoint) -> Vec<SecretText> {
    let headers = endpoint.headers.values().filter(|header| header.sensitive);
    let mut spoken: Vec<_> = headers.map(|header| header.value.clone()).collect();
    match &endpoint.authentication {
        Some(Authentication::Basic { password, .. }) => spoken.push(password.clone()),
        Some(Authentication::Bearer { token }) => spoken.push(token.clone()),
        Some(Authentication::OAuth2(_)) | None => {}
    }
    spoken
}

/// Replaces every secret in a response.
pub(super) fn redact<'a>(response: &mut Response, secrets: impl Iterator<Item = &'a [u8]>) {
    for secret in secrets.filter(|secret| secret.len() >= LENGTH_MIN) {
        if let Some(body) = without(&response.body, secret) {
            response.body = body;
        }
        for (_, value) in &mut response.headers {
            if let Some(text) = without(value.as_bytes(), secret) {
                *value = String::from_utf8_lossy(&text).into_owned();
            }
        }
    }
}

/// The text without the secret; nothing if it is not in it.
fn without(text: &[u8], secret: &[u8]) -> Option<Vec<u8>> {
    let find = |text: &[u8]| text.windows(secret.len()).position(|window| window == secret);
    let (mut rest, mut next) = (text, Some(find(text)?));
    let mut kept = Vec::with_capacity(text.len());
    while let Some(at) = next {
        kept.extend_from_slice(&rest[..at]);
        kept.extend_from_slice(HIDDEN);
        rest = &rest[at + secret.len()..];
        next = find(rest);
    }
    kept.extend_from_slice(rest);
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_not_recorded_when_it_comes_back() {
        let mut response = Response {
            headers: vec![("x-echo".to_owned(), "a s3cret b".to_owned())],
            body: b"s3crets3cret, t0ken-1 and 12345 s3cre\xfft".to_vec(),
            ..Response::default()
        };
        let secrets: [&[u8]; 4] = [b"s3cret", b"t0ken-1", b"12345", b""];
        redact(&mut response, secrets.into_iter());
        assert_eq!(response.body, b"******, *** and 12345 s3cre\xfft");
        assert_eq!(response.headers[0].1, "a *** b");
    }
}
