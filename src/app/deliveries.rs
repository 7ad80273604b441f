//! Following and steering deliveries.

use std::sync::Arc;

use super::{App, Error, Kind, List, PageQuery};
use crate::{
    domain::{Attempt, Delivery, DeliveryId, Live, State, TenantKey, Timestamp},
    store::{DeliveryFilter, Steered},
};

/// A delivery as it stands at an instant, what is not stored included.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The delivery as stored.
    pub delivery: Delivery,
    /// What its lane knows besides.
    pub live: Live,
    /// When it was looked at.
    pub at: Timestamp,
}

impl App {
    /// Reads a delivery.
    pub async fn delivery(&self, tenant: TenantKey, id: DeliveryId) -> Result<Seen, Error> {
        let delivery = self.stored_delivery(tenant, id).await?;
        Ok(self.see(delivery).await)
    }

    /// The attempts of a delivery, first to last, and the delivery.
    pub async fn attempts(
        &self,
        tenant: TenantKey,
        id: DeliveryId,
    ) -> Result<(Delivery, Vec<Arc<Attempt>>), Error> {
        let delivery = self.stored_delivery(tenant, id).await?;
        let attempts = self.store.attempts(&delivery).await?;
        Ok((delivery, attempts))
    }

    /// A page of deliveries, the token of the next, and on the first page the token
    /// from which a watch goes on.
    pub async fn deliveries(
        &self,
        tenant: TenantKey,
        filter: &DeliveryFilter,
        query: &PageQuery,
    ) -> Result<(Vec<Seen>, String, String), Error> {
        let cut = self.cut(tenant, List::Deliveries, query)?;
        // Before the page is read: the watch may repeat what it shows, but misses
        // nothing.
        let first = cut.page.after.is_none();
        let resume = self.resume_token(tenant, self.store.recent().position());
        let resume_token = if first { resume.encode() } else { String::new() };
        let (page, next) = self.store.deliveries(tenant, filter, cut.page, self.now()).await?;
        Ok((self.see_all(page).await, cut.next(next), resume_token))
    }

    /// Makes an open delivery due now, or repeats a finished one.
    pub async fn retry_delivery(&self, tenant: TenantKey, id: DeliveryId) -> Result<Seen, Error> {
        let steered = self.store.retry(tenant, id, self.now()).await?;
        let delivery = self.steered(tenant, id, steered).await?;
        Ok(self.see(delivery).await)
    }

    /// Cancels an open delivery. One that was cancelled before is answered as it is.
    pub async fn cancel_delivery(&self, tenant: TenantKey, id: DeliveryId) -> Result<Seen, Error> {
        let steered = self.store.cancel(tenant, id, self.now()).await?;
        let delivery = if steered == Steered::State(State::Cancelled) {
            self.stored_delivery(tenant, id).await?
        } else {
            self.steered(tenant, id, steered).await?
        };
        Ok(self.see(delivery).await)
    }

    pub(super) async fn steered(
        &self,
        tenant: TenantKey,
        id: DeliveryId,
        steered: Steered,
    ) -> Result<Delivery, Error> {
        match steered {
            Steered::Done(delivery) => Ok(*delivery),
            Steered::NotFound => Err(Error::not_found(Kind::Delivery, id.to_string())),
            Steered::State(state) => Err(Error::DeliveryState(state)),
            Steered::Letter(state) => Err(Error::LetterState(state)),
            Steered::EndpointInactive => {
                let delivery = self.store.delivery(tenant, id).await?;
                Err(self.inactive(delivery.map(|delivery| delivery.endpoint)))
            }
        }
    }

    pub(super) async fn stored_delivery(&self, tenant: TenantKey, id: DeliveryId) -> Result<Delivery, Error> {
        let found = self.store.delivery(tenant, id).await?;
        found.ok_or_else(|| Error::not_found(Kind::Delivery, id.to_string()))
    }

    pub(super) async fn see(&self, delivery: Delivery) -> Seen {
        let live = if delivery.is_open() {
            self.fleet.live(vec![delivery.clone()]).await.first().copied().unwrap_or_default()
        } else {
            Live::default()
        };
        Seen { delivery, live, at: self.now() }
    }

    async fn see_all(&self, deliveries: Vec<Delivery>) -> Vec<Seen> {
        let open: Vec<_> = deliveries.iter().filter(|it| it.is_open()).cloned().collect();
        let mut lives = if open.is_empty() { Vec::new() } else { self.fleet.live(open).await }.into_iter();
        let at = self.now();
        let seen = deliveries.into_iter().map(|delivery| {
            let live = if delivery.is_open() { lives.next().unwrap_or_default() } else { Live::default() };
            Seen { delivery, live, at }
        });
        seen.collect()
    }
}
