//! What the store promises, checked on real files.

use std::{collections::BTreeMap, sync::Arc};

use sqlx::Row as _;

use super::{
    Config, Created, DeliveryFilter, EventFilter, Finish, LetterFilter, Publish, RECENT_MAX, Steered, Store,
    Task, deliveries, letters, lists, retention::Cutoff, scan,
};
use crate::domain::{
    ApiKey, ApiKeyId, Cause, DeadLetterPolicy, Delivery, DeliveryId, Endpoint, EndpointState, Failure, Fault,
    LetterReason, LetterState, Micros, NewEvent, Operation, OperationId, OperationKind, OperationState,
    Order, Outcome, Page, Pattern, Payload, Pos, RetryPolicy, State, TenantKey, TimeRange, Timestamp,
    Timings, Uid,
};
use crate::{entropy::Entropy, machine::judge, vault::Vault};

const TENANT: TenantKey = TenantKey::DEFAULT;
const PAGE: Page = Page { size: 1000, after: None, order: Order::OldestFirst };
const NOW: Timestamp = Timestamp(1_768_996_800_000_000);

struct House {
    store: Arc<Store>,
    folder: tempfile::TempDir,
}

impl House {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder).await;
        Self { store, folder }
    }

    async fn reopened(self) -> Self {
        self.store.close().await.unwrap();
        let Self { store, folder } = self;
        drop(store);
        let store = open(&folder).await;
        Self { store, folder }
    }

    async fn endpoint(&self, id: &str) -> Arc<Endpoint> {
        match self.store.create_endpoint(endpoint(id)).await.unwrap() {
            Created::Done(endpoint) => endpoint,
            Created::IdTaken | Created::Quota(_) | Created::NoTenant => panic!("{id} was not made"),
        }
    }

    /// Publishes and returns the deliveries made.
    async fn publish(&self, events: Vec<NewEvent>) -> Vec<Delivery> {
        let answers = self.store.publish(publish(events)).await.unwrap();
        let mut made = Vec::new();
        for answer in answers {
            for (id, _) in answer.unwrap().deliveries {
                made.push(self.delivery(id).await);
            }
        }
        made
    }

    async fn delivery(&self, id: DeliveryId) -> Delivery {
        self.store.delivery(TENANT, id).await.unwrap().expect("the delivery is stored")
    }

    /// Records an attempt and waits until it is committed.
    async fn attempt(&self, delivery: &Delivery, result: Result<u16, Cause>, at: Timestamp) -> Delivery {
        let before = self.store.recent().position();
        self.store.finish(vec![finish(delivery, result, at)]).unwrap();
        self.store.recent().subscribe().wait_for(|position| *position > before).await.unwrap();
        self.delivery(delivery.id).await
    }

    async fn feed_of_the_file(&self) -> Vec<Arc<crate::domain::Change>> {
        let upto = self.store.recent().position();
        let (mut all, mut after) = (Vec::new(), Pos(0));
        while after < upto {
            let (page, reached) = self.store.changes(after, upto, 7).await.unwrap();
            all.extend(page);
            after = reached;
        }
        all
    }
}

async fn open(folder: &tempfile::TempDir) -> Arc<Store> {
    let config = Config {
        directory: folder.path().to_owned(),
        vault: Vault::drawn(Entropy::seeded(1)),
        incarnation: 5,
        queue_max: 1_000_000,
        pending_bytes_max: 64 << 20,
        mark_every: 10_000_000,
        crash_after_publishes: None,
    };
    Store::open(config).await.unwrap().0
}

fn endpoint(id: &str) -> Endpoint {
    Endpoint {
        event_types: vec![Pattern::parse("user.*").unwrap()],
        retry: RetryPolicy { max_attempts: 2, ..RetryPolicy::default() },
        ..Endpoint::new(TENANT, id, "http://127.0.0.1:9/", NOW)
    }
}

fn event(event_type: &str, key: &str, data: &str) -> NewEvent {
    NewEvent {
        tenant: TENANT,
        event_type: event_type.into(),
        payload: Payload { content_type: "application/json".into(), data: data.to_owned().into() },
        idempotency_key: key.to_owned(),
        priority: 0,
        deliver_at: None,
        expires_at: None,
        metadata: BTreeMap::new(),
    }
}

