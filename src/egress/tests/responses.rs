//! What comes back, and what is made of it.

use http::{HeaderName, HeaderValue, header};
use tokio::{io::AsyncWriteExt as _, sync::mpsc};

use super::peer::{OK, Peer, answer, client, fault, read_request};
use crate::domain::{Cause, Micros};

#[tokio::test]
async fn a_request_arrives_as_it_was_made() {
    let (seen, mut requests) = mpsc::unbounded_channel();
    let peer = Peer::start(move |mut stream, _| {
        let seen = seen.clone();
        async move {
            seen.send(read_request(&mut stream).await.unwrap()).unwrap();
            stream.write_all(OK).await.unwrap();
        }
    })
    .await;
    let mut request = peer.request();
    for (name, value) in
        [("webhook-id", "dlv_1"), ("x-own", "b"), ("host", "evil"), ("accept-encoding", "gzip")]
    {
        request.headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    request.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    request.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("3"));

    let outcome = client().send(request).await;
    assert_eq!(outcome.result.unwrap().status, 200);
    let timings = outcome.timings;
    assert!(timings.connect.is_some() && timings.first_byte.is_some());
    assert_eq!((timings.dns, timings.tls), (None, None));
    assert!(outcome.duration >= timings.first_byte.unwrap());

    let request = requests.recv().await.unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut lines: Vec<_> = head.lines().collect();
    assert_eq!(lines.remove(0), "POST /hook?a=1 HTTP/1.1");
    let host = format!("host: {}", peer.address);
    let agent = concat!("user-agent: Hookwire/", env!("CARGO_PKG_VERSION"));
    assert_eq!(lines, [&host, agent, "content-length: 7", "webhook-id: dlv_1", "x-own: b"]);
    assert_eq!(body, "{\"n\":1}");
}

#[tokio::test]
async fn the_answer_is_recorded() {
    let peer = Peer::answering(
        &b"HTTP/1.1 429 Slow Down\r\nRetry-After: 17\r\nDate: Wed, 21 Jan 2026 12:00:00 GMT\r\nSet-Cookie: sid=secret\r\n\
           X-Odd: caf\xe9\r\nContent-Length: 4\r\n\r\n\0\xffab"[..],
    )
    .await;
    let answer = answer(client().send(peer.request()).await);
    assert_eq!(answer.status, 429);
    assert_eq!(answer.retry_after.as_deref(), Some("17"));
    assert_eq!(answer.date.as_deref(), Some("Wed, 21 Jan 2026 12:00:00 GMT"));
    let headers: Vec<_> = answer.response.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(
        headers,
        [
            ("retry-after", "17"),
            ("date", "Wed, 21 Jan 2026 12:00:00 GMT"),
            ("set-cookie", "***"),
            ("x-odd", "caf\u{fffd}"),
            ("content-length", "4"),
        ]
    );
    assert_eq!((&answer.response.body[..], answer.response.body_truncated), (&b"\0\xffab"[..], false));
    assert_eq!(answer.response.remote, Some(peer.address.to_string()));
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let other = Peer::answering(OK).await;
    let response =
        format!("HTTP/1.1 302 Found\r\nlocation: http://{}/\r\ncontent-length: 0\r\n\r\n", other.address);
    let peer = Peer::answering(response).await;
    assert_eq!(answer(client().send(peer.request()).await).status, 302);
    assert_eq!((peer.accepted(), other.accepted()), (1, 0));
}

