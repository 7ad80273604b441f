//! Use cases over a real store and engine.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _};
use tokio::task::JoinHandle;

use super::*;
use crate::{
    domain::{
        BreakerPolicy, Delivery, DeliveryId, Endpoint, LetterState, Micros, NewEvent, OperationState,
        Pattern, Payload, RateLimit, RetryPolicy, State,
    },
    egress, engine, store,
    telemetry::LogFilter,
};

const TENANT: crate::domain::TenantKey = crate::domain::TenantKey::DEFAULT;
/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

struct House {
    app: Arc<App>,
    operations: JoinHandle<()>,
    engine: JoinHandle<Result<(), crate::feed::Error>>,
    stop: CancellationToken,
    folder: Option<tempfile::TempDir>,
}

impl House {
    /// With one endpoint, which nothing listens at: what is due ends as a dead letter.
    async fn new() -> Self {
        let house = Self::on(tempfile::tempdir().unwrap()).await;
        house.app.create_endpoint("deaf".to_owned(), endpoint()).await.unwrap();
        house
    }

    /// The same store, opened anew.
    async fn restarted(mut self) -> Self {
        self.stop.cancel();
        let folder = self.folder.take().unwrap();
        (&mut self.engine).await.unwrap().unwrap();
        (&mut self.operations).await.unwrap();
        self.app.store.close().await.unwrap();
        // Gives back the lock of the file.
        drop(self);
        Self::on(folder).await
    }

    async fn on(folder: tempfile::TempDir) -> Self {
        let config = store::Config::sample(crate::store::Location::Directory(folder.path().to_owned()));
        let (store, _) = Store::open(config).await.unwrap();
        let (clock, entropy, stop) = (Clock::system(), Entropy::seeded(1), CancellationToken::new());
        let policy = Policy::loopback();
        let client =
            egress::Client::new(egress::Config::default(), clock.clone(), Entropy::seeded(1)).unwrap();
        let config = engine::Config {
            in_flight_max: 256,
            policy: policy.clone(),
            grace: Duration::from_secs(5),
            lines_for_people: false,
        };
        let (dispatcher, engine) = engine::Dispatcher::open(
            config,
            Arc::clone(&store),
            client,
            clock.clone(),
            entropy.clone(),
            Arc::new(engine::Lease::forever()),
        )
        .await
        .unwrap();
        let engine_task = tokio::spawn(dispatcher.run(stop.child_token()));
        let limits = Limits {
            endpoints: EndpointRules { targets: policy, ..EndpointRules::default() },
            keys_required: false,
            ..Limits::default()
        };
        let fleet = Fleet::alone(Arc::clone(&store), engine);
        let app =
            Arc::new(App::new(store, fleet, clock, entropy, limits, LogFilter::default(), stop.clone()));
        let (runner, until) = (Arc::clone(&app), stop.clone());
        let operations = tokio::spawn(async move { runner.run_operations(until).await });
        Self { app, operations, engine: engine_task, stop, folder: Some(folder) }
    }

    async fn publish(&self, event_type: &str, delay: Micros) -> Delivery {
        let now = self.app.now();
        let event = NewEvent {
            tenant: TENANT,
            event_type: event_type.into(),
            payload: Payload { content_type: "application/json".into(), data: "{}".into() },
            idempotency_key: String::new(),
            priority: 0,
            deliver_at: (delay > Micros::ZERO).then(|| now.plus(delay)),
            expires_at: None,
            metadata: BTreeMap::new(),
        };
        let published = self.app.publish(vec![event], false).await.unwrap().remove(0).unwrap();
        self.delivery(published.deliveries[0].0).await
    }

    async fn delivery(&self, id: DeliveryId) -> Delivery {
        self.app.delivery(TENANT, id).await.unwrap().delivery
    }

