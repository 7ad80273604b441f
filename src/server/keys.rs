//! From files and the environment to the ring of master keys.

use std::{
    fs::{self, DirBuilder},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use crate::{
    config::{KeysInEnv, MasterKeys},
    domain::SecretText,
    entropy::Entropy,
    vault::{KeyId, MasterKey, NotAKey, Vault},
};

/// The key that a development server makes for itself, in its data directory.
const DEV_KEY: &str = "master.key";

/// Why there is no usable master key. Each sentence says what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// None was given.
    #[error(
        "no master key was given: make one by `hookwire keygen --out FILE`, keep a copy of it, and start with \
         --master-key-file FILE"
    )]
    Missing,
    /// The key that a database was sealed under is not beside it.
    #[error(
        "the database is sealed under master key {key}, which is not in {}: put the file master.key that belongs to \
         the database there, or give the key by --master-key-file; without it the stored secrets cannot be read",
        data_dir.display()
    )]
    Lost {
        /// The key.
        key: KeyId,
        /// Where it would be.
        data_dir: PathBuf,
    },
    /// Two were given.
    #[error("the master key is given twice: keep one of --master-key-file and HOOKWIRE_MASTER_KEY")]
    Twice,
    /// The file cannot be read.
    #[error("cannot read the master key in {path}: check that the file exists and this user may read it")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Everybody can read the file.
    #[error("everybody on this machine can read the master key in {path}: run `chmod 600` on it")]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// It is not a key.
    #[error("the text in {place} is not a master key ({why}): use what `hookwire keygen` prints")]
    NotAKey {
        /// The file or the environment variable.
        place: String,
        /// What is wrong.
        why: NotAKey,
    },
    /// The file is there already.
    #[error("{path} exists and is not overwritten, as it may be the only copy of a key: choose another name")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error("cannot write a master key to {path}: check that the directory exists and can be written")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The ring. `own` is the data directory of a development server, which makes a key
/// for itself where none is given.
pub(super) fn vault(keys: &MasterKeys, own: Option<&Path>, entropy: &Entropy) -> Result<Vault, KeyError> {
    let env = KeysInEnv::read();
    let current = match (&keys.master_key_file, env.current, own) {
        (Some(_), Some(_), _) => return Err(KeyError::Twice),
        (Some(path), None, _) => from_file(path)?,
        (None, Some(text), _) => parse(&text, "HOOKWIRE_MASTER_KEY")?,
        (None, None, Some(data_dir)) => own_key(data_dir, entropy)?,
        (None, None, None) => return Err(KeyError::Missing),
    };
    let in_files = keys.old_master_key_files.iter().map(|path| from_file(path));
    let in_env = env.old.iter().map(|text| parse(text, "HOOKWIRE_OLD_MASTER_KEYS"));
    let old: Vec<_> = in_files.chain(in_env).collect::<Result<_, _>>()?;
    Ok(Vault::new(current, old, entropy.clone()))
}

/// Whether [`vault`] will draw a new key, as none is given and none is in the directory.
pub(super) fn draws(keys: &MasterKeys, data_dir: &Path) -> bool {
    keys.master_key_file.is_none() && KeysInEnv::read().current.is_none() && !data_dir.join(DEV_KEY).exists()
}

/// Draws a master key and writes it to a file that must not be there yet.
pub(super) fn write_new(path: &Path, entropy: &Entropy) -> Result<(), KeyError> {
    let failed = |source| KeyError::Write { path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Written whole under another name first, which only its owner may read.
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    writeln!(file, "{}", MasterKey::draw(entropy).expose()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            Err(KeyError::Exists { path: path.to_owned() })
        }
        Err(error) => Err(failed(error.error)),
    }
}

fn own_key(data_dir: &Path, entropy: &Entropy) -> Result<MasterKey, KeyError> {
    let path = data_dir.join(DEV_KEY);
    if !path.exists() {
        let failed = |source| KeyError::Write { path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(failed)?;
        match write_new(&path, entropy) {
            // Another server was faster; the store's lock decides between them.
            Ok(()) | Err(KeyError::Exists { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    from_file(&path)
}

fn from_file(path: &Path) -> Result<MasterKey, KeyError> {
    let failed = |source| KeyError::Read { path: path.to_owned(), source };
    // A group may read it: that is how secrets are mounted into containers.
    if fs::metadata(path).map_err(failed)?.permissions().mode() & 0o007 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned() });
    }
    let text = SecretText::from(fs::read_to_string(path).map_err(failed)?);
    parse(&text, &path.display().to_string())
}

fn parse(text: &SecretText, place: &str) -> Result<MasterKey, KeyError> {
    MasterKey::parse(text).map_err(|why| KeyError::NotAKey { place: place.to_owned(), why })
}
