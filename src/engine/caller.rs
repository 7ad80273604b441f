//! What calling an endpoint needs, prepared once per version of it.

use std::sync::Arc;

use http::{
    HeaderMap, HeaderValue,
    header::{CONTENT_TYPE, HeaderName},
};

use crate::{
    content,
    domain::{Cause, DeliveryId, Endpoint, Event, Fault, Timestamp},
    egress::{Policy, Request, Sender, Target, vet},
    signing::Signer,
};

const EVENT_TYPE: HeaderName = HeaderName::from_static("x-webhook-event");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
/// Headers that a request has besides those of its endpoint, with one signature.
const HEADERS: usize = 9;

/// An endpoint ready to be called.
pub(super) struct Caller {
    pub endpoint: Arc<Endpoint>,
    target: Result<Target, Fault>,
    headers: HeaderMap,
    signer: Signer,
}

impl Caller {
    pub fn new(endpoint: Arc<Endpoint>, policy: &Policy) -> Self {
        let target = vet(&endpoint.url, policy)
            .map_err(|forbidden| Fault { cause: Cause::TargetForbidden, message: forbidden.message });
        let mut headers = HeaderMap::with_capacity(endpoint.headers.len());
        for (name, value) in &endpoint.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        }
        Self { target, headers, signer: Signer::new(&endpoint), endpoint }
    }

    /// The request for an event. A request that cannot be built is a fault of
    /// ours, found before anything is sent.
    pub fn request(&self, event: &Event, delivery: DeliveryId, now: Timestamp) -> Result<Request, Fault> {
        let target = self.target.clone()?;
        let body = content::body(event, self.endpoint.envelope);
        // With room for all that follow here and in the client: a map that grows moves
        // everything, and a clone has no room at all.
        let mut headers = HeaderMap::with_capacity(self.headers.len() + HEADERS);
        headers.extend(self.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        headers.insert(CONTENT_TYPE, value(&body.content_type)?);
        headers.insert(EVENT_TYPE, value(&event.event_type)?);
        headers.insert(IDEMPOTENCY_KEY, value(&delivery.0.hyphenated())?);
        let id = event.id.to_string();
        headers.insert(WEBHOOK_ID, value(&id)?);
        // Inserted, not added: the signer names the id too.
        for (name, value) in self.signer.sign(&id, now, &body.data) {
            headers.insert(name, value);
        }
        let http = self.endpoint.http;
        let Endpoint { tenant, key, version, .. } = *self.endpoint;
        Ok(Request {
            sender: Sender { tenant, endpoint: key, version },
            target,
            headers,
            body: body.data,
            timeout: http.timeout,
            connect_timeout: http.connect_timeout,
        })
    }
}

fn value(text: &str) -> Result<HeaderValue, Fault> {
    HeaderValue::try_from(text).map_err(|_| Fault {
        cause: Cause::InvalidRequest,
        message: "a header value has characters that headers cannot carry".to_owned(),
    })
}
