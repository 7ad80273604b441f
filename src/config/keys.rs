//! The administrator's key.

use std::path::PathBuf;

use clap::Args;

/// Who administers a server for production.
#[derive(Clone, Debug, Args)]
pub struct Administrator {
    /// File made by `hookwire admin-key`: its key administers, besides others in the
    /// store. Without, the first start makes a key and prints its token once.
    #[arg(long, env = "HOOKWIRE_ADMIN_KEY_FILE", value_name = "FILE")]
    pub admin_key_file: Option<PathBuf>,
}

/// Where what a server is told of a new administrator's key goes.
#[derive(Clone, Debug, Args)]
pub struct AdminKey {
    /// New file for the id and the hash of the key, which are no secrets.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}
