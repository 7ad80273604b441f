//! What breaks the rules of HTTP/2 or gRPC is told off or hung up on, at little cost.
//!
//! It is written by hand, frame by frame, as no library would send it.

use std::{io::Write as _, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Version};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::support::{
    Server, event,
    frames::{
        self, ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM,
        SETTINGS, call, connect_from, frame, message, opening, until_hung_up,
    },
};

const PUBLISH: &str = "/hookwire.v1.EventService/PublishEvent";
/// Much longer than a server takes to hang up on somebody.
const LONG: Duration = Duration::from_secs(30);

/// Error codes of GOAWAY.
const NO_ERROR: u32 = 0;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A gRPC call with a body as it is given, by a client that does not look at it. What it
/// ended with: the status, by number.
async fn grpc(port: u16, encoding: &'static str, body: Bytes) -> (String, String) {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connect");
    let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.expect("handshake");
    tokio::spawn(connection);
    let request = Request::post(format!("http://localhost{PUBLISH}"))
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("grpc-encoding", encoding)
        .body(Full::new(body))
        .expect("a request");
    let (head, body) = sender.send_request(request).await.expect("an answer").into_parts();
    let trailers = match head.headers.contains_key("grpc-status") {
        true => head.headers,
        false => body.collect().await.expect("the body").trailers().cloned().unwrap_or_default(),
    };
    let text = |trailers: &HeaderMap, name: &str| {
        trailers.get(name).map_or_else(String::new, |it| it.to_str().expect("text").to_owned())
    };
    (text(&trailers, "grpc-status"), text(&trailers, "grpc-message"))
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_lie_or_burst_are_refused_before_they_are_held() {
    let server = Server::start().await;
    let before = server.peak_memory();
    let refused = async |encoding, body: Vec<u8>| grpc(server.port, encoding, body.into()).await;
    let too_large = ("3".to_owned(), "the%20request%20message%20is%20over%2016842752%20bytes".to_owned());

    // A message of a gigabyte, of which the length is all that comes.
    assert_eq!(refused("identity", vec![0, 0x40, 0, 0, 0]).await, too_large);
    // 32 MiB that do come.
    assert_eq!(refused("identity", message(&vec![b'x'; 32 << 20])).await, too_large);
    // No protobuf: a field that ends before its length.
    let (code, _) = refused("identity", message(b"\x0a\xff\x01")).await;
    assert_ne!(code, "0");
    // Zeros in a thousandth of their bytes, 16 times at once: more than may be, as many as may
    // be, and more than the end says.
    let packed = |mebibytes: usize| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        (0..mebibytes).for_each(|_| gzip.write_all(&vec![0; 1 << 20]).expect("memory"));
        gzip.finish().expect("memory")
    };
    let mut lie = packed(64);
    let end = lie.len() - 4;
    lie[end..].copy_from_slice(&1000_u32.to_le_bytes());
    for (what, bomb, is_told_so) in
        [("large", packed(256), true), ("full", packed(16), false), ("lie", lie, false)]
    {
        let mut bomb = message(&bomb);
        bomb[0] = 1;
        assert!(bomb.len() < 512 << 10, "{}", bomb.len());
        let mut bombs = JoinSet::new();
        for _ in 0..16 {
            let (port, bomb) = (server.port, Bytes::from(bomb.clone()));
            bombs.spawn(async move { grpc(port, "gzip", bomb).await });
        }
        for answer in bombs.join_all().await {
            assert!(answer.0 != "0" && (!is_told_so || answer == too_large), "{what}: {answer:?}");
        }
    }
    let grown = server.peak_memory() - before;
    println!("hostile: {} MiB more for 48 bombs", grown >> 20);
    // What all large messages may have together, the buffers that some are decoded from, and
    // what the allocator keeps.
    assert!(grown < (68 + 64 + 68) << 20, "{grown} bytes more");
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_against_the_rules_end_their_connection() {
    let server = Server::start().await;
    let hung_up = async |first: Vec<u8>, more: Option<Vec<u8>>| {
        let stream = connect_from(1, server.port).await.expect("connect");
        until_hung_up(stream, first, move || more.clone(), LONG).await
    };
    let opened = |frames: &[Vec<u8>]| [&[opening(&[])], frames].concat().concat();

    let mut preface = PREFACE.to_vec();
    preface[20] = b'!';
    assert_eq!(hung_up(preface, None).await, None, "no HTTP/2");
    let block = call(PUBLISH);
    for (what, broken) in [
        ("settings of a length that none have", frame(SETTINGS, 0, 0, &[0; 5])),
        ("a frame larger than allowed", frame(DATA, 0, 1, &vec![0; 1 << 20])),
        ("data of no stream", frame(DATA, 0, 0, &[0; 4])),
        ("a call on no stream", frame(HEADERS, END_HEADERS, 0, &block)),
        ("a reset of no stream", frame(RST_STREAM, 0, 0, &[0; 4])),
        ("a reset of a stream that never was", frame(RST_STREAM, 0, 77, &[0; 4])),
        ("a call on the server's own stream", frame(HEADERS, END_HEADERS, 2, &block)),
        ("headers that are none", frame(HEADERS, END_HEADERS, 1, &[0xff; 100])),
    ] {
        let told = hung_up(opened(&[broken]), None).await;
        assert!(told.is_some_and(|code| code != NO_ERROR), "{what}: {told:?}");
    }
    // Headers that never end.
    let begun = opened(&[frame(HEADERS, 0, 1, &call(PUBLISH))]);
    let mut block = Vec::new();
    frames::header(&mut block, "x-filler", &[b'x'; 100]);
    let told = hung_up(begun, Some(frame(CONTINUATION, 0, 1, &block.repeat(50)))).await;
    assert!(told.is_some_and(|code| code != NO_ERROR), "{told:?}");
    // 10,000 calls, each taken back at once.
    let rapid = (0..10_000_u32).flat_map(|number| {
        let stream = 2 * number + 1;
        let opened = frame(HEADERS, END_HEADERS, stream, &call(PUBLISH));
        [opened, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())]
    });
    let rapid = opened(&rapid.collect::<Vec<_>>());
    assert_eq!(hung_up(rapid, None).await, Some(ENHANCE_YOUR_CALM));
    server.api().publish(event("still.here", "{}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_large_is_refused_in_both_versions() {
    /// As HTTP/2 compresses it: an indexed name, and three digits in Huffman's code.
    const STATUS_431: [u8; 5] = [0x48, 0x83, 0x69, 0x90, 0xff];
    let server = Server::start().await;
    // HTTP/1: 431, and the end.
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).await.expect("connect");
    let head =
        format!("GET /health HTTP/1.1\r\nhost: localhost\r\nx-filler: {}\r\n\r\n", "x".repeat(20 << 10));
    stream.write_all(head.as_bytes()).await.expect("taken");
    let mut answer = Vec::new();
    // It may reset the connection, as it does not read the rest.
    let _ = timeout(LONG, stream.read_to_end(&mut answer)).await.expect("an end");
    assert!(answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    // HTTP/2: an answer as well, and the connection goes on.
    let mut block = call(PUBLISH);
    let mut filler = Vec::new();
    frames::header(&mut filler, "x-filler", &[b'x'; 100]);
    block.extend(filler.repeat(200));
    let (first, rest) = block.split_at(12 << 10);
    let frames = [
        opening(&[]),
        frame(HEADERS, END_STREAM, 1, first),
        frame(CONTINUATION, END_HEADERS, 1, rest),
        frame(PING, 0, 0, &[7; 8]),
    ];
    let stream = connect_from(1, server.port).await.expect("connect");
    let (mut incoming, mut outgoing) = stream.into_split();
    outgoing.write_all(&frames.concat()).await.expect("taken");
    let (mut answered, mut alive) = (false, false);
    let both = timeout(LONG, async {
        while !(answered && alive) {
            let (kind, flags, payload) = frames::read_frame(&mut incoming).await.expect("it goes on");
            assert_ne!(kind, GOAWAY, "{payload:?}");
            answered |= kind == HEADERS && flags & END_STREAM != 0 && payload == STATUS_431;
            alive |= kind == PING && flags & ACK != 0;
        }
    });
    both.await.expect("431, and the answer to the ping");
}
