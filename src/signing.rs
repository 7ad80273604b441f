//! Signature headers: bytes in, headers out.
//!
//! A receiver that checks the signature knows who sent the body and that nobody
//! changed it. An endpoint may ask for up to four signature headers side by
//! side, so that it can move from one format to another without a gap.
//!
//! | scheme | header value | signs | secrets |
//! | --- | --- | --- | --- |
//! | Standard Webhooks | `v1,<base64> v1,<base64>` | `<id>.<t>.<body>` | every live one, newest first |
//! | `Sha256Hex` | `sha256=<hex>` | body, or `<t>.<body>` | the primary |
//! | `Timestamped` | `t=<t>,v1=<hex>`, `,v2=<hex>` | the same; `v2` always `<t>.<body>` | the primary |
//!
//! All of them are HMAC-SHA256. `<t>` is the attempt's own time in Unix seconds,
//! so that a receiver can refuse a captured request that comes late.
//!
//! Pure: the time is an argument. What can be computed once per endpoint, the
//! keyed states of the hash and the header names, is kept in the [`Signer`].

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderName, HeaderValue};
use sha2::Sha256;

use crate::domain::{Content, Endpoint, Scheme, Secret, Signature, Timestamp};

/// Header with the id of the message, the same on every attempt.
pub const ID: HeaderName = HeaderName::from_static("webhook-id");

/// Header with the time of the attempt in Unix seconds.
pub const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");

/// Signs the requests to one endpoint. Make a new one whenever the endpoint
/// changes.
#[derive(Clone)]
pub struct Signer {
    keys: Vec<Key>,
    signatures: Vec<Format>,
    announced: bool,
}

/// A secret, keyed: the two compressions that depend on the key alone are done.
#[derive(Clone)]
struct Key {
    state: Hmac<Sha256>,
    primary_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
}

/// One header to send.
#[derive(Clone)]
struct Format {
    name: HeaderName,
    scheme: Scheme,
    content: Content,
    add_v2: bool,
}

impl Signer {
    /// Prepares the secrets and headers of an endpoint.
    ///
    /// A secret that cannot be a key (bad base64, or empty, which anybody could
    /// forge) and a header that cannot be a name are left out; both are refused
    /// where endpoints are written.
    pub fn new(endpoint: &Endpoint) -> Self {
        Self {
            keys: endpoint.secrets.iter().filter_map(Key::new).collect(),
            signatures: endpoint.signing.signatures.iter().filter_map(Format::new).collect(),
            announced: !endpoint.signing.signatures.is_empty(),
        }
    }

    /// The headers of one attempt at `now`: id and timestamp if any signature is
    /// configured, whatever its scheme, and every signature there is a live
    /// secret for.
    ///
    /// The id must not contain a dot: dots part what is signed.
    pub fn sign(&self, message_id: &str, now: Timestamp, body: &[u8]) -> Vec<(HeaderName, HeaderValue)> {
        debug_assert!(!message_id.contains('.'), "`{message_id}` would make the signed text ambiguous");
        if !self.announced {
            return Vec::new();
        }
        let time = now.seconds().to_string();
        let parts = Parts { id: message_id, time: &time, body };
        let mut headers = Vec::with_capacity(2 + self.signatures.len());
        let mut push = |name: &HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.push((name.clone(), value));
            }
        };
        push(&ID, message_id);
        push(&TIMESTAMP, &time);
        for format in &self.signatures {
            if let Some(value) = self.value(format, now, &parts) {
                push(&format.name, &value);
            }
        }
        headers
    }

    /// The value of one header; nothing without a live secret.
    fn value(&self, format: &Format, now: Timestamp, parts: &Parts<'_>) -> Option<String> {
        match format.scheme {
            Scheme::StandardWebhooks => {
                // `v1,`, 44 characters of base64 and a space for each.
                let mut value = String::with_capacity(48 * self.keys.len());
                for key in self.live(now) {
                    value.push_str(if value.is_empty() { "v1," } else { " v1," });
                    BASE64.encode_string(key.standard(parts), &mut value);
                }
                (!value.is_empty()).then_some(value)
            }
            Scheme::Sha256Hex => {
                let mac = self.primary(now)?.content(format.content, parts);
                Some(format!("sha256={}", hex::encode(mac)))
            }
            Scheme::Timestamped => {
                let key = self.primary(now)?;
                let mut value =
                    format!("t={},v1={}", parts.time, hex::encode(key.content(format.content, parts)));
                if format.add_v2 {
                    value.push_str(",v2=");
                    value.push_str(&hex::encode(key.content(Content::TimestampBody, parts)));
                }
                Some(value)
            }
        }
    }

    fn live(&self, now: Timestamp) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(move |key| key.expires_at.is_none_or(|at| at > now))
    }

    /// The key used where only one signature can be sent, by the rule of
    /// [`Endpoint::primary_secret`].
    fn primary(&self, now: Timestamp) -> Option<&Key> {
        let come = |key: &&Key| key.primary_at.is_none_or(|at| at <= now);
        self.live(now).find(come).or_else(|| self.live(now).last())
    }
}

/// What can be signed.
struct Parts<'a> {
    id: &'a str,
    time: &'a str,
    body: &'a [u8],
}

impl Key {
    fn new(secret: &Secret) -> Option<Self> {
        let bytes = secret.key().filter(|bytes| !bytes.is_empty())?;
        let state = Hmac::new_from_slice(&bytes).ok()?;
        Some(Self { state, primary_at: secret.primary_at, expires_at: secret.expires_at })
    }

    fn standard(&self, parts: &Parts<'_>) -> [u8; 32] {
        self.mac(&[parts.id.as_bytes(), b".", parts.time.as_bytes(), b".", parts.body])
    }

    fn content(&self, content: Content, parts: &Parts<'_>) -> [u8; 32] {
        match content {
            Content::Body => self.mac(&[parts.body]),
            Content::TimestampBody => self.mac(&[parts.time.as_bytes(), b".", parts.body]),
        }
    }

    fn mac(&self, pieces: &[&[u8]]) -> [u8; 32] {
        let mut state = self.state.clone();
        for piece in pieces {
            state.update(piece);
        }
        state.finalize().into_bytes().into()
    }
}

impl Format {
    fn new(signature: &Signature) -> Option<Self> {
        let name = HeaderName::try_from(signature.header.as_str()).ok()?;
        Some(Self { name, scheme: signature.scheme, content: signature.content, add_v2: signature.add_v2 })
    }
}

#[cfg(test)]
mod tests;
