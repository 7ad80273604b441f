//! Path, query and body into one message.

use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, ReflectMessage as _, Value};
use serde_json::{Map, Value as Json};

use super::{
    json,
    query::Target,
    route::{Body, Route},
};
use crate::domain::{Rule, Violations};

/// Makes the request message, or says everything that is wrong with it.
pub(super) fn assemble(
    route: &Route,
    variables: &[(&str, String)],
    query: &str,
    body: &[u8],
) -> Result<DynamicMessage, Violations> {
    let message = route.rpc.input();
    let mut violations = Violations::default();
    let mut object = read_body(&route.body, body)?;
    json::canonicalize(&message, &mut object, "", &mut violations);
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
    json::to_message(&message, violations.into_result(object)?)
}

/// Lets a resumed event stream go on after the last event the client has.
///
/// A browser repeats the address it began with and adds the id of the last event,
/// so the id counts more than a start time in the address, but not more than a
/// token that was asked for by name.
pub(super) fn resume_after(message: &mut DynamicMessage, last_event_id: &str) {
    let Some(token) = message.descriptor().get_field_by_name("resume_token") else { return };
    if !last_event_id.is_empty() && matches!(token.kind(), Kind::String) && !message.has_field(&token) {
        message.set_field(&token, Value::String(last_event_id.to_owned()));
    }
}

/// The body as a tree whose root is the request message. An absent body is an
/// empty one.
fn read_body(rule: &Body, body: &[u8]) -> Result<Map<String, Json>, Violations> {
    if body.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    let field = match rule {
        Body::None | Body::Whole => "",
        Body::Field(field) => field.name(),
    };
    let refuse = |rule, description: String| {
        let mut violations = Violations::default();
        violations.add(field, rule, description);
        violations
    };
    let json: Json = serde_json::from_slice(body)
        .map_err(|error| refuse(Rule::BadFormat, format!("the body is not valid JSON: {error}")))?;
    match (rule, json) {
        (Body::Whole, Json::Object(object)) => Ok(object),
        (Body::Whole, _) => Err(refuse(Rule::BadFormat, "the body must be a JSON object".to_owned())),
        (Body::Field(field), json) => Ok(Map::from_iter([(field.name().to_owned(), json)])),
        // Clients that always send a body send this one.
        (Body::None, Json::Object(object)) if object.is_empty() => Ok(object),
        (Body::None, _) => {
            let description = "this method takes no body; give the fields in the query";
            Err(refuse(Rule::Forbidden, description.to_owned()))
        }
    }
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
