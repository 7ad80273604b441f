//! Publishers that never give up, and a ledger of what was acknowledged to them.
//!
//! Each event has a key of its own, used as idempotency key and found again in
//! its body. A publisher that gets no answer sends the same event again until it
//! gets one, as the API asks of clients, each time to the next instance if there
//! are several; so in the end every key that was ever sent is acknowledged, and the
//! ledger knows under which id.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hookwire::grpc::pb;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Api, event, transport_fault};

/// Pause before sending again what was not acknowledged.
const AGAIN: Duration = Duration::from_millis(25);
/// Events in one batch, or unacknowledged on one stream.
const CHUNK: usize = 20;

/// What was acknowledged.
#[derive(Default)]
pub struct Ledger {
    acked: Mutex<HashMap<String, String>>,
    two_ids: Mutex<Vec<String>>,
    count: AtomicUsize,
}

impl Ledger {
    /// How many events were acknowledged so far.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Id of the event by its key.
    pub fn acked(&self) -> HashMap<String, String> {
        self.acked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keys that were acknowledged under two ids.
    pub fn two_ids(&self) -> Vec<String> {
        self.two_ids.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, key: &str, event_id: &str) {
        let mut acked = self.acked.lock().unwrap_or_else(PoisonError::into_inner);
        match acked.insert(key.to_owned(), event_id.to_owned()) {
            None => _ = self.count.fetch_add(1, Ordering::Relaxed),
            Some(before) if before == event_id => {}
            Some(before) => self
                .two_ids
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(format!("{key}: {before} and {event_id}")),
        }
    }
}

/// Publishers at work.
pub struct Load {
    /// What was acknowledged to them.
    pub ledger: Arc<Ledger>,
    shared: Arc<Shared>,
    publishers: JoinSet<()>,
}

struct Shared {
    ledger: Arc<Ledger>,
    event_type: String,
    next: AtomicU64,
    budget: u64,
    stop: AtomicBool,
}

impl Load {
    /// Publishes at most `budget` events of one type by so many unary callers,
    /// batch callers and streams, eight to a connection. They are spread over the
    /// instances on these ports.
    pub fn start(ports: &[u16], event_type: &str, budget: u64, callers: [usize; 3]) -> Self {
        let ledger = Arc::new(Ledger::default());
        let shared = Arc::new(Shared {
            ledger: Arc::clone(&ledger),
            event_type: event_type.to_owned(),
            next: AtomicU64::new(0),
            budget,
            stop: AtomicBool::new(false),
        });
        let mut publishers = JoinSet::new();
        let [unary, batch, stream] = callers;
        let mut apis: Arc<[Api]> = Arc::new([]);
        for number in 0..unary + batch + stream {
            if number % 8 == 0 {
                apis = ports.iter().map(|port| Api::at(*port)).collect();
            }
            let to = Instances { apis: Arc::clone(&apis), at: number % ports.len() };
            let shared = Arc::clone(&shared);
            if number < unary {
                publishers.spawn(async move { publish_singly(to, &shared).await });
            } else if number < unary + batch {
                publishers.spawn(async move { publish_in_batches(to, &shared).await });
            } else {
                publishers.spawn(async move { publish_on_streams(to, &shared).await });
            }
        }
        Self { ledger, shared, publishers }
    }

    /// Begins no new event, and returns once everything begun is acknowledged.
    pub async fn stop(self, limit: Duration) -> Arc<Ledger> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.finish(limit).await
    }

    /// Returns once the budget is spent and everything is acknowledged.
    pub async fn finish(mut self, limit: Duration) -> Arc<Ledger> {
        let ended = tokio::time::timeout(limit, async {
            while let Some(publisher) = self.publishers.join_next().await {
                publisher.expect("a publisher");
            }
        });
        let acked = || self.ledger.count();
        ended
            .await
            .unwrap_or_else(|_| panic!("publishers not done within {limit:?}; {} acknowledged", acked()));
        self.ledger
    }
}

/// The body published under a key; a receiver can make it again to compare.
pub fn body_of(key: &str) -> String {
    let pad = key.bytes().fold(0_usize, |sum, byte| sum * 31 % 997 + usize::from(byte));
    format!("{{\"key\":\"{key}\", \"pad\":\"{}\"}}", "x".repeat(pad % 700))
}

/// The key in a body that was received.
pub fn key_in(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.split('"').nth(3).map(str::to_owned).unwrap_or_default()
}

impl Shared {
    /// Up to `count` new keys; none when it is time to end.
    fn keys(&self, count: usize) -> Vec<String> {
        if self.stop.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let next = || self.next.fetch_add(1, Ordering::Relaxed);
        (0..count)
            .map(|_| next())
            .filter(|number| *number < self.budget)
            .map(|number| format!("k-{number}"))
            .collect()
    }

