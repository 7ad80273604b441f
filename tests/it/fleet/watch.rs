//! A watcher sees everything, in order, whichever instance it asks and whoever commits.
//!
//! Each watcher checks by itself, as in `watch.rs`, that no revision of a delivery is
//! missing and that sequences only grow. Here it resumes at another instance nearly each
//! time, with a token that the last one gave it.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hookwire::grpc::pb::{self, DeliveryStatus, ErrorReason};
use sqlx::{Executor as _, Row as _};
use tokio::{sync::watch, task::JoinSet};

use super::Fleet;
use crate::{
    support::{
        Answer, Api, Database, Dice, Received, Receiver, alone, create_stubborn, event, eventually,
        transport_fault,
    },
    watch::{Observer, watch_on_and_off},
};

/// Each event goes to this many endpoints.
const ENDPOINTS: usize = 2;

/// Watchers at work, all from one position.
struct Watchers {
    tasks: JoinSet<Observer>,
    seen: Vec<watch::Receiver<usize>>,
    total: watch::Sender<Option<usize>>,
}

impl Watchers {
    async fn start(fleet: &Fleet, dice: &Dice, count: u64) -> Self {
        let api = fleet.members[0].api();
        let listed = api.deliveries.clone().list_deliveries(pb::ListDeliveriesRequest::default()).await;
        let start = listed.expect("ListDeliveries").into_inner().resume_token;
        let total = watch::Sender::new(None);
        let (mut tasks, mut seen) = (JoinSet::new(), Vec::new());
        for number in 0..count {
            let (report, reported) = watch::channel(0);
            seen.push(reported);
            let (name, dice) = (format!("watcher {number}"), dice.fork(number));
            let (ports, start) = (fleet.ports(), start.clone());
            tasks.spawn(watch_on_and_off(ports, dice, name, start, total.subscribe(), report));
        }
        Self { tasks, seen, total }
    }

