//! `PublishEventStream`: the way in for a steady flow.
//!
//! What has arrived is taken as one chunk and published as one, and several chunks
//! are on their way at once; acknowledgements come back in the order of the
//! requests. All of it happens while the response is polled, in one task: when the
//! client does not take acknowledgements nothing more is read, and HTTP/2 slows it
//! down.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{
    FutureExt as _, Stream, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream, Fuse, FuturesOrdered},
};
use prost::Message;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Sleep, sleep},
};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Status, Streaming};

use super::{
    convert::{Root, events::result},
    events::intake,
    pb,
    status::{self, Caller},
};
use crate::{
    app::{App, Error, Principal},
    domain::{NewEvent, Rule},
    store::Published,
};

/// Requests taken together at most.
const CHUNK_MAX: usize = 128;
/// Chunks on their way to the store at most.
const CHUNKS_MAX: usize = 16;
/// Events unacknowledged at most.
const UNACKED_MAX: usize = 1000;
/// How long a client may still send after it was told that the server is to go.
const LEAVE_AFTER: Duration = Duration::from_secs(1);

type Request = Result<pb::PublishEventStreamRequest, Status>;
type Item = Result<pb::PublishEventStreamResponse, Status>;

/// The responses to a stream of requests.
pub(super) fn serve(
    app: Arc<App>,
    requests: Streaming<pb::PublishEventStreamRequest>,
    (caller, who): (Caller, Principal),
    permit: OwnedSemaphorePermit,
) -> BoxStream<'static, Item> {
    let publisher = Publisher {
        draining: Box::pin(app.draining().clone().cancelled_owned()),
        app,
        caller,
        who,
        requests: requests.fuse(),
        in_flight: FuturesOrdered::new(),
        unacked: 0,
        unacked_bytes: 0,
        last_sequence: None,
        leaving: None,
        end: None,
        _permit: permit,
    };
    stream::unfold(Some(publisher), async |publisher| {
        let mut publisher = publisher?;
        let item = publisher.next().await?;
        let goes_on = item.is_ok();
        Some((item, goes_on.then_some(publisher)))
    })
    .boxed()
}

/// One stream.
struct Publisher {
    app: Arc<App>,
    caller: Caller,
    who: Principal,
    requests: Fuse<Streaming<pb::PublishEventStreamRequest>>,
    in_flight: FuturesOrdered<BoxFuture<'static, Done>>,
    unacked: usize,
    unacked_bytes: usize,
    last_sequence: Option<u64>,
    draining: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The client was told to go; runs out when it has had its time.
    leaving: Option<Pin<Box<Sleep>>>,
    /// Nothing more is read; how the stream ends once all is acknowledged.
    end: Option<Result<(), Status>>,
    _permit: OwnedSemaphorePermit,
}

/// Requests on their way to the store.
struct Chunk {
    sequences: Vec<u64>,
    events: Vec<Result<NewEvent, Error>>,
    bytes: usize,
}

/// What became of a chunk.
struct Done {
    sequences: Vec<u64>,
    outcomes: Result<Vec<Result<Published, Error>>, Error>,
    bytes: usize,
}

/// What happens next on a stream.
enum Turn {
    Done(Done),
    Requests(Vec<Request>),
    /// The client has sent all it wanted to.
    HalfClosed,
    Drain,
    TimeUp,
    Over,
}

impl Publisher {
    async fn next(&mut self) -> Option<Item> {
        loop {
            match self.turn().await {
                Turn::Done(done) => return Some(self.acknowledge(done)),
                Turn::Requests(requests) => self.take(requests),
                Turn::HalfClosed => self.end = Some(Ok(())),
                Turn::Drain => {
                    self.leaving = Some(Box::pin(sleep(LEAVE_AFTER)));
                    return Some(Ok(pb::PublishEventStreamResponse { acks: Vec::new(), go_away: true }));
                }
                Turn::TimeUp => self.end = Some(Err(self.caller.refuse(Error::draining()))),
                Turn::Over => return self.end.take().and_then(Result::err).map(Err),
            }
        }
    }

    async fn turn(&mut self) -> Turn {
        let reading = self.end.is_none();
        let bytes = self.app.limits().batch_bytes_max.saturating_sub(self.unacked_bytes);
        let room = self.unacked + CHUNK_MAX <= UNACKED_MAX && bytes > 0 && self.in_flight.len() < CHUNKS_MAX;
        tokio::select! {
            biased;
            Some(done) = self.in_flight.next() => Turn::Done(done),
            () = &mut self.draining, if reading && self.leaving.is_none() => Turn::Drain,
            () = time_up(&mut self.leaving), if reading => Turn::TimeUp,
            requests = arrived(&mut self.requests, bytes), if reading && room => {
                if requests.is_empty() { Turn::HalfClosed } else { Turn::Requests(requests) }
            }
            // Only when nothing is on its way and nothing is read any more.
            else => Turn::Over,
        }
    }

    /// Sends off what has arrived.
    fn take(&mut self, requests: Vec<Request>) {
        let intake = intake(&self.app, &self.who);
        let mut chunk = Chunk {
            sequences: Vec::with_capacity(requests.len()),
            events: Vec::with_capacity(requests.len()),
            bytes: 0,
        };
        for request in requests {
            let bytes = weight(&request);
            let pb::PublishEventStreamRequest { sequence, event } = match request {
                Ok(request) => request,
                Err(status) => {
                    self.end = Some(Err(status::decoding(status, &self.caller)));
                    break;
                }
            };
            if self.last_sequence.is_some_and(|last| sequence <= last) {
                let error = Error::invalid("sequence", Rule::OutOfRange, "must be above the one before");
                self.end = Some(Err(self.caller.refuse(error)));
                break;
            }
            self.last_sequence = Some(sequence);
            chunk.bytes += bytes;
            chunk.sequences.push(sequence);
            chunk.events.push(intake.required(Root::Field("event"), "event", event));
        }
        if chunk.sequences.is_empty() {
            return;
        }
        self.unacked += chunk.sequences.len();
        self.unacked_bytes += chunk.bytes;
        self.in_flight.push_back(publish(Arc::clone(&self.app), chunk).boxed());
    }

