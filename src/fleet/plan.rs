//! Who should have which shares. Pure.

use std::collections::BTreeSet;

use crate::domain::{InstanceId, Shard};

/// What a member is to do about shares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Try to take these, so many of them.
    pub take: (Vec<Shard>, usize),
    /// Hand these over.
    pub give: Vec<Shard>,
}

/// How many shares each of the members, in the order of their numbers, is to have.
pub fn quota(members: usize, rank: usize) -> usize {
    let all = usize::from(Shard::COUNT) + 1;
    all.checked_div(members).map_or(0, |share| share + usize::from(rank < all % members))
}

/// What `me` is to do if these are the members that want shares, in order, and it has
/// `held`. Whoever has more than its part gives; whoever has less takes what it can get.
/// A share that somebody else has is not to be got, so it moves only if that gives it.
pub fn plan(me: InstanceId, members: &[InstanceId], held: &BTreeSet<Shard>) -> Plan {
    let Some(rank) = members.iter().position(|member| *member == me) else {
        return Plan { take: (Vec::new(), 0), give: held.iter().copied().collect() };
    };
    let quota = quota(members.len(), rank);
    if held.len() > quota {
        // From the end, so that what is kept stays the same from one plan to the next.
        let give = held.iter().rev().take(held.len() - quota).copied().collect();
        return Plan { take: (Vec::new(), 0), give };
    }
    // Each begins elsewhere, so that members that start together do not all try the same.
    let start = rank * Shard::all().count() / members.len();
    let mut free: Vec<Shard> = Shard::all().filter(|shard| !held.contains(shard)).collect();
    let at = free.iter().position(|shard| usize::from(shard.0) >= start).unwrap_or(0);
    free.rotate_left(at);
    Plan { take: (free, quota - held.len()), give: Vec::new() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However shares are spread, and whoever comes and goes, a few rounds leave every
        /// share with one member and each member with its part.
        #[test]
        fn shares_come_to_rest_evenly(
            spread in proptest::collection::vec(0_usize..8, 65), alive in proptest::collection::btree_set(0_i64..8, 1..8),
        ) {
            let members: Vec<InstanceId> = alive.iter().copied().map(InstanceId).collect();
            let mut held: Vec<BTreeSet<Shard>> = vec![BTreeSet::new(); members.len()];
            for (shard, owner) in Shard::all().zip(spread) {
                // Those of members that are gone are free.
                if let Some(at) = members.iter().position(|it| it.0 == owner as i64) {
                    held[at].insert(shard);
                }
            }
            for _ in 0..2 {
                for (at, me) in members.iter().enumerate() {
                    for shard in plan(*me, &members, &held[at]).give {
                        held[at].remove(&shard);
                    }
                }
                for (at, me) in members.iter().enumerate() {
                    let (candidates, count) = plan(*me, &members, &held[at]).take;
                    let taken: BTreeSet<Shard> = held.iter().flatten().copied().collect();
                    let got = candidates.into_iter().filter(|shard| !taken.contains(shard)).take(count);
                    held[at].extend(got.collect::<Vec<_>>());
                }
            }
            let all: usize = held.iter().map(BTreeSet::len).sum();
            prop_assert_eq!(all, 65);
            for (rank, held) in held.iter().enumerate() {
                prop_assert_eq!(held.len(), quota(members.len(), rank));
            }
        }
    }

    #[test]
    fn who_is_to_have_none_gives_all() {
        let held: BTreeSet<Shard> = [Shard(1), Shard(9)].into();
        let plan = plan(InstanceId(1), &[InstanceId(2)], &held);
        assert_eq!((plan.give.len(), plan.take.1), (2, 0));
    }
}
