//! How large request bodies share the memory that there is for them.
//!
//! A body reserves what it needs beyond a small part that each may have for free. One
//! key may hold half of the budget and one tenant three quarters of it, so no caller
//! keeps the others out by itself. If a reservation does not fit, the slowest body in its
//! way is evicted, provided it is slow: bodies that arrive at a good rate are over soon.
//! Either way the reservation waits until there is room.

use rustc_hash::FxHashMap;

use crate::domain::{ApiKeyId, TenantKey};

/// Bytes per second below which a body may be evicted.
const SLOW: u64 = 128 << 10;

/// Whose key sends a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The tenant that the key acts for.
    pub tenant: TenantKey,
    /// The key.
    pub key: ApiKeyId,
}

/// What becomes of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reservation {
    /// It is made.
    Granted,
    /// There will be room once this body is given up; ask again.
    Evict(u64),
    /// There is no room now.
    Wait,
}

/// The budget, and who holds how much of it.
#[derive(Debug)]
pub struct BodyBudget {
    bytes_max: usize,
    next: u64,
    bodies: FxHashMap<u64, Held>,
}

#[derive(Debug)]
struct Held {
    /// None where callers need no keys.
    owner: Option<Owner>,
    bytes: usize,
    /// Bytes per second of late. None in the first second, and once all are there.
    rate: Option<u64>,
    is_evicted: bool,
}

/// Bodies that share a limit.
enum Scope {
    Key(ApiKeyId),
    Tenant(TenantKey),
    All,
}

impl Scope {
    fn has(&self, held: &Held) -> bool {
        match *self {
            Self::Key(key) => held.owner.is_some_and(|it| it.key == key),
            Self::Tenant(tenant) => held.owner.is_some_and(|it| it.tenant == tenant),
            Self::All => true,
        }
    }
}

