//! Which lane is served next when more of them want to send than there are slots.
//!
//! Each lane waits in the queue of its [`Class`], since a class that holds its part of
//! the slots must not keep others waiting. Classes that may begin an attempt are served in
//! rotation. Within a class the next slot goes to the tenant that has the fewest attempts
//! in flight for its weight, so each tenant comes to hold its part even if the requests of
//! another take long, and what one leaves free is divided among the rest.
//!
//! The lanes of a tenant take turns, except that among unproven endpoints the one that came
//! last is served first: those at the back have waited long already because something
//! hangs, while the newcomer may be healthy.

use std::collections::{BTreeSet, VecDeque};

use rustc_hash::FxHashMap;

use super::latency::Class;
use crate::domain::TenantKey;

/// What attempts in flight are multiplied by before they are divided by the weight,
/// so that weights up to 100 tell them apart.
const SCALE: u64 = 1 << 16;

/// Items that wait for their turn, by class and tenant.
#[derive(Debug)]
pub struct Share<T> {
    tenants: FxHashMap<TenantKey, Member<T>>,
    /// For each class the tenants that have an item waiting in it: the least laden
    /// first, and of these the one that was not served for longest.
    order: [BTreeSet<(u64, u64, TenantKey)>; Class::COUNT],
    served: u64,
    /// The class whose turn is next, as an index of [`Class::ALL`].
    turn: usize,
}

#[derive(Debug)]
struct Member<T> {
    waiting: [VecDeque<T>; Class::COUNT],
    weight: u64,
    in_flight: u64,
    last: u64,
}

impl<T> Member<T> {
    fn place(&self, tenant: TenantKey) -> (u64, u64, TenantKey) {
        (self.in_flight * SCALE / self.weight, self.last, tenant)
    }
}

impl<T> Default for Share<T> {
    fn default() -> Self {
        Self { tenants: FxHashMap::default(), order: Default::default(), served: 0, turn: 0 }
    }
}

impl<T> Share<T> {
    /// An item of a tenant waits.
    pub fn push(&mut self, tenant: TenantKey, weight: u32, class: Class, item: T) {
        self.change(tenant, |member| {
            member.weight = u64::from(weight.max(1));
            let queue = &mut member.waiting[class as usize];
            if class == Class::Unproven { queue.push_front(item) } else { queue.push_back(item) }
        });
    }

    /// The next item among the classes that are open.
    pub fn pop(&mut self, is_open: impl Fn(Class) -> bool) -> Option<(Class, T)> {
        let rotation = (0..Class::COUNT).map(|step| Class::ALL[(self.turn + step) % Class::COUNT]);
        let mut waiting = rotation.filter(|class| !self.order[*class as usize].is_empty());
        let class = waiting.find(|class| is_open(*class))?;
        self.turn = (class as usize + 1) % Class::COUNT;
        let (_, _, tenant) = *self.order[class as usize].first()?;
        self.served += 1;
        let served = self.served;
        let item = self.change(tenant, |member| {
            member.last = served;
            member.waiting[class as usize].pop_front()
        })?;
        Some((class, item))
    }

    /// An attempt of a tenant begins.
    pub fn begin(&mut self, tenant: TenantKey) {
        self.change(tenant, |member| member.in_flight += 1);
    }

    /// An attempt of a tenant has ended.
    pub fn end(&mut self, tenant: TenantKey) {
        self.change(tenant, |member| member.in_flight = member.in_flight.saturating_sub(1));
    }

