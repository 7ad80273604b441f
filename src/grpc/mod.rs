//! gRPC: wire in and out.
//!
//! A method takes its message apart ([`convert`]), calls one use case of
//! [`crate::app`] and puts the answer together. Errors become statuses in one
//! place, [`status`].

mod access;
mod api_keys;
mod convert;
mod dead_letters;
mod deliveries;
mod endpoints;
mod events;
mod facts;
mod gateway;
mod inflate;
mod intake;
pub mod large_body;
mod operations;
mod ops;
mod panics;
pub mod pb;
mod publish_stream;
mod record;
mod services;
mod status;
mod tenants;
mod until;
pub mod weight;

use std::{sync::Arc, time::Duration};

use tonic::{codec::CompressionEncoding, server::NamedService};
use tonic_health::{ServingStatus, server::HealthReporter};
use tonic_reflection::server::Builder;

use self::access::Access;
pub use self::access::{PUBLISHING, SCOPE, admits};
use self::pb::{
    api_key_service_server::ApiKeyServiceServer, audit_service_server::AuditServiceServer,
    dead_letter_service_server::DeadLetterServiceServer, delivery_service_server::DeliveryServiceServer,
    endpoint_service_server::EndpointServiceServer, event_service_server::EventServiceServer,
    operation_service_server::OperationServiceServer, ops_service_server::OpsServiceServer,
    tenant_service_server::TenantServiceServer,
};
#[cfg(fuzzing)]
pub use self::publish_stream::taken;
pub use self::{panics::said, services::Services};
use crate::app::App;

/// Longest time of a call that is not a stream.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Largest request with events: a full batch and what frames it.
pub const EVENTS_BYTES_MAX: usize = (16 << 20) + (64 << 10);
/// What an event has besides its payload, and what frames it, at most.
const EVENT_FRAME_BYTES_MAX: usize = 64 << 10;
/// Bytes that a payload given as `value` takes on the wire for each byte it has as
/// JSON, rounded up: the worst is a list of digits, eleven bytes for two.
const VALUE_BYTES_PER_JSON_BYTE: usize = 6;
/// The one method that takes events one by one as messages of their own.
const PUBLISH_STREAM: &str = "/hookwire.v1.EventService/PublishEventStream";
/// Largest other request.
pub const OTHER_BYTES_MAX: usize = 4 << 20;
/// Largest response: pages are cut well below it, single items may be larger than
/// a client's usual limit.
const RESPONSE_BYTES_MAX: usize = 64 << 20;
/// Smallest answer that is compressed: a smaller one is one packet either way, and
/// the setting up of a compressor costs a sixth of what a publish does.
const COMPRESSED_BYTES_MIN: usize = 1 << 10;

/// Why the services cannot be put together: a bug.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reflection cannot be built.
    #[error(transparent)]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The descriptors cannot be read.
    #[error(transparent)]
    Descriptors(#[from] prost_reflect::DescriptorError),
}

/// Tells who asks whether the server and each of its services serve.
#[derive(Clone, Debug)]
pub struct Health(HealthReporter);

impl Health {
    /// Says so for the server as a whole and for each service.
    pub async fn set_serving(&self, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in [
            "",
            EndpointServiceServer::<endpoints::Endpoints>::NAME,
            EventServiceServer::<events::Events>::NAME,
            DeliveryServiceServer::<deliveries::Deliveries>::NAME,
            DeadLetterServiceServer::<dead_letters::DeadLetters>::NAME,
            OperationServiceServer::<operations::Operations>::NAME,
            TenantServiceServer::<tenants::Tenants>::NAME,
            ApiKeyServiceServer::<api_keys::ApiKeys>::NAME,
            AuditServiceServer::<api_keys::Audit>::NAME,
            OpsServiceServer::<ops::Ops>::NAME,
        ] {
            self.0.set_service_status(name, status).await;
        }
    }
}

/// Limits and compression, which every service has.
macro_rules! served {
    ($server:ident($service:expr), $bytes:expr) => {
        $server::new($service)
            .max_decoding_message_size($bytes)
            .max_encoding_message_size(RESPONSE_BYTES_MAX)
            .accept_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Gzip)
    };
}

/// The services with health and reflection, and the handle that sets the health:
/// nothing serves until it says so.
pub async fn services(app: Arc<App>) -> Result<(Services, Health), Error> {
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let health = Health(reporter);
    health.set_serving(false).await;
    // One event is much smaller than a batch, and there are many streams.
    let stream = served!(EventServiceServer(events::Events(Arc::clone(&app))), streamed_bytes_max(&app));
    let events = served!(EventServiceServer(events::Events(Arc::clone(&app))), EVENTS_BYTES_MAX);
    let services = Services::default()
        .guarded_by(Access::new(Arc::clone(&app))?)
        .with_path(PUBLISH_STREAM.to_owned(), stream)
        .with(served!(EndpointServiceServer(endpoints::Endpoints(Arc::clone(&app))), OTHER_BYTES_MAX))
        .with(events)
        .with(served!(DeliveryServiceServer(deliveries::Deliveries(Arc::clone(&app))), OTHER_BYTES_MAX))
        .with(served!(DeadLetterServiceServer(dead_letters::DeadLetters(Arc::clone(&app))), OTHER_BYTES_MAX))
        .with(served!(OperationServiceServer(operations::Operations(Arc::clone(&app))), OTHER_BYTES_MAX))
        .with(served!(TenantServiceServer(tenants::Tenants(Arc::clone(&app))), OTHER_BYTES_MAX))
        .with(served!(ApiKeyServiceServer(api_keys::ApiKeys(Arc::clone(&app))), OTHER_BYTES_MAX))
        .with(served!(AuditServiceServer(api_keys::Audit(Arc::clone(&app))), OTHER_BYTES_MAX))
        .with(served!(OpsServiceServer(ops::Ops(app)), OTHER_BYTES_MAX))
        .with(health_service)
        .with(descriptors().build_v1()?)
        .with(descriptors().build_v1alpha()?);
    Ok((services, health))
}

/// Largest request of a publishing stream: one event of which each field is in order
/// always fits.
fn streamed_bytes_max(app: &App) -> usize {
    let payload = app.limits().payload_bytes_max.saturating_mul(VALUE_BYTES_PER_JSON_BYTE);
    payload.saturating_add(EVENT_FRAME_BYTES_MAX).min(EVENTS_BYTES_MAX)
}

fn descriptors() -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}
