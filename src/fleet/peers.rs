//! Asking the home of an endpoint what only it knows: what is in flight or held, and how
//! circuit breakers stand.
//!
//! Questions and answers are notifications of the database: members share it and nothing
//! else, so they need no addresses, ports or secrets of each other. A question that is not
//! answered soon is answered from what the store knows.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    domain::{Attempt, Delivery, Endpoint, EndpointKey, Event, InstanceId, Live, Pos, Shard},
    engine::{self, Circuit},
    machine::breaker::Position,
    store::Store,
};

/// How long an answer is waited for; most take some milliseconds.
const PATIENCE: Duration = Duration::from_millis(1_000);
/// Deliveries or endpoints asked about at once: a notification has room for 8,000 bytes.
const AT_ONCE: usize = 50;

/// What is told to one member or, without a receiver, to all.
#[derive(Debug)]
pub struct Mail {
    /// Whom.
    pub to: InstanceId,
    /// What.
    pub text: String,
}

/// What a notification says.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    /// A member has committed something.
    #[serde(rename = "c")]
    Committed(InstanceId),
    /// A member asks something, by a number of its own.
    #[serde(rename = "q")]
    Question(InstanceId, u64, Question),
    /// The answer to that number.
    #[serde(rename = "a")]
    Answer(u64, Answer),
}

#[derive(Debug, Serialize, Deserialize)]
enum Question {
    #[serde(rename = "l")]
    Live(Vec<Pos>),
    #[serde(rename = "b")]
    Circuits(Vec<i64>),
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    #[serde(rename = "l")]
    Live(Vec<(Pos, Live)>),
    #[serde(rename = "b")]
    Circuits(Vec<(i64, Circuit)>),
}

impl Mail {
    /// Tells that something was committed.
    pub(super) fn committed(by: InstanceId) -> String {
        text(&Word::Committed(by))
    }
}

fn text(word: &Word) -> String {
    serde_json::to_string(word).expect("plain data is JSON")
}

/// The engine of this process and, behind it, those of the others.
#[derive(Clone, Debug)]
pub struct Fleet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<Store>,
    engine: engine::Handle,
    /// Nothing where a process is alone.
    outbox: Option<mpsc::UnboundedSender<Mail>>,
    asked: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    next: AtomicU64,
}

impl Fleet {
    /// The engine of a process that is alone.
    pub fn alone(store: Arc<Store>, engine: engine::Handle) -> Self {
        Self::new(store, engine, None)
    }

    /// The engines of a fleet, and what this process has to tell the others.
    pub fn shared(store: Arc<Store>, engine: engine::Handle) -> (Self, mpsc::UnboundedReceiver<Mail>) {
        let (outbox, mail) = mpsc::unbounded_channel();
        (Self::new(store, engine, Some(outbox)), mail)
    }

    fn new(store: Arc<Store>, engine: engine::Handle, outbox: Option<mpsc::UnboundedSender<Mail>>) -> Self {
        let (asked, next) = (Mutex::default(), AtomicU64::new(0));
        Self(Arc::new(Inner { store, engine, outbox, asked, next }))
    }

    /// Whom to ask about an endpoint, if not this process.
    fn home(&self, endpoint: EndpointKey) -> Option<InstanceId> {
        let shards = self.0.store.shards();
        shards
            .tenure(Shard::of(endpoint))
            .owner
            .filter(|owner| *owner != shards.me() && self.0.outbox.is_some())
    }

    /// What holds for each of these deliveries now.
    pub async fn live(&self, deliveries: Vec<Delivery>) -> Vec<Live> {
        let (mut elsewhere, mut here): (HashMap<InstanceId, Vec<Pos>>, Vec<Delivery>) = Default::default();
        for delivery in &deliveries {
            match self.home(delivery.endpoint) {
                Some(home) => elsewhere.entry(home).or_default().push(delivery.id.pos()),
                None => here.push(delivery.clone()),
            }
        }
        let numbers: Vec<Pos> = here.iter().map(|delivery| delivery.id.pos()).collect();
        let mut known: HashMap<Pos, Live> = numbers.into_iter().zip(self.0.engine.live(here).await).collect();
        for (home, numbers) in elsewhere {
            for some in numbers.chunks(AT_ONCE) {
                // Who is silent once is not asked again.
                let Some(Answer::Live(live)) = self.ask(home, Question::Live(some.to_vec())).await else {
                    break;
                };
                known.extend(live);
            }
        }
        deliveries.iter().map(|delivery| known.get(&delivery.id.pos()).copied().unwrap_or_default()).collect()
    }