fn publish(events: Vec<NewEvent>) -> Publish {
    Publish { events, atomic: false, in_turn: false, at: NOW, salt: 9 }
}

fn finish(delivery: &Delivery, result: Result<u16, Cause>, at: Timestamp) -> Finish {
    let result = match result {
        Ok(status) => Ok(crate::domain::Answer { status, ..Default::default() }),
        Err(cause) => Err(Fault { cause, message: "it broke".to_owned() }),
    };
    let outcome = Outcome { started_at: at, duration: Micros(1_000), timings: Timings::default(), result };
    let policy = RetryPolicy { max_attempts: 2, ..RetryPolicy::default() };
    let verdict = judge::judge(delivery, &policy, &outcome, 0.5);
    let reason = match verdict.next {
        judge::Next::GiveUp(reason) => Some(reason),
        judge::Next::Delivered | judge::Next::RetryAt(_) | judge::Next::Expired => None,
    };
    let gone = matches!(&verdict.failure, Some(Failure { cause: Cause::Gone, .. })).then_some(1);
    let letters = DeadLetterPolicy::default();
    let (after, attempt) = judge::settle(delivery, outcome, verdict, letters);
    Finish { before: Arc::new(delivery.clone()), after, attempt: Some(attempt), reason, letters, gone }
}

#[tokio::test]
async fn an_event_goes_to_those_who_want_it_and_reads_back_as_it_was() {
    let house = House::new().await;
    let (one, two) = (house.endpoint("one").await, house.endpoint("two").await);
    let made = house.publish(vec![event("user.created", "", "{\"b\":1, \"a\":2}")]).await;
    assert_eq!(made.iter().map(|it| it.endpoint).collect::<Vec<_>>(), [one.key, two.key]);
    let stored = house.store.event(made[0].event).await.unwrap().unwrap();
    assert_eq!(&stored.payload.data[..], b"{\"b\":1, \"a\":2}");
    assert!(house.publish(vec![event("order.paid", "", "{}")]).await.is_empty());
    let summary = house.store.event_summary(made[0].event).await.unwrap();
    assert_eq!((summary.total, summary.open), (2, 2));
}

#[tokio::test]
async fn a_key_seen_before_answers_with_the_first_event_also_within_a_call_and_after_a_restart() {
    let house = House::new().await;
    house.endpoint("one").await;
    let twins = vec![event("user.a", "k", "1"), event("user.a", "k", "1"), event("user.a", "k", "2")];
    let answers = house.store.publish(publish(twins)).await.unwrap();
    let first = answers[0].as_ref().unwrap();
    assert!(!first.duplicate);
    assert_eq!(
        answers[1].as_ref().map(|it| (it.event, it.duplicate, it.matched)),
        Ok((first.event, true, 1))
    );
    assert_eq!(*answers[2].as_ref().unwrap_err(), super::Refused::Conflict(first.event));
    let house = house.reopened().await;
    let again = house.store.publish(publish(vec![event("user.a", "k", "1")])).await.unwrap();
    assert_eq!(again[0].as_ref().map(|it| (it.event, it.duplicate)), Ok((first.event, true)));
}

#[tokio::test]
async fn an_atomic_call_publishes_all_or_nothing() {
    let house = House::new().await;
    house.endpoint("one").await;
    house.publish(vec![event("user.a", "k", "1")]).await;
    let mixed =
        Publish { atomic: true, ..publish(vec![event("user.a", "new", "1"), event("user.a", "k", "2")]) };
    let answers = house.store.publish(mixed).await.unwrap();
    assert!(matches!(answers.as_slice(), [Err(_)]));
    let fresh = house.store.publish(publish(vec![event("user.a", "new", "1")])).await.unwrap();
    assert!(!fresh[0].as_ref().unwrap().duplicate);
}

