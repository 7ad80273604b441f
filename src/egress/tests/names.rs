//! Names, and the addresses behind them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{RData, Record, RecordType},
};
use tokio::{net::UdpSocket, task::JoinHandle};

use super::{
    super::{Client, Config, Policy, Request, Target, vet},
    peer::{OK, Peer, answer, client_with, clocked, fault, request},
};
use crate::domain::{Cause, Micros};

/// In a zone: the question for IPv6 addresses gets no answer.
pub const SILENT: &str = "silent";

/// A name server that answers as it is told. Ends with the test.
pub struct NameServer {
    pub address: SocketAddr,
    asked: Arc<AtomicUsize>,
    asked_ipv6: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl NameServer {
    /// Answers questions for IPv4 addresses by the first label and how often it was asked;
    /// to nothing it answers that there is no such name. Answers hold for no time.
    pub async fn start(zone: impl Fn(&str, usize) -> Vec<&'static str> + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let asked_ipv6 = Arc::new(AtomicUsize::new(0));
        let (count, count_ipv6) = (Arc::clone(&asked), Arc::clone(&asked_ipv6));
        let task = tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
                let question = Message::from_vec(&buffer[..len]).unwrap();
                let query = question.queries[0].clone();
                let mut reply = Message::response(question.metadata.id, question.metadata.op_code);
                reply.metadata.recursion_available = true;
                reply.metadata.recursion_desired = true;
                let label = query.name().iter().next().unwrap_or_default().to_vec();
                let first = usize::from(query.query_type() == RecordType::A);
                let turn = count.fetch_add(first, Ordering::SeqCst);
                count_ipv6.fetch_add(1 - first, Ordering::SeqCst);
                let mut found = zone(&String::from_utf8(label).unwrap().to_lowercase(), turn);
                let all = found.len();
                found.retain(|ip| *ip != SILENT);
                if found.len() < all && query.query_type() == RecordType::AAAA {
                    continue;
                }
                if found.is_empty() {
                    reply.metadata.response_code = ResponseCode::NXDomain;
                }
                for ip in found.iter().map(|ip| ip.parse::<IpAddr>().unwrap()) {
                    let data = RData::from(ip);
                    if data.record_type() == query.query_type() {
                        reply.add_answer(Record::from_rdata(query.name().clone(), 0, data));
                    }
                }
                reply.add_query(query);
                socket.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
            }
        });
        Self { address, asked, asked_ipv6, task }
    }

    fn client(&self) -> Client {
        client_with(self.config())
    }

    fn config(&self) -> Config {
        Config { name_servers: vec![self.address], ..Config::default() }
    }

    pub fn asked_ipv6(&self) -> usize {
        self.asked_ipv6.load(Ordering::SeqCst)
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn named(name: &str, peer: &Peer, policy: &Policy) -> Target {
    vet(&format!("http://{name}:{}/", peer.address.port()), policy).unwrap()
}

/// Loopback is forbidden; names that mean it are allowed at first sight.
fn public() -> Policy {
    Policy { allow_http: true, ..Policy::default() }
}

#[tokio::test]
async fn a_name_is_as_good_as_each_of_its_addresses() {
    let server = NameServer::start(|label, _| match label {
        "good" => vec!["127.0.0.1"],
        "mixed" => vec!["127.0.0.1", "10.0.0.1"],
        "hidden" => vec!["127.0.0.1", "::ffff:127.0.0.1"],
        "two" => vec!["127.0.0.1", "::1"],
        _ => vec![],
    })
    .await;
    let peer = Peer::answering(OK).await;
    let client = server.client();
    let send = async |name: &str, policy: &Policy| client.send(request(named(name, &peer, policy))).await;

    let outcome = send("good.example", &Policy::loopback()).await;
    assert!(outcome.timings.dns.is_some());
    assert_eq!(answer(outcome).status, 200);
    assert_eq!(answer(send("two.example", &Policy::loopback()).await).status, 200);
    let reached = peer.accepted();

    let unknown = fault(send("unknown.example", &Policy::loopback()).await);
    assert_eq!(unknown.cause, Cause::Dns);
    assert!(!unknown.message.contains(|it: char| it.is_ascii_digit()), "{}", unknown.message);
    for (name, policy) in [
        ("good.example", public()),
        ("two.example", public()),
        ("mixed.example", public()),
        ("mixed.example", Policy::loopback()),
        ("hidden.example", Policy::loopback()),
    ] {
        let fault = fault(send(name, &policy).await);
        assert_eq!(fault, unknown, "{name} is told apart from a name that is unknown");
    }
    assert_eq!(peer.accepted(), reached);
}

#[tokio::test]
async fn names_of_the_hosts_file_count_only_if_that_was_set() {
    // A name that every machine has there, and that no name server has.
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap();
    let lines = hosts.lines().filter_map(|line| line.split('#').next());
    let mut names = lines.flat_map(|line| line.split_whitespace().skip(1));
    let is_name = |name: &&str| !name.contains("localhost") && name.parse::<IpAddr>().is_err();
    let Some(name) = names.find(is_name) else { return };
    let server = NameServer::start(|_, _| vec![]).await;
    let resolve = async |local_names| {
        let name_servers = vec![server.address];
        let client = client_with(Config { name_servers, local_names, ..Config::default() });
        let target = vet(&format!("http://{name}:9/"), &public()).unwrap();
        let before = server.asked();
        client.send(request(target)).await;
        server.asked() - before
    };
    assert_eq!((resolve(true).await, resolve(false).await), (0, 1));
}

#[tokio::test]
async fn a_name_that_moves_is_judged_again() {
    let server = NameServer::start(|_, turn| vec![if turn == 0 { "127.0.0.1" } else { "127.0.0.2" }]).await;
    let close =
        Peer::answering_once("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
    let client = server.client();
    let only =
        Policy { allow: [format!("127.0.0.1:{}", close.address.port()).parse().unwrap()].into(), ..public() };
    let target = named("moves.example", &close, &only);
    assert_eq!(answer(client.send(request(target.clone())).await).status, 200);
    assert_eq!(fault(client.send(request(target)).await).cause, Cause::Dns);
    assert_eq!((server.asked(), close.accepted()), (2, 1));
}

/// Under steady traffic on a connection that is kept alive.
#[tokio::test]
async fn a_name_that_moves_is_followed_within_90_s() {
    let moved = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&moved);
    let server = NameServer::start(move |_, _| {
        vec![if seen.load(Ordering::SeqCst) { "127.0.0.2" } else { "127.0.0.1" }]
    })
    .await;
    let old = Peer::answering(OK).await;
    let new = Peer::answering_at(SocketAddr::new([127, 0, 0, 2].into(), old.address.port()), OK).await;
    let (client, clock) = clocked(server.config());
    let target = named("moves.example", &old, &Policy::loopback());
    let mut remotes = Vec::new();
    for second in 0..200 {
        moved.store(second >= 100, Ordering::SeqCst);
        remotes.push(answer(client.send(request(target.clone())).await).response.remote.unwrap());
        clock.advance(Micros::from_secs(1));
    }
    let first = remotes.iter().position(|remote| *remote == new.address.to_string()).unwrap();
    assert!((100..=190).contains(&first), "{first}");
    assert!(remotes[first..].iter().all(|remote| *remote == new.address.to_string()));
    assert!(remotes[..first].iter().all(|remote| *remote == old.address.to_string()));
}

#[tokio::test]
async fn a_name_server_that_never_answers_for_ipv6_does_not_delay() {
    let server = NameServer::start(|_, _| vec!["127.0.0.1", SILENT]).await;
    let peer = Peer::answering(OK).await;
    let target = named("half.example", &peer, &Policy::loopback());
    // Less than a lookup of IPv6 addresses takes until it is given up.
    let sent = Request { connect_timeout: Micros::from_secs(3), ..request(target) };
    let outcome = server.client().send(sent).await;
    assert!(outcome.timings.dns.unwrap() < Micros::from_secs(2));
    assert_eq!((answer(outcome).status, server.asked_ipv6()), (200, 1));
}

#[tokio::test]
async fn a_name_may_have_an_underscore() {
    let server = NameServer::start(|label, _| match label {
        "my_host" | "_leading" => vec!["127.0.0.1"],
        _ => vec![],
    })
    .await;
    let (peer, client) = (Peer::answering(OK).await, server.client());
    for name in ["my_host.test", "_leading.test", "my_host"] {
        let target = named(name, &peer, &Policy::loopback());
        assert_eq!(answer(client.send(request(target)).await).status, 200, "{name}");
    }
    assert!(vet("https://my_host.test/", &Policy::default()).is_ok());

    // What no name server can be asked for is said to be so.
    for name in ["a+b.test".to_owned(), format!("{}.test", "a".repeat(64))] {
        let fault = fault(client.send(request(named(&name, &peer, &Policy::loopback()))).await);
        assert_eq!(
            (fault.cause, &*fault.message),
            (Cause::Dns, "the host name did not resolve: it is not a valid name")
        );
    }
}

#[tokio::test]
async fn repeated_addresses_count_once() {
    let server = NameServer::start(|_, _| ["127.0.0.1", "127.0.0.2"].repeat(20)).await;
    let peer = Peer::answering(OK).await;
    let target = named("often.example", &peer, &Policy::loopback());
    assert_eq!(answer(server.client().send(request(target)).await).status, 200);
}

#[tokio::test]
async fn a_name_has_at_most_sixteen_addresses() {
    const ALL: [&str; 17] = [
        "127.0.0.1",
        "127.0.0.2",
        "127.0.0.3",
        "127.0.0.4",
        "127.0.0.5",
        "127.0.0.6",
        "127.0.0.7",
        "127.0.0.8",
        "127.0.0.9",
        "127.0.0.10",
        "127.0.0.11",
        "127.0.0.12",
        "127.0.0.13",
        "127.0.0.14",
        "127.0.0.15",
        "127.0.0.16",
        "127.0.0.17",
    ];
    let server =
        NameServer::start(|label, _| if label == "many" { ALL.into() } else { ALL[..16].into() }).await;
    let peer = Peer::answering(OK).await;
    let client = server.client();
    let send = async |name: &str| client.send(request(named(name, &peer, &Policy::loopback()))).await;
    assert_eq!(answer(send("enough.example").await).status, 200);
    let fault = fault(send("many.example").await);
    assert_eq!(fault.cause, Cause::Dns);
    assert!(fault.message.ends_with("it has more than 16 addresses"), "{}", fault.message);
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test]
async fn a_name_server_that_is_silent_does_not_hold_us() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let config = Config { name_servers: vec![silent.local_addr().unwrap()], ..Config::default() };
    let peer = Peer::answering(OK).await;
    let slow = request(named("slow.example", &peer, &Policy::loopback()));
    let request = Request { connect_timeout: Micros::from_millis(200), ..slow };
    let outcome = client_with(config).send(request).await;
    assert!(outcome.duration < Micros::from_secs(2));
    assert_eq!(fault(outcome).cause, Cause::ConnectTimeout);
}

