//! How long a connection is kept, by a clock that is stepped: over a pipe in memory
//! time goes on when nothing else does.

use http::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{io::DuplexStream, task::JoinHandle};

use super::{
    super::{
        connection::{Attached, converse},
        limits,
    },
    *,
};

const MINUTE: Duration = Duration::from_secs(60);
const WATCH: &[u8] = b"\0\0\0\0\0";

/// The client's end of a connection that takes calls for so long.
fn connect(fake: &Fake, age: Duration) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let app = app(fake.services(), Router::new(), pb::DESCRIPTORS).unwrap();
    let app = door(app, Clock::system(), Entropy::seeded(1));
    let attached = Attached::new(app, "192.0.2.1:1".parse().unwrap(), None, Arc::default());
    let builder = Arc::new(limits::builder());
    tokio::spawn(converse(theirs, builder, attached, age, CancellationToken::new()));
    ours
}

type Sender = http2::SendRequest<http_body_util::Full<bytes::Bytes>>;

/// HTTP/2 over it, with so many bytes of room for an answer, and its end.
async fn http2(stream: DuplexStream, window: u32) -> (Sender, JoinHandle<hyper::Result<()>>) {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).initial_stream_window_size(window);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    (sender, tokio::spawn(connection))
}

fn watch() -> Request<http_body_util::Full<bytes::Bytes>> {
    Request::post("http://x/hookwire.v1.DeliveryService/WatchDeliveries")
        .header("content-type", "application/grpc")
        .body(WATCH.into())
        .unwrap()
}

/// The connection ends after this: at the next look, which is every minute.
async fn ends_after(time: Duration, end: impl Future) {
    let mut end = std::pin::pin!(end);
    assert!(timeout(time, end.as_mut()).await.is_err(), "not before {time:?}");
    assert!(timeout(MINUTE + Duration::from_secs(2), end).await.is_ok(), "soon after {time:?}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_after_five_minutes() {
    let (_sender, end) = http2(connect(&Fake::default(), 30 * MINUTE), 1 << 16).await;
    ends_after(5 * MINUTE - Duration::from_secs(1), end).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_us_keeps_its_connection() {
    let fake = Fake::default();
    let (mut sender, end) = http2(connect(&fake, 60 * MINUTE), 1 << 16).await;
    let answer = sender.send_request(watch()).await.unwrap();
    assert!(timeout(30 * MINUTE, end).await.is_err());
    assert!(!fake.dropped.is_cancelled());
    drop(answer);
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_client_takes_nothing_is_dropped_after_five_minutes() {
    let fake = Fake::default();
    let (mut sender, end) = http2(connect(&fake, 30 * MINUTE), 0).await;
    let _unread = sender.send_request(watch()).await.unwrap();
    ends_after(5 * MINUTE - Duration::from_secs(1), end).await;
    timeout(LONG, fake.dropped.cancelled()).await.expect("the watch ended, too");
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_takes_no_more_calls_and_lets_those_under_way_end() {
    let fake = Fake::default();
    let (mut sender, mut end) = http2(connect(&fake, 2 * MINUTE), 1 << 16).await;
    let answer = sender.send_request(watch()).await.unwrap();
    assert!(timeout(3 * MINUTE, &mut end).await.is_err(), "the watch goes on");
    assert!(!fake.dropped.is_cancelled());
    assert!(sender.send_request(watch()).await.is_err(), "the client was told to go elsewhere");
    drop(answer);
    timeout(MINUTE, end).await.expect("nothing is under way any more").unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_has_ten_seconds_to_say_which_protocol_it_speaks() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for sent in [&b""[..], b"P", &preface[..5], &preface[..23]] {
        let mut stream = connect(&Fake::default(), 30 * MINUTE);
        stream.write_all(sent).await.unwrap();
        let mut answer = Vec::new();
        let mut end = std::pin::pin!(stream.read_to_end(&mut answer));
        assert!(timeout(Duration::from_secs(9), end.as_mut()).await.is_err());
        timeout(Duration::from_secs(2), end).await.expect("closed").unwrap();
        assert!(answer.is_empty(), "{sent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn http_1_may_be_silent_for_75_seconds_within_a_head_and_between_two() {
    let whole = b"GET /v1/operations/op_1 HTTP/1.1\r\nhost: x\r\n\r\n";
    for sent in [&whole[..20], whole] {
        let mut stream = connect(&Fake::default(), 30 * MINUTE);
        stream.write_all(sent).await.unwrap();
        let mut answer = Vec::new();
        let mut end = std::pin::pin!(stream.read_to_end(&mut answer));
        assert!(timeout(Duration::from_secs(74), end.as_mut()).await.is_err());
        timeout(Duration::from_secs(2), end).await.expect("closed").unwrap();
        assert_eq!(answer.starts_with(b"HTTP/1.1 200"), sent.len() == whole.len());
    }
}
