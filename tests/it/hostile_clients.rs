//! A client that keeps the rules notices nothing of those that do not.
//!
//! It publishes at a steady pace over connections that it keeps, beside thousands of
//! idle ones, requests that come byte by byte, watches that nobody reads, floods and
//! calls taken back. Its errors, its latency with and without them, its connections and
//! the server's memory are what is judged.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hookwire::grpc::pb::{self, event_service_client::EventServiceClient};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::AsyncWriteExt as _,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use crate::support::{
    Server, alone, event,
    frames::{
        self, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, call,
        connect_from, frame, message, opening,
    },
    now, percentile,
};

const PUBLISH: &str = "/hookwire.v1.EventService/PublishEvent";
const WATCH: &str = "/hookwire.v1.DeliveryService/WatchDeliveries";
/// The client that keeps the rules.
#[derive(Clone)]
struct Steady {
    channels: Arc<Vec<EventServiceClient<Channel>>>,
    /// Connections it made.
    connects: Arc<AtomicUsize>,
}

impl Steady {
    /// 100 calls a second.
    const PACE: Duration = Duration::from_millis(10);

    fn new(port: u16) -> Self {
        let connects = Arc::new(AtomicUsize::new(0));
        let channel = || {
            let connects = Arc::clone(&connects);
            let connect = tower::service_fn(move |_| {
                connects.fetch_add(1, Ordering::Relaxed);
                async move { connect_from(1, port).await.map(TokioIo::new) }
            });
            let endpoint = Endpoint::from_static("http://localhost");
            EventServiceClient::new(endpoint.connect_with_connector_lazy(connect))
        };
        let channels = (0..4).map(|_| channel()).collect();
        Self { channels: Arc::new(channels), connects }
    }

    /// Publishes one event over one of the connections.
    async fn publish(&self, number: usize) -> Result<(), Status> {
        let request = pb::PublishEventRequest { event: Some(event("steady", "{}")), ..Default::default() };
        self.channels[number % self.channels.len()].clone().publish_event(request).await.map(|_| ())
    }

    /// Publishes so many events, fewer if told to stop; how long each call took, and
    /// what failed.
    async fn measure(self, count: usize, stop: CancellationToken) -> (Vec<Duration>, Vec<Status>) {
        let mut ticks = tokio::time::interval(Self::PACE);
        let mut calls = JoinSet::new();
        for number in 0..count {
            if stop.run_until_cancelled(ticks.tick()).await.is_none() {
                break;
            }
            let steady = self.clone();
            calls.spawn(async move {
                let begun = now();
                steady.publish(number).await.map(|()| begun.elapsed())
            });
        }
        let (mut took, mut failed) = (Vec::new(), Vec::new());
        for result in calls.join_all().await {
            match result {
                Ok(time) => took.push(time),
                Err(status) => failed.push(status),
            }
        }
        (took, failed)
    }
}

/// Connections on which nothing is ever asked, as many as there may be up to `count`.
async fn idle(port: u16, count: usize) -> Vec<JoinHandle<()>> {
    let mut held = Vec::new();
    for number in 0..count {
        let last = u8::try_from(2 + number % 8).expect("small");
        let mut stream = connect_from(last, port).await.expect("a connection more");
        stream.write_all(&opening(&[])).await.expect("taken");
        held.push(tokio::spawn(frames::stay(stream)));
    }
    held
}

/// Watches of which nothing is read, a hundred to a connection: there is no room for a
/// byte of an answer.
async fn unread_watches(port: u16, count: u32) -> Vec<JoinHandle<()>> {
    let mut held = Vec::new();
    for _ in 0..count / 100 {
        let mut stream = connect_from(10, port).await.expect("connect");
        let mut bytes = opening(&[(4, 0)]);
        for number in 0..100 {
            bytes.extend(frame(HEADERS, END_HEADERS, 2 * number + 1, &call(WATCH)));
            bytes.extend(frame(DATA, END_STREAM, 2 * number + 1, &message(b"")));
        }
        stream.write_all(&bytes).await.expect("taken");
        held.push(tokio::spawn(frames::stay(stream)));
    }
    held
}

/// Requests that come byte by byte: half of them in the head, half in the body.
async fn loris(port: u16, count: usize) -> Vec<JoinHandle<()>> {
    let mut held = Vec::new();
    for number in 0..count {
        let mut stream = connect_from(11, port).await.expect("connect");
        let begun = match number % 2 {
            0 => "GET /health HTTP/1.1\r\nx-slow: ",
            _ => {
                "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                  content-length: 10000\r\n\r\n"
            }
        };
        stream.write_all(begun.as_bytes()).await.expect("taken");
        held.push(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(200));
            while stream.write_all(b"x").await.is_ok() {
                ticks.tick().await;
            }
        }));
    }
    held
}

