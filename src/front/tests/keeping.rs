//! How long a connection is kept, by a clock that is stepped: over a pipe in memory
//! time goes on when nothing else does.

use http::Request;
use http_body_util::BodyExt as _;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{io::DuplexStream, sync::Semaphore, task::JoinHandle};

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
    connect_to(fake, Router::new(), age)
}

/// The same, with routes besides.
fn connect_to(fake: &Fake, extra: Router, age: Duration) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let app = app(fake.services(), extra, pb::DESCRIPTORS).unwrap();
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

/// Asks for an operation; the status of gRPC.
async fn call(sender: &mut Sender) -> Result<String, tokio::time::error::Elapsed> {
    let request = Request::post("http://x/hookwire.v1.OperationService/GetOperation")
        .header("content-type", "application/grpc")
        .body(b"\0\0\0\0\x06\x0a\x04op_1".as_slice().into())
        .unwrap();
    let answer = timeout(LONG, sender.send_request(request)).await?.unwrap();
    let trailers = answer.into_body().collect().await.unwrap().trailers().cloned().unwrap();
    Ok(trailers["grpc-status"].to_str().unwrap().to_owned())
}

#[tokio::test(start_paused = true)]
async fn open_streams_keep_no_call_waiting_and_have_a_limit_of_their_own() {
    let (mut sender, _end) = http2(connect(&Fake::default(), 30 * MINUTE), 1 << 16).await;
    let mut watches = Vec::new();
    for _ in 0..limits::STREAMS_MAX {
        watches.push(timeout(LONG, sender.send_request(watch())).await.expect("it is opened").unwrap());
    }
    assert_eq!(call(&mut sender).await.expect("a call beside the watches is answered"), "0");

    let refused = sender.send_request(watch()).await.unwrap();
    assert_eq!(refused.headers()["grpc-status"], "8", "RESOURCE_EXHAUSTED");
    drop(watches.pop());
    // The end of a stream is a frame that the server has to see first.
    while sender.send_request(watch()).await.unwrap().headers().contains_key("grpc-status") {}
    assert_eq!(call(&mut sender).await.expect("answered, too"), "0");
}

#[tokio::test(start_paused = true)]
async fn calls_beyond_the_limit_wait_for_an_answer_to_another() {
    let (entered, leave) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let held = {
        let (entered, leave) = (entered.clone(), leave.clone());
        axum::routing::get(move || {
            let (entered, leave) = (entered.clone(), leave.clone());
            async move {
                entered.add_permits(1);
                leave.acquire().await.unwrap().forget();
            }
        })
    };
    let extra = Router::new().route("/held", held);
    let (sender, _end) = http2(connect_to(&Fake::default(), extra, 30 * MINUTE), 1 << 16).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..limits::CALLS_MAX + 1 {
        let mut sender = sender.clone();
        let request = Request::get("http://x/held").body(b"".as_slice().into()).unwrap();
        calls.spawn(async move { sender.send_request(request).await.unwrap().status() });
    }
    entered.acquire_many(limits::CALLS_MAX as u32).await.unwrap().forget();
    assert!(timeout(LONG, entered.acquire()).await.is_err(), "one more is not begun");
    leave.add_permits(1);
    assert_eq!(calls.join_next().await.unwrap().unwrap(), 200);
    entered.acquire().await.unwrap().forget();
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
