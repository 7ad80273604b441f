//! Who may call: tenants and keys, all of them in memory, read by every call and
//! changed by the writer after each commit.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicI64, Ordering},
    },
};

use tokio_util::sync::CancellationToken;

use crate::domain::{ApiKey, ApiKeyId, Micros, Tenant, TenantKey, Timestamp, Usage};

/// Uses of a key are noted to the minute.
const USE_NOTED_EVERY: Micros = Micros::from_secs(60);

/// Tenants, keys and what tenants use.
#[derive(Debug, Default)]
pub struct Directory(RwLock<Entries>);

#[derive(Debug, Default)]
struct Entries {
    tenants: HashMap<TenantKey, Arc<Tenant>>,
    by_name: HashMap<Arc<str>, TenantKey>,
    keys: HashMap<ApiKeyId, Arc<Credential>>,
    by_certificate: HashMap<[u8; 32], ApiKeyId>,
    usage: HashMap<TenantKey, Usage>,
}

/// A key in use.
#[derive(Debug)]
pub struct Credential {
    /// The key.
    pub key: ApiKey,
    /// Cancelled once what was opened with this token is to end: the key was revoked,
    /// given a new token without grace, or its tenant was suspended or deleted.
    pub ended: CancellationToken,
    /// The same of the token before, while that is in its grace.
    pub before: Option<CancellationToken>,
    /// When this token is of no use any more: it was replaced, with a grace.
    until: AtomicI64,
    used_at: AtomicI64,
    noted_at: AtomicI64,
}

impl Credential {
    /// Notes a use.
    pub fn used(&self, now: Timestamp) {
        let last = Timestamp(self.used_at.load(Ordering::Relaxed));
        if last.plus(USE_NOTED_EVERY) <= now {
            self.used_at.store(now.0, Ordering::Relaxed);
        }
    }

    /// Whether its token was replaced and its grace is over.
    pub fn is_replaced(&self, now: Timestamp) -> bool {
        self.until.load(Ordering::Relaxed) <= now.0
    }

    /// The last use, if that was not noted yet; call [`Self::noted`] once it is.
    pub fn unnoted(&self) -> Option<Timestamp> {
        self.used_at().filter(|at| at.0 > self.noted_at.load(Ordering::Relaxed))
    }

    /// The last use up to an instant is noted.
    pub fn noted(&self, at: Timestamp) {
        self.noted_at.store(at.0, Ordering::Relaxed);
    }

    fn end(&self) {
        self.ended.cancel();
        self.before.iter().for_each(CancellationToken::cancel);
    }

    /// The last use.
    pub fn used_at(&self) -> Option<Timestamp> {
        Some(Timestamp(self.used_at.load(Ordering::Relaxed))).filter(|at| at.0 > i64::MIN)
    }
}

/// A change of the directory.
#[derive(Debug)]
pub(super) enum Entry {
    Tenant(Arc<Tenant>),
    NoTenant(TenantKey),
    Key(Box<ApiKey>),
    Usage(TenantKey, Usage),
}

impl Directory {
    /// A tenant by key; deleted ones are unknown.
    pub fn tenant(&self, key: TenantKey) -> Option<Arc<Tenant>> {
        self.read().tenants.get(&key).cloned()
    }

    /// A tenant by id.
    pub fn tenant_named(&self, id: &str) -> Option<Arc<Tenant>> {
        let entries = self.read();
        entries.by_name.get(id).and_then(|key| entries.tenants.get(key)).cloned()
    }

    /// All tenants, in order of creation.
    pub fn tenants(&self) -> Vec<Arc<Tenant>> {
        let mut all: Vec<_> = self.read().tenants.values().cloned().collect();
        all.sort_by_key(|tenant| tenant.key);
        all
    }

    /// A key by id.
    pub fn key(&self, id: ApiKeyId) -> Option<Arc<Credential>> {
        self.read().keys.get(&id).cloned()
    }

    /// The key that a client certificate stands for.
    pub fn key_of_certificate(&self, fingerprint: &[u8; 32]) -> Option<Arc<Credential>> {
        let entries = self.read();
        entries.by_certificate.get(fingerprint).and_then(|id| entries.keys.get(id)).cloned()
    }

