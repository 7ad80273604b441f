//! Reads beside watches from the earliest position whose clients read nothing.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::{task::JoinSet, time::interval};
use tonic::Streaming;

use super::plain::fresh;
use crate::{
    bench::{
        load::Load,
        publish::TRICKLE,
        run::Setup,
        sample::{self, Sample},
        server::Server,
        stats::percentile,
        wire::Wire,
    },
    grpc::pb::{self, delivery_service_client::DeliveryServiceClient, watch_deliveries_request::Start},
};

/// Watches that nobody reads, and connections that they share.
const WATCHES: usize = 400;
const CONNECTIONS: usize = 8;
/// Reads of one measurement, 100 a second.
const READS: usize = 1000;
/// Deliveries of one read.
const PAGE: i32 = 20;

type Client = DeliveryServiceClient<Wire>;
type Stream = Streaming<pb::WatchDeliveriesResponse>;

/// Delivers events, starts the server anew so that all of them are history, and measures
/// reads without watches and then from the moment that the watches are opened.
pub async fn watches(setup: &Setup, load: Load) -> Result<Sample> {
    let (home, server) = fresh(setup).await?;
    load.run(setup, &server).await?;
    server.stop().await?;
    let server = Server::start(setup, Arc::clone(&home), &[]).await?;
    let client = DeliveryServiceClient::new(server.connect()?);

    setup.progress.part("reads alone", READS as u64);
    let alone = reads(setup, &client).await?;
    setup.progress.part("reads beside watches", READS as u64);
    let (beside, open) = tokio::try_join!(reads(setup, &client), open(&server))?;
    let memory = server.usage()?.peak_memory_bytes;
    drop(open);
    server.stop().await?;

    let ms = |micros: &[u64], share| percentile(micros, share) as f64 / 1000.0;
    let mut sample = Sample::default();
    sample.set(sample::PEAK, memory as f64);
    sample.set("read_p50_ms", ms(&beside, 0.5));
    sample.set("read_p99_ms", ms(&beside, 0.99));
    sample.set("alone_read_p50_ms", ms(&alone, 0.5));
    sample.set("alone_read_p99_ms", ms(&alone, 0.99));
    sample.set("watches", WATCHES as f64);
    Ok(sample)
}

/// Opens all watches. Of each, the first response is read and no other.
async fn open(server: &Server) -> Result<Vec<Stream>> {
    let mut opening = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let mut client = DeliveryServiceClient::new(server.connect()?);
        opening.spawn(async move {
            let mut streams = Vec::new();
            for _ in 0..WATCHES / CONNECTIONS {
                let start = Some(Start::Earliest(true));
                let request =
                    pb::WatchDeliveriesRequest { start, include_attempts: true, ..Default::default() };
                let mut stream = client.watch_deliveries(request).await?.into_inner();
                stream.message().await?.context("a watch ended at once")?;
                streams.push(stream);
            }
            anyhow::Ok(streams)
        });
    }
    let mut streams = Vec::new();
    while let Some(opened) = opening.join_next().await {
        streams.extend(opened??);
    }
    Ok(streams)
}

/// Lists deliveries again and again, whether or not the call before was answered; how
/// many microseconds each call took, sorted.
async fn reads(setup: &Setup, client: &Client) -> Result<Vec<u64>> {
    let (mut pace, mut calls) = (interval(TRICKLE), JoinSet::new());
    for number in 0..READS {
        pace.tick().await;
        setup.progress.at(number as u64);
        let (clock, mut client) = (setup.clock.clone(), client.clone());
        calls.spawn(async move {
            let began = clock.now();
            let request = pb::ListDeliveriesRequest { page_size: PAGE, ..Default::default() };
            client.list_deliveries(request).await.context("a read failed")?;
            anyhow::Ok(clock.now().since(began).0 as u64)
        });
    }
    let mut micros = Vec::new();
    while let Some(read) = calls.join_next().await {
        micros.push(read??);
    }
    micros.sort_unstable();
    Ok(micros)
}
