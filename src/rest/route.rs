//! The table of routes, made from the descriptors at start.

use std::sync::Arc;

use http::Method;
use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    MethodDescriptor, Value,
};

use super::template::{Path, Template};
use crate::grpc::{PUBLISHING, SCOPE};

/// Why the routes cannot be made. All of these are faults of the protos or of the
/// build, found at start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The descriptors do not decode.
    #[error("read the descriptors")]
    Descriptors(#[from] prost_reflect::DescriptorError),
    /// `google/api/annotations.proto` is not among the descriptors.
    #[error("find google.api.http in the descriptors")]
    NoAnnotations,
    /// A rule that this edge cannot serve.
    #[error("bind {method} to {template}: it {fault}")]
    Rule {
        /// Full name of the method.
        method: String,
        /// The path template as written.
        template: String,
        /// What is wrong with it.
        fault: String,
    },
}

/// One binding of one method.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) http: Method,
    pub(super) template: Template,
    pub(super) body: Body,
    /// The one field that makes up the response body. None: all of the response.
    pub(super) response_body: Option<FieldDescriptor>,
    pub(super) rpc: MethodDescriptor,
    /// Whether it publishes events, which may be large.
    pub(super) publishes: bool,
}

/// What the body of a request is.
#[derive(Clone, Debug)]
pub(super) enum Body {
    /// There is none; what the path does not bind is in the query.
    None,
    /// The whole message; there is no query.
    Whole,
    /// One field; the others are in the query.
    Field(FieldDescriptor),
}

/// All routes.
#[derive(Debug)]
pub(super) struct Table(Vec<Arc<Route>>);

/// What a request's method and path lead to.
pub(super) enum Found<'t> {
    /// This route, with the values of its variables.
    Route(&'t Arc<Route>, Vec<(&'t str, String)>),
    /// A known path with another method; these are the right ones.
    OtherMethods(String),
    /// Nothing.
    Nothing,
}

impl Table {
    /// Reads every `google.api.http` rule.
    pub(super) fn new(descriptors: &[u8]) -> Result<Self, Error> {
        let pool = DescriptorPool::decode(descriptors)?;
        let http = pool.get_extension_by_name("google.api.http").ok_or(Error::NoAnnotations)?;
        let scope = pool.get_extension_by_name(SCOPE);
        let mut routes = Vec::new();
        for service in pool.services() {
            for rpc in service.methods() {
                if let Some(rule) = rule(&rpc, &http) {
                    let scope = scope.as_ref().map(|it| rpc.options().get_extension(it).into_owned());
                    let publishes = scope.is_some_and(|scope| scope.as_str() == Some(PUBLISHING));
                    bind(&mut routes, &rpc, &rule, publishes)?;
                }
            }
        }
        Ok(Self(routes))
    }

    /// All routes.
    pub(super) fn routes(&self) -> impl Iterator<Item = &Route> {
        self.0.iter().map(AsRef::as_ref)
    }

    /// Looks up a request. `HEAD` is served as `GET`; hyper leaves the body out.
    pub(super) fn find(&self, method: &Method, path: &str) -> Found<'_> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        let Some(path) = Path::split(path) else { return Found::Nothing };
        let mut allowed = Vec::new();
        for route in &self.0 {
            if let Some(variables) = route.template.matches(&path) {
                if route.http == method {
                    return Found::Route(route, variables);
                }
                allowed.push(route.http.as_str());
                allowed.extend((route.http == Method::GET).then_some("HEAD"));
            }
        }
        if allowed.is_empty() {
            return Found::Nothing;
        }
        allowed.push("OPTIONS");
        Found::OtherMethods(allowed.join(", "))
    }
}

fn rule(rpc: &MethodDescriptor, http: &ExtensionDescriptor) -> Option<DynamicMessage> {
    let options = rpc.options();
    options.has_extension(http).then(|| options.get_extension(http).as_message().cloned()).flatten()
}

/// Adds the routes of one rule and of its additional bindings.
fn bind(
    routes: &mut Vec<Arc<Route>>,
    rpc: &MethodDescriptor,
    rule: &DynamicMessage,
    publishes: bool,
) -> Result<(), Error> {
    let methods = [
        ("get", Method::GET),
        ("put", Method::PUT),
        ("post", Method::POST),
        ("delete", Method::DELETE),
        ("patch", Method::PATCH),
    ];
    for (name, http) in methods {
        let template = text(rule, name);
        if !template.is_empty() {
            let route = Route::new(rpc, http, &template, rule, publishes).map_err(|fault| Error::Rule {
                method: rpc.full_name().to_owned(),
                template,
                fault,
            })?;
            routes.push(Arc::new(route));
        }
    }
    if let Some(more) = rule.get_field_by_name("additional_bindings") {
        for rule in more.as_list().unwrap_or_default().iter().filter_map(Value::as_message) {
            bind(routes, rpc, rule, publishes)?;
        }
    }
    Ok(())
}

