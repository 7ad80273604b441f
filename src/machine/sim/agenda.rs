//! What will happen, by virtual time.

use std::{collections::BTreeMap, sync::Arc};

use super::store::Flight;
use crate::domain::{Delivery, Micros, Pos, Timestamp};

/// Something that happens at an instant. `life` names the engine process it
/// belongs to: what was meant for a process that is gone happens to nobody.
pub enum Happening {
    /// Events for one endpoint, all at once; urgent ones come before all others.
    Publish { endpoint: usize, count: usize, urgent: bool },
    /// A call of the API on deliveries.
    Meddle,
    /// A call of the API on an endpoint.
    Reconfigure,
    /// The engine process starts.
    Start,
    /// The engine process dies.
    Crash,
    /// The engine hears that an endpoint has changed.
    Told { life: u32, endpoint: usize },
    /// The engine looks at the feed.
    Tail { life: u32 },
    /// Somebody sets the wall clock forward or back.
    Step { by: Micros },
    /// A lane has waited long enough.
    Wake { life: u32, endpoint: usize, at: Timestamp },
    /// A page has been read, or could not be.
    Paged { life: u32, endpoint: usize, page: Option<Vec<Arc<Delivery>>>, last: bool },
    /// A request has gone on for so long that its start is written.
    Begun { life: u32, pos: Pos },
    /// An attempt is over.
    Ended { life: u32, flight: Box<Flight> },
    /// The writer commits.
    Commit { life: u32 },
    /// All faults end, and someone enables every endpoint.
    Heal,
}

/// What will happen, by virtual time; in order of planning at the same instant.
#[derive(Default)]
pub struct Agenda {
    entries: BTreeMap<(Timestamp, u64), Happening>,
    planned: u64,
}

impl Agenda {
    /// Plans something.
    pub fn add(&mut self, at: Timestamp, happening: Happening) {
        self.planned += 1;
        self.entries.insert((at, self.planned), happening);
    }

    /// Takes what happens next.
    pub fn next(&mut self) -> Option<(Timestamp, Happening)> {
        self.entries.pop_first().map(|((at, _), happening)| (at, happening))
    }
}
