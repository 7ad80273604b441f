//! The master key.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305};
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{domain::SecretText, entropy::Entropy};

/// Bytes of a key.
const KEY_LEN: usize = 32;

/// Tells master keys apart without telling anything about them: the first 8 bytes
/// of a SHA-256 of the key. 16 hex digits when printed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(pub [u8; 8]);

/// 32 bytes that everything else is sealed under. Its `Debug` prints the id.
pub struct MasterKey {
    id: KeyId,
    cipher: XChaCha20Poly1305,
}

/// A text that is not a master key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAKey {
    /// Not base64.
    #[error("it is not base64")]
    Base64,
    /// Not 32 bytes.
    #[error("it has {0} bytes instead of 32")]
    Length(usize),
}

impl MasterKey {
    /// Takes a key in base64 with padding; white space around it does not matter.
    pub fn parse(text: &SecretText) -> Result<Self, NotAKey> {
        let bytes = BASE64.decode(text.expose().trim()).map_err(|_| NotAKey::Base64)?;
        let bytes = Zeroizing::new(bytes);
        let Ok(mut key) = <[u8; KEY_LEN]>::try_from(bytes.as_slice()) else {
            return Err(NotAKey::Length(bytes.len()));
        };
        let hash = Sha256::new().chain_update(b"hookwire master key id\0").chain_update(key).finalize();
        let id = KeyId(*hash.first_chunk().expect("a SHA-256 has 32 bytes"));
        let cipher = XChaCha20Poly1305::new(&key.into());
        key.zeroize();
        Ok(Self { id, cipher })
    }

    /// A new key as text.
    pub fn draw(entropy: &Entropy) -> SecretText {
        let key = Zeroizing::new(entropy.bytes::<KEY_LEN>());
        BASE64.encode(*key).into()
    }

    /// Which it is.
    pub fn id(&self) -> KeyId {
        self.id
    }

    pub(super) fn cipher(&self) -> &XChaCha20Poly1305 {
        &self.cipher
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", self.id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
