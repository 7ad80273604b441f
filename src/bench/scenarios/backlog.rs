//! A million deliveries that wait for dead endpoints, and the load of a healthy one
//! beside them.

use std::sync::Arc;

use anyhow::Result;
use tokio::net::TcpSocket;

use super::plain::fresh;
use crate::bench::{
    ledger::Ledger,
    load::{Load, fill, subscriber},
    publish::Publisher,
    rival::Rival,
    run::Setup,
    sample::{self, Sample},
    server::{Home, Server},
    stats::ratio,
};

/// Dead endpoints; each event goes to all of them.
const DEAD: u32 = 100;
/// The type of their events.
const DEAD_TYPE: &str = "bench.dead";
/// Events of a batch: a thousand deliveries.
const BATCH: u64 = 10;

/// A store in which deliveries wait for endpoints that refuse every connection.
pub struct Backlog {
    home: Arc<Home>,
    /// Keeps the port from others, and never listens.
    _refusing: TcpSocket,
    peak_memory: f64,
}

impl Backlog {
    async fn make(setup: &Setup) -> Result<Self> {
        let refusing = TcpSocket::new_v4()?;
        refusing.bind(([127, 0, 0, 1], 0).into())?;
        let url = format!("http://{}/", refusing.local_addr()?);
        let (home, server) = fresh(setup).await?;
        for _ in 0..DEAD {
            // With the usual breaker, which opens, and the usual retries.
            server.register(subscriber(url.clone(), DEAD_TYPE)).await?;
        }
        let ledger = Arc::new(Ledger::new(setup.options.waiting.div_ceil(DEAD), 0, 1));
        fill(setup, &server, Publisher::new(setup, &ledger, DEAD_TYPE), BATCH).await?;
        let peak_memory = server.usage()?.peak_memory_bytes as f64;
        server.stop().await?;
        Ok(Self { home, _refusing: refusing, peak_memory })
    }
}

/// The load on an empty store right after a start of the server, and the same on
/// the store with the backlog once the server has come to rest.
pub async fn backlog(setup: &Setup, load: Load, shelf: &mut Option<Backlog>) -> Result<Sample> {
    let backlog = match shelf {
        Some(backlog) => backlog,
        None => shelf.insert(Backlog::make(setup).await?),
    };
    let rival = Rival::before(setup, load.deliveries()).await?;
    let (_home, server) = fresh(setup).await?;
    let (empty, empty_start) = (load.run(setup, &server).await?, server.start_seconds);
    server.stop().await?;

    let server = Server::start(setup, Arc::clone(&backlog.home), &[]).await?;
    let (start, waiting) = (server.start_seconds, server.queue_size().await?);
    // What a start costs once, the first attempts at all dead endpoints, is told
    // apart from what the backlog costs all the time.
    let before = server.usage()?.cpu_seconds;
    server.settle().await?;
    let settling = server.usage()?.cpu_seconds - before;
    let mut sample = load.run(setup, &server).await?;
    server.stop().await?;

    rival.after(setup, &mut sample).await?;
    let of = |sample: &Sample, name| sample.get(name).unwrap_or_default();
    sample.set("waiting", waiting as f64);
    sample.set("start_to_ready_seconds", start);
    sample.set("settling_cpu_seconds", settling);
    sample.set("start_to_ready_of_empty_store_seconds", empty_start);
    sample.set("share_of_rate_on_empty_store", ratio(of(&sample, sample::RATE), of(&empty, sample::RATE)));
    sample.set("share_of_cpu_on_empty_store", ratio(of(&sample, sample::CPU), of(&empty, sample::CPU)));
    sample.set("peak_memory_on_empty_store_bytes", of(&empty, sample::PEAK));
    sample.set("peak_memory_while_filling_bytes", backlog.peak_memory);
    Ok(sample)
}
