//! An endpoint under the test's control.
//!
//! Every request goes into the ledger, whole, before anything is answered. So
//! whatever the server believes was delivered is in the ledger, even when the
//! server dies before it hears the answer.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinHandle};

use super::{eventually, now};

/// One request as it came in.
#[derive(Clone, Debug)]
pub struct Received {
    /// Place in the ledger, from 0.
    pub number: usize,
    /// Which connection it came on.
    pub connection: u64,
    /// When its head was here.
    pub at: Instant,
    /// Request line.
    pub method: http::Method,
    /// Request line.
    pub path: String,
    /// Every header.
    pub headers: HeaderMap,
    /// The exact bytes.
    pub body: Bytes,
}

impl Received {
    /// A header as text; empty if it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("a header of text"))
    }

    /// The delivery it belongs to: its UUID is the idempotency key.
    pub fn delivery_id(&self) -> String {
        format!("dlv_{}", self.header("idempotency-key").replace('-', ""))
    }

    /// The event it belongs to.
    pub fn event_id(&self) -> &str {
        self.header("webhook-id")
    }
}

/// What to answer, and when.
#[derive(Clone, Debug)]
pub struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    delay: Duration,
    hang: bool,
}

impl Answer {
    /// An empty answer at once.
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new(), delay: Duration::ZERO, hang: false }
    }

    /// 200 at once.
    pub fn ok() -> Self {
        Self::status(200)
    }

    /// Never answers.
    pub fn hang() -> Self {
        Self { hang: true, ..Self::ok() }
    }

    /// Adds a header.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Answers this much later.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

type Behaviour = Arc<dyn Fn(&Received) -> Answer + Send + Sync>;

struct Shared {
    ledger: Mutex<Vec<Arc<Received>>>,
    behaviour: Mutex<Behaviour>,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

/// A request that is not answered yet, and whose sender has not gone away.
struct Open(Arc<Shared>);

impl Open {
    fn count(shared: &Arc<Shared>) -> Self {
        let open = shared.open.fetch_add(1, Ordering::Relaxed) + 1;
        shared.most_open.fetch_max(open, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A listening endpoint.
pub struct Receiver {
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
    /// `http://127.0.0.1:PORT`, without a path.
    pub url: String,
}

impl Receiver {
    /// Answers as the function says.
    pub async fn answering(behaviour: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bind");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let behaviour: Behaviour = Arc::new(behaviour);
        let shared = Arc::new(Shared {
            ledger: Mutex::default(),
            behaviour: Mutex::new(behaviour),
            open: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { shared, accepting, url }
    }

    /// Answers 200 to everything.
    pub async fn ok() -> Self {
        Self::answering(|_| Answer::ok()).await
    }

    /// Answers the first request with the first answer, and so on; the last one
    /// repeats.
    pub async fn script(answers: Vec<Answer>) -> Self {
        Self::answering(move |request| answers[request.number.min(answers.len() - 1)].clone()).await
    }

    /// From now on answers so.
    pub fn answer_with(&self, behaviour: impl Fn(&Received) -> Answer + Send + Sync + 'static) {
        *lock(&self.shared.behaviour) = Arc::new(behaviour);
    }

    /// A URL below this receiver.
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// Everything received so far, in order.
    pub fn ledger(&self) -> Vec<Arc<Received>> {
        lock(&self.shared.ledger).clone()
    }

    /// How many requests came so far.
    pub fn count(&self) -> usize {
        lock(&self.shared.ledger).len()
    }

    /// How many requests it has not answered yet. Those whose sender has gone away
    /// do not count.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// How many there ever were at once.
    pub fn most_open(&self) -> usize {
        self.shared.most_open.load(Ordering::Relaxed)
    }

    /// The ledger once it has at least `count` entries.
    pub async fn wait_for(&self, count: usize, limit: Duration) -> Vec<Arc<Received>> {
        eventually(limit, &format!("{count} requests received"), async || {
            let seen = self.count();
            if seen >= count { Ok(self.ledger()) } else { Err(format!("{seen} requests")) }
        })
        .await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // Losing this only makes answers slower.
        let _ = stream.set_nodelay(true);
        let connection = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request| answer(Arc::clone(&shared), connection, request));
        tokio::spawn(async move {
            // The sender may break off whenever it likes; that is its business.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    shared: Arc<Shared>,
    connection: u64,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let at = now();
    let _open = Open::count(&shared);
    let (head, body) = request.into_parts();
    // A request that breaks off before its end was not received.
    let body = body.collect().await?.to_bytes();
    let path = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let mut received =
        Received { number: 0, connection, at, method: head.method, path, headers: head.headers, body };
    let received = {
        let mut ledger = lock(&shared.ledger);
        received.number = ledger.len();
        let received = Arc::new(received);
        ledger.push(Arc::clone(&received));
        received
    };
    let behaviour = Arc::clone(&lock(&shared.behaviour));
    let answer = behaviour(&received);
    if answer.hang {
        let never: Infallible = std::future::pending().await;
        match never {}
    }
    if !answer.delay.is_zero() {
        tokio::time::sleep(answer.delay).await;
    }
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(*name, value);
    }
    Ok(response.body(Full::new(answer.body)).expect("a valid answer"))
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
