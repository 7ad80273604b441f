//! `TenantService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    convert::{self, Checks},
    pb::{self, tenant_service_server::TenantService},
    status::Caller,
};
use crate::app::{App, Error, Principal};

type Answer<T> = Result<Response<T>, Status>;

/// `TenantService` over the use cases.
#[derive(Clone, Debug)]
pub(super) struct Tenants(pub Arc<App>);

impl Tenants {
    async fn create(&self, request: pb::CreateTenantRequest) -> Result<pb::CreateTenantResponse, Error> {
        let view = self.0.create_tenant(convert::tenants::new_tenant(request)?).await?;
        Ok(pb::CreateTenantResponse { tenant: Some(convert::tenants::out(view)) })
    }

    fn list(
        &self,
        who: &Principal,
        request: pb::ListTenantsRequest,
    ) -> Result<pb::ListTenantsResponse, Error> {
        let pb::ListTenantsRequest { page_size, page_token } = request;
        let mut checks = Checks::new();
        let page = convert::page(&mut checks, page_size, page_token, pb::ListOrder::OldestFirst.into(), &"");
        checks.finish()?;
        let (views, next_page_token) = self.0.tenants(who, &page)?;
        let tenants = views.into_iter().map(convert::tenants::out).collect();
        Ok(pb::ListTenantsResponse { tenants, next_page_token })
    }

    async fn update(&self, request: pb::UpdateTenantRequest) -> Result<pb::UpdateTenantResponse, Error> {
        let (id, etag, patch) = convert::tenants::Patch::new(request)?;
        let view = self.0.update_tenant(&id, &etag, move |tenant| patch.apply(tenant)).await?;
        Ok(pb::UpdateTenantResponse { tenant: Some(convert::tenants::out(view)) })
    }
}

#[tonic::async_trait]
impl TenantService for Tenants {
    async fn create_tenant(
        &self,
        request: Request<pb::CreateTenantRequest>,
    ) -> Answer<pb::CreateTenantResponse> {
        let (caller, _) = Caller::of(&request)?;
        caller.answer(self.create(request.into_inner()).await)
    }

    async fn get_tenant(&self, request: Request<pb::GetTenantRequest>) -> Answer<pb::GetTenantResponse> {
        let (caller, who) = Caller::of(&request)?;
        let found = self.0.tenant(&who, &request.into_inner().id);
        caller.answer(found.map(|view| pb::GetTenantResponse { tenant: Some(convert::tenants::out(view)) }))
    }

    async fn list_tenants(
        &self,
        request: Request<pb::ListTenantsRequest>,
    ) -> Answer<pb::ListTenantsResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.list(&who, request.into_inner()))
    }

    async fn update_tenant(
        &self,
        request: Request<pb::UpdateTenantRequest>,
    ) -> Answer<pb::UpdateTenantResponse> {
        let (caller, _) = Caller::of(&request)?;
        caller.answer(self.update(request.into_inner()).await)
    }

    async fn delete_tenant(
        &self,
        request: Request<pb::DeleteTenantRequest>,
    ) -> Answer<pb::DeleteTenantResponse> {
        let (caller, _) = Caller::of(&request)?;
        let pb::DeleteTenantRequest { id, etag, force } = request.into_inner();
        let deleted = self.0.delete_tenant(&id, &etag, force).await;
        caller.answer(deleted.map(|()| pb::DeleteTenantResponse {}))
    }
}
