//! `hookwire status`: asks any server which instances there are, as every client could,
//! and tells people by a table, programs by JSON.

mod client;
mod json;
mod table;

pub use self::client::Error;
use crate::config;

/// Asks a server. What to print.
pub async fn status(options: &config::Status) -> Result<String, Error> {
    let answer = client::list_instances(options).await?;
    Ok(if options.json { json::json(&answer) } else { table::table(&answer.instances) })
}
