//! A transaction under way, and what it changes outside the database.

use std::sync::{Arc, PoisonError, RwLock};

use super::{
    Error,
    db::{Conn, params},
    directory::{Directory, Entry},
    journal::{self, Note},
    shards::Shards,
    tenants,
};
use crate::{
    domain::{
        ApiKey, ApiKeyId, Change, ChangeKind, Delivery, Endpoint, EndpointKey, Event, Pos, Shard, Tenant,
        TenantKey, Tenure, Timestamp, Usage,
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
    /// What callers asked of circuit breakers since.
    breakers: RwLock<Vec<(EndpointKey, BreakerCommand)>>,
}

/// What a caller asked of the circuit breaker of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerCommand {
    /// Close it, and end the silence that the endpoint asked for.
    Close,
    /// Probe the endpoint now, if it is open.
    Probe,
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

    /// What callers asked of circuit breakers since the last call, in order.
    pub fn take_breaker_commands(&self) -> Vec<(EndpointKey, BreakerCommand)> {
        if self.breakers.read().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return Vec::new();
        }
        std::mem::take(&mut *self.breakers.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn command_breakers(&self, note: &Note) {
        if !(note.resets.is_empty() && note.probes.is_empty()) {
            let commands =
                |keys: &[i64], command| keys.iter().map(move |key| (EndpointKey(*key), command)).collect();
            let (closed, probed): (Vec<_>, Vec<_>) = (
                commands(&note.resets, BreakerCommand::Close),
                commands(&note.probes, BreakerCommand::Probe),
            );
            let mut breakers = self.breakers.write().unwrap_or_else(PoisonError::into_inner);
            breakers.extend(closed);
            breakers.extend(probed);
        }
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

/// What a transaction looks at in memory.
#[derive(Clone, Copy)]
pub(super) struct About<'c> {
    pub routes: &'c SharedRoutes,
    pub directory: &'c Directory,
    pub shards: &'c Shards,
    pub vault: &'c Vault,
}

/// A transaction under way.
pub struct Tx<'c> {
    pub(super) conn: &'c Conn,
    pub(super) routes: &'c SharedRoutes,
    pub(super) directory: &'c Directory,
    pub(super) shards: &'c Shards,
    pub(super) vault: &'c Vault,
    position: Pos,
    /// Where the feed stood before.
    base: Pos,
    /// The last number that is not this transaction's.
    started_at: Pos,
    /// What others are told, besides what `reroutes`, `entries` and `changes` say.
    note: Note,
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
    /// Where the feed stands now.
    pub position: Pos,
    pub note: Note,
    pub changes: Vec<Arc<Change>>,
    pub routes: Vec<Reroute>,
    pub entries: Vec<Entry>,
    pub hot: Vec<(Arc<Event>, u32)>,
    pub open: i64,
    pub latest: Timestamp,
    pub last_mark: Timestamp,
}

impl<'c> Tx<'c> {
    /// Goes on from what was begun at `position`.
    pub(super) fn new(
        conn: &'c Conn,
        about: About<'c>,
        (base, floor): (Pos, Pos),
        latest: Timestamp,
    ) -> Self {
        let About { routes, directory, shards, vault } = about;
        let position = base.max(floor);
        Self {
            conn,
            routes,
            directory,
            shards,
            vault,
            position,
            base,
            started_at: position,
            note: Note::default(),
            changes: Vec::new(),
            reroutes: Vec::new(),
            entries: Vec::new(),
            usage: Vec::new(),
            hot: Vec::new(),
            open: 0,
            latest,
        }
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

    /// The day that its numbers are of; only on the server do they have one.
    pub(super) fn day(&self) -> i64 {
        (self.position.0 >> 32).cast_signed()
    }

    /// What all tenants use before this transaction, and the position of that.
    pub(super) fn all_usage(&self) -> (Vec<(TenantKey, Usage)>, Pos) {
        (self.directory.all_usage(), self.base)
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

    /// Notes that a share changes hands.
    pub(super) fn hand_over(&mut self, shard: Shard, tenure: Tenure) {
        self.note.shards.push((shard, tenure));
    }

    /// Notes that operations were accepted or stopped.
    pub(super) fn wake_operations(&mut self) {
        self.note.operations = true;
    }

    /// Notes that a circuit breaker was reset by hand. It takes a number, so that
    /// whoever follows the feed wakes up.
    pub(super) fn reset_circuit(&mut self, endpoint: EndpointKey) {
        self.next_pos();
        self.note.resets.push(endpoint.0);
    }

    /// Notes that an endpoint is to be probed at once, if its circuit breaker is open. The
    /// change of a delivery that comes with it wakes its owner up.
    pub(super) fn probe(&mut self, endpoint: EndpointKey) {
        self.note.probes.push(endpoint.0);
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
        let sql = "INSERT INTO marks SELECT $1, $2 WHERE $2 > (SELECT coalesce(max(pos), 0) FROM marks) \
             ON CONFLICT DO NOTHING";
        // The day's first number is nothing that the feed has come to.
        let reached = if self.position == self.started_at { self.base } else { self.position };
        self.conn.execute(sql, &params![now.max(self.latest), reached])?;
        Ok(())
    }

    /// Commits, with the counter as the last thing written and the mark if one is
    /// due.
    pub(super) fn commit(mut self, mut last_mark: Timestamp, mark_every: i64) -> Result<Effects, Error> {
        let moved = self.position != self.started_at;
        if moved && self.latest.0 >= last_mark.0.saturating_add(mark_every) {
            let sql = "INSERT INTO marks VALUES ($1, $2) ON CONFLICT DO NOTHING";
            self.conn.execute(sql, &params![self.latest, self.started_at])?;
            last_mark = self.latest;
        }
        if !self.conn.is_shared() {
            tenants::put_usage(self.conn, &self.usage)?;
        }
        self.entries
            .extend(std::mem::take(&mut self.usage).into_iter().map(|(key, usage)| Entry::Usage(key, usage)));
        let shared = self.conn.is_shared();
        let note = if shared { self.noted() } else { std::mem::take(&mut self.note) };
        if shared && !moved && note != Note::default() {
            // An entry has a number of its own.
            self.next_pos();
        }
        let (pos, base, latest, origin) = (self.position, self.base, self.latest, self.shards.me());
        let entry = journal::Entry { pos, base, latest, origin, note };
        self.conn.commit((pos != self.started_at).then_some(&entry))?;
        Ok(Effects {
            position: if pos == self.started_at { base } else { pos },
            note: entry.note,
            changes: self.changes,
            routes: self.reroutes,
            entries: self.entries,
            hot: self.hot,
            open: self.open,
            latest: self.latest,
            last_mark,
        })
    }

    /// What others are told of this transaction.
    fn noted(&mut self) -> Note {
        let mut note = std::mem::take(&mut self.note);
        for reroute in &self.reroutes {
            match reroute {
                Reroute::Put(endpoint) => note.endpoints.push(endpoint.key.0),
                Reroute::Remove(key) => note.endpoints.push(key.0),
                Reroute::Tenant(_) => {}
            }
        }
        for entry in &self.entries {
            match entry {
                Entry::Tenant(tenant) => note.tenants.push(tenant.key.0),
                Entry::NoTenant(key) => note.tenants.push(key.0),
                Entry::Key(key) => note.keys.push(key.number.cast_signed()),
                Entry::Usage(key, it) => {
                    note.usage.push((key.0, it.day, it.events, it.open, it.queued_bytes));
                }
            }
        }
        for change in &self.changes {
            let it = &change.delivery;
            if self.shards.is_home(it.endpoint) {
                continue;
            }
            match change.kind {
                ChangeKind::Created => note.make(it, self.position),
                ChangeKind::StateChanged | ChangeKind::Updated => {
                    note.steered.push((it.id.pos().0.cast_signed(), it.endpoint.0));
                }
            }
        }
        note
    }
}
