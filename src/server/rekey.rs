//! Moving a store from one master key to another, page by page.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{
    Error,
    keys::{self, KeyError},
    stores,
};
use crate::{
    clock::Clock,
    config::{Keygen, Rekey},
    domain::EndpointKey,
    entropy::Entropy,
    store::{self, Location, OpenError, Store},
    vault::MasterKey,
};

/// Before something that failed is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Draws a master key. What to print.
pub fn keygen(options: &Keygen) -> Result<String, KeyError> {
    let entropy = Entropy::from_os();
    match &options.out {
        Some(path) => {
            keys::write_new(path, &entropy)?;
            Ok(format!("wrote a master key to {}; keep a copy, nothing opens without it\n", path.display()))
        }
        None => Ok(format!("{}\n", MasterKey::draw(&entropy).expose())),
    }
}

/// Seals a store that no server uses under the current master key. What to print.
pub async fn rekey(options: &Rekey) -> Result<String, Error> {
    let (data_dir, entropy) = (&options.data_dir, Entropy::from_os());
    if options.store.store.is_none() && !data_dir.join("hookwire.db").exists() {
        return Err(Error::NoStore { path: data_dir.clone() });
    }
    let vault = keys::vault(&options.keys, None, &entropy)?;
    let current = vault.current();
    let config = stores::config(data_dir, &options.store, None, vault, &Clock::system(), &entropy)?;
    // Before a key is noted that running servers do not have.
    if let Location::Server(server) = &config.location
        && server.is_in_use().await.map_err(OpenError::from)?
    {
        return Err(Error::RekeyRunning { path: "that database".into() });
    }
    let opened = Store::open(config).await;
    if let Err(OpenError::Locked { path } | OpenError::LockedByOtherName { path }) = opened {
        return Err(Error::RekeyRunning { path });
    }
    let (store, _) = opened?;
    let (rows, unreadable) = reseal(&store, options.keys.crash_after_reseal).await.map_err(Error::Reseal)?;
    store.close().await.map_err(Error::Close)?;
    let left = match unreadable {
        0 => "all are under it now".to_owned(),
        _ => format!("those of {unreadable} others do not open, as the log says, and stay as they are"),
    };
    Ok(format!(
        "sealed the secrets of {rows} endpoints under master key {current}; {left}, and no other master key is \
         needed\n"
    ))
}

/// Seals what is under another key, while the server goes on.
pub(super) async fn run(store: &Store, crash_after: Option<u64>, stop: CancellationToken) {
    let work = async {
        loop {
            match reseal(store, crash_after).await {
                Ok((rows, 0)) => return tracing::info!(rows, "all secrets are under the current master key"),
                Ok((rows, unreadable)) => {
                    return tracing::error!(
                        rows,
                        unreadable,
                        "all secrets that open are under the current master key"
                    );
                }
                Err(error) => {
                    tracing::warn!(%error, "secrets cannot be sealed under the current master key yet");
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
        }
    };
    stop.run_until_cancelled(work).await;
}

/// Seals page after page; how many rows were sealed and how many do not open. Aborts after
/// `crash_after` pages.
async fn reseal(store: &Store, crash_after: Option<u64>) -> Result<(usize, usize), store::Error> {
    let (mut rows, mut unreadable, mut pages, mut from) = (0, 0, 0, EndpointKey(0));
    loop {
        let page = store.reseal(from).await?;
        let Some(last) = page.last else { return Ok((rows, unreadable)) };
        (rows, unreadable, pages, from) = (rows + page.rows, unreadable + page.unreadable, pages + 1, last);
        if crash_after == Some(pages) {
            std::process::abort();
        }
    }
}