impl BodyBudget {
    /// A budget of that size.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, next: 0, bodies: FxHashMap::default() }
    }

    /// A body that holds nothing yet.
    pub fn enter(&mut self, owner: Option<Owner>) -> u64 {
        self.next += 1;
        self.bodies.insert(self.next, Held { owner, bytes: 0, rate: None, is_evicted: false });
        self.next
    }

    /// Reserves more for a body.
    pub fn reserve(&mut self, body: u64, bytes: usize) -> Reservation {
        let Some(held) = self.bodies.get(&body) else { return Reservation::Wait };
        let scopes = held.owner.map(|own| [Scope::Key(own.key), Scope::Tenant(own.tenant)]);
        for scope in scopes.into_iter().flatten().chain([Scope::All]) {
            let bytes_max = match scope {
                Scope::Key(_) => self.bytes_max / 2,
                Scope::Tenant(_) => self.bytes_max / 4 * 3,
                Scope::All => self.bytes_max,
            };
            let within = || self.bodies.iter().filter(|(_, held)| scope.has(held));
            let held: usize = within().map(|(_, held)| held.bytes).sum();
            let Some(lacking) = (held + bytes).checked_sub(bytes_max + 1) else { continue };
            let coming: usize = within().filter(|(_, it)| it.is_evicted).map(|(_, it)| it.bytes).sum();
            if coming > lacking {
                return Reservation::Wait;
            }
            let slow = within().filter(|(id, held)| **id != body && held.bytes > 0 && !held.is_evicted);
            let slow = slow.filter_map(|(id, held)| Some((held.rate.filter(|rate| *rate < SLOW)?, *id)));
            let Some((_, slowest)) = slow.min() else { return Reservation::Wait };
            if let Some(held) = self.bodies.get_mut(&slowest) {
                held.is_evicted = true;
            }
            return Reservation::Evict(slowest);
        }
        if let Some(held) = self.bodies.get_mut(&body) {
            held.bytes += bytes;
        }
        Reservation::Granted
    }

    /// Notes how many bytes of a body arrived in a second. Half of what it is known for is
    /// what it did before, so that one bad second is forgiven.
    pub fn measured(&mut self, body: u64, bytes: u64) {
        if let Some(held) = self.bodies.get_mut(&body) {
            held.rate = Some(held.rate.map_or(bytes, |rate| (rate + bytes) / 2));
        }
    }

    /// Notes that all of a body is there.
    pub fn is_whole(&mut self, body: u64) {
        if let Some(held) = self.bodies.get_mut(&body) {
            held.rate = None;
        }
    }

    /// Gives back what a body holds.
    pub fn leave(&mut self, body: u64) {
        self.bodies.remove(&body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Uid;

    fn owner(tenant: i64, key: u8) -> Option<Owner> {
        let key = ApiKeyId(Uid::from_bytes(&[key; 16]).unwrap());
        Some(Owner { tenant: TenantKey(tenant), key })
    }

    #[test]
    fn a_key_holds_half_and_a_tenant_three_quarters() {
        let mut budget = BodyBudget::new(100);
        let first = budget.enter(owner(1, 1));
        assert_eq!(budget.reserve(first, 50), Reservation::Granted);
        let second = budget.enter(owner(1, 1));
        assert_eq!(budget.reserve(second, 1), Reservation::Wait, "its key holds half");
        let third = budget.enter(owner(1, 2));
        assert_eq!(budget.reserve(third, 26), Reservation::Wait, "its tenant holds half");
        assert_eq!(budget.reserve(third, 25), Reservation::Granted);
        let other = budget.enter(owner(2, 3));
        assert_eq!(budget.reserve(other, 25), Reservation::Granted);
        assert_eq!(budget.reserve(other, 1), Reservation::Wait, "all is held");
        budget.leave(first);
        assert_eq!(budget.reserve(second, 50), Reservation::Granted);
    }

    #[test]
    fn without_keys_all_share_the_whole() {
        let mut budget = BodyBudget::new(100);
        let (first, second) = (budget.enter(None), budget.enter(None));
        assert_eq!(budget.reserve(first, 100), Reservation::Granted);
        assert_eq!(budget.reserve(second, 1), Reservation::Wait);
    }

    #[test]
    fn the_slowest_gives_way_and_fast_or_whole_bodies_are_waited_for() {
        let mut budget = BodyBudget::new(100);
        let bodies: Vec<_> = (0..4).map(|_| budget.enter(None)).collect();
        for (body, rate) in bodies.iter().zip([SLOW, 70, 50, 0]) {
            assert_eq!(budget.reserve(*body, 25), Reservation::Granted);
            budget.measured(*body, rate);
        }
        budget.is_whole(bodies[3]);
        let late = budget.enter(None);
        assert_eq!(budget.reserve(late, 50), Reservation::Evict(bodies[2]));
        assert_eq!(budget.reserve(late, 50), Reservation::Evict(bodies[1]));
        assert_eq!(budget.reserve(late, 50), Reservation::Wait, "they are still there");
        assert_eq!(budget.reserve(bodies[2], 1), Reservation::Wait, "an evicted body gets nothing more");
        budget.leave(bodies[1]);
        budget.leave(bodies[2]);
        assert_eq!(budget.reserve(late, 50), Reservation::Granted);
        assert_eq!(budget.reserve(late, 25), Reservation::Wait, "the others are fast, or there");
    }

    #[test]
    fn a_caller_evicts_only_bodies_that_are_in_its_way() {
        let mut budget = BodyBudget::new(100);
        let slow_of_another = budget.enter(owner(2, 2));
        assert_eq!(budget.reserve(slow_of_another, 25), Reservation::Granted);
        budget.measured(slow_of_another, 0);
        let own = budget.enter(owner(1, 1));
        assert_eq!(budget.reserve(own, 50), Reservation::Granted);
        budget.measured(own, 7);
        let more = budget.enter(owner(1, 1));
        assert_eq!(budget.reserve(more, 10), Reservation::Evict(own));
    }

    #[test]
    fn one_bad_second_is_forgiven_and_a_standstill_is_not() {
        let mut budget = BodyBudget::new(100);
        let (body, late) = (budget.enter(None), budget.enter(None));
        assert_eq!(budget.reserve(body, 100), Reservation::Granted);
        budget.measured(body, 4 * SLOW);
        budget.measured(body, 0);
        assert_eq!(budget.reserve(late, 1), Reservation::Wait);
        (0..2).for_each(|_| budget.measured(body, 0));
        assert_eq!(budget.reserve(late, 1), Reservation::Evict(body));
    }
}
