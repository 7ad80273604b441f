//! What holds between processes that share a database.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sqlx::Executor as _;

use super::{House, NOW, TENANT, endpoint, event, finish, publish};
use crate::{
    domain::{DeliveryId, Endpoint, Micros, NewEvent, Pos, Shard, State},
    store::{Created, Finish, Location, Mention, Next, Steered, Store},
};

const SOON: Duration = Duration::from_secs(10);

/// What a process is told of since a position.
async fn told(store: &Store, mut after: Pos) -> Vec<Mention> {
    store.refresh().await.unwrap();
    let mut told = Vec::new();
    while after < store.recent().position() {
        match store.recent().after(after, 100).unwrap() {
            Next::Changes(_, reached) => after = reached,
            Next::News(entry) => {
                told.extend(entry.made().flat_map(|(_, _, made)| made).chain(entry.steered()));
                after = entry.pos;
            }
        }
    }
    told
}

async fn deliveries(store: &Store, event_type: &str) -> Vec<DeliveryId> {
    let answers = store.publish(publish(vec![event(event_type, "", "1")])).await.unwrap();
    answers[0].as_ref().unwrap().deliveries.iter().map(|(id, _)| *id).collect()
}

#[tokio::test]
async fn what_one_process_makes_counts_for_the_next_write_of_another() {
    let house = House::on_postgres().await;
    let other = house.fellow().await;
    house.endpoint("one").await;
    assert_eq!(deliveries(&other, "user.a").await.len(), 1, "nobody told it");
    let taken = other.create_endpoint(endpoint("one")).await.unwrap();
    assert_eq!(taken, Created::IdTaken);
    house.store.delete_endpoint(TENANT, "one".to_owned(), None, NOW).await.unwrap();
    assert_eq!(deliveries(&other, "user.a").await.len(), 0);
    let key = publish(vec![event("user.b", "once", "1")]);
    let first = house.store.publish(key).await.unwrap()[0].clone().unwrap();
    let again = other.publish(publish(vec![event("user.b", "once", "1")])).await.unwrap()[0].clone().unwrap();
    assert_eq!((again.event, again.duplicate), (first.event, true));
    house.store.refresh().await.unwrap();
    let used = |store: &Store| store.directory().usage(TENANT).events_on(crate::domain::Usage::day_of(NOW));
    assert_eq!((used(&house.store), used(&other)), (3, 3));
}

#[tokio::test]
async fn the_feed_has_the_changes_of_all_processes_in_their_order() {
    let house = House::on_postgres().await;
    let other = house.fellow().await;
    house.endpoint("one").await;
    let mut made = Vec::new();
    for turn in 0..6 {
        let store = if turn % 2 == 0 { &house.store } else { &other };
        made.extend(deliveries(store, "user.a").await.iter().map(|id| id.pos()));
    }
    assert!(made.is_sorted());
    for store in [&house.store, &other] {
        store.refresh().await.unwrap();
        let (mut seen, mut after) = (Vec::new(), Pos(0));
        while after < store.recent().position() {
            let (changes, reached) = match store.recent().after(after, 100) {
                Some(Next::Changes(changes, reached)) => (changes, reached),
                Some(Next::News(entry)) => store.changes(after, entry.pos, 100).await.unwrap(),
                // From before the process started.
                None => store.changes(after, store.recent().position(), 3).await.unwrap(),
            };
            seen.extend(changes.iter().map(|change| change.pos));
            after = reached;
        }
        assert_eq!(seen, made);
    }
}

#[tokio::test]
async fn a_result_that_was_begun_before_its_share_changed_hands_is_void() {
    let house = House::on_postgres().await;
    let other = house.fellow().await;
    let endpoint = house.endpoint("one").await;
    let shard = Shard::of(endpoint.key);
    house.store.claim(vec![(shard, 0)]).await.unwrap();
    let made = house.publish(vec![event("user.a", "", "1")]).await.remove(0);
    let epoch = house.store.shards().tenure(shard).epoch;
    let result = Finish { epoch, ..finish(&made, Ok(200), NOW.plus(Micros(5))) };
    other.claim(vec![(shard, 1)]).await.unwrap();
    house.store.finish(vec![result.clone()]).unwrap();
    let void = || house.store.gauges().void.load(Ordering::Relaxed);
    let gone = async {
        while void() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, gone).await.unwrap();
    assert_eq!(house.delivery(made.id).await.state, State::Pending);
    assert!(!house.store.shards().owns(shard) && other.shards().owns(shard));
    let epoch = other.shards().tenure(shard).epoch;
    let before = other.recent().position();
    other.finish(vec![Finish { epoch, ..result }]).unwrap();
    other.recent().subscribe().wait_for(|position| *position > before).await.unwrap();
    assert_eq!(house.delivery(made.id).await.state, State::Delivered);
}

