//! `EndpointService`.

use std::sync::Arc;

use tonic::{Request, Response};

use super::{
    convert::{self, Checks, out_time},
    pb::{self, endpoint_service_server::EndpointService},
    status::Caller,
};
use crate::{
    app::{App, EndpointView, Error, Principal, Show},
    domain::{Endpoint, Rule, SecretId, StoredSecret},
};

type Answer<T> = Result<Response<T>, tonic::Status>;

/// Most characters of the reason for a pause.
const REASON_MAX: usize = 256;

/// What a caller needs for secrets to go along to another origin.
const SECRETS_WRITE: &str = "secrets:write";

/// `EndpointService` over the use cases.
#[derive(Clone, Debug)]
pub(super) struct Endpoints(pub Arc<App>);

impl Endpoints {
    fn out(&self, who: &Principal, view: &EndpointView, shown: Option<&str>) -> Option<pb::Endpoint> {
        let tenant_id = who.tenant_id().to_string();
        Some(convert::endpoint_out::endpoint(view, tenant_id, self.0.now(), shown))
    }

    async fn create(
        &self,
        who: &Principal,
        request: pb::CreateEndpointRequest,
    ) -> Result<pb::CreateEndpointResponse, Error> {
        let (id, mut endpoint, secret) =
            convert::endpoint_in::new_endpoint(request, who.tenant(), &self.0.limits().endpoints)?;
        endpoint.secrets = vec![self.0.new_secret(secret, self.0.now())];
        let view = self.0.create_endpoint(id, endpoint).await?;
        let shown = view.endpoint.secrets.first().map(|secret| secret.id.as_str());
        Ok(pb::CreateEndpointResponse { endpoint: self.out(who, &view, shown) })
    }

    async fn list(
        &self,
        who: &Principal,
        request: pb::ListEndpointsRequest,
    ) -> Result<pb::ListEndpointsResponse, Error> {
        let bound = pb::ListEndpointsRequest { page_size: 0, page_token: String::new(), ..request.clone() };
        let pb::ListEndpointsRequest { page_size, page_token, filter, order } = request;
        let mut checks = Checks::new();
        let page = convert::page(&mut checks, page_size, page_token, order, &bound);
        let filter = convert::endpoint_in::endpoint_filter(&mut checks, filter);
        checks.finish()?;
        let (views, next_page_token) = self.0.endpoints(who.tenant(), &filter, &page).await?;
        let endpoints = views.iter().filter_map(|view| self.out(who, view, None)).collect();
        Ok(pb::ListEndpointsResponse { endpoints, next_page_token })
    }

    async fn update(
        &self,
        who: &Principal,
        request: pb::UpdateEndpointRequest,
    ) -> Result<pb::UpdateEndpointResponse, Error> {
        let (id, etag, patch) = convert::endpoint_mask::Patch::new(request)?;
        let rules = self.0.limits().endpoints.clone();
        let may_write_secrets = who.require(SECRETS_WRITE).is_ok();
        let secret = self.0.new_secret(None, self.0.now());
        let made = secret.id.clone();
        let change = move |endpoint: &mut Endpoint| {
            let relocation = patch.apply(endpoint, &rules, may_write_secrets)?;
            if !relocation.keeps(StoredSecret::SigningSecret) {
                endpoint.secrets = vec![secret];
            }
            Ok(())
        };
        let view = self.0.update_endpoint(who.tenant(), &id, &etag, change).await?;
        Ok(pb::UpdateEndpointResponse { endpoint: self.out(who, &view, Some(&made)) })
    }

    async fn delete(
        &self,
        who: &Principal,
        request: pb::DeleteEndpointRequest,
    ) -> Result<pb::DeleteEndpointResponse, Error> {
        let pb::DeleteEndpointRequest { id, etag, allow_missing } = request;
        convert::endpoint_id("id", &id)?;
        match self.0.delete_endpoint(who.tenant(), &id, &etag).await {
            Err(Error::NotFound { .. }) if allow_missing => Ok(pb::DeleteEndpointResponse {}),
            deleted => deleted.map(|()| pb::DeleteEndpointResponse {}),
        }
    }

    async fn pause(
        &self,
        who: &Principal,
        request: pb::PauseEndpointRequest,
    ) -> Result<pb::PauseEndpointResponse, Error> {
        let pb::PauseEndpointRequest { id, reason } = request;
        convert::endpoint_id("id", &id)?;
        if reason.chars().count() > REASON_MAX {
            return Err(Error::invalid("reason", Rule::TooLong, "must have at most 256 characters"));
        }
        let view = self.0.pause_endpoint(who.tenant(), &id, reason).await?;
        Ok(pb::PauseEndpointResponse { endpoint: self.out(who, &view, None) })
    }

