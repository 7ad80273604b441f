//! `DeliveryService`.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream::BoxStream};
use tonic::{Request, Response, Status};

use super::{
    convert::{self, Checks},
    pb::{self, delivery_service_server::DeliveryService},
    status::Caller,
};
use crate::{
    app::{App, Error, Principal, Show},
    domain::{Attempt, Delivery, DeliveryId},
};

type Answer<T> = Result<Response<T>, Status>;

/// `DeliveryService` over the use cases.
#[derive(Clone, Debug)]
pub(super) struct Deliveries(pub Arc<App>);

impl Deliveries {
    async fn get(
        &self,
        who: &Principal,
        request: pb::GetDeliveryRequest,
    ) -> Result<pb::GetDeliveryResponse, Error> {
        let pb::GetDeliveryRequest { id, include_attempts } = request;
        let id: DeliveryId = convert::parse("id", &id)?;
        let seen = self.0.delivery(who.tenant(), id).await?;
        let attempts = if include_attempts {
            let (delivery, attempts) = self.0.attempts(who.tenant(), id).await?;
            out_attempts(&delivery, &attempts, Show::Full)
        } else {
            Vec::new()
        };
        let delivery = convert::deliveries::seen(seen, who.tenant_id().to_string());
        Ok(pb::GetDeliveryResponse { delivery: Some(delivery), attempts })
    }

    async fn list(
        &self,
        who: &Principal,
        request: pb::ListDeliveriesRequest,
    ) -> Result<pb::ListDeliveriesResponse, Error> {
        let bound = pb::ListDeliveriesRequest { page_size: 0, page_token: String::new(), ..request.clone() };
        let pb::ListDeliveriesRequest { page_size, page_token, filter, order } = request;
        let mut checks = Checks::new();
        let page = convert::page(&mut checks, page_size, page_token, order, &bound);
        let filter = convert::delivery_in::filter(&mut checks, filter);
        checks.finish()?;
        let (seen, next_page_token, resume_token) = self.0.deliveries(who.tenant(), &filter, &page).await?;
        let tenant_id = who.tenant_id().to_string();
        let delivery = |seen| convert::deliveries::seen(seen, tenant_id.clone());
        let deliveries = seen.into_iter().map(delivery).collect();
        Ok(pb::ListDeliveriesResponse { deliveries, next_page_token, resume_token })
    }

    async fn attempts(
        &self,
        who: &Principal,
        request: pb::ListAttemptsRequest,
    ) -> Result<pb::ListAttemptsResponse, Error> {
        let pb::ListAttemptsRequest { delivery_id, view } = request;
        let mut checks = Checks::new();
        let show = convert::show(&mut checks, view, Show::Basic);
        checks.finish()?;
        let (delivery, attempts) =
            self.0.attempts(who.tenant(), convert::parse("delivery_id", &delivery_id)?).await?;
        Ok(pb::ListAttemptsResponse { attempts: out_attempts(&delivery, &attempts, show) })
    }
}

/// Attempts of one delivery.
pub(super) fn out_attempts(delivery: &Delivery, attempts: &[Arc<Attempt>], show: Show) -> Vec<pb::Attempt> {
    let id = delivery.id.to_string();
    let attempt = |it: &Arc<Attempt>| convert::attempts::attempt(it, id.clone(), &delivery.endpoint_id, show);
    attempts.iter().map(attempt).collect()
}

#[tonic::async_trait]
impl DeliveryService for Deliveries {
    type WatchDeliveriesStream = BoxStream<'static, Result<pb::WatchDeliveriesResponse, Status>>;

    async fn get_delivery(
        &self,
        request: Request<pb::GetDeliveryRequest>,
    ) -> Answer<pb::GetDeliveryResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.get(&who, request.into_inner()).await)
    }

    async fn list_deliveries(
        &self,
        request: Request<pb::ListDeliveriesRequest>,
    ) -> Answer<pb::ListDeliveriesResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.list(&who, request.into_inner()).await)
    }

    async fn list_attempts(
        &self,
        request: Request<pb::ListAttemptsRequest>,
    ) -> Answer<pb::ListAttemptsResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.attempts(&who, request.into_inner()).await)
    }

    async fn watch_deliveries(
        &self,
        request: Request<pb::WatchDeliveriesRequest>,
    ) -> Answer<Self::WatchDeliveriesStream> {
        let (caller, who) = Caller::of(&request)?;
        let open = async {
            let watch = convert::delivery_in::watch(request.into_inner())?;
            let attempts = watch.attempts;
            Ok::<_, Error>((self.0.watch(&who, watch).await?, attempts))
        };
        let (batches, attempts) = open.await.map_err(|error| caller.refuse(error))?;
        let tenant_id = who.tenant_id().to_string();
        let responses = batches.map(move |batch| match batch {
            Ok(batch) => Ok(convert::deliveries::batch(batch, attempts, &tenant_id)),
            Err(error) => Err(caller.refuse(error)),
        });
        Ok(Response::new(responses.boxed()))
    }

    async fn retry_delivery(
        &self,
        request: Request<pb::RetryDeliveryRequest>,
    ) -> Answer<pb::RetryDeliveryResponse> {
        let (caller, who) = Caller::of(&request)?;
        let retry = async {
            let pb::RetryDeliveryRequest { id } = request.into_inner();
            let seen = self.0.retry_delivery(who.tenant(), convert::parse("id", &id)?).await?;
            let delivery = convert::deliveries::seen(seen, who.tenant_id().to_string());
            Ok(pb::RetryDeliveryResponse { delivery: Some(delivery) })
        };
        caller.answer(retry.await)
    }

    async fn cancel_delivery(
        &self,
        request: Request<pb::CancelDeliveryRequest>,
    ) -> Answer<pb::CancelDeliveryResponse> {
        let (caller, who) = Caller::of(&request)?;
        let cancel = async {
            let pb::CancelDeliveryRequest { id } = request.into_inner();
            let seen = self.0.cancel_delivery(who.tenant(), convert::parse("id", &id)?).await?;
            let delivery = convert::deliveries::seen(seen, who.tenant_id().to_string());
            Ok(pb::CancelDeliveryResponse { delivery: Some(delivery) })
        };
        caller.answer(cancel.await)
    }
}
