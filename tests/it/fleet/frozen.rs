//! An instance that was not there for a while overwrites nothing of what happened since.
//!
//! Its attempts are in flight when it is frozen or cut off from the database. The others
//! take over and deliver. Meanwhile its own attempts fail: when it goes on it finds a
//! hundred failures in its sockets, which it would record over the successes of others if
//! it were not told that they are void.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use hookwire::grpc::pb::{self, Attempt, Delivery, DeliveryStatus, attempt::Outcome};

use super::Fleet;
use crate::support::{Answer, Api, Receiver, alone, event, eventually, is_final, now, span, stubborn};

const IN_FLIGHT: usize = 100;
/// Endpoints besides the one whose attempts are in flight.
const OTHERS: usize = 32;
/// Beyond any patience that the others have.
const FROZEN: Duration = Duration::from_secs(40);
const SERVES_WITHIN: Duration = Duration::from_secs(10);

/// Deliveries with their attempts, by id.
type Histories = BTreeMap<String, (Delivery, Vec<Attempt>)>;

async fn histories(api: &Api, ids: &[String]) -> Histories {
    let mut found = Histories::new();
    for id in ids {
        let request = pb::GetDeliveryRequest { id: id.clone(), include_attempts: true };
        let response = api.deliveries.clone().get_delivery(request).await.expect("GetDelivery").into_inner();
        found.insert(id.clone(), (response.delivery.expect("the delivery"), response.attempts));
    }
    found
}

/// Histories only grow, and those that have ended stay as they are.
fn check_growth(before: &Histories, after: &Histories) {
    for (id, (delivery, attempts)) in before {
        let (later, more) = &after[id];
        assert!(more.starts_with(attempts), "{id} had {attempts:?}, and now {more:?}");
        assert!(later.revision >= delivery.revision, "{id} was {delivery:?} and is {later:?}");
        if is_final(delivery.status()) {
            assert_eq!((later, more), (delivery, attempts), "{id} changed after its end");
        }
    }
}

/// A fleet of which one member has attempts in flight, which will all fail.
struct Caught {
    fleet: Fleet,
    member: usize,
    /// Clients of one of the others.
    api: Api,
    receiver: Receiver,
    others: Receiver,
    ids: Vec<String>,
}

impl Caught {
    /// `late` is how long the attempts in flight will take.
    async fn with_attempts_that_fail_after(late: Duration) -> Self {
        let fleet = Fleet::start().await;
        let receiver = Receiver::answering(move |request| {
            if request.number < IN_FLIGHT { Answer::status(500).after(late) } else { Answer::ok() }
        })
        .await;
        let others = Receiver::ok().await;
        let api = fleet.members[0].api();
        for number in 0..OTHERS {
            let url = others.at(&format!("/{number}"));
            let endpoint = pb::Endpoint { event_types: vec!["tick".to_owned()], ..stubborn(url) };
            api.create_endpoint(endpoint).await;
        }
        let endpoint = pb::Endpoint {
            event_types: vec!["caught".to_owned()],
            max_in_flight: i32::try_from(IN_FLIGHT).expect("small"),
            http: Some(pb::HttpOptions { timeout: span(120_000), ..Default::default() }),
            ..stubborn(receiver.at("/caught"))
        };
        let endpoint = api.create_endpoint(endpoint).await;
        let member = fleet.home_of(&endpoint.id).await;
        let api = fleet.members[(member + 1) % 3].api();
        api.publish_batch((0..IN_FLIGHT).map(|_| event("caught", "{}")).collect()).await;
        eventually(Duration::from_secs(10), "all attempts are in flight", async || {
            let open = receiver.open();
            if open == IN_FLIGHT { Ok(()) } else { Err(format!("{open}")) }
        })
        .await;
        let filter = pb::DeliveryFilter { endpoint_ids: vec![endpoint.id], ..Default::default() };
        let ids: Vec<_> = api.all_deliveries(filter).await.into_iter().map(|delivery| delivery.id).collect();
        assert_eq!(ids.len(), IN_FLIGHT);
        Self { fleet, member, api, receiver, others, ids }
    }

    /// All that was in flight is delivered by somebody, and on the way there no history
    /// loses anything.
    async fn all_delivered(&self, limit: Duration) -> Histories {
        let mut before = Histories::new();
        eventually(limit, "what was in flight is delivered", async || {
            let after = histories(&self.api, &self.ids).await;
            check_growth(&before, &after);
            before = after;
            let open = before.values().filter(|(delivery, _)| delivery.status() != DeliveryStatus::Delivered);
            match open.count() {
                0 => Ok(before.clone()),
                open => Err(format!("{open} are not")),
            }
        })
        .await
    }

