//! The server's clients, and the few requests that every test makes.

use std::time::Duration;

use hookwire::grpc::pb::{
    self, DeliveryStatus, api_key_service_client::ApiKeyServiceClient,
    audit_service_client::AuditServiceClient, dead_letter_service_client::DeadLetterServiceClient,
    delivery_service_client::DeliveryServiceClient, endpoint_service_client::EndpointServiceClient,
    event_service_client::EventServiceClient, operation_service_client::OperationServiceClient,
    ops_service_client::OpsServiceClient, payload::Body, tenant_service_client::TenantServiceClient,
};
use tonic::{
    Code, Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

use super::{Receiver, eventually};

/// Sends a token and the name of a tenant, if there are any, with every call.
#[derive(Clone, Default)]
pub struct Credentials {
    token: Option<MetadataValue<Ascii>>,
    tenant: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        if let Some(tenant) = &self.tenant {
            request.metadata_mut().insert("hookwire-tenant", tenant.clone());
        }
        Ok(request)
    }
}

/// A connection that calls go out on.
pub type Wire = InterceptedService<Channel, Credentials>;

/// Clients over one connection. Each call clones its client, which is a handle.
#[derive(Clone)]
pub struct Api {
    /// For the services of other packages.
    pub channel: Channel,
    /// Publishes.
    pub events: EventServiceClient<Wire>,
    /// Registers.
    pub endpoints: EndpointServiceClient<Wire>,
    /// Follows.
    pub deliveries: DeliveryServiceClient<Wire>,
    /// Buries and revives.
    pub dead_letters: DeadLetterServiceClient<Wire>,
    /// Tracks.
    pub operations: OperationServiceClient<Wire>,
    /// Administers tenants.
    pub tenants: TenantServiceClient<Wire>,
    /// Administers keys.
    pub keys: ApiKeyServiceClient<Wire>,
    /// Tells who did what.
    pub audit: AuditServiceClient<Wire>,
    /// Tells of the servers themselves.
    pub ops: OpsServiceClient<Wire>,
}

impl Api {
    /// Connects when first used, and again whenever the connection is lost.
    pub fn at(port: u16) -> Self {
        Self::at_with(port, None)
    }

