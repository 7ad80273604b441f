//! The way to an endpoint: names, addresses, TLS.

use std::{net::SocketAddr, time::Duration};

use rustls::pki_types::CertificateDer;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpSocket, TcpStream},
};

use super::{
    super::{Client, Config, Request, SetupError, connect::connect_any},
    peer::{OK, Peer, answer, client, client_with, fault, read_to_close, request, target},
    secure::{SelfSigned, config, pem, secure, self_signed, serve},
};
use crate::{
    clock::Clock,
    domain::{Cause, Micros, TlsOptions},
    entropy::Entropy,
};

/// An address nobody listens on.
async fn dead() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// An address that never answers, as long as the rest is kept: its backlog is
/// full, and the system drops what comes beyond.
async fn silent() -> (SocketAddr, (TcpListener, Vec<TcpStream>)) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
    {
        waiting.push(stream.unwrap());
    }
    (address, (listener, waiting))
}

#[tokio::test]
async fn a_refused_connection_is_said_to_be_refused() {
    let outcome = client().send(request(target(&format!("http://{}/", dead().await)))).await;
    assert_eq!((outcome.timings.connect, outcome.timings.first_byte), (None, None));
    let fault = fault(outcome);
    assert_eq!((fault.cause, &*fault.message), (Cause::Connect, "cannot connect: connection refused"));
}

#[tokio::test]
async fn a_connection_that_is_not_taken_up_is_a_connect_timeout() {
    let (address, _full) = silent().await;
    let limits = [(200, 20_000, "200ms"), (20_000, 200, "200ms"), (200, 200, "200ms")];
    for (connect_ms, all_ms, said) in limits {
        let request = Request {
            connect_timeout: Micros::from_millis(connect_ms),
            timeout: Micros::from_millis(all_ms),
            ..request(target(&format!("http://{address}/")))
        };
        let outcome = client().send(request).await;
        assert!(outcome.duration < Micros::from_secs(10));
        let fault = fault(outcome);
        assert_eq!(
            (fault.cause, fault.message),
            (Cause::ConnectTimeout, format!("not connected within {said}"))
        );
    }
}