    /// One response for all that is done by now.
    fn acknowledge(&mut self, done: Done) -> Item {
        let mut acks = Vec::with_capacity(done.sequences.len());
        let mut next = Some(done);
        while let Some(done) = next {
            self.unacked -= done.sequences.len();
            self.unacked_bytes -= done.bytes;
            match done.outcomes {
                Ok(outcomes) => acks.extend(done.sequences.into_iter().zip(outcomes).map(acknowledgement)),
                // The store is out of reach, so what follows has no better chance.
                Err(error) if acks.is_empty() => return Err(self.caller.refuse(error)),
                Err(error) => {
                    self.end = Some(Err(self.caller.refuse(error)));
                    self.in_flight.clear();
                    break;
                }
            }
            next = self.in_flight.next().now_or_never().flatten();
        }
        Ok(pb::PublishEventStreamResponse { acks, go_away: false })
    }
}

/// Waits for a request, and takes along what has arrived besides: while each lies
/// within the room for bytes, so at most one reaches beyond it. Empty: there will be
/// no more. Nothing is lost when this is dropped while it waits, as it waits only
/// for the first.
async fn arrived(requests: &mut (impl Stream<Item = Request> + Unpin), room: usize) -> Vec<Request> {
    let (mut taken, mut bytes) = (Vec::new(), 0);
    let mut next = requests.next().await;
    while let Some(request) = next {
        bytes += weight(&request);
        // What follows a failure is not looked at.
        let more = request.is_ok() && bytes < room && taken.len() + 1 < CHUNK_MAX;
        taken.push(request);
        next = if more { requests.next().now_or_never().flatten() } else { None };
    }
    taken
}

/// Bytes of a request, of all its fields.
fn weight(request: &Request) -> usize {
    request.as_ref().map_or(0, Message::encoded_len)
}

async fn publish(app: Arc<App>, chunk: Chunk) -> Done {
    let Chunk { sequences, events, bytes } = chunk;
    Done { sequences, outcomes: app.publish_chunk(events).await, bytes }
}

fn acknowledgement((sequence, outcome): (u64, Result<Published, Error>)) -> pb::PublishEventAck {
    pb::PublishEventAck { sequence, result: Some(result(outcome)) }
}

/// The event of one request, from its bytes: what a stream makes of them. For fuzzers,
/// which have no server; no other build has it.
#[cfg(fuzzing)]
pub fn taken(
    bytes: &[u8],
    now: crate::domain::Timestamp,
    payload_max: usize,
) -> Result<Result<NewEvent, Error>, prost::DecodeError> {
    let pb::PublishEventStreamRequest { sequence: _, event } = Message::decode(bytes)?;
    let intake =
        super::convert::events::Intake { tenant: crate::domain::TenantKey::DEFAULT, now, payload_max };
    Ok(intake.required(Root::Field("event"), "event", event))
}

async fn time_up(leaving: &mut Option<Pin<Box<Sleep>>>) {
    match leaving {
        Some(sleep) => sleep.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(sequence: u64, bytes: usize) -> Request {
        let body = Some(pb::payload::Body::Data(vec![7; bytes].into()));
        let payload = Some(pb::Payload { body, ..Default::default() });
        let event = Some(pb::Event { event_type: "a".to_owned(), payload, ..Default::default() });
        Ok(pb::PublishEventStreamRequest { sequence, event })
    }

    async fn counts(requests: Vec<Request>, room: usize) -> Vec<usize> {
        let mut requests = stream::iter(requests).fuse();
        let mut counts = Vec::new();
        loop {
            let count = arrived(&mut requests, room).await.len();
            if count == 0 {
                return counts;
            }
            counts.push(count);
        }
    }

    #[tokio::test]
    async fn what_is_taken_together_is_bounded_in_number_and_bytes() {
        let many = |count, bytes| (1..=count).map(|at| request(at, bytes)).collect();
        assert_eq!(counts(many(300, 10), 1 << 20).await, [128, 128, 44]);
        // One reaches beyond the limit, and none follows it.
        assert_eq!(counts(many(7, 1000), 2500).await, [3, 3, 1]);
        assert_eq!(counts(many(3, 5000), 2500).await, [1, 1, 1]);
        assert_eq!(counts(Vec::new(), 2500).await, [0; 0]);
    }

    #[tokio::test]
    async fn nothing_is_taken_after_a_failure() {
        let requests = vec![request(1, 1), Err(Status::internal("broken")), request(2, 1)];
        assert_eq!(counts(requests, 1000).await, [2, 1]);
    }

    #[tokio::test]
    async fn what_has_not_arrived_is_not_waited_for() {
        let first = stream::iter([request(1, 1), request(2, 1)]);
        let mut requests = first.chain(stream::pending());
        assert_eq!(arrived(&mut requests, 1000).await.len(), 2);
        assert!(arrived(&mut requests, 1000).now_or_never().is_none());
    }

    #[test]
    fn every_field_weighs() {
        let metadata = [("k".to_owned(), "v".repeat(1000))].into();
        let event = Some(pb::Event { metadata, ..Default::default() });
        assert!(weight(&Ok(pb::PublishEventStreamRequest { sequence: 1, event })) > 1000);
    }
}
