//! Registering subscribers and steering them.
//!
//! Reads come from the routing table, which holds every endpoint in memory.

use std::{collections::BTreeMap, sync::Arc};

use super::{App, Error, Kind, List, PageQuery};
use crate::{
    domain::{Attempt, Endpoint, EndpointKey, EndpointState, Event, Order, Payload, Pos, TenantKey},
    engine::Circuit,
    machine::breaker::Position,
    store::{Created, Edited},
};

/// An endpoint and its circuit breaker now.
#[derive(Clone, Debug)]
pub struct EndpointView {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// Its breaker.
    pub circuit: Circuit,
}

/// Which endpoints.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointFilter {
    /// Only in these states; none means all.
    pub states: Vec<EndpointState>,
    /// Only those that would receive this type; empty for any.
    pub event_type: String,
    /// Only whose name or URL contains this, in lower case; empty for any.
    pub text: String,
}

impl EndpointFilter {
    fn fits(&self, it: &Endpoint) -> bool {
        (self.states.is_empty() || self.states.contains(&it.state))
            && (self.event_type.is_empty() || it.receives() && it.wants(&self.event_type))
            && (self.text.is_empty()
                || it.name.to_lowercase().contains(&self.text)
                || it.url.to_lowercase().contains(&self.text))
    }
}

impl App {
    /// Registers an endpoint. Empty `id`: one is made.
    pub async fn create_endpoint(&self, id: String, mut endpoint: Endpoint) -> Result<EndpointView, Error> {
        let now = self.now();
        endpoint.id = if id.is_empty() { format!("ep_{}", self.fresh_uid(now)).into() } else { id.into() };
        if endpoint.secrets.is_empty() {
            endpoint.secrets = vec![self.new_secret(None, now)];
        }
        (endpoint.created_at, endpoint.updated_at, endpoint.version) = (now, now, 1);
        let id = Arc::clone(&endpoint.id);
        match self.store.create_endpoint(endpoint).await? {
            Created::Done(endpoint) => Ok(self.view(endpoint).await),
            Created::IdTaken => Err(Error::IdTaken { kind: Kind::Endpoint, id: id.to_string() }),
            Created::NoTenant => Err(Error::CredentialInvalid),
            Created::Quota(limit) => Err(Error::Quota { quota: "endpoints", limit }),
        }
    }

    /// Reads an endpoint.
    pub async fn endpoint(&self, tenant: TenantKey, id: &str) -> Result<EndpointView, Error> {
        let found = self.find(tenant, id)?;
        Ok(self.view(found).await)
    }

    /// A page of endpoints, and the token of the next.
    pub async fn endpoints(
        &self,
        tenant: TenantKey,
        filter: &EndpointFilter,
        query: &PageQuery,
    ) -> Result<(Vec<EndpointView>, String), Error> {
        let cut = self.cut(tenant, List::Endpoints, query)?;
        let key = |it: &Endpoint| Pos(it.key.0.cast_unsigned());
        let fits = |it: &Endpoint| cut.page.follows(key(it)) && filter.fits(it);
        let mut found = self.store.routes().select(tenant, fits);
        if cut.page.order == Order::NewestFirst {
            found.reverse();
        }
        let (found, next) = cut.first(found, |it| key(it));
        let circuits = self.fleet.circuits(found.iter().map(|it| it.key).collect()).await;
        let views = found.into_iter().zip(circuits);
        Ok((views.map(|(endpoint, circuit)| EndpointView { endpoint, circuit }).collect(), next))
    }

    /// Changes an endpoint by what `change` makes of it; empty `etag`: whatever its
    /// version is.
    pub async fn update_endpoint(
        &self,
        tenant: TenantKey,
        id: &str,
        etag: &str,
        change: impl FnOnce(&mut Endpoint) -> Result<(), Error> + Send + 'static,
    ) -> Result<EndpointView, Error> {
        let edit = self.store.edit_endpoint(tenant, id.to_owned(), super::version(etag), self.now(), change);
        match edit.await? {
            Edited::Done(endpoint) => Ok(self.view(endpoint).await),
            Edited::NotFound => Err(Error::not_found(Kind::Endpoint, id)),
            Edited::Version(current) => Err(Error::EtagMismatch { current }),
            Edited::Quarantined => Err(Error::EndpointQuarantined),
            Edited::Refused(error) => Err(error),
        }
    }

