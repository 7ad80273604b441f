//! A transaction under way, and what it changes outside the database.

use std::sync::{Arc, PoisonError, RwLock};

use rusqlite::{Connection, params};

use super::{
    Error,
    directory::{Directory, Entry},
};
use crate::{
    domain::{
        ApiKey, ApiKeyId, Change, ChangeKind, Delivery, Endpoint, EndpointKey, Event, Pos, Tenant, TenantKey,
        Timestamp, Usage,
    },
    machine::route::Routes,
    vault::Vault,
};

/// The routing table, read by all and changed by the writer after each commit.
#[derive(Debug, Default)]
pub struct SharedRoutes {
    routes: RwLock<Routes>,
    /// Endpoints changed since somebody last asked.
    changed: RwLock<Vec<EndpointKey>>,
}

/// A change of the routing table.
#[derive(Debug)]
pub(super) enum Reroute {
    Put(Arc<Endpoint>),
    Remove(EndpointKey),
    /// Something about all endpoints of a tenant.
    Tenant(TenantKey),
}

impl SharedRoutes {
    /// An endpoint by key; deleted ones are unknown.
    pub fn get(&self, key: EndpointKey) -> Option<Arc<Endpoint>> {
        self.routes.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// An endpoint by public id.
    pub fn find(&self, tenant: TenantKey, id: &str) -> Option<Arc<Endpoint>> {
        self.routes.read().unwrap_or_else(PoisonError::into_inner).find(tenant, id).cloned()
    }

    /// The endpoints of a tenant that satisfy a condition, in order of creation.
    pub fn select(&self, tenant: TenantKey, keep: impl Fn(&Endpoint) -> bool) -> Vec<Arc<Endpoint>> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<_> = routes.of(tenant).filter(|endpoint| keep(endpoint)).cloned().collect();
        found.sort_by_key(|endpoint| endpoint.key);
        found
    }

    /// How many endpoints a tenant has.
    pub fn count(&self, tenant: TenantKey) -> u64 {
        self.routes.read().unwrap_or_else(PoisonError::into_inner).count(tenant) as u64
    }