/// Calls that publish and are taken back before their answer, 16 at a time: fewer than
/// would pass for an attack. On how many connections.
async fn cancelled(port: u16, count: u32) -> u32 {
    const AT_ONCE: u32 = 16;
    /// For the calls to be begun.
    const BEFORE: Duration = Duration::from_millis(1);
    let mut connections = 0;
    let mut connection: Option<(tokio::net::tcp::OwnedWriteHalf, JoinHandle<()>)> = None;
    let request = pb::PublishEventRequest { event: Some(event("cancelled", "{}")), ..Default::default() };
    let payload = message(&request.encode_to_vec());
    let mut stream = 1;
    for _ in 0..count / AT_ONCE {
        if connection.as_ref().is_none_or(|(_, reading)| reading.is_finished()) {
            let (mut incoming, mut outgoing) = connect_from(12, port).await.expect("connect").into_split();
            outgoing.write_all(&opening(&[])).await.expect("taken");
            let reading =
                tokio::spawn(async move { while frames::read_frame(&mut incoming).await.is_ok() {} });
            (connection, stream) = (Some((outgoing, reading)), 1);
            connections += 1;
        }
        let Some((outgoing, _)) = &mut connection else { continue };
        let (mut calls, mut resets) = (Vec::new(), Vec::new());
        for _ in 0..AT_ONCE {
            calls.extend(frame(HEADERS, END_HEADERS, stream, &call(PUBLISH)));
            calls.extend(frame(DATA, END_STREAM, stream, &payload));
            resets.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
            stream += 2;
        }
        // Hung up on: the next round connects again.
        let _ = outgoing.write_all(&calls).await;
        tokio::time::sleep(BEFORE).await;
        let _ = outgoing.write_all(&resets).await;
    }
    connections
}

/// Attacks that end when the server hangs up, or when it no longer reads.
async fn floods(port: u16) {
    let ping = frame(PING, 0, 0, &[7; 8]);
    let settings = frame(SETTINGS, 0, 0, &[]);
    let mut reset = Vec::new();
    for number in 0..10_000_u32 {
        reset.extend(frame(HEADERS, END_HEADERS, 2 * number + 1, &call(PUBLISH)));
        reset.extend(frame(RST_STREAM, 0, 2 * number + 1, &8_u32.to_be_bytes()));
    }
    let mut endless = frame(HEADERS, 0, 1, &call(PUBLISH));
    endless.extend(frame(CONTINUATION, 0, 1, &[0; 1000]).repeat(1000));
    for flood in [ping.repeat(50_000), settings.repeat(10_000), reset, endless, vec![b'?'; 1 << 20]] {
        let mut stream = connect_from(13, port).await.expect("connect");
        let all = async {
            stream.write_all(&opening(&[])).await?;
            // Nothing of the answers is read.
            stream.write_all(&flood).await
        };
        let _ = timeout(Duration::from_secs(2), all).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_keeps_the_rules_notices_nothing_of_those_that_do_not() {
    const IDLE: usize = 10_000;
    const WATCHES: u32 = 1_000;
    const CANCELLED: u32 = 100_000;
    /// What p99 may grow by besides: some 5,000 calls a second are begun and taken back
    /// on the two cores that this debug build, its hostile clients and whoever else is
    /// on the machine share, so a call waits for a core. The same as for endpoints that
    /// hang; a client held up by another's connection would wait for seconds.
    const NOISE: Duration = Duration::from_millis(250);
    /// What a server may have whatever happens: 256 MiB, and what is on its way to the
    /// store twice over.
    const MEMORY_MAX: u64 = (256 + 64) << 20;
    let _alone = alone().await;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("all open files");
    let open_files = usize::try_from(limit.maximum.unwrap_or(1 << 20)).expect("a number");
    let server = Server::build().env("LOG_LEVEL", "error").start().await;
    let port = server.port;
    let steady = Steady::new(port);

    for number in 0..100 {
        steady.publish(number).await.expect("nobody disturbs");
    }
    let (mut undisturbed, failed) = steady.clone().measure(500, CancellationToken::new()).await;
    assert!(failed.is_empty(), "{failed:?}");
    let memory_before = server.peak_memory();

    let stop = CancellationToken::new();
    let disturbed = tokio::spawn(steady.clone().measure(usize::MAX, stop.clone()));
    let idle_count = IDLE.min(open_files.saturating_sub(3_000));
    let idle = idle(port, idle_count).await;
    let watches = unread_watches(port, WATCHES).await;
    let loris = loris(port, 200).await;
    let cancelling = tokio::spawn(cancelled(port, CANCELLED));
    floods(port).await;
    let cancelled_on = cancelling.await.expect("all are cancelled");
    stop.cancel();
    let (mut disturbed, failed) = disturbed.await.expect("a measure");
    let alive = |held: &[JoinHandle<()>]| held.iter().filter(|task| !task.is_finished()).count();
    let (idle_left, watches_left, loris_left) = (alive(&idle), alive(&watches), alive(&loris));
    let memory = server.peak_memory();

    let (quiet, busy) = (percentile(&mut undisturbed, 0.99), percentile(&mut disturbed, 0.99));
    println!(
        "hostile: p99 {quiet:?} of {} undisturbed, {busy:?} of {} beside {idle_left} idle, {watches_left} \
         connections of unread watches, {loris_left} slow ones, {CANCELLED} calls cancelled on {cancelled_on}; peak memory {} and then {} MiB",
        undisturbed.len(),
        disturbed.len(),
        memory_before >> 20,
        memory >> 20,
    );
    assert!(failed.is_empty(), "{} calls failed: {:?}", failed.len(), failed.first());
    assert!(busy <= quiet * 2 + NOISE, "p99 went from {quiet:?} to {busy:?}");
    assert_eq!(idle_left, idle_count, "they were there all the time");
    assert!(memory < MEMORY_MAX, "{memory} bytes");

    for held in [idle, watches, loris].iter().flatten() {
        held.abort();
    }
    for number in 0..8 {
        steady.publish(number).await.expect("each connection works");
    }
    assert_eq!(steady.connects.load(Ordering::Relaxed), 4, "they are the connections of the beginning");
    server.api().publish(event("still.here", "{}")).await;
}
