//! More than a server can take, offered whether or not it keeps up.
//!
//! Calls are begun by the clock and none waits for another, as when many programs
//! publish at once; streams offer what their window has room for. What is accepted
//! must arrive once, what is refused must not, and a refusal must say when to try
//! again.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use anyhow::Result;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Duration, interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{
    due::{BATCH, Due, TICKS},
    ledger::Ledger,
    publish::{Client, Publisher, client},
    server::Server,
    tally::Tally,
};
use crate::grpc::pb;

/// Pause between the beginnings of calls.
const TICK: Duration = Duration::from_millis(1000 / TICKS);
/// Streams, and events unacknowledged on each at most.
const STREAMS: usize = 8;
const UNACKED: usize = 512;
/// Connections that calls take in turn; a server takes 256 at once on each.
const CONNECTIONS: usize = 32;
/// Calls that this process has under way at most; more are not begun, and counted.
const CALLS_MAX: usize = 4096;
/// How long calls may take to be answered when no more are begun.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// A flood while it lasts.
struct Flood {
    publisher: Publisher,
    tally: Arc<Tally>,
    next: AtomicU64,
    calls: Arc<Semaphore>,
}

/// Offers so many events a second for so long, and returns when all are answered.
/// The book must have room for them.
pub async fn flood(
    publisher: Publisher,
    server: &Server,
    per_second: u64,
    seconds: u64,
) -> Result<Arc<Tally>> {
    let (tally, calls) = (Arc::new(Tally::default()), Arc::new(Semaphore::new(CALLS_MAX)));
    let flood = Flood { publisher, tally: Arc::clone(&tally), next: AtomicU64::new(0), calls };
    let flood = Arc::new(flood);
    let mut tasks = JoinSet::new();
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(open(&flood, client(server)?, &mut tasks));
    }
    let clients: Vec<Client> = (0..CONNECTIONS).map(|_| client(server)).collect::<Result<_>>()?;
    let (mut pace, mut begun, mut turn) = (interval(TICK), Due::default(), 0);
    for tick in 1..=seconds * TICKS {
        pace.tick().await;
        let due = Due::by(tick, per_second);
        for at in begun.streamed..due.streamed {
            flood.offer(&streams[at as usize % STREAMS]);
        }
        for at in 0..(due.calls - begun.calls) + (due.batches - begun.batches) {
            let size = if at < due.batches - begun.batches { BATCH } else { 1 };
            turn += 1;
            flood.begin(&clients[turn % CONNECTIONS], size, &mut tasks);
        }
        begun = due;
        while let Some(ended) = tasks.try_join_next() {
            ended?;
        }
    }
    drop(streams);
    let rest = async {
        while let Some(ended) = tasks.join_next().await {
            ended?;
        }
        anyhow::Ok(())
    };
    if timeout(ANSWER_LIMIT, rest).await.is_err() {
        tally.failed(|| "calls were not answered within two minutes".to_owned());
    }
    Ok(tally)
}

/// A stream: where to put requests, and how many fit.
struct Stream {
    requests: mpsc::Sender<pb::PublishEventStreamRequest>,
    room: Arc<Semaphore>,
}

fn open(flood: &Arc<Flood>, client: Client, tasks: &mut JoinSet<()>) -> Stream {
    let (sender, requests) = mpsc::channel(UNACKED);
    let room = Arc::new(Semaphore::new(UNACKED));
    let (flood, room_) = (Arc::clone(flood), Arc::clone(&room));
    tasks.spawn(async move {
        if let Err(status) = flood.stream(client, ReceiverStream::new(requests), &room_).await {
            flood.tally.failed(|| format!("a stream broke off: {}: {}", status.code(), status.message()));
        }
    });
    Stream { requests: sender, room }
}

impl Flood {
    fn ledger(&self) -> &Ledger {
        &self.publisher.ledger
    }

