//! The whole run: round by round, then told.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, ensure};
use tokio::runtime::Handle;

use super::{
    load::Load,
    progress::Progress,
    publish::Way,
    receiver::Manner,
    report::Report,
    sample::Sample,
    scenarios::{Backlog, Registry, backlog, endpoints, idle, neighbours, overload, plain, watches},
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
    /// Where receivers run: a flood of calls here must not keep them waiting.
    pub receiving: Handle,
    /// The time.
    pub clock: Clock,
    /// How far it is.
    pub progress: Progress,
}

/// Runs what was asked for and prints what was found, also if it fails on the way.
/// `program` is started for the server; receivers run on a runtime of their own.
pub async fn run(options: Bench, program: PathBuf, receiving: Handle) -> Result<()> {
    if let Some(store) = &options.store {
        ensure!(store.is_dir(), "--store {} is not a directory", store.display());
    }
    let setup = Setup { program, options, receiving, clock: Clock::system(), progress: Progress::new() };
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
        let mut shelf = Shelf::default();
        for round in 1..=setup.options.rounds {
            setup.progress.stage(format!("{} {round}/{}", scenario.name(), setup.options.rounds));
            let place = || format!("{} round {round}", scenario.name());
            let sample = Box::pin(round_of(setup, *scenario, &mut shelf)).await.with_context(place)?;
            let complaint = sample.complaint().map(|complaint| anyhow!("{complaint}").context(place()));
            report.add(*scenario, sample);
            complaint.map_or(Ok(()), Err)?;
        }
    }
    Ok(())
}

/// What takes long to make and serves all rounds of a scenario.
#[derive(Default)]
struct Shelf {
    backlog: Option<Backlog>,
    registry: Option<Registry>,
}

async fn round_of(setup: &Setup, scenario: Scenario, shelf: &mut Shelf) -> Result<Sample> {
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
        Scenario::Fanout => {
            let fanout = setup.options.fanout;
            plain(setup, Load { fanout, ..load(Way::Batch(10), 300) }).await
        }
        Scenario::Retry => {
            let manner = Manner::FailsFirst;
            plain(setup, Load { manner, ..load(Way::Stream, 20_000) }).await
        }
        Scenario::Backlog => backlog(setup, load(Way::Stream, 30_000), &mut shelf.backlog).await,
        Scenario::Neighbours => neighbours(setup, load(Way::Trickle, 1000)).await,
        Scenario::Endpoints => endpoints(setup, load(Way::Batch(100), 30_000), &mut shelf.registry).await,
        Scenario::Watches => watches(setup, load(Way::Stream, 5000)).await,
        Scenario::Overload => overload(setup).await,
        Scenario::Idle => idle(setup).await,
    }
}
