//! What a use case can fail with, in the words of the domain.

use crate::{
    domain::{EventId, LetterState, Micros, Pos, Rule, State, Timestamp, Violations},
    feed, store,
};

/// Why a use case did not do what was asked. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such thing, or it belongs to somebody else.
    #[error("there is no {} with the id {id}", kind.noun())]
    NotFound {
        /// What was looked for.
        kind: Kind,
        /// As the caller spelled it.
        id: String,
    },
    /// The request breaks rules; all of them are told. Change it.
    #[error("the request is not valid")]
    Invalid {
        /// What is wrong with which field.
        violations: Violations,
        /// What a program branches on.
        reason: Invalid,
    },
    /// The page token is not one of this list. Start the list again.
    #[error("the page token was not issued for this list")]
    PageToken,
    /// The resume token is not one of this store.
    #[error("the resume token is malformed or comes from another store")]
    ResumeToken,
    /// The caller's own id is or was in use. Choose another one.
    #[error("the {} id {id} is or was in use", kind.noun())]
    IdTaken {
        /// Of what.
        kind: Kind,
        /// The id.
        id: String,
    },
    /// The key was used before for something else.
    #[error("the idempotency key was used before for other content")]
    IdempotencyConflict {
        /// The key.
        key: String,
        /// The event that has it.
        event: EventId,
    },
    /// Somebody else changed it. Read again, reapply, repeat.
    #[error("the etag is not the current one")]
    EtagMismatch {
        /// The current version.
        current: u64,
    },
    /// The delivery's state does not allow it.
    #[error("the delivery is final or has succeeded")]
    DeliveryState(State),
    /// The endpoint is disabled or deleted.
    #[error("the endpoint is disabled or deleted")]
    EndpointInactive {
        /// Its state.
        state: &'static str,
    },
    /// The endpoint's stored secrets cannot be read. Delete it and create it anew.
    #[error(
        "the stored secrets of the endpoint cannot be read: delete it and create it anew, or have its row restored \
         from a backup"
    )]
    EndpointQuarantined,
    /// The dead letter was replayed, or a replay of it is under way.
    #[error("the dead letter was replayed, or a replay of it is under way")]
    LetterState(LetterState),
    /// The operation has finished.
    #[error("the operation has finished")]
    OperationDone,
    /// The last live secret cannot be expired. Rotate first.
    #[error("the last live secret cannot be expired; rotate it first")]
    LastSecret,
    /// No credential was given.
    #[error("a key is needed: send `authorization: Bearer <token>`")]
    CredentialMissing,
    /// The credential is not one of a key that works.
    #[error("the token is not one of a key, or its key is revoked or expired")]
    CredentialInvalid,
    /// The key may not do it, or not grant it.
    #[error("the key lacks the scope `{scope}`; it has {has}")]
    ScopeMissing {
        /// What it would need.
        scope: String,
        /// What it has, in words.
        has: String,
    },
    /// The key may not act here.
    #[error("{why}")]
    Forbidden {
        /// Why not.
        why: Forbidden,
    },
    /// More calls than may be. Worth trying again after a while.
    #[error("more calls than the {of} may make")]
    RateLimited {
        /// Whose limit: `key` or `tenant`.
        of: &'static str,
        /// After how long the next is allowed.
        after: Micros,
    },
    /// It cannot be removed.
    #[error("it is in use by {by}")]
    InUse {
        /// By what.
        by: String,
    },
    /// There would be more of something than there may be.
    #[error("there can be at most {limit} {quota}")]
    Quota {
        /// Of what.
        quota: &'static str,
        /// How many there may be.
        limit: u64,
    },
    /// More waits than may. Worth trying again in a while.
    #[error("the queue is full: {depth} wait, at most {limit} may, and this would not fit")]
    QueueFull {
        /// How much waits.
        depth: u64,
        /// How much may.
        limit: u64,
    },
    /// All connections that read the store are in use. Worth trying again in a while.
    #[error("all {limit} connections that read the store are in use")]
    ReadersBusy {
        /// How many there are.
        limit: u32,
    },
    /// Too many open streams.
    #[error("{limit} streams of the {of} are open, and there may be no more")]
    TooManyStreams {
        /// Whose streams: the `server` or the `connection`.
        of: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// A watcher took nothing for too long. Resume from the token.
    #[error("the watcher took nothing for 60 s while changes waited")]
    Lagged {
        /// Where to go on.
        token: String,
    },
    /// The feed no longer reaches back that far.
    #[error("the position is older than the retained change log")]
    Compacted {
        /// Number of the oldest change that may still be held.
        oldest: Pos,
        /// Its time, or now if there is none.
        at: Timestamp,
        /// Stands for the oldest position still held.
        token: String,
    },
    /// Not at the moment. Worth trying again soon, perhaps elsewhere.
    #[error("the server is not serving: {phase}")]
    Unavailable {
        /// What it is doing instead: `starting`, `draining` or `store`.
        phase: &'static str,
        /// What the store said, for the log.
        #[source]
        source: Option<store::Error>,
    },
    /// A bug or a broken store. Quote the request id.
    #[error("internal error")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What can be looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An endpoint.
    Endpoint,
    /// An event.
    Event,
    /// A delivery.
    Delivery,
    /// A dead letter.
    DeadLetter,
    /// An operation.
    Operation,
    /// A signing secret.
    Secret,
    /// A tenant.
    Tenant,
    /// An API key.
    ApiKey,
}