    /// The next events, as sent now.
    fn take(&self, count: u64) -> std::ops::Range<u64> {
        let first = self.next.fetch_add(count, Relaxed);
        let numbers = first..first + count;
        let now = self.publisher.clock.now();
        numbers.clone().for_each(|number| self.ledger().sent(number, now));
        numbers
    }

    /// Puts an event on a stream if there is room.
    fn offer(&self, stream: &Stream) {
        match (stream.room.try_acquire(), stream.requests.try_reserve()) {
            (Ok(room), Ok(place)) => {
                room.forget();
                let number = self.take(1).start;
                let event = Some(self.publisher.event(number));
                place.send(pb::PublishEventStreamRequest { sequence: number + 1, event });
            }
            (Ok(_) | Err(_), _) => _ = self.tally.held_back.fetch_add(1, Relaxed),
        }
    }

    async fn stream(
        &self,
        mut client: Client,
        requests: ReceiverStream<pb::PublishEventStreamRequest>,
        room: &Semaphore,
    ) -> Result<(), Status> {
        let mut responses = client.publish_event_stream(requests).await?.into_inner();
        while let Some(response) = responses.message().await? {
            room.add_permits(response.acks.len());
            for ack in response.acks {
                self.answered(ack.sequence - 1, ack.result);
            }
        }
        Ok(())
    }

    /// Begins a call for so many events unless too many are under way.
    fn begin(self: &Arc<Self>, client: &Client, size: u64, tasks: &mut JoinSet<()>) {
        let Ok(room) = Arc::clone(&self.calls).try_acquire_owned() else {
            self.tally.held_back.fetch_add(size, Relaxed);
            return;
        };
        let (flood, client, numbers) = (Arc::clone(self), client.clone(), self.take(size));
        tasks.spawn(async move {
            let _room = room;
            if let Err(status) = flood.call(client, numbers.clone()).await {
                flood.refused(numbers, &status);
            }
        });
    }

    async fn call(&self, mut client: Client, numbers: std::ops::Range<u64>) -> Result<(), Status> {
        if numbers.end - numbers.start == 1 {
            let event = Some(self.publisher.event(numbers.start));
            let request = pb::PublishEventRequest { event, include_deliveries: false };
            client.publish_event(request).await?;
            self.ledger().acked(numbers.start, self.publisher.clock.now());
            return Ok(());
        }
        let events = numbers.clone().map(|number| self.publisher.event(number)).collect();
        let request = pb::BatchPublishEventsRequest { events, atomic: false };
        let results = client.batch_publish_events(request).await?.into_inner().results;
        for (number, result) in numbers.zip(results) {
            self.answered(number, Some(result));
        }
        Ok(())
    }

    /// One event of several was answered.
    fn answered(&self, number: u64, result: Option<pb::PublishEventResult>) {
        let now = self.publisher.clock.now();
        match result.map(|result| result.error) {
            Some(None) => self.ledger().acked(number, now),
            Some(Some(error)) if error.code == Code::ResourceExhausted as i32 => {
                self.tally.unadvised.fetch_add(u64::from(error.retry_delay.is_none()), Relaxed);
                self.ledger().refused(number, now);
            }
            Some(Some(error)) => self.tally.failed(|| error.message),
            None => self.tally.failed(|| "an event was answered without a result".to_owned()),
        }
    }

    /// A whole call was not accepted.
    fn refused(&self, numbers: std::ops::Range<u64>, status: &Status) {
        if status.code() != Code::ResourceExhausted {
            self.tally.failed(|| format!("a call failed: {}: {}", status.code(), status.message()));
            return;
        }
        if status.get_details_retry_info().and_then(|info| info.retry_delay).is_none() {
            self.tally.unadvised.fetch_add(numbers.end - numbers.start, Relaxed);
        }
        let now = self.publisher.clock.now();
        numbers.for_each(|number| self.ledger().refused(number, now));
    }
}