    /// All keys that satisfy a condition, newest first.
    pub fn keys(&self, keep: impl Fn(&ApiKey) -> bool) -> Vec<Arc<Credential>> {
        let mut found: Vec<_> = self.read().keys.values().filter(|it| keep(&it.key)).cloned().collect();
        found.sort_by_key(|it| std::cmp::Reverse(it.key.number));
        found
    }

    /// What a tenant uses.
    pub fn usage(&self, key: TenantKey) -> Usage {
        self.read().usage.get(&key).copied().unwrap_or_default()
    }

    /// What all tenants use.
    pub(super) fn all_usage(&self) -> Vec<(TenantKey, Usage)> {
        self.read().usage.iter().map(|(key, usage)| (*key, *usage)).collect()
    }

    pub(super) fn apply(&self, changes: Vec<Entry>) {
        if changes.is_empty() {
            return;
        }
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            match change {
                Entry::Tenant(tenant) => entries.put_tenant(tenant),
                Entry::NoTenant(key) => entries.remove_tenant(key),
                Entry::Key(key) => entries.put_key(*key, false),
                Entry::Usage(key, usage) => drop(entries.usage.insert(key, usage)),
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Entries> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn put_tenant(&mut self, tenant: Arc<Tenant>) {
        if tenant.suspended {
            self.end_all(tenant.key);
        }
        self.by_name.insert(Arc::clone(&tenant.id), tenant.key);
        self.tenants.insert(tenant.key, tenant);
    }

    fn remove_tenant(&mut self, key: TenantKey) {
        if let Some(tenant) = self.tenants.remove(&key) {
            self.by_name.remove(&tenant.id);
        }
        let of_it: Vec<_> =
            self.keys.values().filter(|it| it.key.tenant == Some(key)).map(|it| it.key.id).collect();
        for id in of_it {
            if let Some(old) = self.remove_key(id) {
                old.end();
            }
        }
        // What it uses goes down as its deliveries are cancelled.
    }

    /// Ends what was opened for a tenant. Its keys may be used again afterwards, if
    /// it is there and not suspended.
    fn end_all(&mut self, tenant: TenantKey) {
        let of_it = self.keys.values().filter(|it| it.key.tenant == Some(tenant));
        for key in of_it.map(|it| it.key.clone()).collect::<Vec<_>>() {
            self.put_key(key, true);
        }
    }

    /// Puts a key in the place of what it was; `end` ends what was opened with that,
    /// as does a change that takes its token away. A token that was replaced with a
    /// grace is good until that is over, or until the next takes its place.
    fn put_key(&mut self, key: ApiKey, end: bool) {
        let old = self.remove_key(key.id);
        let (mut ended, mut before) = (CancellationToken::new(), None);
        if let Some(old) = &old {
            let grace = key.previous.filter(|(hash, _)| *hash == old.key.hash);
            if key.revoked_at.is_none() && !end && key.hash == old.key.hash {
                (ended, before) = (old.ended.clone(), old.before.clone());
            } else if let (Some((_, ends)), None, false) = (grace, key.revoked_at, end) {
                old.until.store(ends.0, Ordering::Relaxed);
                old.before.iter().for_each(CancellationToken::cancel);
                before = Some(old.ended.clone());
            } else {
                old.end();
            }
        }
        for certificate in &key.certificates {
            self.by_certificate.insert(*certificate, key.id);
        }
        let used_at = old.and_then(|old| old.used_at()).max(key.last_used_at);
        let time = |at: Option<Timestamp>| AtomicI64::new(at.map_or(i64::MIN, |at| at.0));
        let (used_at, noted_at) = (time(used_at), time(key.last_used_at));
        let until = AtomicI64::new(i64::MAX);
        self.keys.insert(key.id, Arc::new(Credential { key, ended, before, until, used_at, noted_at }));
    }

    fn remove_key(&mut self, id: ApiKeyId) -> Option<Arc<Credential>> {
        let old = self.keys.remove(&id)?;
        for certificate in &old.key.certificates {
            if self.by_certificate.get(certificate) == Some(&id) {
                self.by_certificate.remove(certificate);
            }
        }
        Some(old)
    }
}