    /// The member takes events in, brings them to every endpoint, and has its share of the
    /// endpoints. How long that took.
    async fn serves_again(&self) -> Duration {
        let (start, back) = (now(), self.fleet.members[self.member].api());
        let id = eventually(SERVES_WITHIN, "it takes an event in", async || {
            let published = back.publish_within(Duration::from_secs(2), event("tick", "{}")).await;
            published.map_err(|status| format!("{status:?}"))
        })
        .await;
        eventually(SERVES_WITHIN, "it is the home of some again", async || {
            let shares = self.fleet.shares()[self.member];
            if shares > 0 { Ok(()) } else { Err(format!("{:?}", self.fleet.shares())) }
        })
        .await;
        eventually(SERVES_WITHIN, "what it took in comes to every endpoint", async || {
            let ledger = self.others.ledger();
            let came: HashSet<_> =
                ledger.iter().filter(|it| it.event_id() == id).map(|it| it.path.as_str()).collect();
            if came.len() == OTHERS { Ok(()) } else { Err(format!("{} of {OTHERS}", came.len())) }
        })
        .await;
        start.elapsed()
    }

    /// What is stored is as it was, whoever is asked; and it fits together.
    async fn nothing_was_overwritten(&self, before: &Histories) {
        eventually(FROZEN, "the attempts that were in flight have failed", async || {
            let open = self.receiver.open();
            if open == 0 { Ok(()) } else { Err(format!("{open} are in flight")) }
        })
        .await;
        // What it has to record of them goes along with what it takes in.
        self.serves_again().await;
        for api in self.fleet.apis() {
            let after = histories(&api, &self.ids).await;
            check_growth(before, &after);
            for (delivery, attempts) in after.values() {
                assert_eq!(delivery.status(), DeliveryStatus::Delivered, "{delivery:?}");
                let numbers: Vec<_> = attempts.iter().map(|attempt| attempt.number).collect();
                assert_eq!(numbers, (1..=delivery.attempt_count).collect::<Vec<_>>(), "{delivery:?}");
                let outcomes: Vec<_> = attempts.iter().map(Attempt::outcome).collect();
                assert_eq!(outcomes.last(), Some(&Outcome::Succeeded), "the newest one: {attempts:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_was_frozen_overwrites_nothing_and_serves_again() {
    let _alone = alone().await;
    let caught = Caught::with_attempts_that_fail_after(FROZEN / 2).await;
    let frozen = &caught.fleet.members[caught.member];
    frozen.freeze();
    let start = now();
    let stored = caught.all_delivered(Duration::from_secs(30)).await;
    let taken_over = start.elapsed();
    eventually(SERVES_WITHIN, "all that it had is somebody else's", async || {
        let shares = caught.fleet.shares();
        if shares[caught.member] == 0 { Ok(()) } else { Err(format!("{shares:?}")) }
    })
    .await;
    // How long it is frozen is what this is about, so here time itself is waited for.
    tokio::time::sleep(FROZEN.saturating_sub(start.elapsed())).await;

    frozen.thaw();
    let served = caught.serves_again().await;
    caught.fleet.settled().await;
    caught.nothing_was_overwritten(&stored).await;
    println!(
        "frozen: delivered by others after {taken_over:?}, serves {served:?} after it goes on, \
         {} requests repeated",
        caught.receiver.count() - IN_FLIGHT
    );
    assert!(served <= SERVES_WITHIN, "{served:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_was_cut_off_from_the_database_overwrites_nothing_and_serves_again() {
    let _alone = alone().await;
    let caught = Caught::with_attempts_that_fail_after(Duration::from_secs(5)).await;
    let connections = caught.fleet.cut(caught.member);
    assert!(connections > 0, "it had connections");
    let served = caught.serves_again().await;
    let stored = caught.all_delivered(Duration::from_secs(30)).await;
    caught.fleet.settled().await;
    caught.nothing_was_overwritten(&stored).await;
    println!(
        "cut off: {connections} connections, serves again after {served:?}, {} requests repeated",
        caught.receiver.count() - IN_FLIGHT
    );
    assert!(served <= SERVES_WITHIN, "{served:?}");
}