#[tokio::test]
async fn a_name_is_resolved() {
    let peer = Peer::answering(OK).await;
    let url = format!("http://localhost:{}/", peer.address.port());
    let outcome = client().send(request(target(&url))).await;
    assert!(outcome.timings.dns.is_some());
    assert_eq!(answer(outcome).status, 200);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_a_dns_failure() {
    // Reserved for this purpose by RFC 6761, and refused by the resolver for its
    // form even without a network.
    let fault = fault(client().send(request(target("http://no..such..name.invalid/"))).await);
    assert_eq!(fault.cause, Cause::Dns, "{}", fault.message);
}

#[tokio::test]
async fn every_address_of_a_name_has_its_turn() {
    let peer = Peer::answering(OK).await;
    let (silent, _full) = silent().await;
    let addresses = [dead().await, silent, peer.address];
    let (_, remote) = connect_any(&addresses).await.unwrap();
    assert_eq!(remote, peer.address);
}

fn secure_request(peer: &Peer) -> Request {
    request(target(&format!("https://{}/", peer.address)))
}

#[tokio::test]
async fn tls_works_with_an_authority_of_our_own() {
    let (peer, authority) = secure("127.0.0.1").await;
    let client = client_with(Config { extra_roots: vec![authority], ..Config::default() });
    let first = client.send(secure_request(&peer)).await;
    assert!(first.timings.tls.is_some() && first.timings.connect.is_some());
    assert_eq!(answer(first).status, 200);
    let second = client.send(secure_request(&peer)).await;
    assert_eq!(second.timings.tls, None);
    assert_eq!((answer(second).status, peer.accepted()), (200, 1));
}

#[tokio::test]
async fn an_unknown_authority_and_another_name_are_tls_failures() {
    let (peer, _) = secure("127.0.0.1").await;
    let unknown = fault(client_with(Config::default()).send(secure_request(&peer)).await);
    assert_eq!(unknown.cause, Cause::Tls);
    assert_eq!(
        unknown.message,
        "the TLS handshake failed: its certificate was not issued by an authority that is trusted here"
    );

    let (peer, authority) = secure("other.example").await;
    let client = client_with(Config { extra_roots: vec![authority], ..Config::default() });
    let other = fault(client.send(secure_request(&peer)).await);
    assert_eq!(other.cause, Cause::Tls);
    assert_eq!(
        other.message,
        "the TLS handshake failed: its certificate is not for 127.0.0.1, only for other.example"
    );
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_a_tls_failure() {
    let plain = Peer::start(|mut stream, _| async move {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        read_to_close(&mut stream).await;
    })
    .await;
    let hangs_up = Peer::start(|_, _| async {}).await;
    for peer in [plain, hangs_up] {
        let fault = fault(client_with(Config::default()).send(secure_request(&peer)).await);
        assert_eq!(fault.cause, Cause::Tls, "{}", fault.message);
    }
}

#[tokio::test]
async fn a_handshake_that_stalls_is_a_connect_timeout() {
    let peer = Peer::start(|mut stream, _| async move { read_to_close(&mut stream).await }).await;
    let request = Request { connect_timeout: Micros::from_millis(200), ..secure_request(&peer) };
    let outcome = client_with(Config::default()).send(request).await;
    assert!(outcome.timings.connect.is_some());
    assert_eq!(fault(outcome).cause, Cause::ConnectTimeout);
}

#[test]
fn an_authority_that_cannot_be_used_is_refused_at_the_start() {
    let config = Config { extra_roots: vec![CertificateDer::from(vec![1, 2, 3])], ..Config::default() };
    assert!(matches!(
        Client::new(config, Clock::system(), Entropy::seeded(1)),
        Err(SetupError::Authority(_))
    ));
}

#[tokio::test]
async fn an_endpoint_s_own_authority_is_trusted_for_that_endpoint_alone() {
    let (peer, authority) = secure("127.0.0.1").await;
    let pem = pem("CERTIFICATE", &authority);
    let client = client_with(Config::default());
    let own = |ca_certificates: String| {
        client.tls(&TlsOptions { ca_certificates, ..TlsOptions::default() }).unwrap()
    };
    assert!(own(String::new()).is_none(), "nothing of its own");
    let trusting = || Request { tls: own(pem.clone()), ..secure_request(&peer) };
    assert_eq!(answer(client.send(trusting()).await).status, 200);
    assert_eq!((client.idle(), peer.accepted()), (1, 1));

    let other = fault(client.send(secure_request(&peer)).await);
    assert_eq!(other.cause, Cause::Tls, "the idle connection is not for others");
    assert_eq!((client.idle(), peer.accepted()), (1, 2));
    // The same options made anew are the same options.
    assert_eq!(answer(client.send(trusting()).await).status, 200);
    assert_eq!((client.idle(), peer.accepted()), (1, 2));
    assert_eq!(format!("{:?}", trusting().tls), "Some(Tls(***))");
}

/// As `openssl req -x509` makes one: it calls itself an authority.
#[tokio::test]
async fn a_self_signed_certificate_is_accepted_where_it_was_given_and_no_other() {
    let (first, other) = (self_signed("127.0.0.1", true), self_signed("127.0.0.1", true));
    let elsewhere = self_signed("other.example", true);
    let plain = self_signed("127.0.0.1", false);
    let client = client_with(Config::default());
    let send = async |shown: &SelfSigned, given: &str| {
        let (peer, _requests) = serve(config(shown.der.clone(), &shown.key, None)).await;
        let tls = client.tls(&TlsOptions { ca_certificates: given.to_owned(), ..TlsOptions::default() });
        client.send(Request { tls: tls.unwrap(), ..secure_request(&peer) }).await
    };
    assert_eq!(answer(send(&first, &first.pem()).await).status, 200);
    assert_eq!(answer(send(&plain, &plain.pem()).await).status, 200);
    // Beside others.
    assert_eq!(answer(send(&first, &format!("{}{}", other.pem(), first.pem())).await).status, 200);

    let refused = [
        // Another certificate, although it has the same name.
        (&other, &first, "authority"),
        (&plain, &first, "was not signed by the authority that it names"),
        // The given one, at another host.
        (&elsewhere, &elsewhere, "is not for 127.0.0.1, only for other.example"),
    ];
    for (shown, given, told) in refused {
        let fault = fault(send(shown, &given.pem()).await);
        assert_eq!(fault.cause, Cause::Tls);
        assert!(fault.message.contains(told), "{}", fault.message);
        assert!(!fault.message.contains("Other"), "{}", fault.message);
    }
    // `--egress-ca` accepts one in the same way.
    let (peer, _requests) = serve(config(first.der.clone(), &first.key, None)).await;
    let client = client_with(Config { extra_roots: vec![first.der.clone()], ..Config::default() });
    assert_eq!(answer(client.send(secure_request(&peer)).await).status, 200);
}

#[tokio::test]
async fn a_given_certificate_has_its_time() {
    let old = SelfSigned::at("127.0.0.1", true, (2001, 2002));
    let (peer, _requests) = serve(config(old.der.clone(), &old.key, None)).await;
    let client = client_with(Config::default());
    let tls = client.tls(&TlsOptions { ca_certificates: old.pem(), ..TlsOptions::default() }).unwrap();
    let fault = fault(client.send(Request { tls, ..secure_request(&peer) }).await);
    assert_eq!(fault.message, "the TLS handshake failed: its certificate has expired");
}
