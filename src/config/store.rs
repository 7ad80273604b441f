//! Where events are kept.

use clap::{Args, builder::BoolishValueParser};
use secrecy::SecretString;

use super::egress::secret;

/// Where events are kept.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Store")]
pub struct Store {
    /// PostgreSQL database that all servers of a fleet share, instead of a file of one
    /// server's own: `postgres://user:password@host:5432/database`. Beyond this machine
    /// the connection is encrypted; only `?sslmode=verify-full&sslrootcert=FILE` checks whom
    /// it is with. PostgreSQL 15 or later; directly, not through a pooler.
    #[arg(
        long,
        env = "HOOKWIRE_STORE",
        value_name = "URL",
        hide_env_values = true,
        value_parser = secret
    )]
    pub store: Option<SecretString>,
    /// Start although the database has `fsync` or `synchronous_commit` off, where a
    /// crash of its machine loses what was acknowledged.
    #[arg(long, env = "HOOKWIRE_ALLOW_LOSSY_STORE", value_parser = BoolishValueParser::new())]
    pub allow_lossy_store: bool,
    /// What others call this server; by default its host and port.
    #[arg(long, env = "HOOKWIRE_INSTANCE_NAME", value_name = "NAME")]
    pub instance_name: Option<String>,
}
