//! What `hookwire status` can be asked for.

use std::path::PathBuf;

use clap::Args;
use secrecy::SecretString;

use super::egress::secret;

/// Which server is asked, and how its answer is told.
#[derive(Clone, Debug, Args)]
pub struct Status {
    /// Which server.
    #[command(flatten)]
    pub remote: Remote,
    /// Print what `GET /v1/instances` answers instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// A running server, and how to call it.
#[derive(Clone, Debug, Args)]
pub struct Remote {
    /// Server to ask, by http:// or https://; any of a fleet.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    pub server: String,
    /// Token of an administrator's key with the scope `ops:read` (`ops:write` to change
    /// something); a server for
    /// development asks for none. Others on this machine can read the flag: prefer the
    /// environment. By http:// it crosses the network in clear text.
    #[arg(long, env = "HOOKWIRE_TOKEN", hide_env_values = true, value_parser = secret)]
    pub token: Option<SecretString>,
    /// File of certificate authorities (PEM) that may vouch for the server, beside the
    /// public ones.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}