impl Route {
    fn new(
        rpc: &MethodDescriptor,
        http: Method,
        template: &str,
        rule: &DynamicMessage,
        publishes: bool,
    ) -> Result<Self, String> {
        if rpc.is_client_streaming() {
            return Err("streams requests".to_owned());
        }
        let template = Template::parse(template)?;
        for variable in template.variables() {
            check_variable(&rpc.input(), variable)?;
        }
        let body = match text(rule, "body").as_str() {
            "" => Body::None,
            "*" => Body::Whole,
            name => Body::Field(field(&rpc.input(), name)?),
        };
        let response_body = match text(rule, "response_body").as_str() {
            "" => None,
            name => Some(field(&rpc.output(), name)?),
        };
        if response_body.as_ref().is_some_and(|field| field.is_list() || field.kind().as_message().is_none())
        {
            return Err("has a response body that is not a message".to_owned());
        }
        Ok(Self { http, template, body, response_body, rpc: rpc.clone(), publishes })
    }
}

/// A variable must lead to a single scalar, or requests would fail one by one.
fn check_variable(message: &MessageDescriptor, path: &str) -> Result<(), String> {
    let (head, tail) = path.split_once('.').map_or((path, None), |(head, tail)| (head, Some(tail)));
    let field = field(message, head)?;
    match (field.kind(), tail) {
        _ if field.is_list() || field.is_map() => Err(format!("binds {path}, which repeats")),
        (Kind::Message(inner), Some(tail)) => check_variable(&inner, tail),
        (Kind::Message(_), None) => Err(format!("binds {path}, which is a message")),
        (_, Some(_)) => Err(format!("binds {path}, which does not exist")),
        (_, None) => Ok(()),
    }
}

fn field(message: &MessageDescriptor, name: &str) -> Result<FieldDescriptor, String> {
    message
        .get_field_by_name(name)
        .ok_or_else(|| format!("names {name}, which {} lacks", message.full_name()))
}

fn text(message: &DynamicMessage, field: &str) -> String {
    let value = message.get_field_by_name(field);
    value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::pb;

    fn found(table: &Table, method: &Method, path: &str) -> String {
        match table.find(method, path) {
            Found::Route(route, variables) => format!("{} {variables:?}", route.rpc.name()),
            Found::OtherMethods(allow) => format!("allow {allow}"),
            Found::Nothing => "nothing".to_owned(),
        }
    }

    #[test]
    fn every_rule_of_the_protos_has_a_route() {
        let table = Table::new(pb::DESCRIPTORS).unwrap();
        let cases = [
            (Method::GET, "/v1/endpoints/a", r#"GetEndpoint [("id", "a")]"#),
            (Method::HEAD, "/v1/endpoints/a", r#"GetEndpoint [("id", "a")]"#),
            (Method::PATCH, "/v1/endpoints/a", r#"UpdateEndpoint [("endpoint.id", "a")]"#),
            (Method::POST, "/v1/endpoints/a:pause", r#"PauseEndpoint [("id", "a")]"#),
            (Method::POST, "/v1/endpoints:search", "ListEndpoints []"),
            (Method::GET, "/v1/deliveries:watch", "WatchDeliveries []"),
            (Method::POST, "/v1/events", "PublishEvent []"),
            (Method::GET, "/v1/endpoints/a:pause", "allow POST, OPTIONS"),
            (Method::PUT, "/v1/operations", "allow GET, HEAD, OPTIONS"),
            (Method::GET, "/v2/endpoints", "nothing"),
            (Method::OPTIONS, "*", "nothing"),
        ];
        for (method, path, expected) in cases {
            assert_eq!(found(&table, &method, path), expected, "{method} {path}");
        }
        assert!(table.0.len() >= 30);
    }

    #[test]
    fn descriptors_without_annotations_are_refused() {
        assert!(matches!(Table::new(&[]), Err(Error::NoAnnotations)));
        assert!(matches!(Table::new(b"nonsense"), Err(Error::Descriptors(_))));
    }

    #[test]
    fn variables_must_lead_to_one_scalar() {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        let update = pool.get_message_by_name("hookwire.v1.UpdateEndpointRequest").unwrap();
        assert_eq!(check_variable(&update, "endpoint.id"), Ok(()));
        for path in ["endpoint", "endpoint.id.x", "endpoint.event_types", "nothing", "endpoint.metadata"] {
            assert!(check_variable(&update, path).is_err(), "{path}");
        }
    }
}
