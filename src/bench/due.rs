//! How a flood is made up, tick by tick.

/// Ticks of a second.
pub const TICKS: u64 = 100;
/// Of a hundred events, those that come by streams and those that come one by one;
/// the others come in batches.
const BY_STREAM: u64 = 20;
const BY_CALL: u64 = 5;
/// Events of a batch.
pub const BATCH: u64 = 100;

/// Events of each kind that are due by a tick, counted from the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Calls with one event each.
    pub calls: u64,
    /// Events on streams.
    pub streamed: u64,
    /// Calls with a batch each.
    pub batches: u64,
}

impl Due {
    /// After so many ticks at such a rate.
    pub fn by(ticks: u64, per_second: u64) -> Self {
        let events = per_second * ticks / TICKS;
        let (calls, streamed) = (events * BY_CALL / 100, events * BY_STREAM / 100);
        Self { calls, streamed, batches: (events - calls - streamed) / BATCH }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_adds_up_to_the_rate() {
        assert_eq!(Due::by(0, 50_000), Due::default());
        let second = Due::by(TICKS, 50_000);
        assert_eq!(second, Due { calls: 2500, streamed: 10_000, batches: 375 });
        assert_eq!(second.calls + second.streamed + second.batches * BATCH, 50_000);
        let (mut last, rate) = (Due::default(), 777);
        for tick in 1..=10 * TICKS {
            let due = Due::by(tick, rate);
            assert!(due.calls >= last.calls && due.streamed >= last.streamed && due.batches >= last.batches);
            last = due;
        }
    }
}
