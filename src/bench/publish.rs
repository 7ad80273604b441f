//! Ways of publishing: over the generated clients, as any program would.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Duration, interval},
};
use tokio_stream::wrappers::ReceiverStream;

use super::{ledger::Ledger, payload::payload, run::Setup, server::Server, wire::Wire};
use crate::{
    clock::Clock,
    grpc::pb::{self, event_service_client::EventServiceClient, payload::Body},
};

/// Streams, and batches in flight; each has a connection of its own.
const LANES: usize = 4;
/// Events sent on a stream and not yet acknowledged.
const UNACKED: usize = 512;
/// Connections of unary callers, and callers on each.
const CONNECTIONS: usize = 8;
const CALLERS: usize = 32;
/// Pause between the events of a trickle: a hundred a second.
pub const TRICKLE: Duration = Duration::from_millis(10);

/// Publishes over one connection.
pub type Client = EventServiceClient<Wire>;

/// How events are handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Four streams with up to 512 unacknowledged events each.
    Stream,
    /// Four calls in flight with so many events each.
    Batch(u64),
    /// 256 calls in flight over eight connections.
    Unary,
    /// 100 calls a second, whether or not the one before is answered.
    Trickle,
}

/// What is published, and where that is written down.
pub struct Publisher {
    /// The time.
    pub clock: Clock,
    /// The book.
    pub ledger: Arc<Ledger>,
    /// Bytes of each payload.
    pub payload: usize,
    /// Their type.
    pub event_type: &'static str,
}

impl Publisher {
    /// Publishes the events of a book.
    pub fn new(setup: &Setup, ledger: &Arc<Ledger>, event_type: &'static str) -> Self {
        Self {
            clock: setup.clock.clone(),
            ledger: Arc::clone(ledger),
            payload: setup.options.payload as usize,
            event_type,
        }
    }

    /// Publishes everything, and returns once all of it is acknowledged.
    pub async fn publish(self, server: &Server, way: Way) -> Result<()> {
        let this = Arc::new(self);
        let next = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        match way {
            Way::Stream => {
                for lane in 0..LANES {
                    tasks.spawn(Arc::clone(&this).stream(client(server)?, lane));
                }
            }
            Way::Batch(size) => {
                for _ in 0..LANES {
                    tasks.spawn(Arc::clone(&this).batches(client(server)?, size, Arc::clone(&next)));
                }
            }
            Way::Unary => {
                for _ in 0..CONNECTIONS {
                    let client = client(server)?;
                    for _ in 0..CALLERS {
                        tasks.spawn(Arc::clone(&this).calls(client.clone(), Arc::clone(&next)));
                    }
                }
            }
            Way::Trickle => _ = tasks.spawn(Arc::clone(&this).trickle(client(server)?)),
        }
        all(tasks).await
    }

    /// Every fourth event, beginning with the lane's own.
    async fn stream(self: Arc<Self>, mut client: Client, lane: usize) -> Result<()> {
        let room = Semaphore::new(UNACKED);
        let (sender, requests) = mpsc::channel(UNACKED);
        let numbers = (lane as u64..self.ledger.events()).step_by(LANES);
        let mut unacked = numbers.clone().count();
        let send = async {
            let sender = sender;
            for number in numbers {
                room.acquire().await?.forget();
                self.ledger.sent(number, self.clock.now());
                let event = Some(self.event(number));
                let request = pb::PublishEventStreamRequest { sequence: number + 1, event };
                if sender.send(request).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        let receive = async {
            let responses = client.publish_event_stream(ReceiverStream::new(requests)).await;
            let mut responses = responses.context("a stream was not taken")?.into_inner();
            while let Some(response) = responses.message().await.context("a stream broke off")? {
                ensure!(!response.go_away, "the server sent the publisher away");
                let now = self.clock.now();
                room.add_permits(response.acks.len());
                unacked = unacked.saturating_sub(response.acks.len());
                for ack in response.acks {
                    accepted(ack.result)?;
                    self.ledger.acked(ack.sequence - 1, now);
                }
            }
            ensure!(unacked == 0, "a stream ended with {unacked} events unacknowledged");
            anyhow::Ok(())
        };
        tokio::try_join!(send, receive)?;
        Ok(())
    }

    async fn batches(self: Arc<Self>, mut client: Client, size: u64, next: Arc<AtomicU64>) -> Result<()> {
        loop {
            let first = next.fetch_add(size, Relaxed);
            if first >= self.ledger.events() {
                return Ok(());
            }
            let numbers = first..self.ledger.events().min(first + size);
            let now = self.clock.now();
            numbers.clone().for_each(|number| self.ledger.sent(number, now));
            let events = numbers.clone().map(|number| self.event(number)).collect();
            let request = pb::BatchPublishEventsRequest { events, atomic: false };
            let answer = client.batch_publish_events(request).await.context("a batch was not taken")?;
            let now = self.clock.now();
            let results = answer.into_inner().results;
            ensure!(results.len() as u64 == numbers.end - numbers.start, "a batch was answered in part");
            for (number, result) in numbers.zip(results) {
                accepted(Some(result))?;
                self.ledger.acked(number, now);
            }
        }
    }

    async fn calls(self: Arc<Self>, mut client: Client, next: Arc<AtomicU64>) -> Result<()> {
        loop {
            let number = next.fetch_add(1, Relaxed);
            if number >= self.ledger.events() {
                return Ok(());
            }
            self.call(&mut client, number).await?;
        }
    }

    async fn trickle(self: Arc<Self>, client: Client) -> Result<()> {
        let mut pace = interval(TRICKLE);
        let mut calls = JoinSet::new();
        for number in 0..self.ledger.events() {
            pace.tick().await;
            let (this, mut client) = (Arc::clone(&self), client.clone());
            calls.spawn(async move { this.call(&mut client, number).await });
        }
        all(calls).await
    }

    async fn call(&self, client: &mut Client, number: u64) -> Result<()> {
        self.ledger.sent(number, self.clock.now());
        let event = Some(self.event(number));
        let request = pb::PublishEventRequest { event, include_deliveries: false };
        client.publish_event(request).await.context("an event was not taken")?;
        self.ledger.acked(number, self.clock.now());
        Ok(())
    }

    /// An event by its number.
    pub fn event(&self, number: u64) -> pb::Event {
        let body = Some(Body::Data(payload(number, self.payload)));
        let payload = Some(pb::Payload { content_type: "application/json".to_owned(), body });
        pb::Event { event_type: self.event_type.to_owned(), payload, ..Default::default() }
    }
}

/// A client over a new connection.
pub fn client(server: &Server) -> Result<Client> {
    Ok(EventServiceClient::new(server.connect()?))
}

/// Whether an item of a batch or of a stream was taken.
fn accepted(result: Option<pb::PublishEventResult>) -> Result<()> {
    match result.context("an event was answered without a result")?.error {
        None => Ok(()),
        Some(error) => bail!("an event was refused: {}", error.message),
    }
}

/// Returns at the first failure, or when all have ended.
async fn all(mut tasks: JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}
