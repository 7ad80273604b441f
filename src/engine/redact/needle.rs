//! One text that is searched for, in time linear in the text that is searched.

use std::ops::Range;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use zeroize::Zeroizing;

/// Shorter texts are not searched for.
pub(super) const LENGTH_MIN: usize = 6;

/// A text and what Knuth, Morris and Pratt's search needs to know of it.
pub(super) struct Needle {
    bytes: Zeroizing<Vec<u8>>,
    /// For each length n + 1 of a matched start: the length of the longest proper start
    /// that is also its end.
    fallback: Vec<usize>,
}

impl Needle {
    fn new(bytes: Vec<u8>) -> Self {
        let mut fallback = vec![0; bytes.len()];
        let mut matched = 0;
        for at in 1..bytes.len() {
            while matched > 0 && bytes[matched] != bytes[at] {
                matched = fallback[matched - 1];
            }
            matched += usize::from(bytes[matched] == bytes[at]);
            fallback[at] = matched;
        }
        Self { bytes: Zeroizing::new(bytes), fallback }
    }

    /// A secret as it is, and as it looks within a longer text in base64.
    pub fn spellings(secret: &[u8]) -> Vec<Self> {
        let mut spellings = vec![Self::new(secret.to_vec())];
        for before in 0..3 {
            // The characters that depend on the secret alone: the first ones depend on
            // what stands before it, the last one on what follows.
            let mut text = Zeroizing::new(vec![0; before]);
            text.extend_from_slice(secret);
            let whole = (before * 8).div_ceil(6)..text.len() * 8 / 6;
            let standard = Zeroizing::new(STANDARD_NO_PAD.encode(&*text));
            let url_safe = Zeroizing::new(URL_SAFE_NO_PAD.encode(&*text));
            let standard = &standard.as_bytes()[whole.clone()];
            let url_safe = &url_safe.as_bytes()[whole];
            spellings.push(Self::new(standard.to_vec()));
            if url_safe != standard {
                spellings.push(Self::new(url_safe.to_vec()));
            }
        }
        spellings
    }

    /// Reports where the needle stands, and a start of it, from [`LENGTH_MIN`] bytes, at
    /// the end of the text.
    pub fn find(&self, text: &[u8], mut report: impl FnMut(Range<usize>)) {
        let mut matched = 0;
        for (at, byte) in text.iter().enumerate() {
            while matched > 0 && self.bytes[matched] != *byte {
                matched = self.fallback[matched - 1];
            }
            matched += usize::from(self.bytes[matched] == *byte);
            if matched == self.bytes.len() {
                report(at + 1 - matched..at + 1);
                matched = self.fallback[matched - 1];
            }
        }
        if matched >= LENGTH_MIN {
            report(text.len() - matched..text.len());
        }
    }
}