#[tokio::test]
async fn bodies_of_every_framing_are_read() {
    let cases: [(&[u8], &[u8]); 5] = [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", b"ok"),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\nx-end: 1\r\n\r\n",
            b"ok",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\nok", b"ok"),
        (b"HTTP/1.0 200 OK\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ];
    for (response, expected) in cases {
        let peer = Peer::answering_once(response).await;
        let answer = answer(client().send(peer.request()).await);
        let text = String::from_utf8_lossy(response);
        assert_eq!((&answer.response.body[..], answer.response.body_truncated), (expected, false), "{text}");
    }
}

#[tokio::test]
async fn what_is_not_http_is_malformed() {
    let cases: [&[u8]; 7] = [
        b"hello there, this is not HTTP at all\r\n\r\n",
        b"HTTP/1.1 2xx OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx-null: a\0b\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    ];
    for response in cases {
        let peer = Peer::answering_once(response).await;
        let fault = fault(client().send(peer.request()).await);
        assert_eq!(fault.cause, Cause::MalformedResponse, "{response:?}: {}", fault.message);
    }
}

/// What senders in other languages read is read here, too, and the connection is used again.
#[tokio::test]
async fn odd_header_lines_do_not_spoil_an_answer() {
    let cases: [(&[u8], Option<&str>); 9] = [
        (b"x-odd: folded\r\n \t over lines", Some("folded over lines")),
        (b"x-odd:\r\n folded", Some("folded")),
        (b"x-odd : before the colon", Some("before the colon")),
        (b"x-odd\t: before the colon", Some("before the colon")),
        (b"x odd: in a name", None),
        (b" x-odd: before a name", None),
        (b"x-odd: del\x7f", None),
        (b"x-odd: control\x01", None),
        (b"no colon here", None),
    ];
    for (line, value) in cases {
        let response =
            [&b"HTTP/1.1 200 OK\r\nserver: x\r\n"[..], line, b"\r\ncontent-length: 2\r\n\r\nok"].concat();
        let peer = Peer::answering(response).await;
        let client = client();
        for _ in 0..2 {
            let answer = answer(client.send(peer.request()).await);
            let text = String::from_utf8_lossy(line);
            assert_eq!((answer.status, &answer.response.body[..]), (200, &b"ok"[..]), "{text}");
            let headers = &answer.response.headers;
            let odd = headers.iter().find(|(name, _)| name == "x-odd").map(|(_, value)| &**value);
            assert_eq!(odd, value, "{text}");
        }
        assert_eq!((peer.accepted(), client.idle()), (1, 1));
    }
}

#[tokio::test]
async fn a_body_has_one_length() {
    let cases: [&[u8]; 7] = [
        b"content-length: 2\r\ncontent-length: 3",
        b"content-length: 2, 3",
        b"content-length : 2\r\ncontent-length: 3",
        b"content-length: 2\r\n 3",
        b"content-length: +2",
        b"content-length:",
        b"content-length: 99999999999999999999",
    ];
    for lines in cases {
        let response = [&b"HTTP/1.1 200 OK\r\n"[..], lines, b"\r\n\r\nabc"].concat();
        let peer = Peer::answering(response).await;
        let client = client();
        let fault = fault(client.send(peer.request()).await);
        assert_eq!(fault.cause, Cause::MalformedResponse, "{}", String::from_utf8_lossy(lines));
        assert_eq!(client.idle(), 0);
    }
}

#[tokio::test]
async fn a_length_beside_chunks_is_not_believed_and_ends_the_connection() {
    let cases: [&[u8]; 3] = [
        b"content-length: 2\r\ntransfer-encoding: chunked",
        b"transfer-encoding : chunked\r\ncontent-length: 2",
        b"transfer-encoding:\r\n chunked\r\ncontent-length: 9",
    ];
    for lines in cases {
        let response = [&b"HTTP/1.1 200 OK\r\n"[..], lines, b"\r\n\r\n2\r\nok\r\n0\r\n\r\n"].concat();
        let peer = Peer::answering(response).await;
        let client = client();
        for number in 1..=2 {
            let answer = answer(client.send(peer.request()).await);
            assert_eq!((answer.status, &answer.response.body[..]), (200, &b"ok"[..]));
            assert_eq!((client.idle(), peer.accepted()), (0, number));
        }
    }
}

#[tokio::test]
async fn a_connection_closed_before_the_head_is_complete_is_reset() {
    for response in [&b""[..], b"HTTP/1.1 200 OK\r\ncontent-le"] {
        let peer = Peer::answering_once(response).await;
        let fault = fault(client().send(peer.request()).await);
        assert_eq!(fault.cause, Cause::ConnectionReset, "{}", fault.message);
        assert_eq!(peer.accepted(), 1, "sent again");
    }
}

#[tokio::test]
async fn a_body_cut_short_is_still_an_answer() {
    let cases: [&[u8]; 2] = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\npart",
        b"HTTP/1.1 503 No\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\nnonsense",
    ];
    for response in cases {
        let peer = Peer::answering_once(response).await;
        let client = client();
        let answer = answer(client.send(peer.request()).await);
        assert_eq!((&answer.response.body[..], answer.response.body_truncated), (&b"part"[..], true));
        assert_eq!(client.idle(), 0);
    }
}

#[tokio::test]
async fn an_early_answer_to_a_large_body_is_an_answer() {
    let peer = Peer::start(|mut stream, _| async move {
        // Answers after the head, and reads the rest afterwards.
        stream.readable().await.unwrap();
        stream.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        super::peer::read_to_close(&mut stream).await;
    })
    .await;
    let mut request = peer.request();
    request.body = vec![b'x'; 8 << 20].into();
    request.timeout = Micros::from_secs(10);
    assert_eq!(answer(client().send(request).await).status, 413);
}
