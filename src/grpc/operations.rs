//! `OperationService`.

use std::{sync::Arc, time::Duration};

use tonic::{Request, Response, Status};

use super::{
    TIMEOUT_MAX,
    convert::{self, Checks},
    gateway,
    pb::{self, operation_service_server::OperationService},
    status::Caller,
};
use crate::{
    app::{App, Error, Principal},
    domain::OperationId,
};

type Answer<T> = Result<Response<T>, Status>;

/// Kept back from the time a caller has, for the answer to arrive in.
const MARGIN: Duration = Duration::from_millis(250);

/// `OperationService` over the use cases.
#[derive(Clone, Debug)]
pub(super) struct Operations(pub Arc<App>);

impl Operations {
    async fn list(
        &self,
        who: &Principal,
        request: pb::ListOperationsRequest,
    ) -> Result<pb::ListOperationsResponse, Error> {
        let bound = pb::ListOperationsRequest { page_size: 0, page_token: String::new(), ..request.clone() };
        let pb::ListOperationsRequest { page_size, page_token, kinds, states } = request;
        let mut checks = Checks::new();
        let page = convert::page(&mut checks, page_size, page_token, 0, &bound);
        let filter = convert::operations::filter(&mut checks, &kinds, &states);
        checks.finish()?;
        let (found, next_page_token) = self.0.operations(who.tenant(), &filter, &page).await?;
        let operations = found.into_iter().map(convert::operations::operation).collect();
        Ok(pb::ListOperationsResponse { operations, next_page_token })
    }

    async fn wait(
        &self,
        who: &Principal,
        request: pb::WaitOperationRequest,
        most: Duration,
    ) -> Result<pb::WaitOperationResponse, Error> {
        let pb::WaitOperationRequest { id, timeout } = request;
        let mut checks = Checks::new();
        let limit = convert::delivery_in::wait(&mut checks, "timeout", timeout, most);
        checks.finish()?;
        let id: OperationId = convert::parse("id", &id)?;
        let operation = self.0.wait_operation(who.tenant(), id, limit).await?;
        Ok(pb::WaitOperationResponse { operation: Some(convert::operations::operation(operation)) })
    }
}

#[tonic::async_trait]
impl OperationService for Operations {
    async fn get_operation(
        &self,
        request: Request<pb::GetOperationRequest>,
    ) -> Answer<pb::GetOperationResponse> {
        let (caller, who) = Caller::of(&request)?;
        let get = async {
            let pb::GetOperationRequest { id } = request.into_inner();
            let operation = self.0.operation(who.tenant(), convert::parse("id", &id)?).await?;
            Ok(pb::GetOperationResponse { operation: Some(convert::operations::operation(operation)) })
        };
        caller.answer(get.await)
    }

    async fn list_operations(
        &self,
        request: Request<pb::ListOperationsRequest>,
    ) -> Answer<pb::ListOperationsResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.list(&who, request.into_inner()).await)
    }

    async fn wait_operation(
        &self,
        request: Request<pb::WaitOperationRequest>,
    ) -> Answer<pb::WaitOperationResponse> {
        let (caller, who) = Caller::of(&request)?;
        let deadline = gateway::timeout(request.metadata().as_ref());
        let most = deadline.unwrap_or(TIMEOUT_MAX).min(TIMEOUT_MAX);
        // A short time is not eaten up by the margin.
        let most = most - MARGIN.min(most / 4);
        caller.answer(self.wait(&who, request.into_inner(), most).await)
    }

    async fn cancel_operation(
        &self,
        request: Request<pb::CancelOperationRequest>,
    ) -> Answer<pb::CancelOperationResponse> {
        let (caller, who) = Caller::of(&request)?;
        let cancel = async {
            let pb::CancelOperationRequest { id } = request.into_inner();
            let operation = self.0.cancel_operation(who.tenant(), convert::parse("id", &id)?).await?;
            Ok(pb::CancelOperationResponse { operation: Some(convert::operations::operation(operation)) })
        };
        caller.answer(cancel.await)
    }
}
