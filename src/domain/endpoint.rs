//! Where events go.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{
    Authentication, BreakerPolicy, DeadLetterPolicy, EndpointKey, HttpOptions, Pattern, RateLimit,
    RetryPolicy, SecretId, SecretText, Signing, TenantKey, Timestamp, TlsOptions,
};

/// A subscriber: a URL, what it wants, and how it is to be called.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Key of its row.
    pub key: EndpointKey,
    /// Public identifier.
    pub id: Arc<str>,
    /// Owner.
    pub tenant: TenantKey,
    /// Display name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Target.
    pub url: String,
    /// Whether deliveries flow.
    pub state: EndpointState,
    /// Why it is not active.
    pub state_reason: String,
    /// Types it wants; none means all.
    pub event_types: Vec<Pattern>,
    /// Extra request headers, by name in lower case.
    pub headers: BTreeMap<String, Header>,
    /// How a request says who calls, besides its signature.
    pub authentication: Option<Authentication>,
    /// How TLS differs from TLS with other endpoints.
    pub tls: TlsOptions,
    /// Timeouts.
    pub http: HttpOptions,
    /// Shape of the body.
    pub envelope: Envelope,
    /// How requests are signed.
    pub signing: Signing,
    /// Signing secrets, newest first.
    pub secrets: Vec<Secret>,
    /// When a failed delivery is tried again.
    pub retry: RetryPolicy,
    /// Token bucket over attempts.
    pub rate_limit: RateLimit,
    /// Attempts in flight at once.
    pub max_in_flight: u32,
    /// When to stop calling.
    pub breaker: BreakerPolicy,
    /// What happens to a delivery that is given up.
    pub dead_letters: DeadLetterPolicy,
    /// Opaque pairs.
    pub metadata: BTreeMap<String, String>,
    /// Creation.
    pub created_at: Timestamp,
    /// Last change of configuration.
    pub updated_at: Timestamp,
    /// One more with every change; the etag.
    pub version: u64,
    /// Its stored secrets cannot be read: it is disabled, and can only be deleted. Not
    /// stored; each reading of its row finds out.
    pub quarantined: bool,
}

impl Endpoint {
    /// Attempts in flight at once, unless set.
    pub const MAX_IN_FLIGHT: u32 = 10;
    /// Live secrets at most.
    pub const SECRETS_MAX: usize = 5;

    /// An active endpoint with the defaults of the house and without a secret; its
    /// row's key is the store's to give.
    pub fn new(tenant: TenantKey, id: impl Into<Arc<str>>, url: impl Into<String>, now: Timestamp) -> Self {
        Self {
            key: EndpointKey(0),
            id: id.into(),
            tenant,
            name: String::new(),
            description: String::new(),
            url: url.into(),
            state: EndpointState::Active,
            state_reason: String::new(),
            event_types: Vec::new(),
            headers: BTreeMap::new(),
            authentication: None,
            tls: TlsOptions::default(),
            http: HttpOptions::default(),
            envelope: Envelope::default(),
            signing: Signing::default(),
            secrets: Vec::new(),
            retry: RetryPolicy::default(),
            rate_limit: RateLimit::default(),
            max_in_flight: Self::MAX_IN_FLIGHT,
            breaker: BreakerPolicy::default(),
            dead_letters: DeadLetterPolicy::default(),
            metadata: BTreeMap::new(),
            created_at: now,
            updated_at: now,
            version: 1,
            quarantined: false,
        }
    }

    /// Whether it wants events of this type.
    pub fn wants(&self, event_type: &str) -> bool {
        Pattern::any(&self.event_types, event_type)
    }

    /// Whether new deliveries are made for it.
    pub fn receives(&self) -> bool {
        matches!(self.state, EndpointState::Active | EndpointState::Paused)
    }

    /// Secrets in force at an instant, newest first.
    pub fn live_secrets(&self, now: Timestamp) -> impl Iterator<Item = &Secret> {
        self.secrets.iter().filter(move |secret| secret.is_live(now))
    }

    /// The secret used where only one signature can be sent: the newest whose
    /// time as primary has come.
    pub fn primary_secret(&self, now: Timestamp) -> Option<&Secret> {
        let come = |secret: &&Secret| secret.primary_at.is_none_or(|at| at <= now);
        self.live_secrets(now).find(come).or_else(|| self.live_secrets(now).last())
    }
}

/// Whether deliveries flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EndpointState {
    /// Receives deliveries.
    Active,
    /// Deliveries are made and held.
    Paused,
    /// No deliveries are made; those waiting are held.
    Disabled,
    /// As `Disabled`, by the server: the endpoint answered 410, or is quarantined.
    AutoDisabled,
}

/// Shape of the request body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Envelope {
    /// `{"id","event","timestamp","data"}`.
    #[default]
    Event,
    /// The payload itself.
    Raw,
}

/// An extra request header. Every value may hold a secret, so none is printed and
/// all are stored sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its value.
    pub value: SecretText,
    /// Reads show `***` instead of the value.
    pub sensitive: bool,
}

/// A signing secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Bits of its identifier, in hex.
    pub id: String,
    /// The secret as given or made: `whsec_` plus base64, or any text.
    pub value: SecretText,
    /// Creation.
    pub created_at: Timestamp,
    /// When it becomes the primary; nothing means at once.
    pub primary_at: Option<Timestamp>,
    /// When it stops being used; nothing means never.
    pub expires_at: Option<Timestamp>,
}

impl Secret {
    /// Public identifier.
    pub fn public_id(&self) -> String {
        format!("sec_{}", self.id)
    }

    /// Whether this is the secret's identifier.
    pub fn is(&self, id: SecretId) -> bool {
        self.id == id.0.to_string()
    }

    /// Whether it is used at an instant.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|at| at > now)
    }

    /// The key: what follows `whsec_` decoded from base64, otherwise the UTF-8
    /// bytes. Nothing if the base64 is bad.
    pub fn key(&self) -> Option<Zeroizing<Vec<u8>>> {
        let value = self.value.expose();
        let key = match value.strip_prefix("whsec_") {
            Some(text) => BASE64.decode(text).ok()?,
            None => value.as_bytes().to_vec(),
        };
        Some(key.into())
    }

    /// First 8 hex digits of the SHA-256 of the key.
    pub fn fingerprint(&self) -> String {
        let key = self.key().unwrap_or_default();
        hex::encode(&Sha256::digest(key)[..4])
    }
}
