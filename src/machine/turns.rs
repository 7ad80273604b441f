//! A queue that serves groups in turn, and within a group its members in turn.
//!
//! A group that has one item waits for one item of each other group, however many items
//! those have. The same holds for the members of a group. A group or member that comes
//! back waits behind those that are already there.

use std::{collections::VecDeque, hash::Hash};

use rustc_hash::FxHashMap;

/// Items of members of groups.
#[derive(Debug)]
pub struct Turns<G, M, T> {
    groups: Ring<G, Ring<M, VecDeque<T>>>,
}

/// Values by key, and the order in which the keys are served.
#[derive(Debug)]
struct Ring<K, V> {
    order: VecDeque<K>,
    values: FxHashMap<K, V>,
}

impl<K, V> Default for Ring<K, V> {
    fn default() -> Self {
        Self { order: VecDeque::new(), values: FxHashMap::default() }
    }
}

impl<K: Copy + Eq + Hash, V: Default> Ring<K, V> {
    /// The value of a key, which is added at the end of the order if it is new.
    fn entry(&mut self, key: K) -> &mut V {
        let order = &mut self.order;
        self.values.entry(key).or_insert_with(|| {
            order.push_back(key);
            V::default()
        })
    }

    /// Takes from the value of the first key. The key goes to the end of the order, or
    /// is removed if its value has become empty.
    fn serve<T>(&mut self, take: impl FnOnce(&mut V) -> (Option<T>, bool)) -> Option<T> {
        let key = self.order.pop_front()?;
        let (item, is_empty) = self.values.get_mut(&key).map_or((None, true), take);
        if is_empty {
            self.values.remove(&key);
        } else {
            self.order.push_back(key);
        }
        item
    }
}

impl<G, M, T> Default for Turns<G, M, T> {
    fn default() -> Self {
        Self { groups: Ring::default() }
    }
}

impl<G: Copy + Eq + Hash, M: Copy + Eq + Hash, T> Turns<G, M, T> {
    /// Adds an item behind the other items of the same member.
    pub fn push(&mut self, group: G, member: M, item: T) {
        self.groups.entry(group).entry(member).push_back(item);
    }

    /// The next item.
    pub fn pop(&mut self) -> Option<T> {
        self.groups.serve(|members| {
            let item = members.serve(|items| {
                let item = items.pop_front();
                (item, items.is_empty())
            });
            (item, members.values.is_empty())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(turns: &mut Turns<u32, char, u32>) -> Vec<u32> {
        std::iter::from_fn(|| turns.pop()).collect()
    }

    #[test]
    fn a_group_with_one_item_waits_for_one_item_of_each_other_group() {
        let mut turns = Turns::default();
        for item in 0..400 {
            turns.push(1, 'a', item);
        }
        turns.push(2, 'a', 1000);
        turns.push(3, 'a', 2000);
        assert_eq!(all(&mut turns)[..5], [0, 1000, 2000, 1, 2]);
    }

    #[test]
    fn members_of_a_group_are_served_in_turn() {
        let mut turns = Turns::default();
        for item in 0..3 {
            turns.push(1, 'a', item);
        }
        turns.push(1, 'b', 10);
        turns.push(2, 'a', 20);
        turns.push(2, 'a', 21);
        assert_eq!(all(&mut turns), [0, 20, 10, 21, 1, 2]);
    }

    #[test]
    fn a_member_that_comes_back_waits_behind_those_that_are_there() {
        let mut turns = Turns::default();
        turns.push(1, 'a', 0);
        turns.push(1, 'b', 10);
        turns.push(1, 'b', 11);
        assert_eq!(turns.pop(), Some(0));
        turns.push(1, 'a', 1);
        assert_eq!(all(&mut turns), [10, 1, 11]);
    }

    #[test]
    fn what_was_served_is_forgotten() {
        let mut turns = Turns::default();
        turns.push(1, 'a', 0);
        assert_eq!((turns.pop(), turns.pop()), (Some(0), None));
        assert!(turns.groups.values.is_empty() && turns.groups.order.is_empty());
    }
}
