//! `ApiKeyService` and `AuditService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    convert::{self, Checks},
    pb::{self, api_key_service_server::ApiKeyService, audit_service_server::AuditService},
    status::Caller,
};
use crate::{
    app::{App, Error, Principal},
    domain::ApiKeyId,
};

type Answer<T> = Result<Response<T>, Status>;

/// `ApiKeyService` over the use cases.
#[derive(Clone, Debug)]
pub(super) struct ApiKeys(pub Arc<App>);

impl ApiKeys {
    async fn create(
        &self,
        who: &Principal,
        request: pb::CreateApiKeyRequest,
    ) -> Result<pb::CreateApiKeyResponse, Error> {
        let asked = convert::api_keys::new_key(request, self.0.now())?;
        let (view, token) = self.0.create_key(who, asked).await?;
        Ok(pb::CreateApiKeyResponse { api_key: Some(convert::api_keys::out(view)), token })
    }

    fn list(
        &self,
        who: &Principal,
        request: pb::ListApiKeysRequest,
    ) -> Result<pb::ListApiKeysResponse, Error> {
        let pb::ListApiKeysRequest { page_size, page_token, show_revoked } = request;
        let mut checks = Checks::new();
        let page = convert::page(&mut checks, page_size, page_token, 0, &show_revoked);
        checks.finish()?;
        let (views, next_page_token) = self.0.keys(who, show_revoked, &page)?;
        let api_keys = views.into_iter().map(convert::api_keys::out).collect();
        Ok(pb::ListApiKeysResponse { api_keys, next_page_token })
    }

    async fn rotate(
        &self,
        who: &Principal,
        request: pb::RotateApiKeyRequest,
    ) -> Result<pb::RotateApiKeyResponse, Error> {
        let pb::RotateApiKeyRequest { id, grace_period } = request;
        let id: ApiKeyId = convert::parse("id", &id)?;
        let (view, token) = self.0.rotate_key(who, id, convert::api_keys::grace(grace_period)?).await?;
        Ok(pb::RotateApiKeyResponse { api_key: Some(convert::api_keys::out(view)), token })
    }

    async fn revoke(&self, who: &Principal, id: &str) -> Result<pb::RevokeApiKeyResponse, Error> {
        let view = self.0.revoke_key(who, convert::parse("id", id)?).await?;
        Ok(pb::RevokeApiKeyResponse { api_key: Some(convert::api_keys::out(view)) })
    }
}

#[tonic::async_trait]
impl ApiKeyService for ApiKeys {
    async fn create_api_key(
        &self,
        request: Request<pb::CreateApiKeyRequest>,
    ) -> Answer<pb::CreateApiKeyResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.create(&who, request.into_inner()).await)
    }

    async fn get_api_key(&self, request: Request<pb::GetApiKeyRequest>) -> Answer<pb::GetApiKeyResponse> {
        let (caller, who) = Caller::of(&request)?;
        let found = convert::parse("id", &request.into_inner().id).and_then(|id| self.0.key(&who, id));
        caller.answer(found.map(|view| pb::GetApiKeyResponse { api_key: Some(convert::api_keys::out(view)) }))
    }

    async fn list_api_keys(
        &self,
        request: Request<pb::ListApiKeysRequest>,
    ) -> Answer<pb::ListApiKeysResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.list(&who, request.into_inner()))
    }

    async fn rotate_api_key(
        &self,
        request: Request<pb::RotateApiKeyRequest>,
    ) -> Answer<pb::RotateApiKeyResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.rotate(&who, request.into_inner()).await)
    }

    async fn revoke_api_key(
        &self,
        request: Request<pb::RevokeApiKeyRequest>,
    ) -> Answer<pb::RevokeApiKeyResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.revoke(&who, &request.into_inner().id).await)
    }
}

/// `AuditService` over the use cases.
#[derive(Clone, Debug)]
pub(super) struct Audit(pub Arc<App>);

impl Audit {
    async fn list(
        &self,
        who: &Principal,
        request: pb::ListAuditEntriesRequest,
    ) -> Result<pb::ListAuditEntriesResponse, Error> {
        let bound =
            pb::ListAuditEntriesRequest { page_size: 0, page_token: String::new(), ..request.clone() };
        let pb::ListAuditEntriesRequest { page_size, page_token, filter } = request;
        let mut checks = Checks::new();
        let page = convert::page(&mut checks, page_size, page_token, 0, &bound);
        let filter = convert::api_keys::audit_filter(&mut checks, filter);
        checks.finish()?;
        let (entries, next_page_token) = self.0.audit_entries(who, &filter, &page).await?;
        let entries = entries.into_iter().map(convert::api_keys::audit_entry).collect();
        Ok(pb::ListAuditEntriesResponse { entries, next_page_token })
    }
}

#[tonic::async_trait]
impl AuditService for Audit {
    async fn list_audit_entries(
        &self,
        request: Request<pb::ListAuditEntriesRequest>,
    ) -> Answer<pb::ListAuditEntriesResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.list(&who, request.into_inner()).await)
    }
}