#[tokio::test]
async fn what_is_announced_is_what_the_file_says() {
    let house = House::new().await;
    house.endpoint("one").await;
    house.endpoint("two").await;
    let scheduled =
        NewEvent { deliver_at: Some(NOW.plus(Micros(9))), priority: 5, ..event("user.b", "", "1") };
    let made = house.publish(vec![event("user.a", "", "1"), scheduled]).await;
    let later = NOW.plus(Micros::from_secs(1));
    let retried = house.attempt(&made[0], Err(Cause::Connect), later).await;
    house.attempt(&retried, Ok(503), later.plus(Micros::from_secs(2))).await;
    house.attempt(&made[1], Ok(200), later).await;
    house.store.cancel(TENANT, made[2].id, later).await.unwrap();
    house.store.retry(TENANT, made[3].id, later).await.unwrap();
    house.store.replay(TENANT, made[0].id, later.plus(Micros::from_secs(9))).await.unwrap();
    let (announced, _) = house.store.recent().after(Pos(0), RECENT_MAX).unwrap();
    let stored = house.feed_of_the_file().await;
    assert_eq!(announced.len(), 10);
    for (announced, stored) in announced.iter().zip(&stored) {
        assert_eq!(announced.pos, stored.pos);
        assert_eq!(announced.delivery.revision, stored.delivery.revision);
        assert_eq!((announced.kind, announced.previous), (stored.kind, stored.previous));
        assert_eq!(announced.attempt, stored.attempt);
        assert_eq!(announced.delivery.last, stored.delivery.last);
        assert_eq!((announced.at, announced.delivery.state), (stored.at, stored.delivery.state));
        assert_eq!(announced.delivery.due_at, stored.delivery.due_at);
    }
    assert!(stored.windows(2).all(|pair| pair[0].pos < pair[1].pos));
}

#[tokio::test]
async fn attempts_are_listed_first_to_last_and_a_failed_delivery_becomes_a_dead_letter() {
    let house = House::new().await;
    house.endpoint("one").await;
    let made = house.publish(vec![event("user.a", "", "1")]).await.remove(0);
    let (first, second) = (NOW.plus(Micros(5)), NOW.plus(Micros::from_secs(3)));
    let made = house.attempt(&made, Err(Cause::Connect), first).await;
    assert_eq!((made.state, made.attempts), (State::Retrying, 1));
    let made = house.attempt(&made, Ok(500), second).await;
    assert_eq!((made.state, made.attempts), (State::DeadLetter, 2));
    let attempts = house.store.attempts(&made).await.unwrap();
    assert_eq!(
        attempts.iter().map(|it| (it.number, it.status)).collect::<Vec<_>>(),
        [(1, None), (2, Some(500))]
    );
    let letter = house.store.letter(TENANT, made.id).await.unwrap().unwrap();
    assert_eq!((letter.reason, letter.state), (LetterReason::RetriesExhausted, LetterState::Open));
    assert_eq!((letter.first_failed_at, letter.last_failed_at), (first, second));
    assert_eq!(letter.message, "HTTP 500: Internal Server Error");
}

#[tokio::test]
async fn a_replay_ends_its_dead_letter_or_opens_it_again() {
    let house = House::new().await;
    house.endpoint("one").await;
    let made = house.publish(vec![event("user.a", "", "1")]).await.remove(0);
    let made = house.attempt(&made, Ok(400), NOW.plus(Micros(5))).await;
    for (status, state) in [(400, LetterState::Open), (204, LetterState::Replayed)] {
        let Steered::Done(replay) = house.store.replay(TENANT, made.id, NOW).await.unwrap() else { panic!() };
        assert_eq!((replay.replay_of, replay.letter), (Some(made.id), Some(made.id)));
        let twice = house.store.replay(TENANT, made.id, NOW).await.unwrap();
        assert_eq!(twice, Steered::Letter(LetterState::Replaying));
        house.attempt(&replay, Ok(status), NOW.plus(Micros(7))).await;
        let letter = house.store.letter(TENANT, made.id).await.unwrap().unwrap();
        assert_eq!(letter.state, state);
    }
    let letter = house.store.letter(TENANT, made.id).await.unwrap().unwrap();
    assert_eq!((letter.attempts, letter.replays), (3, 2));
    let all = house.store.letters(TENANT, &LetterFilter::default(), PAGE).await.unwrap().0;
    assert_eq!(all.len(), 1, "a failed replay makes no second dead letter");
}

