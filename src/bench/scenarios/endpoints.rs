//! Many endpoints that want other types: what finding the one that does costs.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;

use super::plain::fresh;
use crate::{
    bench::{
        load::{Load, subscriber},
        rival::Rival,
        run::Setup,
        sample::{self, Sample},
        server::{Home, Server},
        stats::ratio,
        wire::Wire,
    },
    grpc::pb::{self, endpoint_service_client::EndpointServiceClient},
};

/// The few that the many are compared with.
const FEW: u32 = 10;
/// Callers that register at once, over one connection.
const CALLERS: u32 = 128;

/// Stores with few and with many endpoints registered.
pub struct Registry {
    few: Arc<Home>,
    many: Arc<Home>,
    registered_per_second: f64,
}

impl Registry {
    async fn make(setup: &Setup) -> Result<Self> {
        let few = register(setup, FEW).await?.0;
        let (many, registered_per_second) = register(setup, setup.options.endpoints).await?;
        Ok(Self { few, many, registered_per_second })
    }
}

/// The load with few endpoints, and with many.
pub async fn endpoints(setup: &Setup, load: Load, shelf: &mut Option<Registry>) -> Result<Sample> {
    let registry = match shelf {
        Some(registry) => registry,
        None => shelf.insert(Registry::make(setup).await?),
    };
    let rival = Rival::before(setup, load.deliveries()).await?;
    let server = Server::start(setup, Arc::clone(&registry.few), &[]).await?;
    let few = load.run(setup, &server).await?;
    server.stop().await?;

    let server = Server::start(setup, Arc::clone(&registry.many), &[]).await?;
    let start = server.start_seconds;
    let mut sample = load.run(setup, &server).await?;
    server.stop().await?;

    rival.after(setup, &mut sample).await?;
    let of = |sample: &Sample, name| sample.get(name).unwrap_or_default();
    sample.set("endpoints", f64::from(setup.options.endpoints));
    sample.set("cpu_to_that_with_10_endpoints", ratio(of(&sample, sample::CPU), of(&few, sample::CPU)));
    sample.set("peak_memory_with_10_endpoints_bytes", of(&few, sample::PEAK));
    sample.set("start_to_ready_seconds", start);
    sample.set("registered_per_second", registry.registered_per_second);
    Ok(sample)
}

/// A store with so many endpoints, and how many were registered in a second.
async fn register(setup: &Setup, endpoints: u32) -> Result<(Arc<Home>, f64)> {
    let (home, server) = fresh(setup).await?;
    let next = Arc::new(AtomicU32::new(0));
    setup.progress.part("registering", u64::from(endpoints));
    let start = setup.clock.now();
    let mut callers = JoinSet::new();
    let channel = server.connect()?;
    for _ in 0..CALLERS {
        callers.spawn(registrar(EndpointServiceClient::new(channel.clone()), endpoints, Arc::clone(&next)));
    }
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    let per_second = f64::from(endpoints) / setup.clock.now().since(start).as_secs_f64();
    server.stop().await?;
    Ok((home, per_second))
}

async fn registrar(
    mut client: EndpointServiceClient<Wire>,
    endpoints: u32,
    next: Arc<AtomicU32>,
) -> Result<()> {
    loop {
        let number = next.fetch_add(1, Relaxed);
        if number >= endpoints {
            return Ok(());
        }
        // Nothing is ever sent there.
        let endpoint = subscriber(format!("http://127.0.0.1:9/e/{number}"), &format!("other.{number}"));
        let request = pb::CreateEndpointRequest { endpoint: Some(endpoint), ..Default::default() };
        client.create_endpoint(request).await.context("an endpoint was not taken")?;
    }
}
