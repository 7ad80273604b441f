//! Whether the store can be used at this moment.

use std::sync::atomic::Ordering;

use super::{Error, Store};

/// A row of its own in `meta`, for a write that changes nothing else.
const PROBE: &str =
    "INSERT INTO meta VALUES ('probed', 1) ON CONFLICT (key) DO UPDATE SET value = meta.value + 1";

impl Store {
    /// Reads something, and writes something if the last write was refused: a disk that is
    /// full can be read. In a fleet the writer's own connection is asked, so that its loss
    /// shows.
    pub async fn check(&self) -> Result<(), Error> {
        if self.gauges.refusing.load(Ordering::Relaxed) {
            return self.call(|tx| tx.conn.execute(PROBE, &[]).map(drop)).await;
        }
        if self.is_shared() { self.refresh().await } else { self.look_back().await }
    }
}
