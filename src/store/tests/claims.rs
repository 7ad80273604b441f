//! What the store promises.

use std::sync::Arc;

use super::{House, NOW, PAGE, TENANT, event, finish, publish};
use crate::{
    domain::{
        ApiKey, ApiKeyId, Cause, DeadLetterPolicy, Delivery, EndpointState, LetterReason, LetterState,
        Micros, NewEvent, Operation, OperationId, OperationKind, OperationState, Order, Page, Pattern, Pos,
        Start, State, Timestamp, Uid,
    },
    store::{
        Cutoff, DeliveryFilter, Error, Finish, LetterFilter, Next, Publish, RECENT_MAX, Refused, Steered,
        Task, db::Readers,
    },
};

pub(super) async fn an_event_goes_to_those_who_want_it_and_reads_back_as_it_was(house: House) {
    let (one, two) = (house.endpoint("one").await, house.endpoint("two").await);
    let made = house.publish(vec![event("user.created", "", "{\"b\":1, \"a\":2}")]).await;
    assert_eq!(made.iter().map(|it| it.endpoint).collect::<Vec<_>>(), [one.key, two.key]);
    let stored = house.store.event(made[0].event).await.unwrap().unwrap();
    assert_eq!(&stored.payload.data[..], b"{\"b\":1, \"a\":2}");
    assert!(house.publish(vec![event("order.paid", "", "{}")]).await.is_empty());
    let summary = house.store.event_summary(made[0].event).await.unwrap();
    assert_eq!((summary.total, summary.open), (2, 2));
}

pub(super) async fn a_key_seen_before_answers_with_the_first_event_also_within_a_call_and_after_a_restart(
    house: House,
) {
    house.endpoint("one").await;
    let twins = vec![event("user.a", "k", "1"), event("user.a", "k", "1"), event("user.a", "k", "2")];
    let answers = house.store.publish(publish(twins)).await.unwrap();
    let first = answers[0].as_ref().unwrap();
    assert!(!first.duplicate);
    assert_eq!(
        answers[1].as_ref().map(|it| (it.event, it.duplicate, it.matched)),
        Ok((first.event, true, 1))
    );
    assert_eq!(*answers[2].as_ref().unwrap_err(), Refused::Conflict(first.event));
    let house = house.reopened().await;
    let again = house.store.publish(publish(vec![event("user.a", "k", "1")])).await.unwrap();
    assert_eq!(again[0].as_ref().map(|it| (it.event, it.duplicate)), Ok((first.event, true)));
}

pub(super) async fn an_atomic_call_publishes_all_or_nothing(house: House) {
    house.endpoint("one").await;
    house.publish(vec![event("user.a", "k", "1")]).await;
    let mixed =
        Publish { atomic: true, ..publish(vec![event("user.a", "new", "1"), event("user.a", "k", "2")]) };
    let answers = house.store.publish(mixed).await.unwrap();
    assert!(matches!(answers.as_slice(), [Err(_)]));
    let fresh = house.store.publish(publish(vec![event("user.a", "new", "1")])).await.unwrap();
    assert!(!fresh[0].as_ref().unwrap().duplicate);
}

