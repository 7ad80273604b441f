//! Who does the work.

use super::{InstanceId, Micros, Shard, Timestamp};

/// One run of a server process, as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Which run.
    pub id: InstanceId,
    /// What it is called.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// Its start.
    pub started_at: Timestamp,
    /// Its last heartbeat.
    pub seen_at: Timestamp,
    /// It is about to stop.
    pub draining: bool,
    /// How far its clock is ahead of the database's; zero where a process is alone.
    pub skew: Micros,
    /// The shares of the work that are its own.
    pub shards: Vec<Shard>,
}
