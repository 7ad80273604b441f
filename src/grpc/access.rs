//! Who may call what.
//!
//! Before a call's message is read its caller is recognised, counted against its
//! limits and asked for the scope that the method needs; that scope is an option of
//! the method in `proto/`, so a new method is closed until it names one. What a key
//! opened ends with the key.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Request, header};
use prost_reflect::{DescriptorError, DescriptorPool, MethodDescriptor};
use prost_types::method_options::IdempotencyLevel;
use rustc_hash::FxHashMap;
use tonic::{Code, Status, body::Body};

use super::{
    EVENTS_BYTES_MAX, OTHER_BYTES_MAX, PUBLISH_STREAM,
    intake::Bounds,
    large_body::Room,
    pb,
    record::{Record, Subject, Who},
    status::{Caller, REQUEST_ID},
};
use crate::{
    app::{App, Error, Principal, RefusedCredential, Shown},
    peer::Peer,
};

/// The option that names a method's scope.
pub const SCOPE: &str = "hookwire.v1.scope";
/// Metadata by which an administrator names a tenant.
const TENANT: &str = "hookwire-tenant";
/// The one read that is entered in the audit log like a change.
const REVEAL: &str = "RevealSecrets";
/// What publishing needs: it changes much, and its record is the events.
pub const PUBLISHING: &str = "events:write";

/// What the methods need.
#[derive(Debug)]
pub(super) struct Access {
    app: Arc<App>,
    methods: FxHashMap<String, Method>,
    /// Where large messages are read.
    pub room: Room,
}

/// A method of ours.
#[derive(Debug)]
struct Method {
    descriptor: MethodDescriptor,
    scope: Option<String>,
    audited: bool,
}

/// What became of a call at the door.
pub(super) struct Admission {
    /// Whether it may go on; if not, what it is told.
    pub verdict: Result<(), Box<Status>>,
    /// What is to be entered in the audit log.
    pub record: Option<Record>,
    /// Who calls, if that was recognised.
    pub principal: Option<Principal>,
    /// Whether it reads what is in memory, which other processes may have changed.
    pub looks: bool,
}

impl Admission {
    fn refused(status: Status) -> Self {
        Self { verdict: Err(Box::new(status)), record: None, principal: None, looks: false }
    }
}

impl Access {
    /// Reads what methods need from their descriptors.
    pub fn new(app: Arc<App>) -> Result<Self, DescriptorError> {
        Ok(Self { app, methods: methods()?, room: Room::default() })
    }

    /// Lets a call in, with its principal among the extensions of the request, or
    /// says why not. Methods of other packages, which tell of the server only, are
    /// open to all.
    pub fn admit(&self, request: &mut Request<Body>) -> Admission {
        let open = Admission { verdict: Ok(()), record: None, principal: None, looks: false };
        let Some(method) = self.methods.get(request.uri().path()) else { return open };
        let caller = |request: &Request<Body>| Caller::named(request.headers().get(REQUEST_ID));
        // A stream waits for room where a call is refused.
        let publishes = method.scope.as_deref() == Some(PUBLISHING);
        let can_wait = method.descriptor.is_client_streaming();
        if let Some(error) = (publishes && !can_wait).then(|| self.app.crowded()).flatten() {
            return Admission::refused(caller(request).refuse(error));
        }
        let peer = request.extensions().get::<Peer>().copied();
        let principal = match recognise(&self.app, request.headers(), peer) {
            Ok(principal) => principal,
            Err((error, refused)) => {
                let caller = caller(request);
                let verdict = caller.refuse(error);
                let record = refused.map(|refused| {
                    let who = Who { key: refused.key, tenant: "".into() };
                    Record::new(method.descriptor.clone(), Subject::default(), who, peer, caller)
                });
                return Admission { record, ..Admission::refused(verdict) };
            }
        };
        if let Err(error) = self.app.pace(&principal, publishes) {
            return Admission::refused(caller(request).refuse(error));
        }
        let record = method.audited.then(|| {
            let subject = Subject::default();
            request.extensions_mut().insert(subject.clone());
            let who = Who { key: principal.key(), tenant: Arc::clone(principal.tenant_id()) };
            Record::new(method.descriptor.clone(), subject, who, peer, caller(request))
        });
        let verdict = principal.require(method.scope.as_deref().unwrap_or("*"));
        let verdict = verdict.map_err(|error| Box::new(caller(request).refuse(error)));
        request.extensions_mut().insert(principal.clone());
        // Publishing goes by what the store's writer knows.
        let looks = self.app.is_shared() && !publishes;
        Admission { verdict, record, principal: Some(principal), looks }
    }

    /// What the messages of a method may be.
    pub fn bounds(&self, path: &str) -> Bounds {
        let method = self.methods.get(path);
        let publishes = method.is_some_and(|method| method.scope.as_deref() == Some(PUBLISHING));
        let bytes_max = match path {
            PUBLISH_STREAM => super::streamed_bytes_max(&self.app),
            _ if publishes => EVENTS_BYTES_MAX,
            _ => OTHER_BYTES_MAX,
        };
        Bounds { bytes_max, message: method.map(|method| method.descriptor.input()) }
    }

