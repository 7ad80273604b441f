//! A receiver may do what it likes: its attempts end in time, cost little, and delay
//! nobody else.
//!
//! Some forty receivers break every rule at once, with a second for each attempt, while a
//! healthy one is measured beside them and the server's memory is watched.

use std::time::Duration;

use hookwire::grpc::pb::{self, DeliveryErrorCause as Cause};
use tokio::io::AsyncWriteExt as _;

use crate::support::{
    Api, Authority, Claim, Hostile, Receiver, Server, alone, event, eventually, gzip_bomb, is_final,
    latencies, open_endpoint, percentile, request, silence, span,
};

/// What each attempt may take.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How much longer it may take than that: the promise.
const OVER: Duration = Duration::from_secs(1);
/// Deliveries for each of them, of two attempts each.
const EVENTS: usize = 12;
/// One event for all of them at a time, so that there is trouble as long as is measured.
const PACE: Duration = Duration::from_millis(150);
/// The healthy receiver is measured for two seconds.
const MEASURED: usize = 400;
/// What the server's memory may grow by at its peak. At most ten attempts are in flight for
/// each of them, with at most 64 KiB of head and 16 KiB of body each: 34 MiB; as much again
/// for TLS and all else.
const GROWTH_MAX: u64 = 64 << 20;

/// How every attempt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    Delivered,
    Failed(Cause),
}

struct Case {
    name: &'static str,
    receiver: Hostile,
    ends: Ends,
}

/// Those that answer with bytes and no more: name, bytes, whether they hang up, the end.
fn sayings() -> Vec<(&'static str, Vec<u8>, bool, Ends)> {
    use Ends::{Delivered, Failed};
    let malformed = Failed(Cause::MalformedResponse);
    let reset = Failed(Cause::ConnectionReset);
    let text = |text: &str| text.as_bytes().to_vec();
    let later =
        |value: &str| text(&format!("HTTP/1.1 503 No\r\nretry-after: {value}\r\ncontent-length: 0\r\n\r\n"));
    let ok = |rest: &str| text(&format!("HTTP/1.1 200 OK\r\n{rest}"));
    vec![
        ("gzip bomb", gzip_bomb(), false, Delivered),
        ("5,000 headers", ok(&format!("{}\r\n", "x: y\r\n".repeat(5_000))), false, malformed),
        ("one huge header", ok(&format!("x: {}\r\n\r\n", "y".repeat(1 << 20))), false, malformed),
        ("a chunk of no size", ok("transfer-encoding: chunked\r\n\r\nzz\r\n"), false, Delivered),
        (
            "a chunk of every size",
            ok("transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n"),
            false,
            Delivered,
        ),
        ("two lengths", ok("content-length: 1\r\ncontent-length: 2\r\n\r\nab"), false, malformed),
        ("a negative length", ok("content-length: -1\r\n\r\n"), false, malformed),
        ("a body cut short", ok("content-length: 10\r\n\r\nabc"), true, Delivered),
        ("more than was announced", ok("content-length: 1\r\n\r\nabcdef"), false, Delivered),
        ("a body that is never sent", ok("content-length: 1000000\r\n\r\n"), false, Delivered),
        ("nothing", Vec::new(), true, reset),
        ("half a head", ok("x: y\r\n"), true, reset),
        (
            "a redirect to itself",
            text("HTTP/1.1 302 Found\r\nlocation: /hook\r\ncontent-length: 0\r\n\r\n"),
            false,
            Failed(Cause::Redirect),
        ),
        ("retry after 1e300", later("1e300"), false, Failed(Cause::HttpServerError)),
        ("retry after -1", later("-1"), false, Failed(Cause::HttpServerError)),
        ("retry after garbage", later("\u{ff11}; soon"), false, Failed(Cause::HttpServerError)),
        (
            "retry after a day that is none",
            later("Thu, 31 Feb 2999 25:61:61 GMT"),
            false,
            Failed(Cause::HttpServerError),
        ),
        ("HTTP/0.9", text("<html>hello</html>"), true, malformed),
        ("HTTP/2", b"\0\0\0\x04\0\0\0\0\0\0\0\x06\x04\0\0\0\0\0\0".to_vec(), false, malformed),
        ("SSH", text("SSH-2.0-OpenSSH_9.2p1\r\n"), false, malformed),
        ("NUL in the head", b"HTTP/1.1 200 OK\r\nx\0y: z\r\n\r\n".to_vec(), false, malformed),
        ("status 42", text("HTTP/1.1 042 Answer\r\n\r\n"), false, malformed),
        ("204 with a body", text("HTTP/1.1 204 No\r\ncontent-length: 5\r\n\r\nhello"), false, Delivered),
        (
            "101",
            text("HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"),
            false,
            malformed,
        ),
        (
            "three hints and silence",
            text(&"HTTP/1.1 103 Hints\r\n\r\n".repeat(3)),
            false,
            Failed(Cause::ResponseTimeout),
        ),
    ]
}

