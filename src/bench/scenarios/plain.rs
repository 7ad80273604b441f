//! One load on a server with an empty store.

use std::sync::Arc;

use anyhow::Result;

use crate::bench::{
    floor::floor,
    load::Load,
    publish::Way,
    rival::Rival,
    run::Setup,
    sample::Sample,
    server::{Home, Server},
};

/// The load, between bare requests.
pub async fn plain(setup: &Setup, load: Load) -> Result<Sample> {
    let rival = Rival::before(setup, load.deliveries()).await?;
    let (home, server) = fresh(setup).await?;
    let mut sample = load.run(setup, &server).await?;
    if load.way == Way::Trickle {
        floor(setup, &server, home.path(), &mut sample).await?;
    }
    server.stop().await?;
    rival.after(setup, &mut sample).await?;
    Ok(sample)
}

/// A server with an empty store, and where that is.
pub async fn fresh(setup: &Setup) -> Result<(Arc<Home>, Server)> {
    let home = Arc::new(Home::new(setup.options.store.as_deref())?);
    let server = Server::start(setup, Arc::clone(&home), &[]).await?;
    Ok((home, server))
}