pub(super) async fn what_is_announced_is_what_the_tables_say(house: House) {
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
    let Some(Next::Changes(announced, _)) = house.store.recent().after(Pos(0), RECENT_MAX) else { panic!() };
    let stored = house.feed_of_the_tables().await;
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

pub(super) async fn attempts_are_listed_first_to_last_and_a_failed_delivery_becomes_a_dead_letter(
    house: House,
) {
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

pub(super) async fn a_replay_ends_its_dead_letter_or_opens_it_again(house: House) {
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

pub(super) async fn a_result_that_comes_late_or_twice_changes_no_state(house: House) {
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

pub(super) async fn an_endpoint_that_is_gone_is_disabled_with_the_result(house: House) {
    let endpoint = house.endpoint("one").await;
    let made = house.publish(vec![event("user.a", "", "1")]).await.remove(0);
    let held = house.attempt(&made, Ok(410), NOW.plus(Micros(5))).await;
    assert_eq!(held.state, State::Retrying);
    assert_eq!(house.store.routes().get(endpoint.key).unwrap().state, EndpointState::AutoDisabled);
    let house = house.reopened().await;
    assert_eq!(house.store.routes().get(endpoint.key).unwrap().state, EndpointState::AutoDisabled);
    assert!(house.publish(vec![event("user.a", "", "1")]).await.is_empty());
}

pub(super) async fn operations_handle_each_item_once_and_finish(house: House) {
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

pub(super) async fn what_is_too_old_is_forgotten_and_nothing_else(house: House) {
    house.endpoint("one").await;
    let old = house.publish(vec![event("user.a", "k", "1"), event("user.a", "", "2")]).await;
    house.attempt(&old[0], Ok(200), NOW.plus(Micros(5))).await;
    let year = Micros::from_secs(365 * 86_400);
    let late = NOW.plus(year);
    house.tomorrow().await;
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

pub(super) async fn dead_letters_and_what_waits_keep_their_history(house: House) {
    house.endpoint("one").await;
    let events = (0..3).map(|it| event("user.a", "", &it.to_string())).collect();
    let made = house.publish(events).await;
    house.attempt(&made[0], Ok(200), NOW.plus(Micros(5))).await;
    let letter = house.attempt(&made[1], Err(Cause::Connect), NOW.plus(Micros(6))).await;
    house.attempt(&letter, Ok(500), NOW.plus(Micros::from_secs(3))).await;
    house.attempt(&made[2], Err(Cause::Connect), NOW.plus(Micros(7))).await;
    house.tomorrow().await;
    let later = |days: i64| NOW.plus(Micros::from_secs(days * 86_400));
    let mark = Cutoff { now: later(2), feed: NOW, history: NOW, operations: NOW, audit: NOW };
    house.store.forget(mark).await.unwrap();
    let cutoff = Cutoff { now: later(3), feed: later(2), history: later(2), ..mark };
    while house.store.forget(cutoff).await.unwrap() {}
    assert!(house.store.delivery(TENANT, made[0].id).await.unwrap().is_none());
    assert!(house.store.event(made[0].event).await.unwrap().is_none());
    for (kept, attempts, state) in [(&made[1], 2, State::DeadLetter), (&made[2], 1, State::Retrying)] {
        let kept = house.delivery(kept.id).await;
        assert_eq!((kept.state, kept.attempts), (state, attempts));
        assert_eq!(house.store.attempts(&kept).await.unwrap().len(), attempts as usize);
        assert!(house.store.event(kept.event).await.unwrap().is_some());
    }
    assert!(house.store.letter(TENANT, made[1].id).await.unwrap().is_some());
    // It goes on where it was.
    let waiting = house.delivery(made[2].id).await;
    assert_eq!(house.attempt(&waiting, Ok(200), later(3)).await.state, State::Delivered);
}

pub(super) async fn pages_follow_each_other_without_gap_or_repeat(house: House) {
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

pub(super) async fn one_transaction_with_two_endings_of_a_delivery_records_one(house: House) {
    house.endpoint("one").await;
    let made = house.publish(vec![event("user.a", "", "1"), event("user.a", "", "2")]).await;
    let expire = || {
        let mut after = made[0].clone();
        (after.state, after.revision) = (State::Expired, after.revision + 1);
        let letters = DeadLetterPolicy::default();
        Finish {
            before: Arc::new(made[0].clone()),
            after,
            attempt: None,
            reason: None,
            letters,
            gone: None,
            epoch: 0,
            started: false,
        }
    };
    // Handed over together, so that they are one transaction; and waited for, so that
    // the wait for the attempt below is for nothing else.
    let before = house.store.recent().position();
    house.store.finish(vec![expire(), expire()]).unwrap();
    house.store.recent().subscribe().wait_for(|position| *position > before).await.unwrap();
    house.attempt(&made[1], Ok(200), NOW.plus(Micros(5))).await;
    let ended = house.delivery(made[0].id).await;
    assert_eq!((ended.state, ended.revision), (State::Expired, 2));
    let told = house.feed_of_the_tables().await;
    assert_eq!(told.iter().filter(|it| it.delivery.state == State::Expired).count(), 1);
    assert_eq!(house.store.gauges().open.load(std::sync::atomic::Ordering::Relaxed), 0);
}

pub(super) async fn what_waited_long_and_has_just_ended_is_kept_and_what_is_past_its_end_is_ended(
    house: House,
) {
    house.endpoint("one").await;
    let day = |days: i64| Micros::from_secs(days * 86_400);
    let ends = NewEvent { expires_at: Some(NOW.plus(day(1))), ..event("user.a", "", "2") };
    let made = house.publish(vec![event("user.a", "", "1"), ends]).await;
    let now = NOW.plus(day(60));
    let mark = Cutoff { now: NOW.plus(day(2)), feed: NOW, history: NOW, operations: NOW, audit: NOW };
    house.store.forget(mark).await.unwrap();
    assert_eq!(house.delivery(made[1].id).await.state, State::Expired);
    house.tomorrow().await;
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

pub(super) async fn changes_of_one_key_in_one_transaction_build_on_each_other(house: House) {
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

pub(super) async fn a_read_that_finds_no_free_connection_says_so(house: House) {
    house.endpoint("one").await;
    let made = house.publish(vec![event("user.created", "", "{}")]).await;
    let (mut file, mut server) = (Vec::new(), Vec::new());
    let connections = match &house.store.readers {
        Readers::Sqlite(pool) => pool.options().get_max_connections(),
        Readers::Postgres(pool) => pool.options().get_max_connections(),
    };
    for _ in 0..connections {
        match &house.store.readers {
            Readers::Sqlite(pool) => file.push(pool.acquire().await.unwrap()),
            Readers::Postgres(pool) => server.push(pool.acquire().await.unwrap()),
        }
    }
    tokio::time::pause();
    let refused = house.store.delivery(TENANT, made[0].id).await.unwrap_err();
    assert!(matches!(refused, Error::ReadersBusy { limit } if limit == connections), "{refused:?}");
    tokio::time::resume();
    drop((file, server));
    house.store.delivery(TENANT, made[0].id).await.unwrap().expect("the delivery");
}

/// That the first attempt of a delivery has begun.
fn started(delivery: &Delivery, at: Timestamp) -> Start {
    Start { delivery: delivery.id, endpoint: delivery.endpoint, number: 1, started_at: at, epoch: 0 }
}

pub(super) async fn an_attempt_that_was_cut_off_counts_once(house: House) {
    house.endpoint("one").await;
    let made = house.publish(vec![event("user.created", "", "{}")]).await.remove(0);
    let (began, now) = (NOW.plus(Micros::from_secs(1)), NOW.plus(Micros::from_secs(2)));
    let epoch = house.own(made.endpoint).await;
    house.store.begin_attempts(vec![Start { epoch, ..started(&made, began) }]).unwrap();
    let house = house.reopened().await;
    house.own(made.endpoint).await;
    assert_eq!(house.store.count_lost(now).await.unwrap(), 1);
    let after = house.delivery(made.id).await;
    assert_eq!((after.state, after.attempts), (State::Retrying, 1));
    let attempts = house.store.attempts(&after).await.unwrap();
    let failure = attempts[0].failure.as_ref().unwrap();
    assert_eq!((attempts[0].started_at, failure.cause), (began, Cause::WorkerLost));
    assert_eq!(house.store.count_lost(now).await.unwrap(), 0, "once");
    let feed = house.feed_of_the_tables().await;
    assert_eq!(feed.last().unwrap().delivery, Arc::new(after));
}

pub(super) async fn an_attempt_with_a_result_is_not_cut_off(house: House) {
    house.endpoint("one").await;
    let made = house.publish(["1", "2"].map(|data| event("user.created", "", data)).into()).await;
    let epoch = house.own(made[0].endpoint).await;
    let starts = |it: &Delivery| vec![Start { epoch, ..started(it, NOW) }];
    house.store.begin_attempts(starts(&made[0])).unwrap();
    // A transaction of its own for the start of the first; of the second both are in one.
    house.store.keys_used(Vec::new()).await.unwrap();
    house.store.begin_attempts(starts(&made[1])).unwrap();
    let results = made.iter().map(|it| Finish { epoch, started: true, ..finish(it, Ok(200), NOW) });
    house.store.finish(results.collect()).unwrap();
    let delivered = async {
        for it in &made {
            while house.delivery(it.id).await.state != State::Delivered {
                tokio::task::yield_now().await;
            }
        }
    };
    delivered.await;
    let house = house.reopened().await;
    house.own(made[0].endpoint).await;
    assert_eq!(house.store.count_lost(NOW.plus(Micros::from_secs(1))).await.unwrap(), 0);
    for it in &made {
        assert_eq!(house.delivery(it.id).await.attempts, 1);
    }
}