async fn cases(authority: &Authority) -> Vec<Case> {
    use Ends::{Delivered, Failed};
    let mut cases = Vec::new();
    let mut add = |name, ends, receiver| cases.push(Case { name, receiver, ends });
    for (name, bytes, hangs_up, ends) in sayings() {
        add(name, ends, Hostile::saying(bytes, hangs_up).await);
    }
    let late = Failed(Cause::ResponseTimeout);
    add("a head byte by byte", late, Hostile::endless("HTTP/1.1 200 OK\r\nx: ", "y", true).await);
    add("a header at a time", late, Hostile::endless("HTTP/1.1 200 OK\r\n", "x: y\r\n", true).await);
    add("a body byte by byte", Delivered, Hostile::endless("HTTP/1.1 200 OK\r\n\r\n", "x", true).await);
    add("an endless body", Delivered, Hostile::endless("HTTP/1.1 200 OK\r\n\r\n", [b'x'; 4096], false).await);
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    add("endless chunks", Delivered, Hostile::endless(chunked, "1\r\nx\r\n", false).await);
    let trailers = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n";
    add("endless trailers", Delivered, Hostile::endless(trailers, "x: y\r\n", false).await);
    let malformed = Failed(Cause::MalformedResponse);
    add("a flood of 1xx", malformed, Hostile::endless("", "HTTP/1.1 100 Continue\r\n\r\n", false).await);
    add("no answer", late, Hostile::serving(silence).await);
    let deaf = |stream| async move {
        let _open = stream;
        std::future::pending::<()>().await;
    };
    add("never reads", late, Hostile::serving(deaf).await);
    let reset = Failed(Cause::ConnectionReset);
    let hard = |mut stream: tokio::net::TcpStream| async move {
        request(&mut stream).await;
        stream.set_zero_linger().expect("an open socket");
    };
    add("a reset", reset, Hostile::serving(hard).await);
    let half = |mut stream: tokio::net::TcpStream| async move {
        stream.shutdown().await.expect("an open socket");
        silence(stream).await;
    };
    add("closes its half", reset, Hostile::serving(half).await);

    let tls = Failed(Cause::Tls);
    for (name, ends, claim) in [
        ("a good certificate", Delivered, Claim::Good),
        ("an expired certificate", tls, Claim::Expired),
        ("the certificate of another", tls, Claim::OtherName),
        ("a certificate of its own", tls, Claim::SelfSigned),
    ] {
        add(name, ends, Hostile::with_certificate(authority.certificate(claim)).await);
    }
    add("TLS that stalls", Failed(Cause::ConnectTimeout), Hostile::without_tls(silence).await);
    let plain = |mut stream: tokio::net::TcpStream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        silence(stream).await;
    };
    add("no TLS", tls, Hostile::without_tls(plain).await);
    cases
}

fn impatient(url: &str, event_type: &str) -> pb::Endpoint {
    pb::Endpoint {
        event_types: vec![event_type.to_owned()],
        http: Some(pb::HttpOptions { timeout: span(1000), ..Default::default() }),
        retry_policy: Some(pb::RetryPolicy {
            max_attempts: 2,
            initial_delay: span(50),
            ..Default::default()
        }),
        circuit_breaker: Some(pb::CircuitBreaker { disabled: true, ..Default::default() }),
        ..open_endpoint(url)
    }
}

/// Every attempt of an endpoint, once its deliveries are final.
async fn attempts_of(api: &Api, name: &str, endpoint_id: &str) -> Vec<pb::Attempt> {
    let filter = pb::DeliveryFilter { endpoint_ids: vec![endpoint_id.to_owned()], ..Default::default() };
    let deliveries =
        eventually(Duration::from_secs(60), &format!("{name}: its deliveries are final"), async || {
            let all = api.all_deliveries(filter.clone()).await;
            let open = all.iter().filter(|it| !is_final(it.status())).count();
            if open == 0 { Ok(all) } else { Err(format!("{open} open: {:?}", all[0])) }
        })
        .await;
    assert_eq!(deliveries.len(), EVENTS);
    let mut attempts = Vec::new();
    for delivery in deliveries {
        attempts.extend(api.attempts(&delivery.id).await);
    }
    attempts
}

