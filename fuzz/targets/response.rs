//! A receiver that answers with whatever it likes.
#![no_main]

use std::{cell::RefCell, time::Duration};

use bytes::Bytes;
use hookwire::{
    clock::Clock,
    domain::{EndpointKey, Micros, TenantKey, Timestamp},
    egress::{Client, Config, Policy, Request, Sender, vet},
    entropy::Entropy,
};
use http::HeaderMap;
use libfuzzer_sys::fuzz_target;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    runtime::Runtime,
};

/// Limit of an attempt, in virtual time.
const LIMIT: Micros = Micros::from_secs(10);

/// Nobody listens there: a connection that turns out to be dead is replaced by none.
const NOWHERE: &str = "http://127.0.0.1:9/hook?a=1";

/// Bytes that repeating a line comes to at most: more than any limit of a head or body.
const SENT_MAX: usize = 80 << 10;

struct Rig {
    runtime: Runtime,
    clock: Clock,
    client: Client,
    next: u64,
}

thread_local! {
    static RIG: RefCell<Rig> = RefCell::new(rig());
}

fn rig() -> Rig {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let clock = Clock::manual(Timestamp(1_768_996_800_000_000));
    let config =
        Config { name_servers: vec!["127.0.0.1:9".parse().expect("an address")], ..Config::default() };
    let client = {
        let _inside = runtime.enter();
        Client::new(config, clock.clone(), Entropy::seeded(1)).expect("a client")
    };
    Rig { runtime, clock, client, next: 0 }
}

/// How the bytes come.
struct Manner {
    /// Before the request does.
    early: bool,
    /// The connection stays open after them.
    stays: bool,
    /// In pieces of so many bytes, or in 256 larger ones.
    piece: usize,
    /// The last line of them is repeated so many times.
    repeats: usize,
}

// Two bytes for the manner, then what the receiver sends, for two requests in a row.
fuzz_target!(init: RIG.with(|_| ()), |data: &[u8]| {
    let [manner, piece, bytes @ ..] = data else { return };
    let manner = Manner {
        early: manner & 1 != 0,
        stays: manner & 2 != 0,
        piece: usize::from(*piece).max(1),
        repeats: [0, 16, 64, 256, 1024][usize::from(manner >> 4).saturating_sub(11)],
    };
    let mut sent = bytes.to_vec();
    let line = bytes.trim_ascii_end().iter().rposition(|it| *it == b'\n').map_or(0, |at| at + 1);
    for _ in 0..manner.repeats.min(SENT_MAX / (bytes.len() - line).max(1)) {
        sent.extend_from_slice(&bytes[line..]);
    }
    RIG.with_borrow_mut(|rig| rig.run(manner, sent));
});

impl Rig {
    fn run(&mut self, manner: Manner, sent: Vec<u8>) {
        self.next += 1;
        let request = Request {
            sender: Sender { tenant: TenantKey::DEFAULT, endpoint: EndpointKey(1), version: self.next },
            target: vet(NOWHERE, &Policy::loopback()).expect("a target"),
            tls: None,
            headers: HeaderMap::new(),
            body: Bytes::from_static(b"{}"),
            timeout: LIMIT,
            connect_timeout: LIMIT,
        };
        // Connections of the run before are old now.
        self.clock.advance(Micros::from_secs(60));
        let client = &self.client;
        self.runtime.block_on(async {
            let (ours, theirs) = tokio::io::duplex(1 << 20);
            client.lend(ours, &request).await;
            let receiver = tokio::spawn(answer(theirs, manner, sent));
            for _ in 0..2 {
                let sent = tokio::time::timeout(LIMIT.to_std() * 2, client.send(request.clone()));
                let outcome = sent.await.expect("an attempt ends within its limit");
                let Ok(answer) = outcome.result else { continue };
                assert!((200..1000).contains(&answer.status), "{}", answer.status);
                let kept = &answer.response;
                assert!(kept.body.len() <= 16 << 10);
                let bytes: usize = kept.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
                assert!(bytes <= 8 << 10, "{bytes} bytes of headers are kept");
                assert!(kept.headers.iter().all(|(name, value)| name != "set-cookie" || value == "***"));
            }
            receiver.abort();
            let _ = receiver.await;
        });
        assert!(client.idle() <= 1, "{} connections of one run", client.idle());
    }
}

async fn answer(mut stream: DuplexStream, manner: Manner, sent: Vec<u8>) {
    let mut request = [0; 4096];
    if !manner.early && stream.read(&mut request).await.is_err() {
        return;
    }
    for piece in sent.chunks(manner.piece.max(sent.len() / 256)) {
        if stream.write_all(piece).await.is_err() {
            return;
        }
        // So that it is read on its own.
        tokio::task::yield_now().await;
    }
    if manner.stays {
        tokio::time::sleep(Duration::MAX / 4).await;
    }
}
