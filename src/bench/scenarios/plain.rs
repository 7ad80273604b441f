//! One load on a server with an empty store.

use std::sync::Arc;

use anyhow::Result;

use crate::bench::{
    floor::floor,
    load::Load,
    publish::Way,
    rival,
    run::Setup,
    sample::{self, Sample},
    server::{Home, Server},
    stats,
};

/// The bare requests, and then the load.
pub async fn plain(setup: &Setup, load: Load) -> Result<Sample> {
    let raw = rival::run(setup, load.deliveries()).await?;
    let (home, server) = fresh(setup).await?;
    let mut sample = load.run(setup, &server).await?;
    if load.way == Way::Trickle {
        floor(setup, &server, home.path(), &mut sample).await?;
    }
    server.stop().await?;
    compare(&mut sample, &raw);
    Ok(sample)
}

/// A server with an empty store, and where that is.
pub async fn fresh(setup: &Setup) -> Result<(Arc<Home>, Server)> {
    let home = Arc::new(Home::new(setup.options.store.as_deref())?);
    let server = Server::start(setup, Arc::clone(&home), &[]).await?;
    Ok((home, server))
}

/// Adds the cost of the bare requests, and the ratio.
pub fn compare(sample: &mut Sample, raw: &Sample) {
    for name in raw.names() {
        sample.set(name, raw.get(name).unwrap_or_default());
    }
    let cost = |name| sample.get(name).unwrap_or_default();
    sample.set(sample::RATIO, stats::ratio(cost(sample::CPU), cost(sample::RAW_CPU)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_the_servers_cost_by_that_of_the_bare_requests() {
        let (mut sample, mut raw) = (Sample::default(), Sample::default());
        sample.set(sample::CPU, 0.6);
        raw.set(sample::RAW_CPU, 0.2);
        compare(&mut sample, &raw);
        assert!((sample.get(sample::RATIO).unwrap() - 3.0).abs() < 1e-9);
        assert_eq!(sample.get(sample::RAW_CPU), Some(0.2));
    }
}
