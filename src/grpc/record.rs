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
    domain::{ApiKeyId, AuditEntry, Timestamp},
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

/// Who called, as far as that is known.
pub(super) struct Who {
    /// The key; of one whose credential was refused, the key that it names.
    pub key: Option<ApiKeyId>,
    /// Id of the tenant; empty if the credential was refused.
    pub tenant: Arc<str>,
}

/// An entry in the making.
pub(super) struct Record {
    method: MethodDescriptor,
    subject: Subject,
    who: Who,
    peer: Option<Peer>,
    /// Who is told if it cannot be entered.
    pub caller: Caller,
}

impl Record {
    /// Of a call that begins.
    pub fn new(
        method: MethodDescriptor,
        subject: Subject,
        who: Who,
        peer: Option<Peer>,
        caller: Caller,
    ) -> Self {
        Self { method, subject, who, peer, caller }
    }

    /// Of a call that has ended.
    pub fn entry(self, at: Timestamp, code: Code) -> AuditEntry {
        let (asked, answered) =
            std::mem::take(&mut *self.subject.0.lock().unwrap_or_else(PoisonError::into_inner));
        // What was made is told by the answer: an id that a caller writes into a message
        // that describes a thing is not taken.
        let resource = id_of(self.method.input(), &asked)
            .or_else(|| id_of(self.method.output(), &answered))
            .or_else(|| id_within(self.method.output(), &answered))
            .or_else(|| id_within(self.method.input(), &asked));
        let mut resource = resource.unwrap_or_default();
        resource.truncate(resource.floor_char_boundary(RESOURCE_MAX));
        AuditEntry {
            sequence: 0,
            at,
            key: self.who.key,
            tenant: self.who.tenant,
            method: format!("{}/{}", self.method.parent_service().full_name(), self.method.name()),
            resource,
            code: code as i32,
            address: self.peer.map(|peer| peer.address.ip()),
            request_id: self.caller.request_id().to_owned(),
            calls: 1,
        }
    }
}

/// The id that a message names: its own `id`, or one of another name.
fn id_of(descriptor: MessageDescriptor, bytes: &[u8]) -> Option<String> {
    let message = DynamicMessage::decode(descriptor, bytes).ok()?;
    let fields: Vec<_> = message.descriptor().fields().collect();
    let other =
        || fields.iter().filter(|it| it.name().ends_with("_id")).find_map(|it| text(&message, it.name()));
    text(&message, "id").or_else(other)
}

/// The id of a message in a message.
fn id_within(descriptor: MessageDescriptor, bytes: &[u8]) -> Option<String> {
    let message = DynamicMessage::decode(descriptor, bytes).ok()?;
    let descriptor = message.descriptor();
    let singles = descriptor.fields().filter(|it| !it.is_list() && !it.is_map());
    singles.filter(|it| message.has_field(it)).find_map(|it| text(message.get_field(&it).as_message()?, "id"))
}

fn text(message: &DynamicMessage, name: &str) -> Option<String> {
    let value = message.get_field_by_name(name)?;
    value.as_str().filter(|id| !id.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;
    use crate::grpc::pb;

    fn descriptor(name: &str) -> MessageDescriptor {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        pool.get_message_by_name(&format!("hookwire.v1.{name}")).unwrap()
    }

    fn of(name: &str, message: &impl Message) -> Option<String> {
        id_of(descriptor(name), &message.encode_to_vec())
    }

    fn within(name: &str, message: &impl Message) -> Option<String> {
        id_within(descriptor(name), &message.encode_to_vec())
    }

    #[test]
    fn the_id_of_what_a_call_is_about_is_found() {
        let id = || "ep_1".to_owned();
        let delete = pb::DeleteEndpointRequest { id: id(), ..Default::default() };
        assert_eq!(of("DeleteEndpointRequest", &delete), Some(id()));
        let endpoint = Some(pb::Endpoint { id: id(), ..Default::default() });
        let update = pb::UpdateEndpointRequest { endpoint: endpoint.clone(), ..Default::default() };
        assert_eq!(of("UpdateEndpointRequest", &update), None);
        assert_eq!(within("UpdateEndpointRequest", &update), Some(id()));
        let chosen = pb::CreateEndpointRequest { endpoint_id: id(), ..Default::default() };
        assert_eq!(of("CreateEndpointRequest", &chosen), Some(id()));
        let made = pb::CreateEndpointResponse { endpoint };
        assert_eq!(within("CreateEndpointResponse", &made), Some(id()));
        let purge = pb::PurgeDeadLettersRequest::default();
        assert_eq!(
            (of("PurgeDeadLettersRequest", &purge), within("PurgeDeadLettersRequest", &purge)),
            (None, None)
        );
    }
}
