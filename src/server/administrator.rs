//! Who may administer: the one key that no call can make.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use crate::{
    app::{self, App},
    clock::Clock,
    domain::{ApiKeyId, Pos, TokenHash, Uid},
    entropy::Entropy,
};

/// Why nobody would administer, or why a key for it was not made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or written.
    #[error(
        "cannot use {path} for an administrator's key: an existing file is read, and only a new one is written"
    )]
    File {
        /// The file.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The token cannot be shown.
    #[error(
        "the administrator's token cannot be written to the standard output, so its key was not kept: start with \
         an output that can be written"
    )]
    Print(#[source] io::Error),
    /// The file is of another kind.
    #[error("{path} is not an administrator's key file: make one with `hookwire admin-key --out FILE`")]
    Malformed {
        /// The file.
        path: String,
    },
    /// All keys of administrators have ended.
    #[error(
        "every administrator's key was revoked or has expired: make one with `hookwire admin-key --out FILE` \
         and start with --admin-key-file FILE"
    )]
    Nobody,
    /// The store does not answer.
    #[error("the administrator's key cannot be stored")]
    Store(#[source] app::Error),
}

/// Sees to it that somebody can administer. The first start makes a key: its token is
/// shown, this once, and only then is the key stored.
pub(super) async fn admit(
    app: &App,
    file: Option<&Path>,
    show: impl FnOnce(&str) -> io::Result<()>,
) -> Result<(), Error> {
    if let Some(path) = file {
        let (id, hash) = read(path)?;
        app.admit_administrator(id, hash).await.map_err(Error::Store)?;
    }
    if let Some((id, token)) = app.first_administrator() {
        show(&format!("The administrator's key, shown this once:\n{token}\n")).map_err(Error::Print)?;
        app.admit_administrator(id, app::hash(&token)).await.map_err(Error::Store)?;
    }
    if app.has_administrator() { Ok(()) } else { Err(Error::Nobody) }
}

/// Makes a key: shows its token, and then writes what a server needs of it to a new file.
pub fn make(
    path: &Path,
    clock: &Clock,
    entropy: &Entropy,
    show: impl FnOnce(&str) -> io::Result<()>,
) -> Result<(), Error> {
    let random = Pos(u64::from_be_bytes(entropy.bytes()));
    let id = ApiKeyId(Uid::new(clock.wall(), entropy.salt(), random));
    let token = app::token(id, entropy.bytes());
    let line = format!("{id} {}\n", hex::encode(app::hash(&token)));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(path).map_err(failed(path))?;
    let shown = show(&format!("{token}\n")).map_err(Error::Print);
    let made = shown.and_then(|()| file.write_all(line.as_bytes()).map_err(failed(path)));
    if made.is_err() {
        // Without a token that somebody has seen, it is of no use and in the way.
        let _ = fs::remove_file(path);
    }
    made
}

fn read(path: &Path) -> Result<(ApiKeyId, TokenHash), Error> {
    let text = fs::read_to_string(path).map_err(failed(path))?;
    parse(&text).ok_or_else(|| Error::Malformed { path: path.display().to_string() })
}

/// The id and the hash of a key.
fn parse(text: &str) -> Option<(ApiKeyId, TokenHash)> {
    let (id, digits) = text.trim().split_once(' ')?;
    let mut hash = [0; 32];
    hex::decode_to_slice(digits.trim(), &mut hash).ok()?;
    Some((id.parse().ok()?, hash))
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::File { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_made_can_be_read_and_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.key");
        let (clock, entropy) = (Clock::system(), Entropy::seeded(3));
        let full = |_: &str| Err(io::ErrorKind::StorageFull.into());
        assert!(matches!(make(&path, &clock, &entropy, full), Err(Error::Print(_))));
        assert!(!path.exists(), "a key whose token nobody saw is not kept");
        let mut shown = String::new();
        let show = |text: &str| {
            shown.push_str(text.trim_end());
            Ok(())
        };
        make(&path, &clock, &entropy, show).unwrap();
        let token = shown;
        let (id, hash) = read(&path).unwrap();
        assert_eq!(hash, app::hash(&token));
        assert!(token.contains(&id.to_string()["key_".len()..]));
        assert!(!fs::read_to_string(&path).unwrap().contains(&token));
        let unseen = |_: &str| panic!("a token of no key is shown");
        assert!(matches!(make(&path, &clock, &entropy, unseen), Err(Error::File { .. })));
        fs::write(&path, "key_1 abc").unwrap();
        assert!(matches!(read(&path), Err(Error::Malformed { .. })));
    }
}
