//! Whose turn it is among tenants that want to send at the same time.
//!
//! While there are fewer attempts in flight to be had than tenants want, the next
//! goes to the tenant that has the fewest for its weight. So each comes to hold its
//! share, also if the requests of another take long, and what one leaves is divided
//! among the rest.

use std::collections::{BTreeSet, VecDeque};

use rustc_hash::FxHashMap;

use crate::domain::TenantKey;

/// What attempts in flight are multiplied by before they are divided by the weight,
/// so that weights up to 100 tell them apart.
const SCALE: u64 = 1 << 16;

/// Things that wait for their turn, by tenant.
#[derive(Debug)]
pub struct Share<T> {
    tenants: FxHashMap<TenantKey, Member<T>>,
    /// Those for whom something waits: the least laden first, and of these the one
    /// that was not served for longest.
    order: BTreeSet<(u64, u64, TenantKey)>,
    served: u64,
}

#[derive(Debug)]
struct Member<T> {
    waiting: VecDeque<T>,
    weight: u64,
    in_flight: u64,
    last: u64,
}

impl<T> Member<T> {
    fn load(&self) -> u64 {
        self.in_flight * SCALE / self.weight
    }
}

impl<T> Default for Share<T> {
    fn default() -> Self {
        Self { tenants: FxHashMap::default(), order: BTreeSet::new(), served: 0 }
    }
}

impl<T> Share<T> {
    /// Something of a tenant waits, behind what else it has.
    pub fn push(&mut self, tenant: TenantKey, weight: u32, item: T) {
        self.change(tenant, |member| {
            member.weight = u64::from(weight.max(1));
            member.waiting.push_back(item);
        });
    }

    /// What is next.
    pub fn pop(&mut self) -> Option<T> {
        let (_, _, tenant) = self.order.pop_first()?;
        let member = self.tenants.get_mut(&tenant)?;
        let item = member.waiting.pop_front();
        self.served += 1;
        member.last = self.served;
        self.settle(tenant);
        item
    }

    /// An attempt of a tenant begins.
    pub fn begin(&mut self, tenant: TenantKey) {
        self.change(tenant, |member| member.in_flight += 1);
    }

    /// An attempt of a tenant has ended.
    pub fn end(&mut self, tenant: TenantKey) {
        if let Some(member) = self.tenants.get_mut(&tenant) {
            self.order.remove(&(member.load(), member.last, tenant));
            member.in_flight = member.in_flight.saturating_sub(1);
            self.settle(tenant);
        }
    }

    fn change(&mut self, tenant: TenantKey, work: impl FnOnce(&mut Member<T>)) {
        // As if just served: who comes anew, or came and went, waits behind the others.
        let last = self.served;
        let fresh = || Member { waiting: VecDeque::new(), weight: 1, in_flight: 0, last };
        let member = self.tenants.entry(tenant).or_insert_with(fresh);
        self.order.remove(&(member.load(), member.last, tenant));
        work(member);
        self.settle(tenant);
    }

    /// Puts a tenant in its place, or forgets it if there is nothing of it.
    fn settle(&mut self, tenant: TenantKey) {
        let Some(member) = self.tenants.get(&tenant) else { return };
        if !member.waiting.is_empty() {
            self.order.insert((member.load(), member.last, tenant));
        } else if member.in_flight == 0 {
            self.tenants.remove(&tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: TenantKey = TenantKey(1);
    const TWO: TenantKey = TenantKey(2);

    /// How many of `slots` each of two tenants comes to hold that always want more.
    fn shares(weights: (u32, u32), slots: usize) -> (usize, usize) {
        let mut share = Share::default();
        share.push(ONE, weights.0, ONE);
        share.push(TWO, weights.1, TWO);
        let mut held = (0, 0);
        for _ in 0..slots {
            let next = share.pop().unwrap();
            share.begin(next);
            let (held, weight) =
                if next == ONE { (&mut held.0, weights.0) } else { (&mut held.1, weights.1) };
            *held += 1;
            share.push(next, weight, next);
        }
        held
    }

    #[test]
    fn slots_are_held_by_weight() {
        assert_eq!(shares((10, 10), 100), (50, 50));
        assert_eq!(shares((30, 10), 100), (75, 25));
        assert_eq!(shares((1, 100), 101), (1, 100));
    }

    #[test]
    fn who_comes_later_gets_what_is_freed_until_it_has_its_share() {
        let mut share = Share::default();
        share.push(ONE, 10, ONE);
        for _ in 0..100 {
            let next = share.pop().unwrap();
            share.begin(next);
            share.push(ONE, 10, ONE);
        }
        share.push(TWO, 10, TWO);
        let mut got = 0;
        for _ in 0..50 {
            share.end(ONE);
            let next = share.pop().unwrap();
            share.begin(next);
            got += usize::from(next == TWO);
            share.push(next, 10, next);
        }
        assert_eq!(got, 50);
    }

    #[test]
    fn with_one_slot_for_all_each_has_its_turn() {
        let (mut share, mut order) = (Share::default(), Vec::new());
        share.push(ONE, 10, ONE);
        share.push(TWO, 10, TWO);
        for _ in 0..6 {
            let next = share.pop().unwrap();
            share.begin(next);
            order.push(next.0);
            share.end(next);
            share.push(next, 10, next);
        }
        assert_eq!(order, [1, 2, 1, 2, 1, 2]);
    }

    #[test]
    fn among_equals_they_take_turns_and_nothing_is_kept_of_who_is_done() {
        let mut share = Share::default();
        for item in 0..4 {
            share.push(TenantKey(item % 2), 10, item);
        }
        let order: Vec<_> = std::iter::from_fn(|| share.pop()).collect();
        assert_eq!(order, [0, 1, 2, 3]);
        assert!(share.tenants.is_empty() && share.order.is_empty());
        share.begin(ONE);
        share.end(ONE);
        share.end(ONE);
        assert!(share.tenants.is_empty());
    }
}
