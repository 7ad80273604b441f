//! Shares of the work in a fleet.

use serde::{Deserialize, Serialize};

use super::EndpointKey;

/// A share of the work: the endpoints whose keys fall into it, or, the last one, what
/// goes on without being asked. Whoever owns it does its work, nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Shard(pub u8);

impl Shard {
    /// Shares of the endpoints.
    pub const COUNT: u8 = 64;
    /// Operations, retention, and sweeping up after what was deleted.
    pub const STEWARD: Self = Self(Self::COUNT);

    /// The share that an endpoint falls into: neighbouring keys spread evenly.
    pub fn of(endpoint: EndpointKey) -> Self {
        // The fraction of the golden ratio, in 64 bits (Knuth, TAOCP 6.4).
        let spread = endpoint.0.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self((spread >> 58) as u8)
    }

    /// All of them, the steward's last.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=Self::COUNT).map(Self)
    }
}

/// One run of a server process; random, so that no two are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceId(pub i64);

/// How a share stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenure {
    /// Grows with every change of hands. What was begun under another is void.
    pub epoch: u64,
    /// Who has it; nobody after an orderly hand-over.
    pub owner: Option<InstanceId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_spread_evenly_over_shares() {
        let mut counts = [0_u32; Shard::COUNT as usize];
        (1..=64_000).for_each(|key| counts[usize::from(Shard::of(EndpointKey(key)).0)] += 1);
        assert!(counts.iter().all(|count| (900..=1_100).contains(count)), "{counts:?}");
        let first: std::collections::BTreeSet<_> = (1..=12).map(|key| Shard::of(EndpointKey(key))).collect();
        assert!(first.len() >= 11, "the first few too: {first:?}");
    }
}
