//! Where the master keys come from.

use std::path::PathBuf;

use clap::Args;

use crate::domain::SecretText;

/// Environment variables that hold keys themselves. They are no flags: what stands
/// in a command line can be read by everybody on the machine.
const MASTER_KEY: &str = "HOOKWIRE_MASTER_KEY";
const OLD_MASTER_KEYS: &str = "HOOKWIRE_OLD_MASTER_KEYS";

/// Which master keys there are.
#[derive(Clone, Debug, Args)]
pub struct MasterKeys {
    /// File with the master key that secrets are sealed under, as `hookwire keygen`
    /// makes it; or give the key itself in the environment as HOOKWIRE_MASTER_KEY.
    #[arg(long, env = "HOOKWIRE_MASTER_KEY_FILE", value_name = "FILE")]
    pub master_key_file: Option<PathBuf>,
    /// File with a master key used before, repeatable; or give such keys in the
    /// environment as HOOKWIRE_OLD_MASTER_KEYS, separated by commas. What is sealed
    /// under them is sealed anew.
    #[arg(long = "old-master-key-file", value_name = "FILE")]
    pub old_master_key_files: Vec<PathBuf>,
    /// For tests of recovery: abort once so many pages are sealed anew.
    #[arg(long, env = "HOOKWIRE_CRASH_AFTER_RESEAL", hide = true)]
    pub crash_after_reseal: Option<u64>,
}

/// Keys that stand in the environment.
#[derive(Clone, Debug, Default)]
pub struct KeysInEnv {
    /// `HOOKWIRE_MASTER_KEY`.
    pub current: Option<SecretText>,
    /// `HOOKWIRE_OLD_MASTER_KEYS`.
    pub old: Vec<SecretText>,
}

impl KeysInEnv {
    /// Reads them.
    pub fn read() -> Self {
        let set = |name| std::env::var(name).ok().filter(|text| !text.trim().is_empty());
        let old = set(OLD_MASTER_KEYS).unwrap_or_default();
        let old = old.split(',').filter(|text| !text.trim().is_empty()).map(SecretText::from);
        Self { current: set(MASTER_KEY).map(SecretText::from), old: old.collect() }
    }
}

/// A new master key.
#[derive(Clone, Debug, Args)]
pub struct Keygen {
    /// Write it to this new file, for its owner only, instead of printing it.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Which store moves to which master key.
#[derive(Clone, Debug, Args)]
pub struct Rekey {
    /// Directory of the database. No server may run on it.
    #[arg(long, env = "HOOKWIRE_DATA_DIR", default_value = "./data")]
    pub data_dir: PathBuf,
    /// The database, if it is no file.
    #[command(flatten)]
    pub store: super::Store,
    /// The keys.
    #[command(flatten)]
    pub keys: MasterKeys,
}
