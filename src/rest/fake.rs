//! Services that answer without a store, for tests of the edge.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, stream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Request, Response, Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::{
    grpc::{
        Services,
        pb::{
            self, delivery_service_server as delivery, endpoint_service_server as endpoint,
            event_service_server as event, operation_service_server as operation,
        },
    },
    peer::Peer,
};

type Answer<T> = Result<Response<T>, Status>;
type Changes = Pin<Box<dyn Stream<Item = Result<pb::WatchDeliveriesResponse, Status>> + Send>>;

/// Implements four services; remembers the metadata of the last call.
#[derive(Clone, Default)]
pub(crate) struct Fake {
    pub(crate) metadata: Arc<Mutex<MetadataMap>>,
    /// Who made the last call.
    pub(crate) peer: Arc<Mutex<Option<Peer>>>,
    /// The last watch, as it was asked for.
    pub(crate) watch: Arc<Mutex<pb::WatchDeliveriesRequest>>,
    /// Cancelled when a watch, or a call that waits, is dropped.
    pub(crate) dropped: CancellationToken,
}

impl Fake {
    /// The gRPC services, put together as the real ones are.
    pub(crate) fn services(&self) -> Services {
        Services::default()
            .with(endpoint::EndpointServiceServer::new(self.clone()))
            .with(delivery::DeliveryServiceServer::new(self.clone()))
            .with(event::EventServiceServer::new(self.clone()))
            .with(operation::OperationServiceServer::new(self.clone()))
    }

    fn note<T>(&self, request: Request<T>) -> T {
        let (metadata, extensions, message) = request.into_parts();
        *self.peer.lock().unwrap() = extensions.get().copied();
        *self.metadata.lock().unwrap() = metadata;
        message
    }

    fn guard(&self) -> DropGuard {
        self.dropped.clone().drop_guard()
    }
}

/// An error with details, as the real services make them.
fn failure(code: Code, reason: &str, mut details: ErrorDetails) -> Status {
    details.set_error_info(reason, "hookwire", [("key".to_owned(), "value".to_owned())]);
    Status::with_error_details(code, format!("{reason} happened"), details)
}

fn no_details(code: Code, reason: &str) -> Status {
    failure(code, reason, ErrorDetails::new())
}

#[tonic::async_trait]
impl endpoint::EndpointService for Fake {
    async fn create_endpoint(
        &self,
        r: Request<pb::CreateEndpointRequest>,
    ) -> Answer<pb::CreateEndpointResponse> {
        let request = self.note(r);
        let mut endpoint = request.endpoint.ok_or_else(|| {
            let violation = FieldViolation {
                field: "endpoint".to_owned(),
                description: "is missing".to_owned(),
                reason: "REQUIRED".to_owned(),
                ..FieldViolation::default()
            };
            failure(Code::InvalidArgument, "INVALID_FIELD", ErrorDetails::with_bad_request([violation]))
        })?;
        endpoint.id = request.endpoint_id;
        let mut response = Response::new(pb::CreateEndpointResponse { endpoint: Some(endpoint) });
        response.metadata_mut().insert("x-request-id", "made-by-service".parse().unwrap());
        Ok(response)
    }

