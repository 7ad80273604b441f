//! Text that must not be seen.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};

/// Text that prints as `***`, cannot be serialised, and is wiped from memory when
/// dropped. Whoever needs the text says so by [`SecretText::expose`].
#[derive(Clone, Default)]
pub struct SecretText(SecretString);

impl SecretText {
    /// The text itself, to be signed with, sent or sealed.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&str> for SecretText {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

/// Only ever asked about secrets of one owner, so the time it takes tells nobody
/// anything.
impl PartialEq for SecretText {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for SecretText {}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_compared_and_never_printed() {
        let text = SecretText::from("hunter2");
        assert_eq!(format!("{text} {text:?} {:?}", Some(&text)), "*** *** Some(***)");
        assert_eq!((text.expose(), text.clone() == text), ("hunter2", true));
        assert_ne!(text, SecretText::from("hunter3"));
    }
}