/// Why a key may not act somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// It belongs to another tenant, or there is none of that name.
    #[error("the key does not act for that tenant")]
    Tenant,
    /// Its tenant is suspended.
    #[error("the tenant is suspended")]
    Suspended,
    /// It is bound to other networks.
    #[error("the key may not be used from this address")]
    Network,
    /// It is bound to a client certificate that the connection does not show.
    #[error("the key works only on a TLS connection with the client certificate that it is bound to")]
    Certificate,
    /// Its token was replaced and is in its grace period.
    #[error("a token that was replaced makes, rotates and revokes no keys: call with the new token")]
    Replaced,
}

impl Forbidden {
    /// A stable word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Suspended => "suspended",
            Self::Network => "network",
            Self::Certificate => "certificate",
            Self::Replaced => "replaced",
        }
    }
}

/// What a program branches on when a request breaks rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Invalid {
    /// A field, or several.
    #[default]
    Field,
    /// An id of another kind.
    WrongId {
        /// Prefix that was expected.
        expected: &'static str,
        /// Prefix that was given.
        got: &'static str,
    },
    /// A target that is not allowed.
    Url {
        /// Name of the rule.
        rule: &'static str,
    },
    /// A payload, header set or batch over its limit.
    TooLarge {
        /// How much it may be.
        limit: u64,
        /// How much it is.
        actual: u64,
    },
}

impl Kind {
    /// What it is called in a sentence.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Event => "event",
            Self::Delivery => "delivery",
            Self::DeadLetter => "dead letter",
            Self::Operation => "operation",
            Self::Secret => "secret",
            Self::Tenant => "tenant",
            Self::ApiKey => "API key",
        }
    }
}

impl Error {
    /// Something that is not there.
    pub fn not_found(kind: Kind, id: impl Into<String>) -> Self {
        Self::NotFound { kind, id: id.into() }
    }

    /// One invalid field.
    pub fn invalid(field: impl Into<String>, rule: Rule, description: impl Into<String>) -> Self {
        let mut violations = Violations::default();
        violations.add(field, rule, description);
        Self::Invalid { violations, reason: Invalid::Field }
    }

    /// The server is about to go.
    pub fn draining() -> Self {
        Self::Unavailable { phase: "draining", source: None }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::QueueFull { depth, limit } => Self::QueueFull { depth, limit },
            store::Error::ReadersBusy { limit } => Self::ReadersBusy { limit },
            store::Error::Unavailable(_)
            | store::Error::Away(_)
            | store::Error::Conflict(_)
            | store::Error::Full(_)
            | store::Error::Lost(_) => Self::Unavailable { phase: "store", source: Some(error) },
            store::Error::Corrupt(_) => Self::Internal(Box::new(error)),
        }
    }
}

impl From<feed::TokenError> for Error {
    fn from(_: feed::TokenError) -> Self {
        Self::ResumeToken
    }
}
