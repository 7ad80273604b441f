//! What an instance did goes on without it.
//!
//! Events go to all of 64 endpoints at a steady pace, so that each instance is the home of
//! some. When one of them ends, the others get their events as before, and its own get
//! theirs as soon as somebody has taken over. The time that takes is from the end of the
//! process until the last endpoint got an event that was published after it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::Fleet;
use crate::support::{Api, Receiver, alone, body_of, create_stubborn, event, eventually, key_in, now};

const ENDPOINTS: usize = 64;
/// Between events. What is measured is longer than it is by this much at most.
const PACE: Duration = Duration::from_millis(300);

/// When each event was published, by its number, which is the key in its body.
#[derive(Clone, Default)]
struct Rounds(Arc<Mutex<Vec<Instant>>>);

impl Rounds {
    fn begin(&self) -> usize {
        let mut rounds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rounds.push(now());
        rounds.len() - 1
    }

    fn at(&self, number: usize) -> Instant {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[number]
    }

    /// Publishes for as long as it is polled, to an instance that never refuses.
    async fn go_on(self, api: Api) {
        let mut ticks = tokio::time::interval(PACE);
        loop {
            ticks.tick().await;
            let number = self.begin();
            api.publish(event("tick", body_of(&number.to_string()))).await;
        }
    }
}

/// Ends each member in turn, and says how long its endpoints went without events, at the
/// longest.
async fn longest_gap(fleet: &mut Fleet, end: impl AsyncFn(&mut Fleet, usize)) -> Duration {
    let receiver = Receiver::ok().await;
    create_stubborn(&fleet.members[0].api(), &receiver, ENDPOINTS).await;
    let (rounds, mut longest) = (Rounds::default(), Duration::ZERO);
    for victim in 0..3 {
        let homes: HashSet<_> = fleet.homes().into_values().collect();
        assert_eq!(homes.len(), 3, "each is the home of some");
        let before = receiver.count();
        let publishing = tokio::spawn(rounds.clone().go_on(fleet.members[(victim + 1) % 3].api()));
        receiver.wait_for(before + 3 * ENDPOINTS, Duration::from_secs(30)).await;

        end(fleet, victim).await;
        let ended = now();
        let seen = receiver.count();
        let what = format!("without {victim}, every endpoint gets what is published");
        let last = eventually(Duration::from_secs(20), &what, async || {
            let mut first = HashMap::new();
            for request in &receiver.ledger()[seen..] {
                let number = key_in(&request.body).parse().expect("a number");
                if rounds.at(number) > ended {
                    first.entry(request.path.clone()).or_insert(request.at);
                }
            }
            let last = first.values().max().copied().filter(|_| first.len() == ENDPOINTS);
            last.ok_or_else(|| format!("{} of {ENDPOINTS} do", first.len()))
        })
        .await;
        longest = longest.max(last.saturating_duration_since(ended));
        assert!(!publishing.is_finished(), "the others take what is published all the while");
        publishing.abort();

        fleet.members[victim].restart().await;
        fleet.settled().await;
    }
    longest
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_of_a_killed_instance_are_taken_over_within_five_seconds() {
    let _alone = alone().await;
    let mut fleet = Fleet::start().await;
    let longest = longest_gap(&mut fleet, async |fleet: &mut Fleet, victim: usize| {
        fleet.members[victim].kill9();
    })
    .await;
    println!("takeover: {longest:?} at the longest after a kill");
    assert!(longest <= Duration::from_secs(5), "{longest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_told_to_stop_hands_its_endpoints_over_at_once() {
    let _alone = alone().await;
    let mut fleet = Fleet::start().await;
    let longest = longest_gap(&mut fleet, async |fleet: &mut Fleet, victim: usize| {
        let status = fleet.members[victim].terminate(Duration::from_secs(30)).await;
        assert_eq!(status.code(), Some(0), "{status}");
    })
    .await;
    println!("takeover: {longest:?} at the longest after an orderly stop");
    assert!(longest <= Duration::from_secs(2), "{longest:?}");
}