    async fn get_endpoint(&self, r: Request<pb::GetEndpointRequest>) -> Answer<pb::GetEndpointResponse> {
        match self.note(r).id.as_str() {
            "missing" => Err(no_details(Code::NotFound, "ENDPOINT_NOT_FOUND")),
            "busy" => {
                let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(1200)));
                Err(failure(Code::ResourceExhausted, "QUEUE_FULL", details))
            }
            "unset" => Ok(Response::new(pb::GetEndpointResponse { endpoint: None })),
            "waits" => {
                let _guard = self.guard();
                std::future::pending().await
            }
            id => {
                let endpoint = pb::Endpoint { id: id.to_owned(), ..Default::default() };
                Ok(Response::new(pb::GetEndpointResponse { endpoint: Some(endpoint) }))
            }
        }
    }

    async fn list_endpoints(
        &self,
        r: Request<pb::ListEndpointsRequest>,
    ) -> Answer<pb::ListEndpointsResponse> {
        let next_page_token = format!("{:?}", self.note(r));
        Ok(Response::new(pb::ListEndpointsResponse { endpoints: Vec::new(), next_page_token }))
    }

    async fn update_endpoint(
        &self,
        r: Request<pb::UpdateEndpointRequest>,
    ) -> Answer<pb::UpdateEndpointResponse> {
        let request = self.note(r);
        let mut endpoint = request.endpoint.unwrap_or_default();
        endpoint.state_reason = request.update_mask.map_or("no mask".to_owned(), |mask| mask.paths.join("|"));
        Ok(Response::new(pb::UpdateEndpointResponse { endpoint: Some(endpoint) }))
    }

    async fn delete_endpoint(
        &self,
        r: Request<pb::DeleteEndpointRequest>,
    ) -> Answer<pb::DeleteEndpointResponse> {
        match self.note(r).etag.as_str() {
            "" => Ok(Response::new(pb::DeleteEndpointResponse {})),
            _ => Err(no_details(Code::Aborted, "ETAG_MISMATCH")),
        }
    }

    async fn pause_endpoint(
        &self,
        r: Request<pb::PauseEndpointRequest>,
    ) -> Answer<pb::PauseEndpointResponse> {
        let request = self.note(r);
        let endpoint = pb::Endpoint { id: request.id, state_reason: request.reason, ..Default::default() };
        Ok(Response::new(pb::PauseEndpointResponse { endpoint: Some(endpoint) }))
    }

    async fn resume_endpoint(
        &self,
        _: Request<pb::ResumeEndpointRequest>,
    ) -> Answer<pb::ResumeEndpointResponse> {
        Err(Status::unimplemented("fake"))
    }

    async fn rotate_secret(&self, _: Request<pb::RotateSecretRequest>) -> Answer<pb::RotateSecretResponse> {
        Err(Status::unimplemented("fake"))
    }

    async fn expire_secret(&self, _: Request<pb::ExpireSecretRequest>) -> Answer<pb::ExpireSecretResponse> {
        Err(Status::unimplemented("fake"))
    }

    async fn reveal_secrets(
        &self,
        _: Request<pb::RevealSecretsRequest>,
    ) -> Answer<pb::RevealSecretsResponse> {
        Err(Status::unimplemented("fake"))
    }

    async fn test_endpoint(&self, _: Request<pb::TestEndpointRequest>) -> Answer<pb::TestEndpointResponse> {
        Err(Status::unimplemented("fake"))
    }
}

#[tonic::async_trait]
impl delivery::DeliveryService for Fake {
    type WatchDeliveriesStream = Changes;

    async fn get_delivery(&self, _: Request<pb::GetDeliveryRequest>) -> Answer<pb::GetDeliveryResponse> {
        Err(Status::unimplemented("fake"))
    }

    async fn list_deliveries(
        &self,
        _: Request<pb::ListDeliveriesRequest>,
    ) -> Answer<pb::ListDeliveriesResponse> {
        Err(Status::unimplemented("fake"))
    }

    async fn list_attempts(&self, _: Request<pb::ListAttemptsRequest>) -> Answer<pb::ListAttemptsResponse> {
        Err(Status::unimplemented("fake"))
    }

    /// Progress, then a change, then what the token says.
    async fn watch_deliveries(&self, r: Request<pb::WatchDeliveriesRequest>) -> Answer<Changes> {
        let request = self.note(r);
        *self.watch.lock().unwrap() = request.clone();
        let token = match request.start {
            Some(pb::watch_deliveries_request::Start::ResumeToken(token)) => token,
            _ => String::new(),
        };
        let answer = |changes: usize, token: &str| {
            let changes = vec![pb::DeliveryChange { sequence: 7, ..Default::default() }; changes];
            let resume_token = token.to_owned();
            Ok(pb::WatchDeliveriesResponse { changes, resume_token, server_time: None, lag: 0 })
        };
        let begun = stream::iter([answer(0, "t1"), answer(1, "t2")]);
        Ok(Response::new(match token.as_str() {
            "compacted" => return Err(no_details(Code::OutOfRange, "WATCH_COMPACTED")),
            "compacted later" => stream::iter([Err(no_details(Code::OutOfRange, "WATCH_COMPACTED"))]).boxed(),
            "lagging" => begun.chain(stream::iter([Err(no_details(Code::Aborted, "WATCH_LAGGED"))])).boxed(),
            "finite" => begun.boxed(),
            "none" => stream::empty().boxed(),
            _ => {
                let guard = self.guard();
                let rest = stream::pending().map(move |item| (item, &guard).0);
                begun.chain(rest).boxed()
            }
        }))
    }

