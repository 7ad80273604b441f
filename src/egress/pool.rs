//! Idle connections, by who may use them again.
//!
//! A connection is used again for the same version of the same endpoint, at the same
//! origin, under the same policy and TLS options. So a change of any of them takes effect with the next
//! request, and no tenant sends on a connection that another one opened.
//!
//! The last one in is the first one out, so that surplus connections are left
//! alone and are closed when their idle time is over: a task looks once a second
//! while there are idle connections.
//!
//! A connection also has a greatest age and a greatest number of requests, however busy
//! it is. So an endpoint whose name moves to another address is followed there, and the load
//! is spread anew over what is behind a name.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::time::{sleep, timeout};

use super::{Target, link::Link, tls::Tls};
use crate::{
    clock::Clock,
    domain::{EndpointKey, Micros, TenantKey, Timestamp},
    entropy::Entropy,
};

/// How long to wait for a connection whose last response has been read, but
/// whose driver has yet to say that it is ready. Usually it says so within
/// microseconds; it never does if the endpoint answered without reading the
/// request.
const SETTLE: Duration = Duration::from_millis(5);

/// How often idle connections are checked for the end of their time.
const SWEEP: Duration = Duration::from_secs(1);

/// How much longer or shorter than others a connection may live, as a part of the greatest age:
/// connections that were opened together are not closed together.
const JITTER: f64 = 0.1;

/// How long connections are kept, and how many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Idle connections at most.
    pub(super) idle_total: usize,
    /// Idle time of a connection at most.
    pub(super) idle_age: Micros,
    /// Age of a connection at most, give or take [`JITTER`].
    pub(super) age: Micros,
    /// Requests on a connection at most.
    pub(super) requests: u32,
}

/// On whose behalf a request is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sender {
    /// Whose endpoint it is.
    pub tenant: TenantKey,
    /// The endpoint.
    pub endpoint: EndpointKey,
    /// Its version, which every change of it raises.
    pub version: u64,
}

/// Who may use a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    sender: Sender,
    origin: Arc<str>,
    policy: u64,
    /// Mark of the TLS options, if they are the sender's own.
    tls: Option<Arc<str>>,
}

impl Key {
    pub(super) fn new(sender: Sender, target: &Target, tls: Option<&Tls>) -> Self {
        let (origin, policy) = target.place();
        Self { sender, origin, policy, tls: tls.map(|tls| Arc::clone(tls.mark())) }
    }
}

/// The idle connections of a client.
pub(super) struct Pool {
    limits: Limits,
    clock: Clock,
    entropy: Entropy,
    idle: Arc<Mutex<Idle>>,
}

#[derive(Default)]
struct Idle {
    by_key: HashMap<Key, Vec<Link>>,
    count: usize,
    /// A task is there that closes connections in time.
    swept: bool,
    swept_at: Timestamp,
}

impl Pool {
    /// An empty pool with its limits.
    pub(super) fn new(limits: Limits, clock: Clock, entropy: Entropy) -> Self {
        Self { limits, clock, entropy, idle: Arc::default() }
    }

    /// Sets the end of a new connection.
    pub(super) fn admit(&self, link: &mut Link) {
        let age = self.limits.age;
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "an age is short")]
        let jitter = (age.0 as f64 * JITTER * (2.0 * self.entropy.unit() - 1.0)) as i64;
        link.retire_at = self.clock.now().plus(Micros(age.0 + jitter));
    }

    /// A connection that is ready for a request, if there is one.
    pub(super) async fn take(&self, key: &Key) -> Option<Link> {
        while let Some(mut link) = self.pop(key) {
            link.park(false);
            if link.sender.is_ready() || matches!(timeout(SETTLE, link.sender.ready()).await, Ok(Ok(()))) {
                return Some(link);
            }
        }
        None
    }

    /// The last connection put back that is open and not too old.
    fn pop(&self, key: &Key) -> Option<Link> {
        let now = self.clock.now();
        let mut idle = lock(&self.idle);
        let links = idle.by_key.get_mut(key)?;
        let before = links.len();
        let mut found = None;
        while let Some(link) = links.pop() {
            if !link.is_closed() && now < link.idle_until {
                found = Some(link);
                break;
            }
        }
        let after = links.len();
        idle.count -= before - after;
        found
    }

    /// Keeps a connection whose last response has been read to its end, for as
    /// long as its own limits, the pool and the endpoint (`announced`) allow.
    pub(super) fn put(&self, key: Key, mut link: Link, announced: Option<Micros>) {
        let now = self.clock.now();
        link.park(true);
        link.requests += 1;
        let age = announced.map_or(self.limits.idle_age, |announced| announced.min(self.limits.idle_age));
        link.idle_until = now.plus(age).min(link.retire_at);
        if link.is_closed() || link.idle_until <= now || link.requests >= self.limits.requests {
            return;
        }
        let mut idle = lock(&self.idle);
        // Those that are over must not keep others out.
        if idle.count >= self.limits.idle_total && now.since(idle.swept_at) >= Micros::from(SWEEP) {
            idle.sweep(now);
        }
        if idle.count >= self.limits.idle_total {
            return;
        }
        idle.by_key.entry(key).or_default().push(link);
        idle.count += 1;
        if !idle.swept {
            idle.swept = true;
            tokio::spawn(close_in_time(Arc::downgrade(&self.idle), self.clock.clone()));
        }
    }

    /// How many are open.
    pub(super) fn open(&self) -> usize {
        lock(&self.idle).by_key.values().flatten().filter(|link| !link.is_closed()).count()
    }
}

/// Closes idle connections when their time is over, until there are none or nobody has the pool
/// any more.
async fn close_in_time(idle: Weak<Mutex<Idle>>, clock: Clock) {
    loop {
        sleep(SWEEP).await;
        let Some(idle) = idle.upgrade() else { return };
        let mut idle = lock(&idle);
        idle.sweep(clock.now());
        if idle.count == 0 {
            idle.swept = false;
            return;
        }
    }
}

fn lock(idle: &Mutex<Idle>) -> MutexGuard<'_, Idle> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Idle {
    /// Drops what is closed or too old.
    fn sweep(&mut self, now: Timestamp) {
        self.by_key.retain(|_, links| {
            links.retain(|link| !link.is_closed() && now < link.idle_until);
            !links.is_empty()
        });
        self.count = self.by_key.values().map(Vec::len).sum();
        self.swept_at = now;
    }
}