#[tokio::test]
async fn an_event_is_at_hand_where_it_is_sent_from_and_displaces_none_that_is_sent_before() {
    let house = House::on_postgres().await;
    let other = house.fellow().await;
    let shard = Shard::of(house.endpoint("one").await.key);
    house.store.claim(vec![(shard, 0)]).await.unwrap();
    let here = house.publish(vec![event("user.a", "", "1")]).await.remove(0);
    let there = deliveries(&other, "user.a").await.remove(0);
    let there = house.delivery(there).await;
    let at_hand = |store: &Store| [&here, &there].map(|it| store.hot().has(it.event.pos()));
    assert_eq!((at_hand(&house.store), at_hand(&other)), ([true, false], [false, false]));
    let found = house.store.mentioned(&told(&house.store, here.last_change).await).await.unwrap();
    assert_eq!(found, [Arc::new(there.clone())]);
    assert_eq!(at_hand(&house.store), [true, true]);

    let text = |bytes: usize| "1".repeat(bytes);
    while !house.store.hot().is_full() {
        house.publish(vec![event("user.a", "", &text(1 << 20))]).await;
    }
    let more = publish((0..400).map(|_| event("user.a", "", &text(16_000))).collect());
    let more = other.publish(more).await.unwrap();
    let before = more[0].as_ref().unwrap().event.pos();
    let found = house.store.mentioned(&told(&house.store, before).await).await.unwrap();
    assert_eq!(found.len(), 400);
    let kept = found.iter().filter(|it| house.store.hot().has(it.event.pos())).count();
    assert!((1..400).contains(&kept), "there was room for some, of which {kept} are kept");
    assert_eq!(at_hand(&house.store), [true, true], "what came first stays");
}

#[tokio::test]
async fn what_others_made_or_changed_is_as_its_row_says() {
    let house = House::on_postgres().await;
    let other = house.fellow().await;
    let shard = Shard::of(house.endpoint("one").await.key);
    house.store.claim(vec![(shard, 0)]).await.unwrap();
    let rows = async |ids: &[DeliveryId]| {
        let mut rows = Vec::new();
        for id in ids {
            rows.push(Arc::new(house.delivery(*id).await));
        }
        rows
    };
    let large = NewEvent { priority: 2, ..event("user.a", "", &"1".repeat(20_000)) };
    let later = NewEvent {
        deliver_at: Some(NOW.plus(Micros::from_secs(60))),
        expires_at: Some(NOW.plus(Micros::from_secs(99))),
        ..event("user.a", "", "2")
    };
    let before = house.store.recent().position();
    let answers = other.publish(publish(vec![large, later])).await.unwrap();
    let made = answers.iter().map(|it| it.as_ref().unwrap().deliveries[0].0);
    let made: Vec<DeliveryId> = made.collect();
    // An endpoint changed since does not change what was made for it.
    house.store.refresh().await.unwrap();
    let more = |endpoint: &mut Endpoint| {
        endpoint.retry.max_attempts = 9;
        Ok::<(), ()>(())
    };
    house.store.edit_endpoint(TENANT, "one".to_owned(), None, NOW, more).await.unwrap();
    let found = house.store.mentioned(&told(&house.store, before).await).await.unwrap();
    assert_eq!(found, rows(&made).await);
    assert!(found.iter().all(|it| it.max_attempts == 2 && it.bytes > 0));

    let before = house.store.recent().position();
    other.cancel(TENANT, made[0], NOW).await.unwrap();
    let Steered::Done(replay) = other.retry(TENANT, made[0], NOW).await.unwrap() else { panic!("it ended") };
    let found = house.store.mentioned(&told(&house.store, before).await).await.unwrap();
    assert_eq!(found, rows(&[made[0], replay.id]).await);
}

#[tokio::test]
async fn a_database_that_was_put_back_is_written_to_no_more() {
    let house = House::on_postgres().await;
    house.endpoint("one").await;
    deliveries(&house.store, "user.a").await;
    let Location::Server(server) = &house.location else { unreachable!("it is a server") };
    let mut somebody = server.connect("test").await.unwrap();
    somebody
        .execute(
            "DELETE FROM commits WHERE pos = (SELECT max(pos) FROM commits); \
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND application_name = 'hookwire writer'",
        )
        .await
        .unwrap();
    for _ in 0..3 {
        assert!(house.store.publish(publish(vec![event("user.a", "", "2")])).await.is_err());
    }
}