    async fn rotate(
        &self,
        who: &Principal,
        request: pb::RotateSecretRequest,
    ) -> Result<pb::RotateSecretResponse, Error> {
        let (id, rotation) = convert::endpoint_in::rotation(request)?;
        let rotated = self.0.rotate_secret(who.tenant(), &id, rotation).await?;
        Ok(pb::RotateSecretResponse {
            secret: Some(convert::endpoint_out::secret(&rotated.secret, rotated.primary, true)),
            others_expire_time: Some(out_time(rotated.others_expire_at)),
        })
    }

    async fn expire(
        &self,
        who: &Principal,
        request: pb::ExpireSecretRequest,
    ) -> Result<pb::ExpireSecretResponse, Error> {
        let pb::ExpireSecretRequest { id, secret_id } = request;
        let secret: SecretId = convert::parse_pair(&id, "secret_id", &secret_id)?;
        let view = self.0.expire_secret(who.tenant(), &id, secret).await?;
        Ok(pb::ExpireSecretResponse { endpoint: self.out(who, &view, None) })
    }

    fn reveal(&self, who: &Principal, id: &str) -> Result<pb::RevealSecretsResponse, Error> {
        convert::endpoint_id("id", id)?;
        let (secrets, primary) = self.0.secrets(who.tenant(), id)?;
        let secrets = secrets.iter().map(|secret| {
            convert::endpoint_out::secret(secret, primary.as_deref() == Some(secret.id.as_str()), true)
        });
        Ok(pb::RevealSecretsResponse { secrets: secrets.collect() })
    }

    async fn test(
        &self,
        who: &Principal,
        request: pb::TestEndpointRequest,
    ) -> Result<pb::TestEndpointResponse, Error> {
        let payload_max = self.0.limits().payload_bytes_max;
        let (id, event_type, payload) = convert::endpoint_in::test_event(request, payload_max)?;
        let (endpoint, attempt) = self.0.test_endpoint(who.tenant(), &id, event_type, payload).await?;
        let attempt = convert::attempts::attempt(&attempt, String::new(), &endpoint.id, Show::Full);
        Ok(pb::TestEndpointResponse { attempt: Some(attempt) })
    }
}

#[tonic::async_trait]
impl EndpointService for Endpoints {
    async fn create_endpoint(
        &self,
        request: Request<pb::CreateEndpointRequest>,
    ) -> Answer<pb::CreateEndpointResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.create(&who, request.into_inner()).await)
    }

    async fn get_endpoint(
        &self,
        request: Request<pb::GetEndpointRequest>,
    ) -> Answer<pb::GetEndpointResponse> {
        let (caller, who) = Caller::of(&request)?;
        let get = async {
            let pb::GetEndpointRequest { id } = request.into_inner();
            convert::endpoint_id("id", &id)?;
            let view = self.0.endpoint(who.tenant(), &id).await?;
            Ok(pb::GetEndpointResponse { endpoint: self.out(&who, &view, None) })
        };
        caller.answer(get.await)
    }

    async fn list_endpoints(
        &self,
        request: Request<pb::ListEndpointsRequest>,
    ) -> Answer<pb::ListEndpointsResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.list(&who, request.into_inner()).await)
    }

    async fn update_endpoint(
        &self,
        request: Request<pb::UpdateEndpointRequest>,
    ) -> Answer<pb::UpdateEndpointResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.update(&who, request.into_inner()).await)
    }

    async fn delete_endpoint(
        &self,
        request: Request<pb::DeleteEndpointRequest>,
    ) -> Answer<pb::DeleteEndpointResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.delete(&who, request.into_inner()).await)
    }

    async fn pause_endpoint(
        &self,
        request: Request<pb::PauseEndpointRequest>,
    ) -> Answer<pb::PauseEndpointResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.pause(&who, request.into_inner()).await)
    }

    async fn resume_endpoint(
        &self,
        request: Request<pb::ResumeEndpointRequest>,
    ) -> Answer<pb::ResumeEndpointResponse> {
        let (caller, who) = Caller::of(&request)?;
        let resume = async {
            let pb::ResumeEndpointRequest { id } = request.into_inner();
            convert::endpoint_id("id", &id)?;
            let view = self.0.resume_endpoint(who.tenant(), &id).await?;
            Ok(pb::ResumeEndpointResponse { endpoint: self.out(&who, &view, None) })
        };
        caller.answer(resume.await)
    }

    async fn rotate_secret(
        &self,
        request: Request<pb::RotateSecretRequest>,
    ) -> Answer<pb::RotateSecretResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.rotate(&who, request.into_inner()).await)
    }

    async fn expire_secret(
        &self,
        request: Request<pb::ExpireSecretRequest>,
    ) -> Answer<pb::ExpireSecretResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.expire(&who, request.into_inner()).await)
    }

    async fn reveal_secrets(
        &self,
        request: Request<pb::RevealSecretsRequest>,
    ) -> Answer<pb::RevealSecretsResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.reveal(&who, &request.into_inner().id))
    }

    async fn test_endpoint(
        &self,
        request: Request<pb::TestEndpointRequest>,
    ) -> Answer<pb::TestEndpointResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.test(&who, request.into_inner()).await)
    }
}
