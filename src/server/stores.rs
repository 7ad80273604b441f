//! From settings to the store.

use std::{net::SocketAddr, path::Path};

use secrecy::ExposeSecret as _;

use super::Error;
use crate::{
    config,
    domain::{InstanceId, Timestamp},
    entropy::Entropy,
    store::{self, Location, OpenError, Server},
    vault::Vault,
};

/// What is on its way to the store at most; see [`store::Config`]. Some 3,000 events
/// by calls and half as many by streams, which a slow core writes in 50 ms.
const PENDING_BYTES_MAX: u64 = 32 << 20;

/// What others call this process.
pub(super) fn name(config: &config::Server, address: SocketAddr) -> String {
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").map(|host| host.trim().to_owned());
    let host = || host().unwrap_or_else(|_| address.ip().to_string());
    config.store.instance_name.clone().unwrap_or_else(|| format!("{}:{}", host(), address.port()))
}

/// A store with the limits of the house.
pub(super) fn config(
    data_dir: &Path,
    given: &config::Store,
    vault: Vault,
    entropy: &Entropy,
) -> Result<store::Config, Error> {
    let location = match &given.store {
        None => Location::Directory(data_dir.to_owned()),
        Some(url) => {
            let server = Server::new(url.expose_secret(), given.allow_lossy_store);
            Location::Server(Box::new(server.map_err(OpenError::from)?))
        }
    };
    Ok(store::Config {
        location,
        instance: InstanceId(i64::from_be_bytes(entropy.bytes()) & i64::MAX),
        name: String::new(),
        started_at: Timestamp(0),
        vault,
        incarnation: entropy.salt(),
        queue_max: 10_000_000,
        pending_bytes_max: PENDING_BYTES_MAX,
        mark_every: 10_000_000,
        crash_after_publishes: None,
    })
}
