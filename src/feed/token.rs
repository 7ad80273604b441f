//! Opaque tokens for positions, of pages and of the feed.
//!
//! A token names its purpose, its tenant, its store's incarnation and, for pages,
//! the filter it was made for; a checksum catches mangled ones. It is not secret.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use crate::domain::{Pos, TenantKey};

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Which method's; a small number, see the makers.
    pub purpose: u8,
    /// Whose.
    pub tenant: TenantKey,
    /// Identity of the store.
    pub incarnation: u32,
    /// Hash of what it is bound to; zero for nothing.
    pub binding: u32,
    /// The position.
    pub pos: Pos,
}

/// The text is not a token for this use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a token of this list or stream")]
pub struct TokenError;

const VERSION: u8 = 1;
const LEN: usize = 2 + 8 + 4 + 4 + 8;

impl Token {
    /// Purpose of tokens that resume a watch.
    pub const WATCH: u8 = 1;

    /// Hash of a text to bind a token to.
    pub fn bind(text: &str) -> u32 {
        let digest = Sha256::digest(text.as_bytes());
        u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) | 1
    }

    /// As URL-safe text of 40 characters.
    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(LEN + 4);
        bytes.extend([VERSION, self.purpose]);
        bytes.extend(self.tenant.0.to_be_bytes());
        bytes.extend(self.incarnation.to_be_bytes());
        bytes.extend(self.binding.to_be_bytes());
        bytes.extend(self.pos.0.to_be_bytes());
        bytes.extend(checksum(&bytes));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The position of a token that was made for the same use as `self`, whose own
    /// position does not matter.
    pub fn decode(&self, text: &str) -> Result<Pos, TokenError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError)?;
        let pos = bytes.get(LEN - 8..LEN).and_then(|pos| pos.try_into().ok()).ok_or(TokenError)?;
        let pos = Pos(u64::from_be_bytes(pos));
        let genuine = Self { pos, ..*self }.encode() == text;
        if genuine { Ok(pos) } else { Err(TokenError) }
    }
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let digest = Sha256::digest(bytes);
    [digest[0], digest[1], digest[2], digest[3]]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const USE: Token =
        Token { purpose: Token::WATCH, tenant: TenantKey::DEFAULT, incarnation: 7, binding: 0, pos: Pos(0) };

    #[test]
    fn a_token_is_good_for_its_own_use_only() {
        let token = Token { pos: Pos(42), ..USE };
        let text = token.encode();
        assert_eq!(USE.decode(&text), Ok(Pos(42)));
        for other in [
            Token { purpose: 2, ..USE },
            Token { tenant: TenantKey(2), ..USE },
            Token { incarnation: 8, ..USE },
            Token { binding: 1, ..USE },
        ] {
            assert_eq!(other.decode(&text), Err(TokenError));
        }
    }

    proptest! {
        #[test]
        fn mangled_text_is_refused(text in "[A-Za-z0-9_-]{0,60}", cut in 0usize..40, pos: u64) {
            prop_assert_eq!(USE.decode(&text), Err(TokenError));
            let good = Token { pos: Pos(pos), ..USE }.encode();
            prop_assert_eq!(USE.decode(&good), Ok(Pos(pos)));
            prop_assert_eq!(USE.decode(&good[..cut.min(good.len() - 1)]), Err(TokenError));
        }
    }
}