fn duration(attempt: &pb::Attempt) -> Duration {
    attempt.duration.expect("a duration").try_into().expect("a positive duration")
}

#[tokio::test(flavor = "multi_thread")]
async fn receivers_that_misbehave_cost_themselves_only() {
    let _alone = alone().await;
    let authority = Authority::new();
    let trusted = authority.file().display().to_string();
    let server = Server::build().env("LOG_LEVEL", "warn").env("HOOKWIRE_EGRESS_CA", trusted).start().await;
    let api = server.api();
    let healthy = Receiver::ok().await;
    let event_types = vec!["healthy.*".to_owned()];
    api.create_endpoint(pb::Endpoint { event_types, ..open_endpoint(healthy.at("/")) }).await;
    let mut undisturbed = latencies(&api, &healthy, 1, MEASURED).await;

    let cases = cases(&authority).await;
    assert!(cases.len() >= 24);
    let memory_before = server.peak_memory();
    let mut ids = Vec::new();
    for case in &cases {
        ids.push(api.create_endpoint(impatient(&case.receiver.url, "hostile")).await.id);
    }
    let trouble = async {
        let mut ticks = tokio::time::interval(PACE);
        for _ in 0..EVENTS {
            ticks.tick().await;
            api.publish(event("hostile", "{}")).await;
        }
    };
    let (mut disturbed, ()) = tokio::join!(latencies(&api, &healthy, 1, MEASURED), trouble);

    let mut worst = Duration::ZERO;
    let mut requests = 0;
    for (case, id) in cases.iter().zip(&ids) {
        let attempts = attempts_of(&api, case.name, id).await;
        let each = if case.ends == Ends::Delivered { 1 } else { 2 };
        let tries = if matches!(case.ends, Ends::Failed(Cause::Redirect)) { 1 } else { each };
        assert_eq!(attempts.len(), EVENTS * tries, "{}", case.name);
        assert!(case.receiver.connections() <= attempts.len(), "{}: more than was asked for", case.name);
        for attempt in &attempts {
            let ends = attempt.error.as_ref().map_or(Ends::Delivered, |error| Ends::Failed(error.cause()));
            assert_eq!(ends, case.ends, "{}: {attempt:?}", case.name);
            let took = duration(attempt);
            assert!(took <= TIMEOUT + OVER, "{} took {took:?}", case.name);
            let kept = attempt.response.as_ref().map_or(&[][..], |response| &response.body);
            assert!(kept.len() <= 16 * 1024, "{}: {} bytes kept", case.name, kept.len());
            assert!(case.name != "gzip bomb" || kept.starts_with(b"\x1f\x8b"), "inflated");
            worst = worst.max(took);
        }
        requests += attempts.len();
    }
    let growth = server.peak_memory() - memory_before;
    let (quiet, busy) = (percentile(&mut undisturbed, 0.99), percentile(&mut disturbed, 0.99));
    println!(
        "hostile receivers: {} of them, {requests} attempts, the longest {worst:?} of {TIMEOUT:?}; memory grew by {} KiB; \
         p99 of a healthy one {quiet:?} without them, {busy:?} beside them",
        cases.len(),
        growth >> 10,
    );
    assert!(growth <= GROWTH_MAX, "memory grew by {growth} bytes");
    assert!(busy <= quiet + Duration::from_millis(250), "p99 went from {quiet:?} to {busy:?}");
}

#[tokio::test]
async fn a_receiver_that_asks_for_centuries_is_given_a_day() {
    let server = Server::start().await;
    let api = server.api();
    for (number, wish) in ["Fri, 31 Dec 9999 23:59:59 GMT", "18446744073709551616"].into_iter().enumerate() {
        let answer = format!("HTTP/1.1 503 No\r\nretry-after: {wish}\r\ncontent-length: 0\r\n\r\n");
        let receiver = Hostile::saying(answer, false).await;
        let event_type = format!("hostile.{number}");
        api.create_endpoint(impatient(&receiver.url, &event_type)).await;
        let id = api.publish_to_one(event(&event_type, "{}")).await;
        let attempt = eventually(Duration::from_secs(10), "an attempt is made", async || {
            api.attempts(&id).await.pop().ok_or_else(|| "none".to_owned())
        })
        .await;
        assert_eq!(attempt.retry_delay.map(|delay| delay.seconds), Some(86_400), "{wish}");
    }
}
