//! The bare requests, started and measured: what a delivery is compared with.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};

use super::{
    ledger::Ledger,
    process::Process,
    receiver::{Manner, Receiver},
    run::Setup,
    sample::{self, Sample},
    stats::ratio,
};

/// Connections, as many as an endpoint of the loads may have attempts in flight.
const CONNECTIONS: u32 = 64;
/// Requests at least, before and after: processor time is told in hundredths of a second.
const REQUESTS_MIN: u32 = 20_000;

/// The bare requests of a round: as many before the load as after it, because a
/// machine that is shared is now faster and now slower.
pub struct Rival {
    requests: u32,
    before: Cost,
}

impl Rival {
    /// Posts as many as there will be deliveries.
    pub async fn before(setup: &Setup, deliveries: u32) -> Result<Self> {
        let requests = deliveries.max(REQUESTS_MIN);
        Ok(Self { requests, before: post(setup, requests).await? })
    }

    /// Posts the others, and notes in the sample of the load what all of them cost
    /// and how many times that a delivery did.
    pub async fn after(self, setup: &Setup, sample: &mut Sample) -> Result<()> {
        self.compare(post(setup, self.requests).await?, sample);
        Ok(())
    }

    fn compare(&self, after: Cost, sample: &mut Sample) {
        let requests = f64::from(self.requests) * 2.0;
        let cpu = (self.before.cpu_seconds + after.cpu_seconds) * 10_000.0 / requests;
        sample.set(sample::RAW_CPU, cpu);
        sample.set("raw_per_second", ratio(requests, self.before.seconds + after.seconds));
        sample.set(sample::RATIO, ratio(sample.get(sample::CPU).unwrap_or_default(), cpu));
    }
}

/// What bare requests took.
#[derive(Clone, Copy)]
struct Cost {
    cpu_seconds: f64,
    seconds: f64,
}

async fn post(setup: &Setup, requests: u32) -> Result<Cost> {
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
    Ok(Cost { cpu_seconds: after.cpu_seconds - before.cpu_seconds, seconds: end.since(start).as_secs_f64() })
}

async fn expect(process: &mut Process, word: &str) -> Result<()> {
    match process.line().await? {
        Some(line) if line == word => Ok(()),
        line => bail!("the bare requests said {line:?} instead of {word:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_to_the_bare_requests_of_before_and_after() {
        let cost = |cpu_seconds, seconds| Cost { cpu_seconds, seconds };
        let rival = Rival { requests: 10_000, before: cost(0.1, 0.5) };
        let mut sample = Sample::default();
        sample.set(sample::CPU, 0.6);
        rival.compare(cost(0.3, 1.5), &mut sample);
        let is = |name, value: f64| assert!((sample.get(name).unwrap() - value).abs() < 1e-9, "{name}");
        is(sample::RAW_CPU, 0.2);
        is("raw_per_second", 10_000.0);
        is(sample::RATIO, 3.0);
    }
}