    /// Publishes events of a type and waits until each is a dead letter.
    async fn letters(&self, event_type: &str, count: usize) {
        for _ in 0..count {
            let delivery = self.publish(event_type, Micros::ZERO).await;
            let dead = async {
                while self.delivery(delivery.id).await.state != State::DeadLetter {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(LONG, dead).await.unwrap();
        }
    }

    async fn replay(&self, event_type: &str, per_second: f64) -> crate::domain::Operation {
        let wanted = of_type(event_type);
        self.app.replay_letters(TENANT, &wanted, per_second).await.unwrap()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// In whatever state, so that what an operation did takes nothing out of its view.
fn of_type(event_type: &str) -> LetterQuery {
    LetterQuery {
        event_types: vec![Pattern::parse(event_type).unwrap()],
        states: vec![LetterState::Open, LetterState::Replaying, LetterState::Replayed],
        ..LetterQuery::default()
    }
}

fn endpoint() -> Endpoint {
    Endpoint {
        retry: RetryPolicy { max_attempts: 1, ..RetryPolicy::default() },
        rate_limit: RateLimit { disabled: true, ..RateLimit::default() },
        breaker: BreakerPolicy { disabled: true, ..BreakerPolicy::default() },
        ..Endpoint::new(TENANT, "", "http://127.0.0.1:9/", Timestamp(0))
    }
}

#[tokio::test]
async fn a_slow_operation_keeps_no_other_waiting() {
    let house = House::new().await;
    house.letters("slow", 3).await;
    house.letters("fast", 3).await;

    // Its second item is due in 100 s.
    let slow = house.replay("slow", PER_SECOND_MIN).await;
    let fast = house.replay("fast", 50.0).await;
    let purge = house.app.purge_letters(TENANT, &of_type("none")).await.unwrap();
    for id in [fast.id, purge.id] {
        let done = house.app.wait_operation(TENANT, id, LONG).await.unwrap();
        assert_eq!(done.state, OperationState::Succeeded);
        assert_eq!(done.succeeded + done.skipped, done.total);
    }

    let at_work = house.app.operation(TENANT, slow.id).await.unwrap();
    assert_eq!((at_work.state, at_work.succeeded + at_work.skipped), (OperationState::Running, 1));
    house.app.cancel_operation(TENANT, slow.id).await.unwrap();
    assert!(!house.operations.is_finished());
}

#[tokio::test]
async fn an_operation_does_as_much_as_its_pace_allows() {
    let house = House::new().await;
    house.letters("paced", 3).await;
    let began = house.app.now();
    let operation = house.replay("paced", 4.0).await;
    // The one page of four is done at once; one item at a time takes its time.
    let done = house.app.wait_operation(TENANT, operation.id, LONG).await.unwrap();
    assert_eq!((done.state, done.total), (OperationState::Succeeded, 3));
    let operation = house.replay("paced", 1.5).await;
    let done = house.app.wait_operation(TENANT, operation.id, LONG).await.unwrap();
    assert_eq!((done.state, done.total), (OperationState::Succeeded, 3));
    assert!(house.app.now().since(began) >= Micros::from_millis(1_300), "two waits of 667 ms");
}

#[tokio::test]
async fn to_cancel_an_operation_again_is_no_error_unless_it_finished() {
    let house = House::new().await;
    house.letters("slow", 2).await;
    let slow = house.replay("slow", PER_SECOND_MIN).await;
    let cancelled = house.app.cancel_operation(TENANT, slow.id).await.unwrap();
    assert_eq!(cancelled.state, OperationState::Cancelled);
    assert_eq!(house.app.cancel_operation(TENANT, slow.id).await.unwrap(), cancelled);

    let purge = house.app.purge_letters(TENANT, &of_type("none")).await.unwrap();
    house.app.wait_operation(TENANT, purge.id, LONG).await.unwrap();
    let refused = house.app.cancel_operation(TENANT, purge.id).await.unwrap_err();
    assert!(matches!(refused, Error::OperationDone), "{refused:?}");
}

#[tokio::test]
async fn to_cancel_a_delivery_again_is_no_error_unless_it_ended_otherwise() {
    let house = House::new().await;
    let scheduled = house.publish("later", Micros::from_secs(3600)).await;
    let cancelled = house.app.cancel_delivery(TENANT, scheduled.id).await.unwrap().delivery;
    assert_eq!(cancelled.state, State::Cancelled);
    let again = house.app.cancel_delivery(TENANT, scheduled.id).await.unwrap().delivery;
    assert_eq!(again, cancelled);

    house.letters("dead", 1).await;
    let (letters, _) =
        house.app.letters(TENANT, &of_type("dead"), Show::Basic, &PageQuery::default()).await.unwrap();
    let refused = house.app.cancel_delivery(TENANT, letters[0].letter.delivery.id).await.unwrap_err();
    assert!(matches!(refused, Error::DeliveryState(State::DeadLetter)), "{refused:?}");
}

fn watch(start: WatchStart) -> Watch {
    Watch {
        filter: store::DeliveryFilter::default(),
        start,
        attempts: false,
        progress: Duration::from_secs(60),
        gather: Duration::ZERO,
        batch_max: 100,
        coalesce: true,
    }
}

#[tokio::test]
async fn a_watch_reads_the_next_response_when_its_client_has_room_for_it() {
    let house = House::new().await;
    let who = house.app.recognise(Shown::default()).unwrap();
    let mut stream = house.app.watch(&who, watch(WatchStart::Now)).await.unwrap();
    assert!(stream.next().await.unwrap().unwrap().changes.is_empty(), "where it starts");

    let scheduled = house.publish("later", Micros::from_secs(3600)).await;
    house.app.cancel_delivery(TENANT, scheduled.id).await.unwrap();
    let batch = stream.next().await.unwrap().unwrap();
    let states: Vec<_> = batch.changes.iter().map(|change| change.delivery.state).collect();
    assert_eq!(states, [State::Cancelled], "the older change was not read before");
}

#[tokio::test]
async fn reads_are_answered_while_watches_wait_for_their_turn_at_the_history() {
    let house = House::new().await;
    let scheduled = house.publish("later", Micros::from_secs(3600)).await;
    let house = house.restarted().await;
    let reader = crate::feed::Reader { tenant: TENANT, key: None };
    let mut held = Vec::new();
    while let Some(permit) = house.app.history.permit(reader).now_or_never() {
        held.push(permit);
    }
    let who = house.app.recognise(Shown::default()).unwrap();
    let mut streams = Vec::new();
    for _ in 0..100 {
        let mut stream = house.app.watch(&who, watch(WatchStart::Earliest)).await.unwrap();
        assert!(stream.next().await.unwrap().unwrap().changes.is_empty(), "where it starts");
        streams.push(stream);
    }
    let mut nexts: Vec<_> = streams.iter_mut().map(|stream| stream.next()).collect();
    for next in &mut nexts {
        assert!(futures_util::poll!(next).is_pending());
    }
    assert_eq!(house.delivery(scheduled.id).await.id, scheduled.id);
    held.clear();
    for next in nexts {
        assert_eq!(next.await.unwrap().unwrap().changes.len(), 1);
    }
}
