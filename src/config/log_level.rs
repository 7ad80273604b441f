//! What `hookwire log-level` can be asked for.

use clap::Args;

use super::Remote;

/// Which server logs what.
#[derive(Clone, Debug, Args)]
pub struct LogLevel {
    /// A level (error, warn, info, debug, trace, off), or a filter by module such as
    /// `info,hookwire::engine=debug`. Without it the server logs as it was started.
    pub filter: Option<String>,
    /// Which server.
    #[command(flatten)]
    pub remote: Remote,
}