    /// Returns once each has seen that many changes.
    async fn have_seen(&self, changes: usize, limit: Duration) {
        eventually(limit, &format!("all watchers have seen {changes} changes"), async || {
            let seen: Vec<_> = self.seen.iter().map(|seen| *seen.borrow()).collect();
            if seen.iter().all(|seen| *seen == changes) { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await;
    }

    /// What each saw, once it has seen all.
    async fn finish(self, changes: usize, limit: Duration) -> Vec<Observer> {
        self.total.send_replace(Some(changes));
        self.have_seen(changes, limit).await;
        self.tasks.join_all().await
    }
}

/// How each delivery stands, and how many changes there were of all.
async fn truth(api: &Api) -> (HashMap<String, (u64, DeliveryStatus)>, usize) {
    let deliveries = api.all_deliveries(pb::DeliveryFilter::default()).await;
    let truth: HashMap<_, _> = deliveries
        .into_iter()
        .map(|delivery| {
            let status = delivery.status();
            (delivery.id, (delivery.revision, status))
        })
        .collect();
    let changes: u64 = truth.values().map(|(revision, _)| revision).sum();
    (truth, usize::try_from(changes).expect("small"))
}

/// Publishes so many events in batches of 1 to 500, most of them small, and each until an
/// instance acknowledges it.
async fn publish_in_batches(
    ports: Vec<u16>,
    mut dice: Dice,
    name: String,
    mut left: usize,
    acked: Arc<AtomicUsize>,
) {
    let apis: Vec<_> = ports.into_iter().map(Api::at).collect();
    let mut at = usize::try_from(dice.roll(0, apis.len() as u64)).expect("small");
    while left > 0 {
        let size = left.min(500 / usize::try_from(dice.roll(1, 501)).expect("small"));
        let mut events: Vec<_> = (left - size..left)
            .map(|number| pb::Event { idempotency_key: format!("{name}-{number}"), ..event("tick", "{}") })
            .collect();
        left -= size;
        while !events.is_empty() {
            let request = pb::BatchPublishEventsRequest { events: events.clone(), atomic: false };
            match apis[at].events.clone().batch_publish_events(request).await {
                Ok(response) => {
                    let mut results = response.into_inner().results.into_iter();
                    let again = |result: pb::PublishEventResult| {
                        let reason = result.error.as_ref().map(pb::ItemError::reason);
                        let held = matches!(reason, Some(ErrorReason::NotServing | ErrorReason::QueueFull));
                        assert!(reason.is_none() || held, "{name}: {result:?}");
                        held
                    };
                    events.retain(|_| results.next().is_none_or(again));
                }
                Err(status) => assert!(transport_fault(&status), "{name}: {status:?}"),
            }
            if !events.is_empty() {
                at = (at + 1) % apis.len();
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
        }
        acked.fetch_add(size, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_watchers_that_wander_among_instances_miss_nothing_through_kills() {
    const WATCHERS: u64 = 50;
    const PUBLISHERS: usize = 32;
    const EVENTS_EACH: usize = 312;
    const EVENTS: usize = PUBLISHERS * EVENTS_EACH;
    const KILLS: usize = 6;
    let _alone = alone().await;
    let mut dice = Dice::of("fleet watch");
    // Publishers are held up when too much waits, so that the kills fall into the whole of
    // the work.
    let mut fleet = Fleet::with(Database::new(), &[("HOOKWIRE_MAX_QUEUE", "4000")]).await;
    // One delivery in eight fails once, so that there are more than two changes.
    let flaky = |request: &Received| {
        let unlucky = request.delivery_id().ends_with(['0', '1']);
        if unlucky && !request.number.is_multiple_of(3) { Answer::status(500) } else { Answer::ok() }
    };
    let receiver = Receiver::answering(flaky).await;
    let api = fleet.members[0].api();
    create_stubborn(&api, &receiver, ENDPOINTS).await;
    let watchers = Watchers::start(&fleet, &dice, WATCHERS).await;

    let acked = Arc::new(AtomicUsize::new(0));
    let mut publishers = JoinSet::new();
    for number in 0..PUBLISHERS {
        let (ports, dice) = (fleet.ports(), dice.fork(1000 + number as u64));
        let name = format!("publisher-{number}");
        publishers.spawn(publish_in_batches(ports, dice, name, EVENTS_EACH, Arc::clone(&acked)));
    }
    for kill in 1..=KILLS {
        let mark = EVENTS * kill / (KILLS + 1);
        eventually(Duration::from_secs(120), &format!("{mark} events acknowledged"), async || {
            let acked = acked.load(Ordering::Relaxed);
            if acked >= mark { Ok(()) } else { Err(format!("{acked}")) }
        })
        .await;
        tokio::time::sleep(Duration::from_millis(dice.roll(0, 50))).await;
        fleet.kill9_and_restart(kill % 3).await;
    }
    let ended = tokio::time::timeout(Duration::from_secs(120), publishers.join_all()).await;
    ended.expect("all is published");
    api.all_final(Duration::from_secs(180)).await;

    let (truth, changes) = truth(&api).await;
    assert_eq!(truth.len(), ENDPOINTS * EVENTS);
    let watchers = watchers.finish(changes, Duration::from_secs(300)).await;
    for watcher in &watchers {
        assert!(watcher.latest == truth, "{} ended elsewhere than the list", watcher.name);
    }
    let repeats: usize = watchers.iter().map(|watcher| watcher.repeats).sum();
    println!("fleet watch: {changes} changes seen by each of {WATCHERS}, {repeats} again after resuming");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_somebody_holds_open_keeps_nothing_back_and_reorders_nothing() {
    let dice = Dice::of("held");
    let fleet = Fleet::start().await;
    let receiver = Receiver::ok().await;
    let api = fleet.members[0].api();
    create_stubborn(&api, &receiver, ENDPOINTS).await;
    let watchers = Watchers::start(&fleet, &dice, 6).await;
    fleet.database.query("CREATE TABLE unrelated (number int)");
    let mut somebody = fleet.database.connect().await.expect("a connection");
    let publish = async |name: &str| {
        for (member, port) in fleet.ports().into_iter().enumerate() {
            let (name, dice) = (format!("{name}-{member}"), dice.fork(member as u64));
            publish_in_batches(vec![port], dice, name, 100, Arc::default()).await;
        }
        api.all_final(Duration::from_secs(30)).await;
        truth(&api).await
    };

    // It has a number among transactions before all that follow, and ends after them.
    somebody.execute("BEGIN; INSERT INTO unrelated VALUES (1)").await.expect("begun");
    let (_, changes) = publish("during").await;
    watchers.have_seen(changes, Duration::from_secs(30)).await;
    let row = somebody.fetch_one("SELECT pg_current_xact_id_if_assigned()::text").await.expect("still open");
    assert!(row.get::<Option<String>, _>(0).is_some(), "it was open all the while");
    somebody.execute("COMMIT").await.expect("committed");

    let (truth, changes) = publish("after").await;
    assert_eq!(truth.len(), 2 * 300 * ENDPOINTS);
    for watcher in watchers.finish(changes, Duration::from_secs(30)).await {
        assert!(watcher.latest == truth, "{} ended elsewhere than the list", watcher.name);
    }
    println!("fleet watch: {changes} changes, half of them beside a transaction that was open");
}
