//! The engine over a real store and real HTTP.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use axum::{Router, extract::State as Shared, http::StatusCode, routing::post};
use tokio_util::sync::CancellationToken;

use super::{Config, Dispatcher, Handle, Lease};
use crate::{
    clock::Clock,
    domain::{
        BreakerPolicy, Endpoint, EndpointState, Event, Hold, InstanceId, Micros, NewEvent, Payload, Pos,
        RateLimit, RetryPolicy, Shard, State, TenantKey, Timestamp,
    },
    egress::{self, Client, Policy},
    entropy::Entropy,
    feed::{Cursor, Start},
    machine::breaker::Position,
    store::{self, Created, Publish, Store},
};

mod clock;

type Requests = Arc<Mutex<HashMap<String, u32>>>;

/// A receiver that refuses the first `refusals` requests of each delivery.
async fn receiver(refusals: u32) -> (String, Requests) {
    let requests = Requests::default();
    let answer = move |Shared(requests): Shared<Requests>, headers: axum::http::HeaderMap| async move {
        assert!(headers.keys().all(|name| headers.get_all(name).iter().count() == 1), "each header once");
        let id = headers["idempotency-key"].to_str().unwrap().to_owned();
        let mut requests = requests.lock().unwrap();
        let count = requests.entry(id).or_default();
        *count += 1;
        if *count <= refusals { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
    };
    let app = Router::new().route("/", post(answer)).with_state(Arc::clone(&requests));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, requests)
}

struct House {
    store: Arc<Store>,
    engine: Handle,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), crate::feed::Error>>,
    clock: Clock,
}

async fn house(folder: &std::path::Path) -> House {
    let (dispatcher, engine) = dispatcher(store::Location::Directory(folder.to_owned())).await;
    House::of(dispatcher, engine)
}

/// One that does not run yet, on a store that is opened for it.
async fn dispatcher(location: store::Location) -> (Dispatcher, Handle) {
    dispatcher_at(location, Clock::system()).await
}

async fn dispatcher_at(location: store::Location, clock: Clock) -> (Dispatcher, Handle) {
    let (store, _) = Store::open(store::Config::sample(location)).await.unwrap();
    let client = Client::new(egress::Config::default(), clock.clone(), Entropy::seeded(1)).unwrap();
    let config = Config {
        in_flight_max: 256,
        policy: Policy::loopback(),
        grace: std::time::Duration::from_secs(5),
        lines_for_people: false,
    };
    let (entropy, lease) = (Entropy::seeded(1), Arc::new(Lease::forever()));
    Dispatcher::open(config, store, client, clock, entropy, lease).await.unwrap()
}

impl House {
    fn of(dispatcher: Dispatcher, engine: Handle) -> Self {
        let (store, clock) = (Arc::clone(&dispatcher.store), dispatcher.clock.clone());
        let stop = CancellationToken::new();
        let task = tokio::spawn(dispatcher.run(stop.clone()));
        Self { store, engine, stop, task, clock }
    }

    /// Follows the feed until so many deliveries have arrived.
    async fn delivered(&self, count: usize) {
        let mut cursor = Cursor::open(Arc::clone(&self.store), Start::After(Pos(0))).await.unwrap();
        let mut arrived = 0;
        while arrived < count {
            let changes = cursor.ready(500).await.unwrap();
            arrived += changes.iter().filter(|it| it.delivery.state == State::Delivered).count();
            if arrived < count && changes.is_empty() {
                cursor.wait().await;
            }
        }
    }
}

async fn endpoint(store: &Store, id: &str, url: &str, state: EndpointState) {
    let retry = RetryPolicy { initial_delay: Micros::from_millis(20), ..RetryPolicy::default() };
    let endpoint = Endpoint {
        state,
        retry,
        rate_limit: RateLimit { disabled: true, ..RateLimit::default() },
        max_in_flight: 32,
        breaker: BreakerPolicy { disabled: true, ..BreakerPolicy::default() },
        ..Endpoint::new(TenantKey::DEFAULT, id, url, Clock::system().wall())
    };
    assert!(matches!(store.create_endpoint(endpoint).await.unwrap(), Created::Done(_)));
}

