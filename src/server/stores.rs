//! From settings to the store.

use std::{fs, net::SocketAddr, path::Path};

use secrecy::ExposeSecret as _;

use super::Error;
use crate::{
    clock::Clock,
    config,
    domain::InstanceId,
    entropy::Entropy,
    store::{self, Location, OpenError, Server},
    vault::Vault,
};

/// What is on its way to the store at most; see [`store::Config`]. Some 3,000 events
/// by calls and half as many by streams, which a slow core writes in 50 ms.
const PENDING_BYTES_MAX: u64 = 32 << 20;
/// Where Linux says what the machine is called.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// A store with the limits of the house. `listening` is where the process does, if it
/// serves.
pub(super) fn config(
    data_dir: &Path,
    given: &config::Store,
    listening: Option<SocketAddr>,
    vault: Vault,
    clock: &Clock,
    entropy: &Entropy,
) -> Result<store::Config, Error> {
    Ok(store::Config {
        location: location(data_dir, given)?,
        instance: InstanceId(i64::from_be_bytes(entropy.bytes()) & i64::MAX),
        name: name(given.instance_name.as_deref(), host().as_deref(), listening),
        started_at: clock.wall(),
        vault,
        incarnation: entropy.salt(),
        queue_max: 10_000_000,
        pending_bytes_max: PENDING_BYTES_MAX,
        mark_every: 10_000_000,
        crash_after_publishes: None,
    })
}

/// Where the database is.
pub(super) fn location(data_dir: &Path, given: &config::Store) -> Result<Location, Error> {
    Ok(match &given.store {
        None => Location::Directory(data_dir.to_owned()),
        Some(url) => {
            let server = Server::new(url.expose_secret(), given.allow_lossy_store);
            Location::Server(Box::new(server.map_err(OpenError::from)?))
        }
    })
}

/// What others call this process: what was set, or its host and port.
fn name(set: Option<&str>, host: Option<&str>, listening: Option<SocketAddr>) -> String {
    match (set.filter(|name| !name.is_empty()), host, listening) {
        (Some(name), ..) => name.to_owned(),
        (None, Some(host), Some(address)) => format!("{host}:{}", address.port()),
        (None, Some(host), None) => host.to_owned(),
        (None, None, Some(address)) => address.to_string(),
        (None, None, None) => String::new(),
    }
}

fn host() -> Option<String> {
    let host = fs::read_to_string(HOST_NAME).ok()?;
    Some(host.trim().to_owned()).filter(|host| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_called_as_set_or_by_host_and_port() {
        let at: SocketAddr = "[::1]:8000".parse().unwrap();
        assert_eq!(name(Some("alpha"), Some("host"), Some(at)), "alpha");
        assert_eq!(name(Some(""), Some("host"), Some(at)), "host:8000", "set to nothing is not set");
        assert_eq!(name(None, None, Some(at)), "[::1]:8000");
        assert_eq!(name(None, Some("host"), None), "host");
    }
}
