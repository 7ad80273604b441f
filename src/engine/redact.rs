//! Removes the secrets of a request from the response that is recorded: some receivers
//! answer with the request that they received.
//!
//! A secret is found in the text as it stands and in each form that a receiver may give
//! it: escaped as in JSON (also twice), percent-encoded, as HTML entities, in base64. A
//! response is recorded up to a limit, so a secret may be cut off at the end of the
//! text: a start of it there is removed, too.

mod needle;
mod view;

use std::ops::Range;

use self::{
    needle::{LENGTH_MIN, Needle},
    view::View,
};
use crate::domain::{Authentication, Endpoint, Response};

/// Replaces a secret.
const HIDDEN: &[u8] = b"***";

/// Finds a fixed set of secrets.
pub(super) struct Redactor(Vec<Needle>);

/// The secrets that an endpoint's requests carry, except for OAuth tokens.
pub(super) fn sent_secrets(endpoint: &Endpoint) -> impl Iterator<Item = &[u8]> {
    let headers = endpoint.headers.values().filter(|header| header.sensitive).map(|header| &header.value);
    let credential = match &endpoint.authentication {
        Some(Authentication::Basic { password, .. }) => Some(password),
        Some(Authentication::Bearer { token }) => Some(token),
        Some(Authentication::OAuth2(_)) | None => None,
    };
    headers.chain(credential).map(|secret| secret.expose().as_bytes())
}

impl Redactor {
    /// Shorter secrets than 6 bytes are left out: they stand in any text by chance.
    pub fn new<'a>(secrets: impl Iterator<Item = &'a [u8]>) -> Self {
        Self(secrets.filter(|secret| secret.len() >= LENGTH_MIN).flat_map(Needle::spellings).collect())
    }

    /// Replaces every secret in a response.
    pub fn redact(&self, response: &mut Response) {
        if self.0.is_empty() {
            return;
        }
        if let Some(body) = self.without(&response.body) {
            response.body = body;
        }
        for (_, value) in &mut response.headers {
            if let Some(text) = self.without(value.as_bytes()) {
                *value = String::from_utf8_lossy(&text).into_owned();
            }
        }
    }

    /// The text without the secrets; `None` if it contains none.
    fn without(&self, text: &[u8]) -> Option<Vec<u8>> {
        let mut found = Vec::new();
        for view in View::all(text) {
            for needle in &self.0 {
                needle.find(view.bytes(), |range| found.push(view.origin(range)));
            }
        }
        (!found.is_empty()).then(|| cut_out(text, found))
    }
}

/// Replaces ranges of a text. Those that overlap are one.
fn cut_out(text: &[u8], mut ranges: Vec<Range<usize>>) -> Vec<u8> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut kept = Vec::with_capacity(text.len());
    let mut done = 0;
    for range in ranges {
        if range.start >= done {
            kept.extend_from_slice(&text[done..range.start]);
            kept.extend_from_slice(HIDDEN);
        }
        done = done.max(range.end);
    }
    kept.extend_from_slice(&text[done..]);
    kept
}

#[cfg(test)]
mod tests;