    /// The same with a token.
    pub fn at_with(port: u16, token: Option<&str>) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).expect("a URL");
        let channel = endpoint.connect_timeout(Duration::from_secs(5)).connect_lazy();
        Self::over(channel, token, None)
    }

    /// The same over the same connection, with another token.
    pub fn with_token(&self, token: &str) -> Self {
        Self::over(self.channel.clone(), Some(token), None)
    }

    /// The same over the same connection, for a tenant.
    pub fn for_tenant(&self, token: &str, tenant: &str) -> Self {
        Self::over(self.channel.clone(), Some(token), Some(tenant))
    }

    fn over(channel: Channel, token: Option<&str>, tenant: Option<&str>) -> Self {
        let token = token.map(|token| format!("Bearer {token}").parse().expect("a token"));
        let tenant = tenant.map(|tenant| tenant.parse().expect("a tenant"));
        let wire = InterceptedService::new(channel.clone(), Credentials { token, tenant });
        Self {
            events: EventServiceClient::new(wire.clone()),
            endpoints: EndpointServiceClient::new(wire.clone()),
            deliveries: DeliveryServiceClient::new(wire.clone()),
            dead_letters: DeadLetterServiceClient::new(wire.clone()),
            operations: OperationServiceClient::new(wire.clone()),
            tenants: TenantServiceClient::new(wire.clone()),
            keys: ApiKeyServiceClient::new(wire.clone()),
            audit: AuditServiceClient::new(wire.clone()),
            ops: OpsServiceClient::new(wire),
            channel,
        }
    }

    /// Makes a key of a tenant; its id and its token.
    pub async fn create_key(&self, tenant: &str, scopes: &[&str]) -> (String, String) {
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        let api_key = pb::ApiKey { tenant_id: tenant.to_owned(), scopes, ..Default::default() };
        let request = pb::CreateApiKeyRequest { api_key: Some(api_key) };
        let made = self.keys.clone().create_api_key(request).await.expect("CreateApiKey").into_inner();
        (made.api_key.expect("the key").id, made.token)
    }

    /// Makes a tenant.
    pub async fn create_tenant(&self, tenant: pb::Tenant) {
        let request = pb::CreateTenantRequest { tenant: Some(tenant) };
        self.tenants.clone().create_tenant(request).await.expect("CreateTenant");
    }

    /// Registers an endpoint.
    pub async fn create_endpoint(&self, endpoint: pb::Endpoint) -> pb::Endpoint {
        let request = pb::CreateEndpointRequest { endpoint: Some(endpoint), ..Default::default() };
        let response = self.endpoints.clone().create_endpoint(request).await.expect("CreateEndpoint");
        response.into_inner().endpoint.expect("the endpoint")
    }

    /// Reads an endpoint.
    pub async fn endpoint(&self, id: &str) -> pb::Endpoint {
        let request = pb::GetEndpointRequest { id: id.to_owned() };
        let response = self.endpoints.clone().get_endpoint(request).await.expect("GetEndpoint");
        response.into_inner().endpoint.expect("the endpoint")
    }

    /// Publishes one event and names the deliveries made.
    pub async fn publish(&self, event: pb::Event) -> pb::PublishEventResponse {
        let request = pb::PublishEventRequest { event: Some(event), include_deliveries: true };
        self.events.clone().publish_event(request).await.expect("PublishEvent").into_inner()
    }

    /// Publishes one event with a deadline; the id of the event.
    pub async fn publish_within(&self, limit: Duration, event: pb::Event) -> Result<String, Status> {
        let event = Some(event);
        let mut request = Request::new(pb::PublishEventRequest { event, include_deliveries: false });
        request.set_timeout(limit);
        let response = self.events.clone().publish_event(request).await?;
        Ok(response.into_inner().event_id)
    }

    /// Publishes one event that exactly one endpoint wants; the delivery's id.
    pub async fn publish_to_one(&self, event: pb::Event) -> String {
        let response = self.publish(event).await;
        let [delivery] = &response.deliveries[..] else { panic!("one delivery expected: {response:?}") };
        delivery.delivery_id.clone()
    }

    /// Publishes many at once.
    pub async fn publish_batch(&self, events: Vec<pb::Event>) -> pb::BatchPublishEventsResponse {
        let request = pb::BatchPublishEventsRequest { events, atomic: true };
        self.events.clone().batch_publish_events(request).await.expect("BatchPublishEvents").into_inner()
    }

    /// Reads a delivery.
    pub async fn delivery(&self, id: &str) -> pb::Delivery {
        let request = pb::GetDeliveryRequest { id: id.to_owned(), include_attempts: false };
        let response = self.deliveries.clone().get_delivery(request).await.expect("GetDelivery");
        response.into_inner().delivery.expect("the delivery")
    }

    /// Every attempt of a delivery with the bodies answered.
    pub async fn attempts(&self, delivery_id: &str) -> Vec<pb::Attempt> {
        let request =
            pb::ListAttemptsRequest { delivery_id: delivery_id.to_owned(), view: pb::View::Full.into() };
        self.deliveries.clone().list_attempts(request).await.expect("ListAttempts").into_inner().attempts
    }

    /// The delivery once it has this status.
    pub async fn delivery_in(&self, id: &str, status: DeliveryStatus, limit: Duration) -> pb::Delivery {
        eventually(limit, &format!("{id} is {status:?}"), async || {
            let delivery = self.delivery(id).await;
            if delivery.status() == status { Ok(delivery) } else { Err(format!("{:?}", delivery.status())) }
        })
        .await
    }

    /// Every delivery that matches, over all pages.
    pub async fn all_deliveries(&self, filter: pb::DeliveryFilter) -> Vec<pb::Delivery> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = pb::ListDeliveriesRequest {
                page_size: 1000,
                page_token,
                filter: Some(filter.clone()),
                order: pb::ListOrder::OldestFirst.into(),
            };
            let page = self.deliveries.clone().list_deliveries(request).await.expect("ListDeliveries");
            let page = page.into_inner();
            all.extend(page.deliveries);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return all;
            }
        }
    }

    /// Returns once no delivery is open any more.
    pub async fn all_final(&self, limit: Duration) {
        let open = pb::DeliveryFilter {
            statuses: [DeliveryStatus::Pending, DeliveryStatus::Retrying, DeliveryStatus::Scheduled]
                .map(Into::into)
                .to_vec(),
            ..Default::default()
        };
        eventually(limit, "every delivery is final", async || {
            let request =
                pb::ListDeliveriesRequest { page_size: 1, filter: Some(open.clone()), ..Default::default() };
            let page = self.deliveries.clone().list_deliveries(request).await;
            match page.map(|page| page.into_inner().deliveries.pop()) {
                Ok(None) => Ok(()),
                Ok(Some(delivery)) => Err(format!("{delivery:?}")),
                Err(status) => Err(format!("{status:?}")),
            }
        })
        .await;
    }

    /// Every dead letter of an endpoint, in whatever state.
    pub async fn dead_letters_of(&self, endpoint_id: &str) -> Vec<pb::DeadLetter> {
        use pb::dead_letter::State;
        let filter = pb::DeadLetterFilter {
            endpoint_ids: vec![endpoint_id.to_owned()],
            states: [State::Open, State::Replaying, State::Replayed].map(Into::into).to_vec(),
            ..Default::default()
        };
        let request =
            pb::ListDeadLettersRequest { page_size: 1000, filter: Some(filter), ..Default::default() };
        let response = self.dead_letters.clone().list_dead_letters(request).await.expect("ListDeadLetters");
        response.into_inner().dead_letters
    }

    /// Reads a dead letter with its attempts.
    pub async fn dead_letter(&self, id: &str) -> (pb::DeadLetter, Vec<pb::Attempt>) {
        let request =
            pb::GetDeadLetterRequest { id: id.to_owned(), include_attempts: true, ..Default::default() };
        let response = self.dead_letters.clone().get_dead_letter(request).await.expect("GetDeadLetter");
        let response = response.into_inner();
        (response.dead_letter.expect("the dead letter"), response.attempts)
    }

    /// Opens a watch and takes its first response.
    pub async fn watch(
        &self,
        request: pb::WatchDeliveriesRequest,
    ) -> Result<(Streaming<pb::WatchDeliveriesResponse>, pb::WatchDeliveriesResponse), Status> {
        let mut stream = self.deliveries.clone().watch_deliveries(request).await?.into_inner();
        match stream.message().await? {
            Some(first) => Ok((stream, first)),
            None => Err(Status::unavailable("the watch ended before its first response")),
        }
    }
}

