//! What a lone publish cannot go below on this machine: a call that does nothing,
//! and a sync of the disk, both at the pace of the trickle. A machine that rests in
//! between takes longer for each than one that is kept busy.

use std::{
    fs::File,
    io::{Seek as _, Write as _},
    path::Path,
};

use anyhow::Result;
use tokio::{task::spawn_blocking, time::interval};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{publish::TRICKLE, run::Setup, sample::Sample, server::Server, stats::percentile};
use crate::clock::Clock;

/// How often each is tried; enough for a median.
const TIMES: usize = 200;

/// Measures both, and notes the medians.
pub async fn floor(setup: &Setup, server: &Server, directory: &Path, sample: &mut Sample) -> Result<()> {
    sample.set("fdatasync_p50_ms", sync_ms(&setup.clock, directory).await?);
    sample.set("empty_call_p50_ms", call_ms(&setup.clock, server).await?);
    Ok(())
}

/// Writes 4 KiB into a file of this directory and syncs its data.
async fn sync_ms(clock: &Clock, directory: &Path) -> Result<f64> {
    let mut file = File::create(directory.join("sync"))?;
    let (mut pace, mut micros) = (interval(TRICKLE), Vec::with_capacity(TIMES));
    for _ in 0..TIMES {
        pace.tick().await;
        let (mut copy, clock) = (file.try_clone()?, clock.clone());
        let taken = spawn_blocking(move || {
            let start = clock.now();
            copy.write_all(&[7; 4096])?;
            copy.sync_data()?;
            std::io::Result::Ok(clock.now().since(start).0)
        });
        micros.push(taken.await??.unsigned_abs());
        file.rewind()?;
    }
    Ok(median_ms(micros))
}

/// Asks whether the server serves.
async fn call_ms(clock: &Clock, server: &Server) -> Result<f64> {
    let mut micros = Vec::with_capacity(TIMES);
    pulse(clock, server, TIMES, &mut micros).await?;
    Ok(median_ms(micros))
}

/// Asks so often whether the server serves, and notes the microseconds it took.
pub async fn pulse(clock: &Clock, server: &Server, times: usize, micros: &mut Vec<u64>) -> Result<()> {
    let (mut client, mut pace) = (HealthClient::new(server.connect()?), interval(TRICKLE));
    for _ in 0..times {
        pace.tick().await;
        let start = clock.now();
        client.check(HealthCheckRequest::default()).await?;
        micros.push(clock.now().since(start).0.unsigned_abs());
    }
    Ok(())
}

fn median_ms(mut micros: Vec<u64>) -> f64 {
    micros.sort_unstable();
    percentile(&micros, 0.5) as f64 / 1000.0
}
