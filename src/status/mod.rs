//! Commands that ask a running server, as every client could: `hookwire status` shows
//! which instances there are, as a table for people and as JSON for programs; `hookwire
//! log-level` changes what one logs.

mod client;
mod json;
mod table;

pub use self::client::Error;
use crate::config;

/// Asks a server. What to print.
pub async fn status(options: &config::Status) -> Result<String, Error> {
    let answer = client::list_instances(&options.remote).await?;
    Ok(if options.json { json::json(&answer) } else { table::table(&answer.instances) })
}

/// Changes what a server logs. What to print.
pub async fn log_level(options: &config::LogLevel) -> Result<String, Error> {
    let directives = options.filter.clone().unwrap_or_default();
    let answer = client::set_log_filter(&options.remote, directives).await?;
    Ok(format!("{} logs by `{}` until it restarts\n", options.remote.server, answer.directives))
}
