//! The engine over a real store and real HTTP.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use axum::{Router, extract::State as Shared, http::StatusCode, routing::post};
use tokio_util::sync::CancellationToken;

use super::{Config, Handle, Lease, start};
use crate::{
    clock::Clock,
    domain::{
        BreakerPolicy, Endpoint, EndpointState, Micros, NewEvent, Payload, Pos, RateLimit, RetryPolicy,
        State, TenantKey, Timestamp,
    },
    egress::{self, Client, Policy},
    entropy::Entropy,
    feed::{Cursor, Start},
    store::{self, Created, Publish, Store},
};

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
    _engine: Handle,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), crate::feed::Error>>,
    clock: Clock,
}

async fn house(folder: &std::path::Path) -> House {
    let config = store::Config::sample(store::Location::Directory(folder.to_owned()));
    let (store, _) = Store::open(config).await.unwrap();
    let (clock, stop) = (Clock::system(), CancellationToken::new());
    let client = Client::new(egress::Config::default(), clock.clone()).unwrap();
    let policy = Policy::loopback();
    let config = Config { in_flight_max: 256, policy, grace: std::time::Duration::from_secs(5) };
    let (entropy, lease) = (Entropy::seeded(1), Arc::new(Lease::forever()));
    let (engine, task) =
        start(config, Arc::clone(&store), client, clock.clone(), entropy, lease, stop.clone()).await.unwrap();
    House { store, _engine: engine, stop, task, clock }
}

impl House {
    async fn endpoint(&self, id: &str, url: &str, state: EndpointState) {
        let retry = RetryPolicy { initial_delay: Micros::from_millis(20), ..RetryPolicy::default() };
        let endpoint = Endpoint {
            state,
            retry,
            rate_limit: RateLimit { disabled: true, ..RateLimit::default() },
            max_in_flight: 32,
            breaker: BreakerPolicy { disabled: true, ..BreakerPolicy::default() },
            ..Endpoint::new(TenantKey::DEFAULT, id, url, self.clock.now())
        };
        assert!(matches!(self.store.create_endpoint(endpoint).await.unwrap(), Created::Done(_)));
    }

    async fn publish(&self, count: u32) {
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
        let publish = Publish { events, atomic: false, in_turn: false, at: self.clock.now(), salt: 3 };
        self.store.publish(publish).await.unwrap();
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

#[tokio::test(flavor = "multi_thread")]
async fn every_event_arrives_once_and_more_than_a_window_of_them_too() {
    let folder = tempfile::tempdir().unwrap();
    let house = house(folder.path()).await;
    let (url, requests) = receiver(0).await;
    house.endpoint("one", &url, EndpointState::Active).await;
    house.publish(1000).await;
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
    house.endpoint("one", &url, EndpointState::Active).await;
    house.publish(300).await;
    house.delivered(300).await;
    assert!(requests.lock().unwrap().values().all(|count| *count == 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_found_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let first = house(folder.path()).await;
    let (url, requests) = receiver(0).await;
    first.endpoint("one", &url, EndpointState::Paused).await;
    first.publish(600).await;
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
    let now = Timestamp(second.clock.now().0);
    second.store.edit_endpoint(TenantKey::DEFAULT, "one".to_owned(), None, now, resume).await.unwrap();
    second.delivered(600).await;
    assert!(requests.lock().unwrap().values().all(|count| *count == 1));
}
