//! What the audit log says of a call.
//!
//! The handlers know nothing of it: what a call is about is found in its messages by
//! their descriptors, so a new method is entered like the others.

use std::sync::{Arc, Mutex, PoisonError};

use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor, MethodDescriptor, ReflectMessage as _};
use tonic::Code;

use super::status::Caller;
use crate::{
    app::Principal,
    domain::{AuditEntry, Timestamp},
    peer::Peer,
};

/// Longest id of a resource that is entered.
const RESOURCE_MAX: usize = 256;

/// The messages of a call, as its handler came by them.
#[derive(Clone, Debug, Default)]
pub(super) struct Subject(Arc<Mutex<(Vec<u8>, Vec<u8>)>>);

impl Subject {
    /// Notes what was asked.
    pub fn asked(&self, message: &impl Message) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0 = message.encode_to_vec();
    }

    /// Notes what was answered.
    pub fn answered(&self, message: &impl Message) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1 = message.encode_to_vec();
    }
}

/// An entry in the making.
pub(super) struct Record {
    method: MethodDescriptor,
    subject: Subject,
    principal: Principal,
    peer: Option<Peer>,
    /// Who is told if it cannot be entered.
    pub caller: Caller,
}

impl Record {
    /// Of a call that begins.
    pub fn new(
        method: MethodDescriptor,
        subject: Subject,
        principal: &Principal,
        peer: Option<Peer>,
        caller: Caller,
    ) -> Self {
        Self { method, subject, principal: principal.clone(), peer, caller }
    }

    /// Of a call that has ended.
    pub fn entry(self, at: Timestamp, code: Code) -> AuditEntry {
        let (asked, answered) =
            std::mem::take(&mut *self.subject.0.lock().unwrap_or_else(PoisonError::into_inner));
        let resource = id_in(self.method.input(), &asked).or_else(|| id_in(self.method.output(), &answered));
        let mut resource = resource.unwrap_or_default();
        resource.truncate(resource.floor_char_boundary(RESOURCE_MAX));
        AuditEntry {
            sequence: 0,
            at,
            key: self.principal.key(),
            tenant: Arc::clone(self.principal.tenant_id()),
            method: format!("{}/{}", self.method.parent_service().full_name(), self.method.name()),
            resource,
            code: code as i32,
            address: self.peer.map(|peer| peer.address.ip()),
            request_id: self.caller.request_id().to_owned(),
        }
    }
}

/// The id that a message names: its own `id`, one of another name, or that of a
/// message in it.
fn id_in(descriptor: MessageDescriptor, bytes: &[u8]) -> Option<String> {
    let message = DynamicMessage::decode(descriptor, bytes).ok()?;
    let text = |message: &DynamicMessage, name: &str| {
        let value = message.get_field_by_name(name)?;
        value.as_str().filter(|id| !id.is_empty()).map(str::to_owned)
    };
    let fields: Vec<_> = message.descriptor().fields().collect();
    let other =
        || fields.iter().filter(|it| it.name().ends_with("_id")).find_map(|it| text(&message, it.name()));
    let inner = || {
        let singles = fields.iter().filter(|it| !it.is_list() && !it.is_map() && message.has_field(it));
        singles.filter_map(|it| text(message.get_field(it).as_message()?, "id")).next()
    };
    text(&message, "id").or_else(other).or_else(inner)
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;
    use crate::grpc::pb;

    fn found(name: &str, message: &impl Message) -> Option<String> {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        id_in(pool.get_message_by_name(&format!("hookwire.v1.{name}")).unwrap(), &message.encode_to_vec())
    }

    #[test]
    fn the_id_of_what_a_call_is_about_is_found() {
        let id = || "ep_1".to_owned();
        let delete = pb::DeleteEndpointRequest { id: id(), ..Default::default() };
        assert_eq!(found("DeleteEndpointRequest", &delete), Some(id()));
        let endpoint = Some(pb::Endpoint { id: id(), ..Default::default() });
        let update = pb::UpdateEndpointRequest { endpoint: endpoint.clone(), ..Default::default() };
        assert_eq!(found("UpdateEndpointRequest", &update), Some(id()));
        let chosen = pb::CreateEndpointRequest { endpoint_id: id(), ..Default::default() };
        assert_eq!(found("CreateEndpointRequest", &chosen), Some(id()));
        let made = pb::CreateEndpointResponse { endpoint };
        assert_eq!(found("CreateEndpointResponse", &made), Some(id()));
        assert_eq!(found("PurgeDeadLettersRequest", &pb::PurgeDeadLettersRequest::default()), None);
    }
}
