//! A healthy endpoint beside others that keep every request hanging.

use std::{sync::Arc, time::Duration};

use anyhow::Result;

use super::plain::fresh;
use crate::bench::{
    ledger::Ledger,
    load::{Load, fill, subscriber},
    publish::Publisher,
    receiver::{Manner, Receiver},
    rival::Rival,
    run::Setup,
    sample::{self, Sample},
};

/// Endpoints that hang.
const HANGING: u32 = 1000;
/// Deliveries that wait for each.
const WAITING: u32 = 20;
/// How long each request hangs.
const HANG: Duration = Duration::from_secs(10);
/// The type of their events.
const HANGING_TYPE: &str = "bench.hang";
/// Events of a batch.
const BATCH: u64 = 10;

/// The trickle without the others, and then beside them.
pub async fn neighbours(setup: &Setup, load: Load) -> Result<Sample> {
    let rival = Rival::before(setup, load.deliveries()).await?;
    let (_home, server) = fresh(setup).await?;
    let alone = load.run(setup, &server).await?;

    // Their deliveries are not measured, so the ledger records none.
    let nothing = Arc::new(Ledger::new(0, 0, 1));
    let hanging = Receiver::start(setup, nothing, Manner::Hangs(HANG)).await?;
    for index in 0..HANGING {
        let mut endpoint = subscriber(hanging.url(index), HANGING_TYPE);
        // Zero takes the default.
        endpoint.max_in_flight = 0;
        server.register(endpoint).await?;
    }
    let ledger = Arc::new(Ledger::new(WAITING, 0, 1));
    fill(setup, &server, Publisher::new(setup, &ledger, HANGING_TYPE), BATCH).await?;
    let mut sample = load.run(setup, &server).await?;
    let waiting = server.queue_size().await?;
    // Lets go of what hangs, so that the server need not wait for it.
    drop(hanging);
    server.stop().await?;

    rival.after(setup, &mut sample).await?;
    sample.set("waiting", waiting as f64);
    sample.set("alone_delivery_p50_ms", alone.get(sample::DELIVERY_P50).unwrap_or_default());
    sample.set("alone_delivery_p99_ms", alone.get(sample::DELIVERY_P99).unwrap_or_default());
    sample.set("alone_ack_p50_ms", alone.get(sample::ACK_P50).unwrap_or_default());
    sample.set("alone_ack_p99_ms", alone.get(sample::ACK_P99).unwrap_or_default());
    Ok(sample)
}
