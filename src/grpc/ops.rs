//! `OpsService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    convert,
    pb::{self, ops_service_server::OpsService},
    status::Caller,
};
use crate::app::App;

/// `OpsService` over the use cases.
#[derive(Clone, Debug)]
pub(super) struct Ops(pub Arc<App>);

#[tonic::async_trait]
impl OpsService for Ops {
    async fn list_instances(
        &self,
        request: Request<pb::ListInstancesRequest>,
    ) -> Result<Response<pb::ListInstancesResponse>, Status> {
        let (caller, _) = Caller::of(&request)?;
        caller.answer(self.0.instances().await.map(|views| {
            let instances = views.into_iter().map(convert::ops::out).collect();
            pb::ListInstancesResponse { instances }
        }))
    }

    async fn set_log_filter(
        &self,
        request: Request<pb::SetLogFilterRequest>,
    ) -> Result<Response<pb::SetLogFilterResponse>, Status> {
        let (caller, _) = Caller::of(&request)?;
        let directives = convert::ops::directives(request.into_inner());
        let set = directives.and_then(|directives| self.0.set_log_filter(&directives));
        caller.answer(set.map(|directives| pb::SetLogFilterResponse { directives }))
    }
}