    /// Takes in what other processes have committed, so that a call sees what was
    /// acknowledged before it, wherever.
    pub async fn look(&self, caller: &Caller) -> Result<(), Box<Status>> {
        self.app.refresh().await.map_err(|error| Box::new(caller.refuse(error)))
    }

    /// Enters a call in the audit log; what it is told if that is not possible.
    pub async fn enter(&self, record: Record, code: Code) -> Result<(), Box<Status>> {
        let caller = record.caller.clone();
        let entry = record.entry(self.app.now(), code);
        self.app.audit(entry).await.map_err(|error| Box::new(caller.refuse(error)))
    }
}

/// Whether a caller may see what needs a scope, other than by a method of ours.
pub fn admits(app: &App, headers: &HeaderMap, peer: Option<Peer>, scope: &str) -> Result<(), Box<Status>> {
    let caller = Caller::named(headers.get(REQUEST_ID));
    let recognised = recognise(app, headers, peer).map_err(|(error, _)| error);
    let recognised = recognised.and_then(|principal| principal.require(scope));
    recognised.map_err(|error| Box::new(caller.refuse(error)))
}

/// Who calls, by what the headers and the connection show; or why nobody, and what
/// credential was refused, if one was shown.
fn recognise(
    app: &App,
    headers: &HeaderMap,
    peer: Option<Peer>,
) -> Result<Principal, (Error, Option<RefusedCredential>)> {
    let token = headers.get(header::AUTHORIZATION).map(|value| bearer(text(value)));
    let shown = Shown {
        token: token.as_ref().map(|token| token.as_ref().map_or("", |token| *token)),
        certificate: peer.and_then(|peer| peer.certificate),
        proxied: peer.is_some_and(|peer| peer.proxied),
        address: peer.map(|peer| peer.address.ip()),
        tenant: headers.get(TENANT).map(text),
    };
    let recognised = match token {
        Some(Err(error)) => Err(error),
        Some(Ok(_)) | None => app.recognise(shown),
    };
    recognised.map_err(|error| {
        let refused = app.note_refused(shown, &error);
        (error, refused)
    })
}

/// All methods of ours, by path.
fn methods() -> Result<FxHashMap<String, Method>, DescriptorError> {
    let pool = DescriptorPool::decode(pb::DESCRIPTORS)?;
    let option = pool.get_extension_by_name(SCOPE);
    let scope = |method: &MethodDescriptor| {
        let value = method.options().get_extension(option.as_ref()?).into_owned();
        value.as_str().filter(|scope| !scope.is_empty()).map(str::to_owned)
    };
    let reads = |method: &MethodDescriptor| {
        let level =
            method.options().get_field_by_name("idempotency_level").and_then(|it| it.as_enum_number());
        level == Some(IdempotencyLevel::NoSideEffects as i32)
    };
    let method = |descriptor: MethodDescriptor| {
        let scope = scope(&descriptor);
        let publishes = scope.as_deref() == Some(PUBLISHING);
        let audited = descriptor.name() == REVEAL || !reads(&descriptor) && !publishes;
        (path(&descriptor), Method { audited, scope, descriptor })
    };
    Ok(pool.services().flat_map(|service| service.methods().map(method).collect::<Vec<_>>()).collect())
}

/// A header's value; empty, which fits nothing, if it is not text.
fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or_default()
}

/// The token of an `authorization` header.
fn bearer(value: &str) -> Result<&str, Error> {
    let (scheme, token) = value.split_once(' ').unwrap_or_default();
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(Error::CredentialInvalid) }
}

/// Where a method is called.
fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Scope;

    #[test]
    fn every_method_names_a_scope_that_a_key_can_have() {
        let methods = methods().unwrap();
        assert!(methods.len() > 30);
        for (path, method) in methods {
            let scope = method.scope.unwrap_or_else(|| panic!("{path} names no scope"));
            assert!(scope.parse::<Scope>().is_ok() && !scope.ends_with('*'), "{path}: {scope}");
        }
    }

    #[test]
    fn what_changes_something_is_audited_but_not_what_publishes_or_reads() {
        let methods = methods().unwrap();
        let audited = |path: &str| methods[path].audited;
        for path in
            ["EndpointService/RevealSecrets", "EndpointService/DeleteEndpoint", "ApiKeyService/RevokeApiKey"]
        {
            assert!(audited(&format!("/hookwire.v1.{path}")), "{path}");
        }
        for path in
            ["EventService/PublishEvent", "EventService/PublishEventStream", "EndpointService/GetEndpoint"]
        {
            assert!(!audited(&format!("/hookwire.v1.{path}")), "{path}");
        }
    }

    #[test]
    fn a_token_comes_after_the_word_bearer() {
        assert_eq!(bearer("Bearer abc").unwrap(), "abc");
        assert_eq!(bearer("bearer  abc ").unwrap(), "abc");
        for bad in ["", "abc", "Basic abc", "Bearerabc"] {
            assert!(matches!(bearer(bad), Err(Error::CredentialInvalid)), "{bad}");
        }
    }
}
