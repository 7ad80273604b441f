//! The bare requests, started and measured: what a delivery is compared with.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};

use super::{
    ledger::Ledger,
    process::Process,
    receiver::{Manner, Receiver},
    run::Setup,
    sample::{self, Sample},
};

/// Connections, as many as an endpoint of the loads may have attempts in flight.
const CONNECTIONS: u32 = 64;
/// Requests at least: processor time is told in hundredths of a second.
const REQUESTS_MIN: u32 = 20_000;

/// Runs as many bare requests as there will be deliveries, and notes their cost.
pub async fn run(setup: &Setup, deliveries: u32) -> Result<Sample> {
    let requests = deliveries.max(REQUESTS_MIN);
    let ledger = Arc::new(Ledger::new(requests, 1, 1));
    let receiver = Receiver::start(setup, Arc::clone(&ledger), Manner::Prompt).await?;
    let args = [
        "bench-raw".to_owned(),
        format!("--to={}", receiver.address()),
        format!("--requests={requests}"),
        format!("--payload={}", setup.options.payload),
        format!("--connections={CONNECTIONS}"),
    ];
    setup.progress.part("raw", u64::from(requests));
    let mut process = Process::start(&setup.program, &args, std::process::Stdio::inherit())?;
    expect(&mut process, "ready").await?;
    let (before, start) = (process.usage()?, setup.clock.now());
    process.tell("go").await?;
    expect(&mut process, "done").await?;
    let (after, end) = (process.usage()?, setup.clock.now());
    let status = process.finish().await?;
    if !status.success() {
        bail!("the bare requests ended with {status}");
    }
    ledger.check().context("of the bare requests")?;
    let mut sample = Sample::default();
    let cpu = after.cpu_seconds - before.cpu_seconds;
    sample.set(sample::RAW_CPU, cpu * 10_000.0 / f64::from(requests));
    sample.set("raw_per_second", f64::from(requests) / end.since(start).as_secs_f64());
    Ok(sample)
}

async fn expect(process: &mut Process, word: &str) -> Result<()> {
    match process.line().await? {
        Some(line) if line == word => Ok(()),
        line => bail!("the bare requests said {line:?} instead of {word:?}"),
    }
}