    /// How many endpoints there are.
    pub fn len(&self) -> usize {
        self.routes.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Which endpoints were changed or deleted since the last call.
    pub fn take_changed(&self) -> Vec<EndpointKey> {
        if self.changed.read().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return Vec::new();
        }
        std::mem::take(&mut *self.changed.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn wanting(&self, tenant: TenantKey, event_type: &Arc<str>) -> Arc<[Arc<Endpoint>]> {
        self.routes.write().unwrap_or_else(PoisonError::into_inner).wanting(tenant, event_type)
    }

    pub(super) fn apply(&self, reroutes: Vec<Reroute>) {
        if reroutes.is_empty() {
            return;
        }
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = self.changed.write().unwrap_or_else(PoisonError::into_inner);
        for reroute in reroutes {
            match reroute {
                Reroute::Put(endpoint) => {
                    changed.push(endpoint.key);
                    routes.put(endpoint);
                }
                Reroute::Remove(key) => {
                    changed.push(key);
                    routes.remove(key);
                }
                Reroute::Tenant(tenant) => changed.extend(routes.of(tenant).map(|endpoint| endpoint.key)),
            }
        }
    }
}

/// A transaction under way.
pub struct Tx<'c> {
    pub(super) conn: &'c Connection,
    pub(super) routes: &'c SharedRoutes,
    pub(super) directory: &'c Directory,
    pub(super) vault: &'c Vault,
    position: Pos,
    started_at: Pos,
    changes: Vec<Arc<Change>>,
    reroutes: Vec<Reroute>,
    entries: Vec<Entry>,
    /// What tenants use, of those for which it changes.
    usage: Vec<(TenantKey, Usage)>,
    hot: Vec<(Arc<Event>, u32)>,
    open: i64,
    /// The latest time of any change so far, of earlier transactions too: a mark
    /// vouches for all of them.
    latest: Timestamp,
}

/// What a committed transaction changes outside the database.
pub(super) struct Effects {
    pub position: Pos,
    pub changes: Vec<Arc<Change>>,
    pub routes: Vec<Reroute>,
    pub entries: Vec<Entry>,
    pub hot: Vec<(Arc<Event>, u32)>,
    pub open: i64,
    pub latest: Timestamp,
    pub last_mark: Timestamp,
}

impl<'c> Tx<'c> {
    /// Begins.
    pub(super) fn begin(
        conn: &'c Connection,
        (routes, directory, vault): (&'c SharedRoutes, &'c Directory, &'c Vault),
        position: Pos,
        latest: Timestamp,
    ) -> Result<Self, Error> {
        conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(Self {
            conn,
            routes,
            directory,
            vault,
            position,
            started_at: position,
            changes: Vec::new(),
            reroutes: Vec::new(),
            entries: Vec::new(),
            usage: Vec::new(),
            hot: Vec::new(),
            open: 0,
            latest,
        })
    }

    /// The next number of the feed.
    pub(super) fn next_pos(&mut self) -> Pos {
        self.position = Pos(self.position.0 + 1);
        self.position
    }

    /// Notes a change for those who follow the feed. Call in order of position.
    pub(super) fn note(&mut self, change: Change) {
        self.latest = self.latest.max(change.at);
        let was_open = change.previous.is_some_and(crate::domain::State::is_open);
        let opened = i64::from(change.delivery.is_open()) - i64::from(was_open);
        if opened != 0 {
            self.open += opened;
            let bytes = opened * i64::from(change.delivery.bytes);
            self.usage(change.delivery.tenant).open(opened, bytes);
        }
        self.changes.push(Arc::new(change));
    }

    /// The deliveries noted as made.
    pub(super) fn fresh_deliveries(&self) -> impl Iterator<Item = Arc<Delivery>> {
        let made = |change: &&Arc<Change>| change.kind == ChangeKind::Created;
        self.changes.iter().filter(made).map(|change| Arc::clone(&change.delivery))
    }

    /// Keeps an event at hand for so many first attempts.
    pub(super) fn keep_hot(&mut self, event: Arc<Event>, uses: u32) {
        self.hot.push((event, uses));
    }

    /// What a tenant uses, as this transaction leaves it.
    pub(super) fn usage(&mut self, tenant: TenantKey) -> &mut Usage {
        let at = self.usage.iter().position(|(key, _)| *key == tenant).unwrap_or_else(|| {
            self.usage.push((tenant, self.directory.usage(tenant)));
            self.usage.len() - 1
        });
        &mut self.usage[at].1
    }

    /// The tenant as this transaction sees it.
    pub(super) fn tenant(&self, key: TenantKey) -> Option<Arc<Tenant>> {
        for entry in self.entries.iter().rev() {
            match entry {
                Entry::Tenant(tenant) if tenant.key == key => return Some(Arc::clone(tenant)),
                Entry::NoTenant(gone) if *gone == key => return None,
                Entry::Tenant(_) | Entry::NoTenant(_) | Entry::Key(_) | Entry::Usage(..) => {}
            }
        }
        self.directory.tenant(key)
    }

    /// The key as this transaction sees it.
    pub(super) fn key(&self, id: ApiKeyId) -> Option<ApiKey> {
        let known = self.entries.iter().rev().find_map(|entry| match entry {
            Entry::Key(key) if key.id == id => Some((**key).clone()),
            Entry::Key(_) | Entry::Tenant(_) | Entry::NoTenant(_) | Entry::Usage(..) => None,
        });
        let known = known.or_else(|| self.directory.key(id).map(|it| it.key.clone()));
        known.filter(|key| key.tenant.is_none_or(|tenant| self.tenant(tenant).is_some()))
    }

    /// Whether a certificate stands for another key than this.
    pub(super) fn stands_for_another(&self, certificate: &[u8; 32], id: ApiKeyId) -> bool {
        let entered = self.entries.iter().any(|entry| match entry {
            Entry::Key(key) => key.id != id && key.certificates.contains(certificate),
            Entry::Tenant(_) | Entry::NoTenant(_) | Entry::Usage(..) => false,
        });
        entered || self.directory.key_of_certificate(certificate).is_some_and(|it| it.key.id != id)
    }

    /// Notes a change of the directory.
    pub(super) fn enter(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// Notes a change of the routing table.
    pub(super) fn reroute(&mut self, reroute: Reroute) {
        self.reroutes.push(reroute);
    }

    /// Changes of the routing table so far.
    pub(super) fn reroutes(&self) -> &[Reroute] {
        &self.reroutes
    }

    /// The endpoint as this transaction sees it.
    pub(super) fn endpoint(&self, key: EndpointKey) -> Option<Arc<Endpoint>> {
        for reroute in self.reroutes.iter().rev() {
            match reroute {
                Reroute::Put(endpoint) if endpoint.key == key => return Some(Arc::clone(endpoint)),
                Reroute::Remove(removed) if *removed == key => return None,
                Reroute::Put(_) | Reroute::Remove(_) | Reroute::Tenant(_) => {}
            }
        }
        self.routes.get(key)
    }

    /// The endpoint with a public id, as this transaction sees it.
    pub(super) fn find_endpoint(&self, tenant: TenantKey, id: &str) -> Option<Arc<Endpoint>> {
        let added = self.reroutes.iter().rev().find_map(|reroute| match reroute {
            Reroute::Put(endpoint) if endpoint.tenant == tenant && &*endpoint.id == id => Some(endpoint.key),
            Reroute::Put(_) | Reroute::Remove(_) | Reroute::Tenant(_) => None,
        });
        let key = added.or_else(|| self.routes.find(tenant, id).map(|endpoint| endpoint.key))?;
        self.endpoint(key)
    }

    /// Notes that everything so far was there at an instant, unless the newest mark
    /// says so already. Commits mark the feed's time as they go; this is for the
    /// silence after the last one.
    pub(super) fn mark(&mut self, now: Timestamp) -> Result<(), Error> {
        let sql =
            "INSERT OR IGNORE INTO marks SELECT ?1, ?2 WHERE ?2 > (SELECT coalesce(max(pos), 0) FROM marks)";
        self.conn.prepare_cached(sql)?.execute(params![now.max(self.latest), self.position])?;
        Ok(())
    }

    /// Commits, with the counter as the last thing written and the mark if one is
    /// due.
    pub(super) fn commit(mut self, mut last_mark: Timestamp, mark_every: i64) -> Result<Effects, Error> {
        let moved = self.position != self.started_at;
        if moved && self.latest.0 >= last_mark.0.saturating_add(mark_every) {
            let mut insert = self.conn.prepare_cached("INSERT OR IGNORE INTO marks VALUES (?, ?)")?;
            insert.execute(params![self.latest, self.started_at])?;
            last_mark = self.latest;
        }
        if moved {
            let mut update = self.conn.prepare_cached("UPDATE meta SET value = ? WHERE key = 'position'")?;
            update.execute([self.position])?;
        }
        for (tenant, usage) in std::mem::take(&mut self.usage) {
            let sql = "INSERT OR REPLACE INTO usage VALUES (?, ?, ?, ?, ?)";
            let Usage { day, events, open, queued_bytes } = usage;
            let row = params![tenant, day, events.cast_signed(), open, queued_bytes];
            self.conn.prepare_cached(sql)?.execute(row)?;
            self.entries.push(Entry::Usage(tenant, usage));
        }
        self.conn.prepare_cached("COMMIT")?.execute([])?;
        Ok(Effects {
            position: self.position,
            changes: self.changes,
            routes: self.reroutes,
            entries: self.entries,
            hot: self.hot,
            open: self.open,
            latest: self.latest,
            last_mark,
        })
    }
}