    /// Deletes an endpoint; its open deliveries are cancelled soon after.
    pub async fn delete_endpoint(&self, tenant: TenantKey, id: &str, etag: &str) -> Result<(), Error> {
        match self.store.delete_endpoint(tenant, id.to_owned(), super::version(etag), self.now()).await? {
            Edited::Done(endpoint) => {
                self.sweep(endpoint.key);
                Ok(())
            }
            Edited::NotFound => Err(Error::not_found(Kind::Endpoint, id)),
            Edited::Version(current) => Err(Error::EtagMismatch { current }),
            Edited::Quarantined => Err(Error::EndpointQuarantined),
            Edited::Refused(never) => match never {},
        }
    }

    /// Holds an endpoint's deliveries.
    pub async fn pause_endpoint(
        &self,
        tenant: TenantKey,
        id: &str,
        reason: String,
    ) -> Result<EndpointView, Error> {
        self.update_endpoint(tenant, id, "", |endpoint| {
            require_receiving(endpoint)?;
            (endpoint.state, endpoint.state_reason) = (EndpointState::Paused, reason);
            Ok(())
        })
        .await
    }

    /// Lets an endpoint's deliveries flow again and closes its breaker.
    pub async fn resume_endpoint(&self, tenant: TenantKey, id: &str) -> Result<EndpointView, Error> {
        let resume = |endpoint: &mut Endpoint| {
            require_receiving(endpoint)?;
            (endpoint.state, endpoint.state_reason) = (EndpointState::Active, String::new());
            Ok(())
        };
        let view = self.update_endpoint(tenant, id, "", resume).await?;
        self.store.reset_circuit(view.endpoint.key).await?;
        Ok(self.view(view.endpoint).await)
    }

    /// Sends one test event now; nothing is stored.
    pub async fn test_endpoint(
        &self,
        tenant: TenantKey,
        id: &str,
        event_type: Arc<str>,
        payload: Payload,
    ) -> Result<(Arc<Endpoint>, Attempt), Error> {
        let endpoint = self.find(tenant, id)?;
        if endpoint.quarantined {
            return Err(Error::EndpointQuarantined);
        }
        let now = self.now();
        let event = Event {
            id: self.fresh_event_id(now),
            tenant,
            event_type,
            payload,
            idempotency_key: String::new(),
            priority: 0,
            deliver_at: None,
            expires_at: None,
            metadata: BTreeMap::new(),
            created_at: now,
        };
        let attempt = self.fleet.test(Arc::clone(&endpoint), event).await;
        attempt.map(|attempt| (endpoint, attempt)).ok_or_else(Error::draining)
    }

    pub(super) fn find(&self, tenant: TenantKey, id: &str) -> Result<Arc<Endpoint>, Error> {
        self.store.routes().find(tenant, id).ok_or_else(|| Error::not_found(Kind::Endpoint, id))
    }

    pub(super) async fn view(&self, endpoint: Arc<Endpoint>) -> EndpointView {
        let circuits = self.fleet.circuits(vec![endpoint.key]).await;
        let closed = Circuit { position: Position::Closed, failures: 0, opened_at: None };
        EndpointView { circuit: circuits.first().copied().unwrap_or(closed), endpoint }
    }

    /// Why nothing can be sent to the endpoint of a delivery.
    pub(super) fn inactive(&self, endpoint: Option<EndpointKey>) -> Error {
        let found = endpoint.and_then(|key| self.store.routes().get(key));
        Error::EndpointInactive { state: found.map_or("DELETED", |it| state_name(it.state)) }
    }
}

fn require_receiving(endpoint: &Endpoint) -> Result<(), Error> {
    if endpoint.receives() {
        Ok(())
    } else {
        Err(Error::EndpointInactive { state: state_name(endpoint.state) })
    }
}

fn state_name(state: EndpointState) -> &'static str {
    match state {
        EndpointState::Active => "ACTIVE",
        EndpointState::Paused => "PAUSED",
        EndpointState::Disabled => "DISABLED",
        EndpointState::AutoDisabled => "AUTO_DISABLED",
    }
}