    /// Changes a tenant, puts it in its places, and forgets it if it has nothing left.
    fn change<R>(&mut self, tenant: TenantKey, work: impl FnOnce(&mut Member<T>) -> R) -> R {
        // As if just served: a tenant that is new here waits behind the others.
        let last = self.served;
        let fresh = || Member { waiting: Default::default(), weight: 1, in_flight: 0, last };
        let member = self.tenants.entry(tenant).or_insert_with(fresh);
        let before = member.place(tenant);
        for (order, _) in self.order.iter_mut().zip(&member.waiting).filter(|(_, queue)| !queue.is_empty()) {
            order.remove(&before);
        }
        let done = work(member);
        let after = member.place(tenant);
        let mut is_idle = member.in_flight == 0;
        for (order, _) in self.order.iter_mut().zip(&member.waiting).filter(|(_, queue)| !queue.is_empty()) {
            order.insert(after);
            is_idle = false;
        }
        if is_idle {
            self.tenants.remove(&tenant);
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: TenantKey = TenantKey(1);
    const TWO: TenantKey = TenantKey(2);

    /// The next item, with all classes open.
    fn next_of<T>(share: &mut Share<T>) -> Option<T> {
        share.pop(|_| true).map(|(_, item)| item)
    }

    /// How many of `slots` each of two tenants comes to hold that always want more.
    fn shares(weights: (u32, u32), slots: usize) -> (usize, usize) {
        let mut share = Share::default();
        share.push(ONE, weights.0, Class::Quick, ONE);
        share.push(TWO, weights.1, Class::Quick, TWO);
        let mut held = (0, 0);
        for _ in 0..slots {
            let next = next_of(&mut share).unwrap();
            share.begin(next);
            let (held, weight) =
                if next == ONE { (&mut held.0, weights.0) } else { (&mut held.1, weights.1) };
            *held += 1;
            share.push(next, weight, Class::Quick, next);
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
        share.push(ONE, 10, Class::Quick, ONE);
        for _ in 0..100 {
            let next = next_of(&mut share).unwrap();
            share.begin(next);
            share.push(ONE, 10, Class::Quick, ONE);
        }
        share.push(TWO, 10, Class::Quick, TWO);
        let mut got = 0;
        for _ in 0..50 {
            share.end(ONE);
            let next = next_of(&mut share).unwrap();
            share.begin(next);
            got += usize::from(next == TWO);
            share.push(next, 10, Class::Quick, next);
        }
        assert_eq!(got, 50);
    }

    #[test]
    fn with_one_slot_for_all_each_has_its_turn() {
        let (mut share, mut order) = (Share::default(), Vec::new());
        share.push(ONE, 10, Class::Quick, ONE);
        share.push(TWO, 10, Class::Quick, TWO);
        for _ in 0..6 {
            let next = next_of(&mut share).unwrap();
            share.begin(next);
            order.push(next.0);
            share.end(next);
            share.push(next, 10, Class::Quick, next);
        }
        assert_eq!(order, [1, 2, 1, 2, 1, 2]);
    }

    #[test]
    fn among_equals_they_take_turns_and_nothing_is_kept_of_who_is_done() {
        let mut share = Share::default();
        for item in 0..4 {
            share.push(TenantKey(item % 2), 10, Class::Quick, item);
        }
        let order: Vec<_> = std::iter::from_fn(|| next_of(&mut share)).collect();
        assert_eq!(order, [0, 1, 2, 3]);
        assert!(share.tenants.is_empty() && share.order.iter().all(BTreeSet::is_empty));
        share.begin(ONE);
        share.end(ONE);
        share.end(ONE);
        assert!(share.tenants.is_empty());
    }

    #[test]
    fn open_classes_are_served_in_rotation_and_closed_ones_wait() {
        let mut share = Share::default();
        for class in Class::ALL {
            (0..2).for_each(|item| share.push(ONE, 10, class, item));
        }
        let closed = |class| class != Class::Hanging;
        let order: Vec<_> = std::iter::from_fn(|| share.pop(closed)).collect();
        let expected =
            [Class::Quick, Class::Unproven, Class::Slow, Class::Quick, Class::Unproven, Class::Slow];
        assert_eq!(order.iter().map(|(class, _)| *class).collect::<Vec<_>>(), expected);
        assert_eq!(share.pop(|_| true), Some((Class::Hanging, 0)));
    }

    #[test]
    fn among_unproven_endpoints_the_last_comes_first() {
        let mut share = Share::default();
        (0..3).for_each(|item| share.push(ONE, 10, Class::Unproven, item));
        let order: Vec<_> = std::iter::from_fn(|| next_of(&mut share)).collect();
        assert_eq!(order, [2, 1, 0]);
    }
}