    async fn retry_delivery(
        &self,
        _: Request<pb::RetryDeliveryRequest>,
    ) -> Answer<pb::RetryDeliveryResponse> {
        Err(Status::unimplemented("fake"))
    }

    async fn cancel_delivery(
        &self,
        _: Request<pb::CancelDeliveryRequest>,
    ) -> Answer<pb::CancelDeliveryResponse> {
        Err(Status::unimplemented("fake"))
    }
}

#[tonic::async_trait]
impl event::EventService for Fake {
    type PublishEventStreamStream = stream::Empty<Result<pb::PublishEventStreamResponse, Status>>;

    async fn publish_event(&self, r: Request<pb::PublishEventRequest>) -> Answer<pb::PublishEventResponse> {
        let request = self.note(r);
        let event_id = request.event.map(|event| format!("{:?}", event.payload)).unwrap_or_default();
        Ok(Response::new(pb::PublishEventResponse { event_id, ..Default::default() }))
    }

    async fn batch_publish_events(
        &self,
        r: Request<pb::BatchPublishEventsRequest>,
    ) -> Answer<pb::BatchPublishEventsResponse> {
        let published_count = self.note(r).events.len().try_into().unwrap();
        Ok(Response::new(pb::BatchPublishEventsResponse { published_count, ..Default::default() }))
    }

    async fn publish_event_stream(
        &self,
        _: Request<tonic::Streaming<pb::PublishEventStreamRequest>>,
    ) -> Answer<Self::PublishEventStreamStream> {
        Err(Status::unimplemented("fake"))
    }

    async fn get_event(&self, _: Request<pb::GetEventRequest>) -> Answer<pb::GetEventResponse> {
        Err(Status::unimplemented("fake"))
    }

    async fn list_events(&self, _: Request<pb::ListEventsRequest>) -> Answer<pb::ListEventsResponse> {
        Err(Status::unimplemented("fake"))
    }

    async fn cancel_event(&self, _: Request<pb::CancelEventRequest>) -> Answer<pb::CancelEventResponse> {
        Err(Status::unimplemented("fake"))
    }
}

#[tonic::async_trait]
impl operation::OperationService for Fake {
    async fn get_operation(&self, r: Request<pb::GetOperationRequest>) -> Answer<pb::GetOperationResponse> {
        let operation = pb::Operation { id: self.note(r).id, ..Default::default() };
        Ok(Response::new(pb::GetOperationResponse { operation: Some(operation) }))
    }

    async fn list_operations(
        &self,
        r: Request<pb::ListOperationsRequest>,
    ) -> Answer<pb::ListOperationsResponse> {
        let next_page_token = format!("{:?}", self.note(r));
        Ok(Response::new(pb::ListOperationsResponse { operations: Vec::new(), next_page_token }))
    }

    async fn wait_operation(
        &self,
        r: Request<pb::WaitOperationRequest>,
    ) -> Answer<pb::WaitOperationResponse> {
        let operation = pb::Operation { id: self.note(r).id, ..Default::default() };
        Ok(Response::new(pb::WaitOperationResponse { operation: Some(operation) }))
    }

    async fn cancel_operation(
        &self,
        _: Request<pb::CancelOperationRequest>,
    ) -> Answer<pb::CancelOperationResponse> {
        Err(no_details(Code::FailedPrecondition, "OPERATION_DONE"))
    }
}
