//! Tenants: made, changed and removed by administrators.

use std::sync::Arc;

use super::{App, Error, Kind, List, PageQuery, Principal};
use crate::{
    domain::{Order, Pos, Tenant, Usage},
    store::Changed,
};

/// A tenant and what it uses.
#[derive(Clone, Debug)]
pub struct TenantView {
    /// The tenant.
    pub tenant: Arc<Tenant>,
    /// Its endpoints.
    pub endpoints: u64,
    /// What else it uses.
    pub usage: Usage,
    /// Events published since the last midnight UTC.
    pub events_today: u64,
}

/// Stands for the tenant that a call acts for.
const SELF: &str = "self";

impl App {
    /// Makes a tenant.
    pub async fn create_tenant(&self, mut tenant: Tenant) -> Result<TenantView, Error> {
        let now = self.now();
        (tenant.created_at, tenant.updated_at) = (now, now);
        let id = Arc::clone(&tenant.id);
        self.changed(self.store.create_tenant(tenant).await?, &id)
    }

    /// Reads a tenant: an administrator any, others their own.
    pub fn tenant(&self, principal: &Principal, id: &str) -> Result<TenantView, Error> {
        let id = if id == SELF { &**principal.tenant_id() } else { id };
        let found = self.find_tenant(id)?;
        if principal.sees_tenant(found.key) {
            Ok(self.tenant_view(found))
        } else {
            Err(Error::not_found(Kind::Tenant, id))
        }
    }

    /// A page of tenants by age, and the token of the next; who is no administrator
    /// sees their own.
    pub fn tenants(
        &self,
        principal: &Principal,
        query: &PageQuery,
    ) -> Result<(Vec<TenantView>, String), Error> {
        let cut = self.cut(principal.tenant(), List::Tenants, query)?;
        let number = |it: &Tenant| Pos(it.key.0.cast_unsigned());
        let mut found = self.store.directory().tenants();
        found.retain(|it| principal.sees_tenant(it.key) && cut.page.follows(number(it)));
        if cut.page.order == Order::NewestFirst {
            found.reverse();
        }
        let (found, next) = cut.first(found, |it| number(it));
        Ok((found.into_iter().map(|tenant| self.tenant_view(tenant)).collect(), next))
    }

    /// Changes a tenant by what `change` makes of it.
    pub async fn update_tenant(
        &self,
        id: &str,
        etag: &str,
        change: impl FnOnce(&mut Tenant) + Send + 'static,
    ) -> Result<TenantView, Error> {
        let key = self.find_tenant(id)?.key;
        let changed = self.store.edit_tenant(key, super::version(etag), self.now(), change).await?;
        // An engine at rest looks at what was changed when it is asked something.
        self.fleet.circuits(Vec::new()).await;
        self.changed(changed, id)
    }

    /// Deletes a tenant; its endpoints and what waits for them go soon after.
    pub async fn delete_tenant(&self, id: &str, etag: &str, force: bool) -> Result<(), Error> {
        if id == Tenant::DEFAULT_ID {
            return Err(Error::InUse { by: "every call that names no tenant".to_owned() });
        }
        let key = self.find_tenant(id)?.key;
        self.changed(self.store.delete_tenant(key, super::version(etag), force, self.now()).await?, id)?;
        // Left to the background: a caller whose time is over must not leave it half done.
        self.new_sweep.notify_one();
        Ok(())
    }

    /// Deletes the endpoints of deleted tenants, and has what waits for them
    /// cancelled.
    pub(super) async fn sweep_tenants(&self) -> Result<(), Error> {
        loop {
            let gone = self.store.sweep_tenants(self.now()).await?;
            if gone.is_empty() {
                return Ok(());
            }
            gone.into_iter().for_each(|endpoint| self.sweep(endpoint));
        }
    }

    /// A tenant by its id.
    pub(super) fn find_tenant(&self, id: &str) -> Result<Arc<Tenant>, Error> {
        self.store.directory().tenant_named(id).ok_or_else(|| Error::not_found(Kind::Tenant, id))
    }

    fn changed(&self, changed: Changed, id: &str) -> Result<TenantView, Error> {
        match changed {
            Changed::Done(tenant) => Ok(self.tenant_view(tenant)),
            Changed::NotFound => Err(Error::not_found(Kind::Tenant, id)),
            Changed::Version(current) => Err(Error::EtagMismatch { current }),
            Changed::IdTaken => Err(Error::IdTaken { kind: Kind::Tenant, id: id.to_owned() }),
            Changed::InUse(endpoints) => Err(Error::InUse { by: format!("{endpoints} endpoints") }),
        }
    }

    fn tenant_view(&self, tenant: Arc<Tenant>) -> TenantView {
        let usage = self.store.directory().usage(tenant.key);
        let events_today = usage.events_on(Usage::day_of(self.now()));
        TenantView { endpoints: self.store.routes().count(tenant.key), usage, events_today, tenant }
    }
}
