//! Seals secrets under the master key.
//!
//! Each secret row is sealed as one blob with XChaCha20-Poly1305:
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | form, now 2 |
//! | 8 | which master key: the start of a hash of it |
//! | 24 | nonce, drawn by chance: with that many bytes no two meet |
//! | rest | ciphertext and tag |
//!
//! What is sealed is bound to its [`Place`]: a blob that somebody pastes into the
//! row of another tenant, another row, another kind of row or another version of the
//! same row does not open. Form 1 was not bound to the version of its row.
//!
//! A [`Vault`] holds a ring of keys. The current one seals, any of them opens, so
//! that a key can be replaced while everything goes on.

mod key;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use chacha20poly1305::{
    XNonce,
    aead::{Aead as _, Payload},
};
use zeroize::Zeroizing;

pub use self::key::{KeyId, MasterKey, NotAKey};
use crate::{domain::TenantKey, entropy::Entropy};

/// The current form of a blob, its first byte: bound to the version of its row.
pub const FORM: u8 = 2;
/// The form before, without a version.
const FORM_UNVERSIONED: u8 = 1;
const ID_LEN: usize = 8;
const NONCE_LEN: usize = 24;
const HEAD_LEN: usize = 1 + ID_LEN + NONCE_LEN;

/// Where a secret belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// Whose it is.
    pub tenant: TenantKey,
    /// Kind of the row, such as `endpoint`.
    pub kind: &'static str,
    /// Identifier of the row, never reused.
    pub id: &'a str,
    /// Version of the row; 0 if it never changes.
    pub version: u64,
}

/// Why a blob does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It is cut off, or of a later version.
    #[error("what is sealed is not in a form that this version knows")]
    Malformed,
    /// Its key is not in the ring.
    #[error("what is sealed is under master key {0}, which was not given")]
    UnknownKey(KeyId),
    /// It was changed, or belongs to another row or another version of its row.
    #[error("what is sealed was altered, or belongs to another row or to another version of it")]
    Altered,
}

/// The ring of master keys. Cheap to clone.
#[derive(Clone)]
pub struct Vault(Arc<Ring>);

struct Ring {
    /// Never empty; the first is the current one.
    keys: Vec<MasterKey>,
    entropy: Entropy,
}

impl Vault {
    /// A ring: `current` seals, `old` keys open as well.
    pub fn new(current: MasterKey, old: impl IntoIterator<Item = MasterKey>, entropy: Entropy) -> Self {
        let keys = std::iter::once(current).chain(old).collect();
        Self(Arc::new(Ring { keys, entropy }))
    }

    /// A ring of one key that is drawn and kept nowhere: what is sealed under it goes
    /// with the process, or opens with the same seed. For tests and measurements.
    pub fn drawn(entropy: Entropy) -> Self {
        let key = MasterKey::parse(&MasterKey::draw(&entropy)).expect("what is drawn is a key");
        Self::new(key, [], entropy)
    }

    /// The key that seals.
    pub fn current(&self) -> KeyId {
        self.0.keys[0].id()
    }

    /// Whether what is sealed under a key can be opened.
    pub fn knows(&self, key: KeyId) -> bool {
        self.find(key).is_some()
    }

    /// Seals a secret for its place.
    pub fn seal(&self, place: Place<'_>, secret: &[u8]) -> Vec<u8> {
        self.seal_in(FORM, place, secret)
    }

    /// Seals a secret as earlier versions did.
    #[cfg(test)]
    pub(crate) fn seal_unversioned(&self, place: Place<'_>, secret: &[u8]) -> Vec<u8> {
        self.seal_in(FORM_UNVERSIONED, place, secret)
    }

    fn seal_in(&self, form: u8, place: Place<'_>, secret: &[u8]) -> Vec<u8> {
        let key = &self.0.keys[0];
        let nonce: [u8; NONCE_LEN] = self.0.entropy.bytes();
        let mut blob = Vec::with_capacity(HEAD_LEN + secret.len() + 16);
        blob.push(form);
        blob.extend_from_slice(&key.id().0);
        blob.extend_from_slice(&nonce);
        let bound = bound(place, &blob[..=ID_LEN]);
        let sealed = key.cipher().encrypt(&XNonce::from(nonce), Payload { msg: secret, aad: &bound });
        blob.extend(sealed.expect("only 256 GiB would be too long to seal"));
        blob
    }

    /// Opens what was sealed for this place.
    pub fn open(&self, place: Place<'_>, blob: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let id = key_of(blob).ok_or(OpenError::Malformed)?;
        let (nonce, sealed) = blob[1 + ID_LEN..].split_first_chunk().ok_or(OpenError::Malformed)?;
        let key = self.find(id).ok_or(OpenError::UnknownKey(id))?;
        let bound = bound(place, &blob[..=ID_LEN]);
        let opened = key.cipher().decrypt(&XNonce::from(*nonce), Payload { msg: sealed, aad: &bound });
        opened.map(Zeroizing::new).map_err(|_| OpenError::Altered)
    }

    fn find(&self, id: KeyId) -> Option<&MasterKey> {
        self.0.keys.iter().find(|key| key.id() == id)
    }
}

/// Which key a blob is sealed under; `None` if its form is not known.
pub fn key_of(blob: &[u8]) -> Option<KeyId> {
    let (form, rest) = blob.split_first()?;
    [FORM, FORM_UNVERSIONED].contains(form).then(|| rest.first_chunk().copied().map(KeyId))?
}

/// Whether a blob is bound to the version of its row.
pub fn is_versioned(blob: &[u8]) -> bool {
    blob.first() == Some(&FORM)
}

/// What a blob is bound to: its own start and its place, each part with its length,
/// so that no two places read the same.
fn bound(place: Place<'_>, head: &[u8]) -> Vec<u8> {
    let (tenant, version) = (place.tenant.0.to_be_bytes(), place.version.to_be_bytes());
    let parts = [head, &tenant, place.kind.as_bytes(), place.id.as_bytes(), &version];
    let count = if is_versioned(head) { parts.len() } else { parts.len() - 1 };
    let mut bound = Vec::new();
    for part in &parts[..count] {
        bound.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bound.extend_from_slice(part);
    }
    bound
}

/// The keys by their ids alone.
impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Vault").field(&self.0.keys).finish()
    }
}
