//! A server that has nothing to do, and what a delivery that waits takes of its
//! memory.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use tokio::time::sleep;

use super::plain::fresh;
use crate::bench::{
    ledger::Ledger,
    load::{fill, subscriber},
    publish::Publisher,
    run::Setup,
    sample::{self, Sample},
};

/// How long it is watched doing nothing.
const WATCH: Duration = Duration::from_secs(10);
/// How long it may take to give back what publishing took.
const SETTLE: Duration = Duration::from_secs(2);
/// Deliveries that wait.
const WAITING: u32 = 10_000;
/// Bytes of each payload.
const PAYLOAD: usize = 10 << 10;
/// Events of a batch: a megabyte.
const BATCH: u64 = 100;
/// The type of the events that wait.
const PAUSED_TYPE: &str = "bench.paused";

/// Watches the server, and lets deliveries wait for a paused endpoint.
pub async fn idle(setup: &Setup) -> Result<Sample> {
    let (_home, server) = fresh(setup).await?;
    let id = server.register(subscriber("http://127.0.0.1:9/".to_owned(), PAUSED_TYPE)).await?;
    server.pause(id).await?;
    let start = server.usage()?;
    setup.progress.part("", WATCH.as_secs());
    for second in 0..WATCH.as_secs() {
        setup.progress.at(second);
        sleep(Duration::from_secs(1)).await;
    }
    let at_rest = server.usage()?;

    let ledger = Arc::new(Ledger::new(WAITING, 0, 1));
    let publisher = Publisher { payload: PAYLOAD, ..Publisher::new(setup, &ledger, PAUSED_TYPE) };
    fill(setup, &server, publisher, BATCH).await?;
    sleep(SETTLE).await;
    let waiting = server.usage()?;
    server.stop().await?;

    let mut sample = Sample::default();
    let cpu = at_rest.cpu_seconds - start.cpu_seconds;
    let added = waiting.memory_bytes.saturating_sub(at_rest.memory_bytes);
    sample.set(sample::PEAK, waiting.peak_memory_bytes as f64);
    sample.set("memory_at_rest_bytes", at_rest.memory_bytes as f64);
    sample.set("cpu_percent_at_rest", cpu * 100.0 / WATCH.as_secs_f64());
    sample.set("memory_with_10000_waiting_bytes", waiting.memory_bytes as f64);
    sample.set("memory_by_waiting_delivery_bytes", added as f64 / f64::from(WAITING));
    Ok(sample)
}
