//! The way through a proxy.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::TcpStream,
    sync::mpsc,
};

use super::{
    super::{Config, Policy, Proxy, vet},
    peer::{OK, Peer, answer, client_with, fault, read_request, request, target},
    secure::{Seen, mutual, secure},
};
use crate::domain::Cause;

/// What a proxy was asked for.
type Asked = mpsc::UnboundedReceiver<String>;

/// A proxy that leads to one peer whatever it is asked for, or refuses.
async fn http_proxy(peer: &Peer, answer: &'static str) -> (Peer, Asked) {
    let (seen, asked) = mpsc::unbounded_channel();
    let to = peer.address;
    let proxy = Peer::start(move |mut stream, _| {
        let seen = seen.clone();
        async move {
            seen.send(read_request(&mut stream).await.unwrap()).unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            if answer.contains(" 200 ") {
                let mut beyond = TcpStream::connect(to).await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut beyond).await;
            }
        }
    })
    .await;
    (proxy, asked)
}

fn through(proxy: &str) -> Config {
    Config { proxy: Some(Proxy::parse(proxy).unwrap()), ..Config::default() }
}

fn public() -> Policy {
    Policy { allow_http: true, ..Policy::default() }
}

#[tokio::test]
async fn a_name_goes_to_the_proxy_as_it_is() {
    let peer = Peer::answering(OK).await;
    let (proxy, mut asked) = http_proxy(&peer, "HTTP/1.1 200 Connected\r\n\r\n").await;
    let client = client_with(through(&format!("http://me:p%40ss@{}", proxy.address)));
    let target = vet("http://no.such.name.invalid:8080/hook", &public()).unwrap();
    for _ in 0..2 {
        let answer = answer(client.send(request(target.clone())).await);
        assert_eq!((answer.status, answer.response.remote), (200, None));
    }
    let request = asked.recv().await.unwrap();
    assert!(request.starts_with("CONNECT no.such.name.invalid:8080 HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("host: no.such.name.invalid:8080\r\n"), "{request}");
    assert!(request.contains("proxy-authorization: Basic bWU6cEBzcw==\r\n"), "{request}");
    // The tunnel is used again.
    assert_eq!((proxy.accepted(), peer.accepted()), (1, 1));
}

#[tokio::test]
async fn a_proxy_that_refuses_is_a_failed_connection() {
    let peer = Peer::answering(OK).await;
    for (said, told) in [
        ("HTTP/1.1 407 Who\r\n\r\n", "HTTP 407"),
        ("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", "HTTP 503"),
    ] {
        let (proxy, _asked) = http_proxy(&peer, said).await;
        let client = client_with(through(&format!("http://{}", proxy.address)));
        let fault = fault(client.send(request(vet("https://a.example/", &public()).unwrap())).await);
        assert_eq!(fault.cause, Cause::Connect);
        assert!(fault.message.ends_with(told), "{}", fault.message);
    }
    assert_eq!(peer.accepted(), 0);
}

#[tokio::test]
async fn tls_goes_through_a_tunnel_and_a_tunnel_through_tls() {
    let (peer, authority) = secure("a.example").await;
    let (proxy, mut asked) = http_proxy(&peer, "HTTP/1.1 200 Connected\r\n\r\n").await;
    let config = through(&format!("http://{}", proxy.address));
    let client = client_with(Config { extra_roots: vec![authority], ..config });
    let outcome = client.send(request(vet("https://a.example/", &public()).unwrap())).await;
    assert!(outcome.timings.tls.is_some());
    assert_eq!(answer(outcome).status, 200);
    assert!(asked.recv().await.unwrap().starts_with("CONNECT a.example:443 HTTP/1.1\r\n"));
    // The name on the certificate is that of the target, not of the proxy.
    let other = client.send(request(vet("https://b.example/", &public()).unwrap())).await;
    assert_eq!(fault(other).cause, Cause::Tls);

    // A proxy that answers whatever goes through it.
    let (proxy, authority) = secure("127.0.0.1").await;
    let config = through(&format!("https://{}", proxy.address));
    let client = client_with(Config { extra_roots: vec![authority], ..config.clone() });
    let target = vet("http://a.example/", &public()).unwrap();
    assert_eq!(answer(client.send(request(target.clone())).await).status, 200);
    assert_eq!(fault(client_with(config).send(request(target)).await).cause, Cause::Tls);
}

#[tokio::test]
async fn an_address_is_judged_here_although_a_proxy_is_there() {
    assert_eq!(vet("http://169.254.169.254/", &public()).unwrap_err().rule, "url.address");
}

/// A SOCKS proxy that leads to one peer whatever it is asked for. It demands the user `me` with
/// the password `pass`, and reports the kind and the text of each address.
async fn socks_proxy(peer: &Peer) -> (Peer, mpsc::UnboundedReceiver<(u8, Vec<u8>)>) {
    let (seen, asked) = mpsc::unbounded_channel();
    let to = peer.address;
    let proxy = Peer::start(move |mut stream, _| {
        let seen = seen.clone();
        async move {
            let mut hello = [0; 2];
            stream.read_exact(&mut hello).await.unwrap();
            let mut methods = vec![0; usize::from(hello[1])];
            stream.read_exact(&mut methods).await.unwrap();
            assert!(methods.contains(&2));
            stream.write_all(&[5, 2]).await.unwrap();
            let mut login = [0; 9];
            stream.read_exact(&mut login).await.unwrap();
            assert_eq!(&login, b"\x01\x02me\x04pass");
            stream.write_all(&[1, 0]).await.unwrap();
            let mut head = [0; 5];
            stream.read_exact(&mut head).await.unwrap();
            let rest = match head[3] {
                1 => 3,
                3 => usize::from(head[4]),
                _ => 15,
            };
            let mut place = vec![0; rest + 2];
            stream.read_exact(&mut place).await.unwrap();
            seen.send((head[3], place)).unwrap();
            stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
            let mut beyond = TcpStream::connect(to).await.unwrap();
            let _ = copy_bidirectional(&mut stream, &mut beyond).await;
        }
    })
    .await;
    (proxy, asked)
}

#[tokio::test]
async fn socks_is_given_names_and_addresses() {
    let peer = Peer::answering(OK).await;
    let (proxy, mut asked) = socks_proxy(&peer).await;
    let client = client_with(through(&format!("socks5://me:pass@{}", proxy.address)));
    for url in ["http://a.example:8080/", "http://[2606:4700::1111]/", "http://93.184.216.34/"] {
        assert_eq!(answer(client.send(request(vet(url, &public()).unwrap())).await).status, 200);
    }
    assert_eq!(asked.recv().await.unwrap(), (3, b"a.example\x1f\x90".to_vec()));
    assert_eq!(asked.recv().await.unwrap().0, 4);
    assert_eq!(asked.recv().await.unwrap(), (1, vec![184, 216, 34, 0, 80]));
}

/// An endpoint's own authority and client certificate are used on every way to it, and every way
/// carries the same bytes.
#[tokio::test]
async fn a_request_is_the_same_with_and_without_a_proxy() {
    let mut endpoint = mutual("127.0.0.1").await;
    let (connect, _asked) = http_proxy(&endpoint.peer, "HTTP/1.1 200 Connected\r\n\r\n").await;
    let (socks, _places) = socks_proxy(&endpoint.peer).await;
    let ways = [
        Config::default(),
        through(&format!("http://{}", connect.address)),
        through(&format!("socks5://me:pass@{}", socks.address)),
    ];
    let mut all: Vec<Seen> = Vec::new();
    for config in ways {
        let client = client_with(config);
        let url = format!("https://{}/hook", endpoint.peer.address);
        let mut sent = request(target(&url));
        sent.tls = client.tls(&endpoint.options).unwrap();
        assert_eq!(answer(client.send(sent).await).status, 200);
        all.push(endpoint.requests.recv().await.unwrap());

        // Without the options it is refused, whatever the way.
        let bare = fault(client.send(request(target(&url))).await);
        assert_eq!(bare.cause, Cause::Tls, "{}", bare.message);
    }
    let (certificates, text) = all[0].clone();
    assert_eq!(certificates, [endpoint.client]);
    assert!(text.starts_with("POST /hook HTTP/1.1\r\n"), "{text}");
    assert!(all.iter().all(|seen| *seen == all[0]), "{all:?}");
    assert_eq!((connect.accepted(), socks.accepted()), (2, 2));
}
