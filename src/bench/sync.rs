//! What the disk below the store takes to keep something.

use std::{
    fs::File,
    io::{Seek as _, Write as _},
    path::Path,
};

use anyhow::Result;

use super::stats::percentile;
use crate::clock::Clock;

/// How often it is tried; enough for a median.
const TIMES: usize = 200;

/// Milliseconds, in the middle, to write 4 KiB into a file of this directory and
/// to sync its data. Blocks.
pub fn median_ms(directory: &Path, clock: &Clock) -> Result<f64> {
    let mut file = File::create(directory.join("sync"))?;
    let page = [7_u8; 4096];
    let mut micros = Vec::with_capacity(TIMES);
    for _ in 0..TIMES {
        let start = clock.now();
        file.rewind()?;
        file.write_all(&page)?;
        file.sync_data()?;
        micros.push(u64::try_from(clock.now().since(start).0).unwrap_or(0));
    }
    micros.sort_unstable();
    Ok(percentile(&micros, 0.5) as f64 / 1000.0)
}
