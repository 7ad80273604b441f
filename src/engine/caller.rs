//! What calling an endpoint needs, prepared once per version of it.

use std::sync::Arc;

use http::{
    HeaderMap, HeaderValue,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderName},
};

use super::{
    redact::{Redactor, sent_secrets},
    token::{Tokens, basic, bearer, secret_value},
};
use crate::{
    content,
    domain::{Answer, Authentication, Cause, DeliveryId, Endpoint, Event, Fault, Timestamp},
    egress::{Client, Policy, Request, Sender, Target, Tls, vet},
    signing::Signer,
};

const EVENT_TYPE: HeaderName = HeaderName::from_static("x-webhook-event");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
/// Headers that a request has besides those of its endpoint, with one signature.
const HEADERS: usize = 8;

/// An endpoint ready to be called.
pub(super) struct Caller {
    pub endpoint: Arc<Endpoint>,
    /// Where from the header `authorization` comes, if not from `headers`.
    pub tokens: Option<Tokens>,
    way: Result<Way, Fault>,
    /// Finds the secrets that each request carries.
    redactor: Redactor,
    signer: Signer,
}

/// How to get there, and what is said every time.
struct Way {
    target: Target,
    tls: Option<Tls>,
    headers: HeaderMap,
}

impl Caller {
    pub fn new(endpoint: Arc<Endpoint>, policy: &Policy, client: &Client) -> Self {
        let tls = client.tls(&endpoint.tls);
        let tokens = match &endpoint.authentication {
            Some(Authentication::OAuth2(oauth2)) => {
                Some(Tokens::new(oauth2.clone(), sender(&endpoint), policy, tls.clone()))
            }
            Some(Authentication::Basic { .. } | Authentication::Bearer { .. }) | None => None,
        };
        let way = way(&endpoint, policy, tls);
        let authorization = way.as_ref().ok().and_then(|way| way.headers.get(AUTHORIZATION));
        let credential = authorization.and_then(credential);
        let redactor = Redactor::new(sent_secrets(&endpoint).chain(credential));
        Self { tokens, way, redactor, signer: Signer::new(&endpoint), endpoint }
    }

    /// The request for an event. A request that cannot be built is a fault of
    /// ours, found before anything is sent. `authorization` is what [`Caller::tokens`]
    /// gave.
    pub fn request(
        &self,
        event: &Event,
        delivery: DeliveryId,
        now: Timestamp,
        authorization: Option<HeaderValue>,
    ) -> Result<Request, Fault> {
        let way = self.way.as_ref().map_err(Fault::clone)?;
        let body = content::body(event, self.endpoint.envelope);
        // Our own headers first, then those of the endpoint, which replace none of ours. With room
        // for all of them: a map that grows moves everything.
        let mut headers = HeaderMap::with_capacity(way.headers.len() + HEADERS);
        headers.insert(CONTENT_TYPE, value(&body.content_type)?);
        headers.insert(EVENT_TYPE, value(&event.event_type)?);
        headers.insert(IDEMPOTENCY_KEY, value(&delivery.0.hyphenated())?);
        let id = event.id.to_string();
        headers.insert(WEBHOOK_ID, value(&id)?);
        // Inserted, not added: the signer names the id too.
        for (name, value) in self.signer.sign(&id, now, &body.data) {
            headers.insert(name, value);
        }
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization);
        }
        for (name, value) in &way.headers {
            headers.entry(name).or_insert_with(|| value.clone());
        }
        let http = self.endpoint.http;
        Ok(Request {
            sender: sender(&self.endpoint),
            target: way.target.clone(),
            tls: way.tls.clone(),
            headers,
            body: body.data,
            timeout: http.timeout,
            connect_timeout: http.connect_timeout,
        })
    }

    /// Removes the secrets of a request from its answer. `token` is the authorization
    /// that [`Caller::tokens`] gave.
    pub fn redact(&self, answer: &mut Answer, token: Option<&HeaderValue>) {
        self.redactor.redact(&mut answer.response);
        if let Some(credential) = token.and_then(credential) {
            Redactor::new([credential].into_iter()).redact(&mut answer.response);
        }
    }
}

/// What follows `Basic` or `Bearer`.
fn credential(authorization: &HeaderValue) -> Option<&[u8]> {
    authorization.as_bytes().split(|byte| *byte == b' ').nth(1)
}

/// On whose behalf its requests are made.
fn sender(endpoint: &Endpoint) -> Sender {
    Sender { tenant: endpoint.tenant, endpoint: endpoint.key, version: endpoint.version }
}

fn way(endpoint: &Endpoint, policy: &Policy, tls: Result<Option<Tls>, Fault>) -> Result<Way, Fault> {
    let target = vet(&endpoint.url, policy)
        .map_err(|forbidden| Fault { cause: Cause::TargetForbidden, message: forbidden.message })?;
    let tls = tls?;
    let mut headers = HeaderMap::with_capacity(endpoint.headers.len() + 1);
    match &endpoint.authentication {
        Some(Authentication::Basic { username, password }) => {
            headers.insert(AUTHORIZATION, basic(username, password)?);
        }
        Some(Authentication::Bearer { token }) => {
            headers.insert(AUTHORIZATION, bearer(token.expose())?);
        }
        Some(Authentication::OAuth2(_)) | None => {}
    }
    for (name, header) in &endpoint.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), secret_value(header.value.expose())) {
            headers.entry(name).or_insert(value);
        }
    }
    Ok(Way { target, tls, headers })
}

fn value(text: &str) -> Result<HeaderValue, Fault> {
    HeaderValue::try_from(text).map_err(|_| Fault {
        cause: Cause::InvalidRequest,
        message: "a header value has characters that headers cannot carry".to_owned(),
    })
}
