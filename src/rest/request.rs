//! Path, query and body into one message.

use prost::Message as _;
use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, Value};
use serde_json::Map;

use super::{
    json,
    query::Target,
    route::{Body, Route},
    transcode::{Refusal, Wire, transcode},
};
use crate::domain::{Rule, Violations};

/// Makes the request message in wire form, of at most `limit` bytes from the body, or
/// says everything that is wrong with it.
pub(super) fn assemble(
    route: &Route,
    variables: &[(String, String)],
    query: &str,
    limit: usize,
    body: &[u8],
) -> Result<Wire, Refusal> {
    let message = route.rpc.input();
    let fixed: Vec<_> = variables.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let mut violations = Violations::default();
    let mut wire = match transcode(&message, &route.body, &fixed, limit, body) {
        Ok(wire) => wire,
        Err(Refusal::Invalid(found)) => {
            violations.extend(found);
            Wire::default()
        }
        Err(Refusal::TooLarge) => return Err(Refusal::TooLarge),
    };
    let mut object = Map::new();
    for (name, text) in url::form_urlencoded::parse(query.as_bytes()) {
        match parameter(&message, &route.body, &name) {
            Ok(target) => target.set(&mut object, &text, &mut violations),
            Err((rule, description)) => violations.add(name, rule, description),
        }
    }
    // After the others, so that a contradiction is theirs.
    for (path, text) in variables {
        if let Some(target) = Target::resolve(&message, path) {
            target.set(&mut object, text, &mut violations);
        }
    }
    let object = violations.into_result(object).map_err(Refusal::Invalid)?;
    let rest = json::to_message(&message, object).map_err(Refusal::Invalid)?;
    wire.fields.extend(rest.fields().map(|(field, _)| field.number()));
    // Two halves of a message in wire form are merged by whoever reads them.
    append(&mut wire, &rest);
    Ok(wire)
}

/// Lets a resumed event stream go on after the last event the client has.
///
/// A browser repeats the address it began with and adds the id of the last event,
/// so the id counts more than a start time in the address, but not more than a
/// token that was asked for by name.
pub(super) fn resume_after(message: &MessageDescriptor, wire: &mut Wire, last_event_id: &str) {
    let Some(token) = message.get_field_by_name("resume_token") else { return };
    let is_given = wire.fields.contains(&token.number());
    if !last_event_id.is_empty() && matches!(token.kind(), Kind::String) && !is_given {
        let mut start = DynamicMessage::new(message.clone());
        start.set_field(&token, Value::String(last_event_id.to_owned()));
        append(wire, &start);
    }
}

fn append(wire: &mut Wire, message: &DynamicMessage) {
    // A vector takes all.
    message.encode(&mut wire.bytes).unwrap_or_default();
}

/// The field that a query parameter names, unless it does not belong there.
fn parameter(message: &MessageDescriptor, body: &Body, name: &str) -> Result<Target, (Rule, String)> {
    let target = Target::resolve(message, name)
        .ok_or_else(|| (Rule::UnknownValue, format!("{} has no such field", message.name())))?;
    let in_body = match body {
        Body::None => false,
        Body::Whole => true,
        Body::Field(field) => target.root() == Some(field),
    };
    if in_body {
        return Err((Rule::Forbidden, "belongs in the body".to_owned()));
    }
    Ok(target)
}