async fn publish(store: &Store, count: u32) {
    let event = |it: u32| NewEvent {
        tenant: TenantKey::DEFAULT,
        event_type: "user.created".into(),
        payload: Payload { content_type: "application/json".into(), data: it.to_string().into() },
        idempotency_key: String::new(),
        priority: 0,
        deliver_at: None,
        expires_at: None,
        metadata: BTreeMap::new(),
    };
    let events = (0..count).map(event).collect();
    let publish = Publish { events, atomic: false, in_turn: false, at: Clock::system().wall(), salt: 3 };
    store.publish(publish).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_arrives_once_and_more_than_a_window_of_them_too() {
    let folder = tempfile::tempdir().unwrap();
    let house = house(folder.path()).await;
    let (url, requests) = receiver(0).await;
    endpoint(&house.store, "one", &url, EndpointState::Active).await;
    publish(&house.store, 1000).await;
    house.delivered(1000).await;
    let requests = requests.lock().unwrap();
    assert_eq!(requests.len(), 1000);
    assert!(requests.values().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_delivery_is_tried_until_it_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let house = house(folder.path()).await;
    let (url, requests) = receiver(2).await;
    endpoint(&house.store, "one", &url, EndpointState::Active).await;
    publish(&house.store, 300).await;
    house.delivered(300).await;
    assert!(requests.lock().unwrap().values().all(|count| *count == 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_found_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let first = house(folder.path()).await;
    let (url, requests) = receiver(0).await;
    endpoint(&first.store, "one", &url, EndpointState::Paused).await;
    publish(&first.store, 600).await;
    first.stop.cancel();
    first.task.await.unwrap().unwrap();
    first.store.close().await.unwrap();
    drop(first.store);
    assert!(requests.lock().unwrap().is_empty());

    let second = house(folder.path()).await;
    let resume = |endpoint: &mut Endpoint| {
        endpoint.state = EndpointState::Active;
        Ok::<(), ()>(())
    };
    let now = second.clock.wall();
    second.store.edit_endpoint(TenantKey::DEFAULT, "one".to_owned(), None, now, resume).await.unwrap();
    second.delivered(600).await;
    assert!(requests.lock().unwrap().values().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_breaker_stays_open_and_a_bucket_starts_empty_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let first = house(folder.path()).await;
    let (url, requests) = receiver(u32::MAX).await;
    let breaker = BreakerPolicy { failure_threshold: 1, cooldown: Micros::from_secs(3600), disabled: false };
    let rate_limit = RateLimit { per_second: 0.001, burst: 1, disabled: false };
    let now = first.clock.now();
    for (id, breaker, rate_limit) in [
        ("failing", breaker, RateLimit { disabled: true, ..rate_limit }),
        ("limited", BreakerPolicy { disabled: true, ..breaker }, rate_limit),
    ] {
        let endpoint = Endpoint { breaker, rate_limit, ..Endpoint::new(TenantKey::DEFAULT, id, &url, now) };
        assert!(matches!(first.store.create_endpoint(endpoint).await.unwrap(), Created::Done(_)));
    }
    let key = |house: &House, id: &str| house.store.routes().find(TenantKey::DEFAULT, id).unwrap().key;
    let failing = key(&first, "failing");
    publish(&first.store, 1).await;
    while first.store.circuits().await.unwrap().is_empty() || requests.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    first.stop.cancel();
    first.task.await.unwrap().unwrap();
    first.store.close().await.unwrap();
    drop((first.store, first.engine));

    let second = house(folder.path()).await;
    let open = loop {
        let circuit = second.engine.circuits(vec![failing]).await[0];
        if circuit.opened_at.is_some() {
            break circuit;
        }
        tokio::task::yield_now().await;
    };
    assert!(matches!(open.position, Position::Open { .. }) && open.failures == 1, "{open:?}");
    publish(&second.store, 1).await;
    let mut cursor = Cursor::open(Arc::clone(&second.store), Start::After(Pos(0))).await.unwrap();
    let changes = cursor.ready(500).await.unwrap();
    let newest: HashMap<_, _> =
        changes.iter().map(|it| (it.delivery.endpoint, (*it.delivery).clone())).collect();
    let limited = key(&second, "limited");
    let asked = vec![newest[&failing].clone(), newest[&limited].clone()];
    let holds: Vec<_> = second.engine.live(asked).await.into_iter().map(|live| live.hold).collect();
    assert_eq!(holds, [Some(Hold::CircuitOpen), Some(Hold::Rate)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manual_retry_probes_an_endpoint_whose_breaker_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let house = house(folder.path()).await;
    let (url, requests) = receiver(1).await;
    let cooldown = Micros::from_secs(3600);
    let breaker = BreakerPolicy { failure_threshold: 1, cooldown, disabled: false };
    let now = house.clock.now();
    let endpoint = Endpoint { breaker, ..Endpoint::new(TenantKey::DEFAULT, "one", &url, now) };
    assert!(matches!(house.store.create_endpoint(endpoint).await.unwrap(), Created::Done(_)));
    publish(&house.store, 1).await;
    let mut cursor = Cursor::open(Arc::clone(&house.store), Start::After(Pos(0))).await.unwrap();
    let failed = loop {
        let changes = cursor.ready(500).await.unwrap();
        if let Some(change) = changes.iter().find(|it| it.delivery.state == State::Retrying) {
            break (*change.delivery).clone();
        }
        cursor.wait().await;
    };
    let live = house.engine.live(vec![failed.clone()]).await[0];
    assert_eq!(live.hold, Some(Hold::CircuitOpen));
    assert!(live.held_until.unwrap() >= now.plus(cooldown), "{live:?}");
    house.store.retry(TenantKey::DEFAULT, failed.id, house.clock.now()).await.unwrap();
    house.delivered(1).await;
    assert_eq!(requests.lock().unwrap().values().copied().collect::<Vec<_>>(), [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_learned_just_before_its_share_came_is_sent() {
    let (mut dispatcher, engine) = dispatcher(store::Location::scratch().await).await;
    let store = Arc::clone(&dispatcher.store);
    let (url, requests) = receiver(0).await;
    endpoint(&store, "one", &url, EndpointState::Active).await;
    dispatcher.change_hands(dispatcher.clock.now());
    // Between this look at the shares and the next they come, and the feed tells of a delivery.
    store.claim(Shard::all().map(|shard| (shard, 0)).collect()).await.unwrap();
    publish(&store, 1).await;
    while dispatcher.follow(&dispatcher.clock.read()).await.unwrap() {}
    let house = House::of(dispatcher, engine);
    let patience = std::time::Duration::from_secs(20);
    tokio::time::timeout(patience, house.delivered(1)).await.expect("it is delivered");
    assert_eq!(requests.lock().unwrap().len(), 1);
}

/// A dispatcher that has all shares and does not run yet, with an endpoint, and the store of
/// another process.
async fn with_another(url: &str) -> (Dispatcher, Handle, Arc<Store>) {
    let location = store::Location::scratch().await;
    let (mut dispatcher, engine) = dispatcher(location.clone()).await;
    let sample = store::Config::sample(location);
    let (other, _) = Store::open(store::Config { instance: InstanceId(9), ..sample }).await.unwrap();
    endpoint(&dispatcher.store, "one", url, EndpointState::Active).await;
    dispatcher.store.claim(Shard::all().map(|shard| (shard, 0)).collect()).await.unwrap();
    dispatcher.change_hands(dispatcher.clock.now());
    (dispatcher, engine, other)
}

/// Follows the feed to its end; how much there is to read then.
async fn hear(dispatcher: &mut Dispatcher) -> usize {
    dispatcher.store.refresh().await.unwrap();
    while dispatcher.follow(&dispatcher.clock.read()).await.unwrap() {}
    dispatcher.wanted.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_make_is_read_once_there_is_room_for_it() {
    let (url, requests) = receiver(0).await;
    let (mut dispatcher, engine, other) = with_another(&url).await;
    let store = Arc::clone(&dispatcher.store);
    publish(&other, 7).await;
    assert_eq!(hear(&mut dispatcher).await, 7, "to be read as they are mentioned");
    for pos in 1.. {
        if store.hot().is_full() {
            break;
        }
        let large = Payload { content_type: "a/b".into(), data: vec![0; 1 << 20].into() };
        store.hot().keep(Arc::new(Event::sample(Pos(pos), Timestamp(0), large)));
    }
    publish(&other, 300).await;
    assert_eq!(hear(&mut dispatcher).await, 7, "left to pages");
    let house = House::of(dispatcher, engine);
    let patience = std::time::Duration::from_secs(20);
    tokio::time::timeout(patience, house.delivered(307)).await.expect("all are delivered");
    let requests = requests.lock().unwrap();
    assert_eq!(requests.len(), 307);
    assert!(requests.values().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_ended_before_it_is_read_or_meanwhile_is_not_sent() {
    let (url, requests) = receiver(0).await;
    let (mut dispatcher, engine, other) = with_another(&url).await;
    let (store, now) = (Arc::clone(&dispatcher.store), dispatcher.clock.now());
    publish(&other, 5).await;
    assert_eq!(hear(&mut dispatcher).await, 5);
    let ids = dispatcher.wanted.keys().copied().collect::<Vec<_>>();
    let ids = store.numbered(&ids).await.unwrap().iter().map(|it| it.id).collect::<Vec<_>>();
    store.cancel(TenantKey::DEFAULT, ids[0], now).await.unwrap();
    other.cancel(TenantKey::DEFAULT, ids[1], now).await.unwrap();
    assert_eq!(hear(&mut dispatcher).await, 5);
    dispatcher.fetch(now);
    store.cancel(TenantKey::DEFAULT, ids[2], now).await.unwrap();
    other.cancel(TenantKey::DEFAULT, ids[3], now).await.unwrap();
    assert_eq!(hear(&mut dispatcher).await, 1, "to be read once more");
    let house = House::of(dispatcher, engine);
    let patience = std::time::Duration::from_secs(20);
    tokio::time::timeout(patience, house.delivered(1)).await.expect("the last is delivered");
    assert_eq!(*requests.lock().unwrap(), HashMap::from([(ids[4].0.hyphenated(), 1)]));
}
