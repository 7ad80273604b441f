//! How many lines the log gets of one kind.
//!
//! Each key may write a few lines in each window of time. The others are left out and
//! counted; the next line that is written, or a flush after the window, tells how many.

use std::hash::Hash;

use rustc_hash::FxHashMap;

use crate::domain::{Micros, Timestamp};

/// Limits lines by key.
#[derive(Debug)]
pub struct LineLimit<K> {
    /// Lines of a key in one window at most.
    lines: u32,
    /// Length of a window.
    window: Micros,
    keys: FxHashMap<K, Window>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    began_at: Timestamp,
    written: u32,
    left_out: u64,
}

impl<K: Copy + Eq + Hash> LineLimit<K> {
    /// A limit of so many lines of each key in each window.
    pub fn new(lines: u32, window: Micros) -> Self {
        Self { lines, window, keys: FxHashMap::default() }
    }

    /// Whether a line may be written now: then the number of those left out before it.
    pub fn admit(&mut self, key: K, now: Timestamp) -> Option<u64> {
        let fresh = Window { began_at: now, written: 0, left_out: 0 };
        let entry = self.keys.entry(key).or_insert(fresh);
        let is_over = !(Micros::ZERO..self.window).contains(&now.since(entry.began_at));
        if is_over {
            (entry.began_at, entry.written) = (now, 0);
        }
        if entry.written >= self.lines {
            entry.left_out += 1;
            return None;
        }
        entry.written += 1;
        Some(std::mem::take(&mut entry.left_out))
    }

    /// Forgets the keys whose window is over; those of which lines were left out, with
    /// their number.
    pub fn flush(&mut self, now: Timestamp) -> Vec<(K, u64)> {
        let window = self.window;
        let over = |_: &K, it: &mut Window| !(Micros::ZERO..window).contains(&now.since(it.began_at));
        let ended = self.keys.extract_if(over);
        ended.filter(|(_, it)| it.left_out > 0).map(|(key, it)| (key, it.left_out)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    #[test]
    fn each_key_writes_a_few_lines_in_a_window_and_the_next_tells_what_was_left_out() {
        let mut limit = LineLimit::new(2, Micros::from_secs(10));
        let admitted: Vec<_> = (0..5).map(|_| limit.admit("one", at(0))).collect();
        assert_eq!(admitted, [Some(0), Some(0), None, None, None]);
        assert_eq!(limit.admit("two", at(9)), Some(0), "each key for itself");
        assert_eq!(limit.admit("one", at(9)), None);
        assert_eq!(limit.admit("one", at(10)), Some(4));
        assert_eq!(limit.admit("one", at(10)), Some(0));
        assert_eq!(limit.admit("one", at(10)), None);
    }

    #[test]
    fn a_flush_tells_what_no_line_told_and_forgets_what_is_over() {
        let mut limit = LineLimit::new(1, Micros::from_secs(10));
        for key in ["one", "one", "one", "two"] {
            limit.admit(key, at(0));
        }
        assert_eq!(limit.flush(at(9)), []);
        assert_eq!(limit.flush(at(10)), [("one", 2)]);
        assert!(limit.keys.is_empty());
    }

    #[test]
    fn a_clock_that_is_put_back_silences_nobody() {
        let mut limit = LineLimit::new(1, Micros::from_secs(10));
        assert_eq!(limit.admit("one", at(100)), Some(0));
        assert_eq!(limit.admit("one", at(50)), Some(0));
    }
}