    fn event(&self, key: &str) -> pb::Event {
        pb::Event { idempotency_key: key.to_owned(), ..event(&self.event_type, body_of(key)) }
    }

    /// Notes an outcome; false if the event must be sent again.
    fn settle(&self, key: &str, result: &pb::PublishEventResult) -> bool {
        match &result.error {
            None => {
                self.ledger.note(key, &result.event_id);
                true
            }
            Some(error) => {
                let reason = error.reason();
                assert!(
                    matches!(reason, pb::ErrorReason::NotServing | pb::ErrorReason::QueueFull),
                    "{key} was refused: {error:?}"
                );
                false
            }
        }
    }
}

/// Those that a publisher may turn to, and to which it does at present.
struct Instances {
    apis: Arc<[Api]>,
    at: usize,
}

impl Instances {
    fn present(&self) -> &Api {
        &self.apis[self.at]
    }

    /// Turns to the next one, after a pause.
    async fn turn(&mut self) {
        self.at = (self.at + 1) % self.apis.len();
        tokio::time::sleep(AGAIN).await;
    }

    /// The same because a call failed.
    async fn turn_after(&mut self, status: Status) {
        assert!(transport_fault(&status), "publishing failed: {status:?}");
        self.turn().await;
    }
}

async fn publish_singly(mut to: Instances, shared: &Shared) {
    while let Some(key) = shared.keys(1).pop() {
        loop {
            let request =
                pb::PublishEventRequest { event: Some(shared.event(&key)), include_deliveries: false };
            match to.present().events.clone().publish_event(request).await {
                Ok(response) => {
                    shared.ledger.note(&key, &response.into_inner().event_id);
                    break;
                }
                Err(status) => to.turn_after(status).await,
            }
        }
    }
}

async fn publish_in_batches(mut to: Instances, shared: &Shared) {
    loop {
        let mut keys = shared.keys(CHUNK);
        if keys.is_empty() {
            return;
        }
        while !keys.is_empty() {
            let events = keys.iter().map(|key| shared.event(key)).collect();
            let request = pb::BatchPublishEventsRequest { events, atomic: false };
            match to.present().events.clone().batch_publish_events(request).await {
                Ok(response) => {
                    let results = response.into_inner().results;
                    assert_eq!(results.len(), keys.len(), "one result per event");
                    let mut results = results.iter();
                    keys.retain(|key| results.next().is_none_or(|result| !shared.settle(key, result)));
                    if !keys.is_empty() {
                        to.turn().await;
                    }
                }
                Err(status) => to.turn_after(status).await,
            }
        }
    }
}

async fn publish_on_streams(mut to: Instances, shared: &Shared) {
    let mut waiting = VecDeque::new();
    loop {
        match publish_on_one_stream(to.present(), shared, &mut waiting).await {
            Ok(()) => return,
            Err(status) => to.turn_after(status).await,
        }
    }
}

/// Publishes on one stream until it breaks or there is no more to do. `waiting`
/// keeps what is not acknowledged, for the next stream.
async fn publish_on_one_stream(
    api: &Api,
    shared: &Shared,
    waiting: &mut VecDeque<String>,
) -> Result<(), Status> {
    // Holds a whole chunk, so the first one can be sent before the call is made.
    let (requests, outgoing) = mpsc::channel(CHUNK);
    let mut outgoing = Some(ReceiverStream::new(outgoing));
    let mut responses = None;
    let (mut sent, mut answered) = (0, 0);
    loop {
        if waiting.is_empty() {
            waiting.extend(shared.keys(CHUNK));
        }
        if waiting.is_empty() {
            return Ok(());
        }
        for key in waiting.iter() {
            sent += 1;
            let request = pb::PublishEventStreamRequest { sequence: sent, event: Some(shared.event(key)) };
            requests.send(request).await.map_err(|_| Status::unavailable("the stream is gone"))?;
        }
        if let Some(outgoing) = outgoing.take() {
            responses = Some(api.events.clone().publish_event_stream(outgoing).await?.into_inner());
        }
        let mut leaving = false;
        while answered < sent {
            let stream = responses.as_mut().expect("opened above");
            let response = stream.message().await?.ok_or_else(|| Status::unavailable("the stream ended"))?;
            leaving |= response.go_away;
            for ack in response.acks {
                answered += 1;
                assert_eq!(ack.sequence, answered, "one acknowledgement per request, in order");
                let key = waiting.pop_front().expect("a request per acknowledgement");
                if !shared.settle(&key, &ack.result.expect("a result")) {
                    waiting.push_back(key);
                }
            }
        }
        if leaving {
            return Err(Status::unavailable("the server is about to go"));
        }
        if !waiting.is_empty() {
            tokio::time::sleep(AGAIN).await;
        }
    }
}
