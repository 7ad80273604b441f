//! Idle connections, by who may use them again.
//!
//! A connection is used again for the same version of the same endpoint, at the same
//! origin, under the same policy and TLS options. So a change of any of them takes effect with the next
//! request, and no tenant sends on a connection that another one opened.
//!
//! The last one in is the first one out, so that surplus connections are left
//! alone and age. Ages are checked when a connection is taken, and all of them
//! now and then when one is put back; no task runs for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::timeout;

use super::{Target, link::Link, tls::Tls};
use crate::domain::{EndpointKey, Micros, TenantKey, Timestamp};

/// How long to wait for a connection whose last response has been read, but
/// whose driver has yet to say that it is ready. Usually it says so within
/// microseconds; it never does if the endpoint answered without reading the
/// request.
const SETTLE: Duration = Duration::from_millis(5);

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
    total: usize,
    age: Micros,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    by_key: HashMap<Key, Vec<Link>>,
    count: usize,
    swept_at: Timestamp,
}

impl Pool {
    /// An empty pool with its limits.
    pub(super) fn new(total: usize, age: Micros) -> Self {
        Self { total, age, idle: Mutex::default() }
    }

    /// A connection that is ready for a request, if there is one.
    pub(super) async fn take(&self, key: &Key, now: Timestamp) -> Option<Link> {
        while let Some(mut link) = self.pop(key, now) {
            link.park(false);
            if link.sender.is_ready() || matches!(timeout(SETTLE, link.sender.ready()).await, Ok(Ok(()))) {
                return Some(link);
            }
        }
        None
    }

    /// The last connection put back that is open and not too old.
    fn pop(&self, key: &Key, now: Timestamp) -> Option<Link> {
        let mut idle = self.lock();
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
    /// long as the pool and the endpoint (`announced`) allow.
    pub(super) fn put(&self, key: Key, mut link: Link, now: Timestamp, announced: Option<Micros>) {
        link.park(true);
        let age = announced.map_or(self.age, |announced| announced.min(self.age));
        link.idle_until = now.plus(age);
        if link.is_closed() || age <= Micros::ZERO {
            return;
        }
        let mut idle = self.lock();
        if now.since(idle.swept_at) >= self.age {
            idle.sweep(now);
        }
        if idle.count >= self.total {
            return;
        }
        idle.by_key.entry(key).or_default().push(link);
        idle.count += 1;
    }

    /// How many are open.
    pub(super) fn open(&self) -> usize {
        self.lock().by_key.values().flatten().filter(|link| !link.is_closed()).count()
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    /// Drops what is closed or too old, also where nobody asks any more.
    fn sweep(&mut self, now: Timestamp) {
        self.by_key.retain(|_, links| {
            links.retain(|link| !link.is_closed() && now < link.idle_until);
            !links.is_empty()
        });
        self.count = self.by_key.values().map(Vec::len).sum();
        self.swept_at = now;
    }
}