#[tokio::test]
async fn a_result_that_comes_late_or_twice_changes_no_state() {
    let house = House::new().await;
    house.endpoint("one").await;
    let made = house.publish(vec![event("user.a", "", "1"), event("user.a", "", "2")]).await;
    let at = NOW.plus(Micros(5));
    house.store.cancel(TENANT, made[0].id, NOW).await.unwrap();
    let late = house.attempt(&made[0], Ok(200), at).await;
    assert_eq!((late.state, late.attempts, late.revision), (State::Cancelled, 1, 3));
    let done = house.attempt(&made[1], Ok(200), at).await;
    house.store.finish(vec![finish(&made[1], Ok(200), at)]).unwrap();
    house.store.cancel(TENANT, made[1].id, NOW).await.unwrap();
    assert_eq!(house.delivery(made[1].id).await, done, "the same result twice is one result");
    assert_eq!(house.store.attempts(&done).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_disabled_with_the_result() {
    let house = House::new().await;
    let endpoint = house.endpoint("one").await;
    let made = house.publish(vec![event("user.a", "", "1")]).await.remove(0);
    let held = house.attempt(&made, Ok(410), NOW.plus(Micros(5))).await;
    assert_eq!(held.state, State::Retrying);
    assert_eq!(house.store.routes().get(endpoint.key).unwrap().state, EndpointState::AutoDisabled);
    let house = house.reopened().await;
    assert_eq!(house.store.routes().get(endpoint.key).unwrap().state, EndpointState::AutoDisabled);
    assert!(house.publish(vec![event("user.a", "", "1")]).await.is_empty());
}

#[tokio::test]
async fn operations_handle_each_item_once_and_finish() {
    let house = House::new().await;
    house.endpoint("one").await;
    let events = (0..5).map(|it| event("user.a", "", &it.to_string())).collect();
    let mut letters = Vec::new();
    for made in house.publish(events).await {
        house.attempt(&made, Ok(400), NOW.plus(Micros(5))).await;
        letters.push(made.id);
    }
    let operation = Operation {
        id: OperationId(Uid::new(NOW, 3, Pos(0))),
        tenant: TENANT,
        kind: OperationKind::ReplayDeadLetters,
        state: OperationState::Queued,
        created_at: NOW,
        updated_at: NOW,
        ended_at: None,
        total: 5,
        succeeded: 0,
        failed: 0,
        skipped: 0,
        failures: Vec::new(),
    };
    let task = Task { operation, filter: LetterFilter::default(), per_second: 100.0, cursor: Pos(0) };
    let operation = house.store.create_operation(task).await.unwrap();
    assert!(house.store.operation_step(operation.id, letters[..3].to_vec(), false, NOW).await.unwrap());
    let resumed = house.store.tasks().await.unwrap().remove(0);
    assert_eq!((resumed.cursor, resumed.operation.succeeded), (letters[2].pos(), 3));
    assert!(!house.store.operation_step(operation.id, letters[2..].to_vec(), true, NOW).await.unwrap());
    let done = house.store.operation(TENANT, operation.id).await.unwrap().unwrap();
    assert_eq!((done.state, done.succeeded, done.skipped), (OperationState::Succeeded, 5, 1));
    assert!(house.store.tasks().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_too_old_is_forgotten_and_nothing_else() {
    let house = House::new().await;
    house.endpoint("one").await;
    let old = house.publish(vec![event("user.a", "k", "1"), event("user.a", "", "2")]).await;
    house.attempt(&old[0], Ok(200), NOW.plus(Micros(5))).await;
    let year = Micros::from_secs(365 * 86_400);
    let late = NOW.plus(year);
    house.store.publish(Publish { at: late, ..publish(vec![event("user.a", "", "3")]) }).await.unwrap();
    let cutoff = Cutoff { now: late, feed: late, history: late, operations: late, audit: late };
    while house.store.forget(cutoff).await.unwrap() {}
    assert!(house.store.delivery(TENANT, old[0].id).await.unwrap().is_none());
    assert!(house.store.delivery(TENANT, old[1].id).await.unwrap().is_some(), "it still waits");
    assert!(house.store.event(old[0].event).await.unwrap().is_none());
    assert!(house.store.compacted() >= old[1].id.pos());
    let again = house.store.publish(publish(vec![event("user.a", "k", "1")])).await.unwrap();
    assert!(!again[0].as_ref().unwrap().duplicate);
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_repeat() {
    let house = House::new().await;
    house.endpoint("one").await;
    let events = (0..25).map(|it| event(if it % 2 == 0 { "user.a" } else { "user.b" }, "", "1")).collect();
    house.publish(events).await;
    let filter =
        DeliveryFilter { event_types: vec![Pattern::parse("user.a").unwrap()], ..DeliveryFilter::default() };
    for order in [Order::OldestFirst, Order::NewestFirst] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = Page { size: 4, after, order };
            let (items, next) = house.store.deliveries(TENANT, &filter, page, NOW).await.unwrap();
            seen.extend(items.into_iter().map(|it| it.id.pos()));
            after = next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), 13);
        let sorted = seen.windows(2).all(|pair| (pair[0] < pair[1]) == (order == Order::OldestFirst));
        assert!(sorted, "{order:?}");
    }
}

/// Every query that a list, a lane or the feed runs finds its rows by an index.
#[tokio::test]
async fn every_query_uses_an_index() {
    let house = House::new().await;
    let range = TimeRange { start: Some(NOW), end: Some(NOW) };
    let mut queries = vec![
        (super::waiting::WAITING.to_owned(), true),
        (super::waiting::EVENTS.to_owned(), false),
        (super::waiting::ENDPOINTS_WAITING.to_owned(), false),
        (lists::FEED_MADE.to_owned(), true),
        (lists::FEED_LATER.to_owned(), true),
        (lists::ATTEMPTS.to_owned(), false),
        (lists::EVENT_SUMMARY.to_owned(), false),
        (deliveries::UPDATE.to_owned(), true),
        (deliveries::PAST_END.to_owned(), true),
    ];
    let id = crate::domain::EventId(Uid::new(NOW, 1, Pos(1)));
    let filters = [
        DeliveryFilter::default(),
        DeliveryFilter { events: Some(vec![id]), ..Default::default() },
        DeliveryFilter { endpoints: Some(vec!["one".into()]), ..Default::default() },
        DeliveryFilter { states: vec![State::Delivered], created: range, ..Default::default() },
    ];
    for order in [Order::NewestFirst, Order::OldestFirst] {
        for filter in &filters {
            let mut query = lists::select_deliveries(TENANT, filter);
            scan::order(&mut query, "d.pos", None, order, 50);
            queries.push((
                query.sql().as_str().to_owned(),
                filter.endpoints.is_none() && filter.events.is_none(),
            ));
        }
        for key in [None, Some("k".to_owned())] {
            let filter = EventFilter { idempotency_key: key, created: range, ..EventFilter::default() };
            let mut query = lists::select_events(TENANT, &filter, true);
            scan::order(&mut query, "e.pos", None, order, 50);
            queries.push((query.sql().as_str().to_owned(), true));
        }
        for endpoints in [None, Some(vec![1])] {
            let filter = LetterFilter { endpoints, states: vec![1], ..LetterFilter::default() };
            let mut query = letters::select(TENANT);
            letters::narrow(&mut query, &filter);
            scan::order(&mut query, "l.delivery", None, order, 50);
            queries.push((query.sql().as_str().to_owned(), true));
        }
    }
    for (sql, ordered) in queries {
        let explain = format!("EXPLAIN QUERY PLAN {sql}");
        let rows = sqlx::query(sqlx::AssertSqlSafe(explain)).fetch_all(&house.store.readers).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get::<String, _>(3)).collect();
        let text = plan.join("\n");
        for step in &plan {
            // The recursion's own few rows are scanned, tables never.
            let scans = step.starts_with("SCAN")
                && !step.ends_with(" w")
                && !step.ends_with(" chain")
                && !step.ends_with(" v")
                && !step.contains("SCAN j ");
            assert!(!scans || step.contains("CONSTANT ROW"), "{sql}\n{text}");
            assert!(!ordered || !step.contains("TEMP B-TREE"), "{sql}\n{text}");
        }
    }
}

#[tokio::test]
async fn one_transaction_with_two_endings_of_a_delivery_records_one() {
    let house = House::new().await;
    house.endpoint("one").await;
    let made = house.publish(vec![event("user.a", "", "1"), event("user.a", "", "2")]).await;
    let expire = || {
        let mut after = made[0].clone();
        (after.state, after.revision) = (State::Expired, after.revision + 1);
        let letters = DeadLetterPolicy::default();
        Finish { before: Arc::new(made[0].clone()), after, attempt: None, reason: None, letters, gone: None }
    };
    // Handed over together, so that they are one transaction; and waited for, so that
    // the wait for the attempt below is for nothing else.
    let before = house.store.recent().position();
    house.store.finish(vec![expire(), expire()]).unwrap();
    house.store.recent().subscribe().wait_for(|position| *position > before).await.unwrap();
    house.attempt(&made[1], Ok(200), NOW.plus(Micros(5))).await;
    let ended = house.delivery(made[0].id).await;
    assert_eq!((ended.state, ended.revision), (State::Expired, 2));
    let told = house.feed_of_the_file().await;
    assert_eq!(told.iter().filter(|it| it.delivery.state == State::Expired).count(), 1);
    assert_eq!(house.store.gauges().open.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_waited_long_and_has_just_ended_is_kept_and_what_is_past_its_end_is_ended() {
    let house = House::new().await;
    house.endpoint("one").await;
    let day = |days: i64| Micros::from_secs(days * 86_400);
    let ends = NewEvent { expires_at: Some(NOW.plus(day(1))), ..event("user.a", "", "2") };
    let made = house.publish(vec![event("user.a", "", "1"), ends]).await;
    let now = NOW.plus(day(60));
    let mark = Cutoff { now: NOW.plus(day(2)), feed: NOW, history: NOW, operations: NOW, audit: NOW };
    house.store.forget(mark).await.unwrap();
    assert_eq!(house.delivery(made[1].id).await.state, State::Expired);
    let mark = Cutoff { now: NOW.plus(day(3)), ..mark };
    house.store.forget(mark).await.unwrap();
    house.attempt(&made[0], Ok(200), now).await;
    let before = now.minus(day(30));
    let cutoff = Cutoff { now, feed: before, history: before, operations: before, audit: before };
    while house.store.forget(cutoff).await.unwrap() {}
    assert_eq!(house.delivery(made[0].id).await.state, State::Delivered);
    assert!(house.store.delivery(TENANT, made[1].id).await.unwrap().is_none());
    assert!(house.store.event(made[0].event).await.unwrap().is_some());
}

#[tokio::test]
async fn changes_of_one_key_in_one_transaction_build_on_each_other() {
    let house = House::new().await;
    let id = ApiKeyId(Uid::new(NOW, 1, Pos(1)));
    let (one, other) = (house.store.clone(), house.store.clone());
    house.store.edit_key(id, move |_| (Some(ApiKey::new(id, [1; 32], NOW)), ())).await.unwrap();
    // Handed over at once, so that the writer finds both.
    let revoke =
        move |key: Option<&ApiKey>| (key.map(|key| ApiKey { revoked_at: Some(NOW), ..key.clone() }), ());
    let rename =
        move |key: Option<&ApiKey>| (key.map(|key| ApiKey { name: "later".to_owned(), ..key.clone() }), ());
    let (first, second) = tokio::join!(one.edit_key(id, revoke), other.edit_key(id, rename));
    first.and(second).unwrap();
    let key = house.store.directory().key(id).unwrap();
    assert_eq!((key.key.revoked_at, &*key.key.name), (Some(NOW), "later"));
}
