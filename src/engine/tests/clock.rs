//! What the engine does when somebody sets the wall clock, and beside servers whose clocks
//! differ. The clocks are stepped by hand.

use axum::http::HeaderMap;

use super::*;
use crate::domain::{Delivery, Secret, SecretText};

const NOON: Timestamp = Timestamp(1_700_000_000_000_000);
const HOUR: Micros = Micros::from_secs(3_600);
/// Far longer than anything here takes.
const LONG: std::time::Duration = std::time::Duration::from_secs(30);

/// Types of the events that arrived, with their signed timestamps.
type Arrived = Arc<Mutex<Vec<(String, i64)>>>;

/// A receiver that refuses the first request of each event whose type ends in `.refused`.
async fn signed_receiver() -> (String, Arrived) {
    let arrived = Arrived::default();
    let answer = move |Shared(arrived): Shared<Arrived>, headers: HeaderMap| async move {
        let text = |name: &str| headers[name].to_str().unwrap().to_owned();
        let event_type = text("x-webhook-event");
        let mut arrived = arrived.lock().unwrap();
        let first = arrived.iter().all(|(known, _)| *known != event_type);
        let refused = first && event_type.ends_with(".refused");
        arrived.push((event_type, text("webhook-timestamp").parse().unwrap()));
        if refused { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
    };
    let app = Router::new().route("/", post(answer)).with_state(Arc::clone(&arrived));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, arrived)
}

/// An engine with a clock that is moved by hand, and one endpoint whose retries wait 30 s.
async fn house_at_noon(folder: &std::path::Path, url: &str) -> House {
    let location = store::Location::Directory(folder.to_owned());
    let (dispatcher, engine) = dispatcher_at(location, Clock::manual(NOON)).await;
    let house = House::of(dispatcher, engine);
    let retry =
        RetryPolicy { initial_delay: Micros::from_secs(30), jitter_ratio: 0.0, ..RetryPolicy::default() };
    let secret = Secret {
        id: "1".repeat(32),
        value: SecretText::from("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=".to_owned()),
        created_at: NOON,
        primary_at: None,
        expires_at: None,
    };
    let endpoint =
        Endpoint { retry, secrets: vec![secret], ..Endpoint::new(TenantKey::DEFAULT, "one", url, NOON) };
    assert!(matches!(house.store.create_endpoint(endpoint).await.unwrap(), Created::Done(_)));
    house
}

impl House {
    async fn publish(&self, event_type: &str, deliver_at: Option<Timestamp>) {
        publish_at(&self.store, event_type, deliver_at, self.clock.wall()).await;
    }

    /// Waits until a delivery of an event of this type is in a state, and gives it.
    async fn reached(&self, event_type: &str, state: State) -> Arc<Delivery> {
        let look = async {
            let mut cursor = Cursor::open(Arc::clone(&self.store), Start::After(Pos(0))).await.unwrap();
            loop {
                let changes = cursor.ready(500).await.unwrap();
                let fits = |it: &&Arc<Delivery>| *it.event_type == *event_type && it.state == state;
                if let Some(found) = changes.iter().map(|it| &it.delivery).find(fits) {
                    return Arc::clone(found);
                }
                if changes.is_empty() {
                    cursor.wait().await;
                }
            }
        };
        tokio::time::timeout(LONG, look).await.expect("it comes to that")
    }
}

async fn publish_at(store: &Store, event_type: &str, deliver_at: Option<Timestamp>, at: Timestamp) {
    let event = NewEvent {
        tenant: TenantKey::DEFAULT,
        event_type: event_type.into(),
        payload: Payload { content_type: "application/json".into(), data: "1".into() },
        idempotency_key: String::new(),
        priority: 0,
        deliver_at,
        expires_at: None,
        metadata: BTreeMap::new(),
    };
    store.publish(Publish { events: vec![event], atomic: false, in_turn: false, at, salt: 3 }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_signed_and_scheduled_follows_the_wall_clock_and_a_retry_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let (url, arrived) = signed_receiver().await;
    let house = house_at_noon(folder.path(), &url).await;
    house.publish("user.refused", None).await;
    house.publish("user.scheduled", Some(NOON.plus(HOUR))).await;
    house.reached("user.refused", State::Retrying).await;

    // No time passes, but somebody sets the clock an hour ahead.
    house.clock.step(HOUR);
    house.reached("user.scheduled", State::Delivered).await;
    let expected = [
        ("user.refused".to_owned(), NOON.seconds()),
        ("user.scheduled".to_owned(), NOON.plus(HOUR).seconds()),
    ];
    assert_eq!(*arrived.lock().unwrap(), expected, "its retry is due in 30 s");

    house.clock.advance(Micros::from_secs(30));
    let retried = house.reached("user.refused", State::Delivered).await;
    let now = NOON.plus(HOUR).plus(Micros::from_secs(30));
    assert_eq!(arrived.lock().unwrap().last(), Some(&("user.refused".to_owned(), now.seconds())));
    assert_eq!(retried.updated_at, now, "what is shown follows, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_back_delays_what_is_scheduled_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (url, arrived) = signed_receiver().await;
    let house = house_at_noon(folder.path(), &url).await;
    house.publish("user.refused", None).await;
    house.publish("user.scheduled", Some(NOON.plus(Micros::from_secs(20)))).await;
    house.reached("user.refused", State::Retrying).await;

    house.clock.step(Micros(-HOUR.0));
    house.clock.advance(Micros::from_secs(30));
    house.publish("user.new", None).await;
    house.reached("user.new", State::Delivered).await;
    house.reached("user.refused", State::Delivered).await;
    assert!(arrived.lock().unwrap().iter().all(|(event_type, _)| event_type != "user.scheduled"));

    house.clock.advance(HOUR);
    house.reached("user.scheduled", State::Delivered).await;
    let signed = arrived.lock().unwrap().last().map(|(_, at)| *at);
    assert_eq!(signed, Some(NOON.plus(Micros::from_secs(30)).seconds()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_an_hour_ahead_took_in_is_due_at_once() {
    let (url, requests) = receiver(0).await;
    let (dispatcher, engine, other) = with_another(&url).await;
    let house = House::of(dispatcher, engine);
    publish_at(&other, "user.new", None, house.clock.wall().plus(HOUR)).await;
    house.store.refresh().await.unwrap();
    tokio::time::timeout(LONG, house.delivered(1)).await.expect("it is delivered at once");
    assert_eq!(requests.lock().unwrap().len(), 1);
}
