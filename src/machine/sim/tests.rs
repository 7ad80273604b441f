//! The simulator at work.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    bugs::Bug,
    world::{self, Tally},
};
use crate::clock::Clock;

/// Seeds told without being asked for more by `HOOKWIRE_SEEDS`.
const SEEDS: u64 = 2_000;
/// Within so many seeds each bug is to be noticed.
const SEEDS_PER_BUG: u64 = 300;

#[test]
fn no_seed_breaks_a_promise() {
    if replaying() {
        return;
    }
    let seeds = variable("HOOKWIRE_SEEDS").map_or(SEEDS, |text| text.parse().expect("a number of seeds"));
    let clock = Clock::system();
    let begin = clock.now();
    let (tally, failed) = run_until_failure(seeds, None);
    if let Some((seed, violation)) = failed {
        panic!(
            "{violation}\n\n    HOOKWIRE_SEED={seed} cargo test --lib machine::sim -- --nocapture replay\n"
        );
    }
    let seconds = clock.now().since(begin).as_secs_f64();
    let rate = tally.deliveries as f64 / seconds;
    println!("{seeds} seeds in {seconds:.1} s, {rate:.0} deliveries a second: {tally:?}");
    assert!(tally.deliveries > 50 * seeds && tally.pages > seeds && tally.crashes > seeds / 4, "{tally:?}");
}

#[test]
fn every_bug_is_noticed() {
    if replaying() {
        return;
    }
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        match run_until_failure(SEEDS_PER_BUG, Some(bug)).1 {
            Some((seed, violation)) => println!("{bug:?}: seed {seed}: {violation}"),
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}

#[test]
fn a_seed_always_tells_the_same_story() {
    if replaying() {
        return;
    }
    for seed in 0..20 {
        assert_eq!(world::run(seed, None, false), world::run(seed, None, false), "seed {seed}");
    }
}

/// Tells the story of `HOOKWIRE_SEED` aloud, with the mistake `HOOKWIRE_BUG` if
/// one is named.
#[test]
fn replay() {
    let Some(seed) = variable("HOOKWIRE_SEED") else { return };
    let seed = seed.parse().expect("a seed is a number");
    let bug = variable("HOOKWIRE_BUG").map(|name| Bug::named(&name).expect("the name of a bug"));
    match world::run(seed, bug, true) {
        Ok(tally) => println!("seed {seed} keeps every promise: {tally:?}"),
        Err(violation) => panic!("seed {seed}: {violation}"),
    }
}

/// Whether one seed is asked for: the other tests then stay silent.
fn replaying() -> bool {
    variable("HOOKWIRE_SEED").is_some()
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Tells seeds on every core, and gives the lowest one that fails, if one does.
fn run_until_failure(seeds: u64, bug: Option<Bug>) -> (Tally, Option<(u64, String)>) {
    let (next, end) = (AtomicU64::new(0), AtomicU64::new(seeds));
    let total = Mutex::new((Tally::default(), None::<(u64, String)>));
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end.load(Ordering::Relaxed) {
            return;
        }
        let told = catch_unwind(AssertUnwindSafe(|| world::run(seed, bug, false)));
        let told = told.unwrap_or_else(|_| Err("panicked, see above".to_owned()));
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        match told {
            Ok(tally) => total.0.add(tally),
            Err(violation) => {
                end.fetch_min(seed, Ordering::Relaxed);
                if total.1.as_ref().is_none_or(|(lowest, _)| seed < *lowest) {
                    total.1 = Some((seed, violation));
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    total.into_inner().unwrap_or_else(PoisonError::into_inner)
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.happenings += other.happenings;
        self.deliveries += other.deliveries;
        self.requests += other.requests;
        self.pages += other.pages;
        self.crashes += other.crashes;
    }
}