    /// The circuit breakers of these endpoints.
    pub async fn circuits(&self, endpoints: Vec<EndpointKey>) -> Vec<Circuit> {
        let mut elsewhere: HashMap<InstanceId, Vec<i64>> = HashMap::new();
        let mut here = Vec::new();
        for key in &endpoints {
            match self.home(*key) {
                Some(home) => elsewhere.entry(home).or_default().push(key.0),
                None => here.push(*key),
            }
        }
        let found = self.0.engine.circuits(here.clone()).await;
        let mut known: HashMap<i64, Circuit> = here.iter().map(|key| key.0).zip(found).collect();
        for (home, keys) in elsewhere {
            for some in keys.chunks(AT_ONCE) {
                match self.ask(home, Question::Circuits(some.to_vec())).await {
                    Some(Answer::Circuits(circuits)) => known.extend(circuits),
                    Some(Answer::Live(_)) | None => {
                        known.extend(self.kept().await);
                        break;
                    }
                }
            }
        }
        endpoints.iter().map(|key| known.get(&key.0).copied().unwrap_or(Circuit::CLOSED)).collect()
    }

    /// How breakers stood when their homes last told the store.
    async fn kept(&self) -> Vec<(i64, Circuit)> {
        let kept = self.0.store.circuits().await.unwrap_or_default();
        let open = kept.into_iter().filter_map(|(key, kept)| {
            let opened_at = kept.opened_at?;
            let endpoint = self.0.store.routes().get(key)?;
            let position = Position::Open { until: opened_at.plus(endpoint.breaker.cooldown) };
            Some((key.0, Circuit { position, failures: kept.failures, opened_at: Some(opened_at) }))
        });
        open.collect()
    }

    /// Sends one event to an endpoint now, past queue, limits, breaker and retries; from
    /// here, since nothing of its home has a part in it. Nothing: the engine has stopped.
    pub async fn test(&self, endpoint: Arc<Endpoint>, event: Event) -> Option<Attempt> {
        self.0.engine.test(endpoint, event).await
    }

    async fn ask(&self, home: InstanceId, question: Question) -> Option<Answer> {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        self.asked().insert(number, reply);
        let me = self.0.store.shards().me();
        self.send(home, &Word::Question(me, number, question));
        let answer = timeout(PATIENCE, answer).await;
        self.asked().remove(&number);
        answer.ok()?.ok()
    }

    fn asked(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, to: InstanceId, word: &Word) {
        if let Some(outbox) = &self.0.outbox {
            // Nobody reads it while the process stops.
            let _ = outbox.send(Mail { to, text: text(word) });
        }
    }

    /// Takes in what another member told.
    pub(super) fn told(&self, store: &Arc<Store>, text: &str) {
        let word = match serde_json::from_str(text) {
            Ok(word) => word,
            // Of another version.
            Err(error) => return tracing::debug!(%error, "a notification was not understood"),
        };
        match word {
            Word::Committed(by) if by == store.shards().me() => {}
            Word::Committed(_) => {
                let store = Arc::clone(store);
                tokio::spawn(async move {
                    if let Err(error) = store.refresh().await {
                        tracing::debug!(%error, "what others committed is taken in later");
                    }
                });
            }
            Word::Question(from, number, question) => {
                let fleet = self.clone();
                tokio::spawn(async move {
                    if let Some(answer) = fleet.answer(question).await {
                        fleet.send(from, &Word::Answer(number, answer));
                    }
                });
            }
            Word::Answer(number, answer) => {
                if let Some(reply) = self.asked().remove(&number) {
                    let _ = reply.send(answer);
                }
            }
        }
    }

    /// Answers for this process; nothing: it does not know.
    async fn answer(&self, question: Question) -> Option<Answer> {
        let Inner { store, engine, .. } = &*self.0;
        // What the asker has just written is to show.
        store.refresh().await.ok()?;
        Some(match question {
            Question::Live(numbers) => {
                let found = store.numbered(&numbers).await.ok()?;
                let deliveries: Vec<Delivery> = found.iter().map(|delivery| (**delivery).clone()).collect();
                let numbers = deliveries.iter().map(|delivery| delivery.id.pos()).collect::<Vec<_>>();
                Answer::Live(numbers.into_iter().zip(engine.live(deliveries).await).collect())
            }
            Question::Circuits(keys) => {
                let circuits = engine.circuits(keys.iter().copied().map(EndpointKey).collect()).await;
                Answer::Circuits(keys.into_iter().zip(circuits).collect())
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Hold, Timestamp};

    #[test]
    fn what_is_asked_and_answered_at_once_fits_a_notification() {
        let live =
            Live { in_flight: true, hold: Some(Hold::RetryAfter), held_until: Some(Timestamp(i64::MAX)) };
        let far = Timestamp(i64::MAX);
        let circuit =
            Circuit { position: Position::Open { until: far }, failures: u32::MAX, opened_at: Some(far) };
        let numbers = vec![Pos((1 << 48) - 1); AT_ONCE];
        let words = [
            Word::Question(InstanceId(i64::MAX), u64::MAX, Question::Live(numbers.clone())),
            Word::Answer(u64::MAX, Answer::Live(numbers.into_iter().map(|pos| (pos, live)).collect())),
            Word::Answer(u64::MAX, Answer::Circuits(vec![(1_000_000_000, circuit); AT_ONCE])),
        ];
        for word in words {
            assert!(text(&word).len() < 8_000, "{} bytes", text(&word).len());
        }
    }
}