/// An endpoint that is not held back by the default rate limit.
pub fn open_endpoint(url: impl Into<String>) -> pb::Endpoint {
    pb::Endpoint {
        url: url.into(),
        rate_limit: Some(pb::RateLimit { disabled: true, ..Default::default() }),
        ..Default::default()
    }
}

/// An endpoint that is tried until it takes what it gets, and never left alone.
pub fn stubborn(url: String) -> pb::Endpoint {
    pb::Endpoint {
        envelope: pb::Envelope::Raw.into(),
        max_in_flight: 16,
        retry_policy: retrying(100, 500),
        circuit_breaker: Some(pb::CircuitBreaker { disabled: true, ..Default::default() }),
        ..open_endpoint(url)
    }
}

/// Makes that many such endpoints, at the paths `/0`, `/1` and so on of one receiver.
pub async fn create_stubborn(api: &Api, receiver: &Receiver, count: usize) {
    for number in 0..count {
        api.create_endpoint(stubborn(receiver.at(&format!("/{number}")))).await;
    }
}

/// An event with JSON text for a payload.
pub fn event(event_type: &str, json: impl Into<String>) -> pb::Event {
    let body = Some(Body::Json(json.into()));
    pb::Event {
        event_type: event_type.to_owned(),
        payload: Some(pb::Payload { body, ..Default::default() }),
        ..Default::default()
    }
}

/// Up to 50 attempts, first and last so many milliseconds apart.
pub fn retrying(initial: u64, max: u64) -> Option<pb::RetryPolicy> {
    Some(pb::RetryPolicy {
        max_attempts: 50,
        initial_delay: span(initial),
        max_delay: span(max),
        ..Default::default()
    })
}

/// A protobuf duration.
pub fn span(millis: u64) -> Option<prost_types::Duration> {
    Some(Duration::from_millis(millis).try_into().expect("a short span"))
}

/// Whether a status is never left.
pub fn is_final(status: DeliveryStatus) -> bool {
    match status {
        DeliveryStatus::Delivered
        | DeliveryStatus::Failed
        | DeliveryStatus::DeadLetter
        | DeliveryStatus::Cancelled
        | DeliveryStatus::Expired => true,
        DeliveryStatus::Unspecified
        | DeliveryStatus::Pending
        | DeliveryStatus::InProgress
        | DeliveryStatus::RateLimited
        | DeliveryStatus::Retrying
        | DeliveryStatus::Scheduled => false,
    }
}

/// Whether the call failed because there was no server to answer it, or one
/// that said it was about to go: what a client repeats.
pub fn transport_fault(status: &Status) -> bool {
    match reason_of(status).as_str() {
        // Made by this side: the server gives a reason with every error.
        "" => matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::DeadlineExceeded
        ),
        "NOT_SERVING" | "QUEUE_FULL" | "READERS_BUSY" => true,
        _ => false,
    }
}

/// The machine-readable cause of an error; empty if it has none.
pub fn reason_of(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// One fact that completes the cause; empty if it is missing.
pub fn detail(status: &Status, key: &str) -> String {
    let info = status.get_details_error_info();
    info.and_then(|mut info| info.metadata.remove(key)).unwrap_or_default()
}

/// The fields refused, with the rule each one broke, sorted.
pub fn violations_of(status: &Status) -> Vec<(String, String)> {
    let refused = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    let mut refused: Vec<_> =
        refused.into_iter().map(|violation| (violation.field, violation.reason)).collect();
    refused.sort();
    refused
}
