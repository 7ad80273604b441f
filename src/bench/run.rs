//! The whole run: round by round, then told.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, ensure};

use super::{
    load::Load,
    progress::Progress,
    publish::Way,
    receiver::Manner,
    report::Report,
    rival,
    sample::{self, Sample},
    server::{Home, Server},
    stats, sync,
};
use crate::{
    clock::Clock,
    config::{Bench, Scenario},
};

/// What every round needs.
pub struct Setup {
    /// This program, for the children.
    pub program: PathBuf,
    /// What was asked for.
    pub options: Bench,
    /// The time.
    pub clock: Clock,
    /// How far it is.
    pub progress: Progress,
}

/// Runs what was asked for and prints what was found, also if it fails on the way.
/// `program` is started for the server.
pub async fn run(options: Bench, program: PathBuf) -> Result<()> {
    if let Some(store) = &options.store {
        ensure!(store.is_dir(), "--store {} is not a directory", store.display());
    }
    let setup = Setup { program, options, clock: Clock::system(), progress: Progress::new() };
    let mut report = Report::default();
    let result = Box::pin(rounds(&setup, &mut report)).await;
    setup.progress.clear();
    report.print(&setup.options)?;
    result
}

async fn rounds(setup: &Setup, report: &mut Report) -> Result<()> {
    let asked = &setup.options.scenarios;
    let scenarios = if asked.is_empty() { &Scenario::DEFAULT[..] } else { asked };
    for scenario in scenarios {
        for round in 1..=setup.options.rounds {
            setup.progress.stage(format!("{} {round}/{}", scenario.name(), setup.options.rounds));
            let sample = round_of(setup, *scenario).await;
            report.add(*scenario, sample.with_context(|| format!("{} round {round}", scenario.name()))?);
        }
    }
    Ok(())
}

async fn round_of(setup: &Setup, scenario: Scenario) -> Result<Sample> {
    let load = |way, events| Load {
        way,
        events: setup.options.events.unwrap_or(events),
        fanout: 1,
        manner: Manner::Prompt,
    };
    match scenario {
        Scenario::Stream => plain(setup, load(Way::Stream, 30_000)).await,
        Scenario::Batch => plain(setup, load(Way::Batch(100), 30_000)).await,
        Scenario::Unary => plain(setup, load(Way::Unary, 20_000)).await,
        Scenario::Trickle => plain(setup, load(Way::Trickle, 1000)).await,
    }
}

/// The bare requests, and then the load on a new server.
async fn plain(setup: &Setup, load: Load) -> Result<Sample> {
    let raw = rival::run(setup, load.deliveries()).await?;
    let home = Arc::new(Home::new(setup.options.store.as_deref())?);
    let server = Server::start(&setup.program, Arc::clone(&home), &[]).await?;
    let sync_ms = match load.way {
        Way::Trickle => {
            let (home, clock) = (Arc::clone(&home), setup.clock.clone());
            Some(tokio::task::spawn_blocking(move || sync::median_ms(home.path(), &clock)).await??)
        }
        Way::Stream | Way::Batch(_) | Way::Unary => None,
    };
    let mut sample = load.run(setup, &server).await?;
    server.stop().await?;
    compare(&mut sample, &raw);
    if let Some(sync_ms) = sync_ms {
        sample.set("fdatasync_p50_ms", sync_ms);
    }
    Ok(sample)
}

/// Adds the cost of the bare requests, and the ratio.
fn compare(sample: &mut Sample, raw: &Sample) {
    for name in raw.names() {
        sample.set(name, raw.get(name).unwrap_or_default());
    }
    let cost = |name| sample.get(name).unwrap_or_default();
    sample.set(sample::RATIO, stats::ratio(cost(sample::CPU), cost(sample::RAW_CPU)));
}
