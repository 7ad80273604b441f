//! Which endpoints want an event.

use std::{collections::HashMap, sync::Arc};

use crate::domain::{Endpoint, EndpointKey, TenantKey};

/// Event types remembered at most; past this the memory starts anew.
const TYPES_MAX: usize = 10_000;

/// Every endpoint, and for each event type seen the endpoints that want it.
#[derive(Debug, Default)]
pub struct Routes {
    endpoints: HashMap<EndpointKey, Arc<Endpoint>>,
    tenants: HashMap<TenantKey, Tenant>,
}

/// What is known of one tenant.
#[derive(Debug, Default)]
struct Tenant {
    by_id: HashMap<Arc<str>, EndpointKey>,
    wanted: HashMap<Arc<str>, Arc<[Arc<Endpoint>]>>,
}

impl Routes {
    /// Adds or replaces an endpoint.
    pub fn put(&mut self, endpoint: Arc<Endpoint>) {
        let tenant = self.tenants.entry(endpoint.tenant).or_default();
        tenant.wanted.clear();
        tenant.by_id.insert(Arc::clone(&endpoint.id), endpoint.key);
        self.endpoints.insert(endpoint.key, endpoint);
    }

    /// Removes an endpoint.
    pub fn remove(&mut self, key: EndpointKey) {
        let Some(endpoint) = self.endpoints.remove(&key) else { return };
        if let Some(tenant) = self.tenants.get_mut(&endpoint.tenant) {
            tenant.wanted.clear();
            tenant.by_id.remove(&endpoint.id);
        }
    }

    /// An endpoint by key.
    pub fn get(&self, key: EndpointKey) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(&key)
    }

    /// An endpoint by public id.
    pub fn find(&self, tenant: TenantKey, id: &str) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(self.tenants.get(&tenant)?.by_id.get(id)?)
    }

    /// Those of a tenant, in no order.
    pub fn of(&self, tenant: TenantKey) -> impl Iterator<Item = &Arc<Endpoint>> {
        let keys = self.tenants.get(&tenant).into_iter().flat_map(|it| it.by_id.values());
        keys.filter_map(|key| self.endpoints.get(key))
    }

    /// How many a tenant has.
    pub fn count(&self, tenant: TenantKey) -> usize {
        self.tenants.get(&tenant).map_or(0, |it| it.by_id.len())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// The endpoints that receive events of this type, in order of creation.
    pub fn wanting(&mut self, tenant: TenantKey, event_type: &Arc<str>) -> Arc<[Arc<Endpoint>]> {
        if let Some(known) = self.tenants.get(&tenant).and_then(|it| it.wanted.get(event_type)) {
            return Arc::clone(known);
        }
        let wants = |it: &&Arc<Endpoint>| it.receives() && it.wants(event_type);
        let mut found: Vec<_> = self.of(tenant).filter(wants).cloned().collect();
        found.sort_by_key(|endpoint| endpoint.key);
        let found: Arc<[_]> = found.into();
        let memory = self.tenants.entry(tenant).or_default();
        if memory.wanted.len() >= TYPES_MAX {
            memory.wanted.clear();
        }
        memory.wanted.insert(Arc::clone(event_type), Arc::clone(&found));
        found
    }
}