#[tokio::test]
async fn a_connection_is_for_one_sender_and_one_policy() {
    let peer = Peer::answering(OK).await;
    let client = client_with(Config::default());
    let target = |policy: &Policy| vet(&format!("http://{}/", peer.address), policy).unwrap();
    let first = request(target(&Policy::loopback()));
    answer(client.send(first.clone()).await);
    answer(client.send(first.clone()).await);
    assert_eq!(peer.accepted(), 1);

    let mut changed = first.clone();
    changed.sender.version += 1;
    let mut other = first.clone();
    other.sender.endpoint.0 += 1;
    let stricter = Policy { allow: ["127.0.0.0/8".parse().unwrap()].into(), ..Policy::loopback() };
    for (number, request) in [changed, other, request(target(&stricter))].into_iter().enumerate() {
        answer(client.send(request).await);
        assert_eq!(peer.accepted(), number + 2);
    }
}

#[tokio::test]
async fn a_server_that_listens_everywhere_is_not_called_by_any_address() {
    let peer = Peer::answering(OK).await;
    let everywhere = SocketAddr::new("0.0.0.0".parse().unwrap(), peer.address.port());
    let policy = Policy { own: [everywhere].into(), ..Policy::loopback() };
    let target = vet(&format!("http://{}/", peer.address), &policy).unwrap();
    let client = client_with(Config::default());
    assert_eq!(fault(client.send(request(target)).await).cause, Cause::TargetForbidden);
    assert_eq!(peer.accepted(), 0);

    let named = policy.allow.iter().copied().chain([super::super::Allow::exactly(peer.address)]).collect();
    let policy = Policy { allow: named, ..policy };
    let target = vet(&format!("http://{}/", peer.address), &policy).unwrap();
    assert_eq!(answer(client.send(request(target)).await).status, 200);
}
