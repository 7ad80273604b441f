//! What there is to say about an error, before it is a status or an item's error.

use std::{collections::HashMap, fmt::Display, time::Duration};

use tonic::Code;
use tonic_types::{ErrorDetails, FieldViolation};

use super::pb::ErrorReason;
use crate::{
    app::{Error, Invalid, Kind},
    domain::{LetterState, State, Violations},
};

/// When a full queue, or a server that is about to go, is worth another try.
const RETRY_FULL: Duration = Duration::from_secs(1);
const RETRY_SOON: Duration = Duration::from_millis(250);
/// Violations told in the message; the details have all.
const TOLD_MAX: usize = 3;

/// What there is to say about an error.
pub(super) struct Facts {
    pub code: Code,
    pub reason: ErrorReason,
    pub message: String,
    pub metadata: HashMap<String, String>,
    pub violations: Violations,
    /// Type and name of what was looked for or is in the way.
    resource: Option<(&'static str, String)>,
    /// After how long it may be tried again, if the error says so itself.
    retry_after: Option<Duration>,
}

impl Facts {
    fn new(reason: ErrorReason, message: String) -> Self {
        let (metadata, violations) = (HashMap::new(), Violations::default());
        Self {
            code: code_of(reason),
            reason,
            message,
            metadata,
            violations,
            resource: None,
            retry_after: None,
        }
    }

    fn with(mut self, key: &str, value: impl Display) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    pub fn of(error: Error) -> Self {
        let message = error.to_string();
        let new = |reason| Self::new(reason, message);
        match error {
            Error::NotFound { kind, id } => {
                let (reason, resource) = not_found(kind);
                Self { resource: Some((resource, id)), ..new(reason) }
            }
            Error::Invalid { violations, reason } => Self::invalid(violations, reason),
            Error::PageToken => new(ErrorReason::PageTokenInvalid),
            Error::ResumeToken => new(ErrorReason::ResumeTokenInvalid),
            Error::IdTaken { kind, id } => {
                Self { resource: Some((not_found(kind).1, id)), ..new(ErrorReason::IdTaken) }
            }
            Error::IdempotencyConflict { key, event } => {
                new(ErrorReason::IdempotencyConflict).with("idempotency_key", key).with("event_id", event)
            }
            Error::EtagMismatch { current } => new(ErrorReason::EtagMismatch).with("etag", current),
            Error::DeliveryState(state) => new(ErrorReason::DeliveryState).with("status", state_name(state)),
            Error::EndpointInactive { state } => new(ErrorReason::EndpointInactive).with("state", state),
            Error::EndpointQuarantined => new(ErrorReason::EndpointInactive).with("state", "AUTO_DISABLED"),
            Error::LetterState(state) => {
                new(ErrorReason::DeadLetterState).with("state", letter_state_name(state))
            }
            Error::OperationDone => new(ErrorReason::OperationDone),
            Error::LastSecret => new(ErrorReason::LastSecret),
            Error::Quota { quota, limit } => {
                new(ErrorReason::QuotaExceeded).with("quota", quota).with("limit", limit)
            }
            Error::CredentialMissing => new(ErrorReason::CredentialMissing),
            Error::CredentialInvalid => new(ErrorReason::CredentialInvalid),
            Error::ScopeMissing { scope, has: _ } => new(ErrorReason::ScopeMissing).with("scope", scope),
            Error::Forbidden { why } => new(ErrorReason::TenantForbidden).with("why", why.name()),
            Error::RateLimited { of, after } => {
                Self { retry_after: Some(after.to_std()), ..new(ErrorReason::RateLimited) }.with("limit", of)
            }
            Error::InUse { by } => new(ErrorReason::InUse).with("by", by),
            Error::QueueFull { depth, limit } => {
                new(ErrorReason::QueueFull).with("queue_depth", depth).with("limit", limit)
            }
            Error::ReadersBusy { limit } => new(ErrorReason::ReadersBusy).with("limit", limit),
            Error::TooManyStreams { of, limit } => {
                new(ErrorReason::TooManyStreams).with("of", of).with("limit", limit)
            }
            Error::Lagged { token } => new(ErrorReason::WatchLagged).with("resume_token", token),
            Error::Compacted { oldest, at, token } => new(ErrorReason::WatchCompacted)
                .with("oldest_sequence", oldest.0)
                .with("oldest_time", at)
                .with("resume_token", token),
            Error::Unavailable { phase, source: _ } => new(ErrorReason::NotServing).with("phase", phase),
            // The cause is in the log, under the request's id.
            Error::Internal(_) => new(ErrorReason::Internal),
        }
    }

    fn invalid(violations: Violations, reason: Invalid) -> Self {
        let told = violations.0.iter().take(TOLD_MAX).map(|it| format!("{} {}", it.field, it.description));
        let mut message = told.collect::<Vec<_>>().join("; ");
        if violations.count() > TOLD_MAX {
            message.push_str(&format!("; and {} more", violations.count() - TOLD_MAX));
        }
        let new = |reason| Self::new(reason, message);
        let facts = match reason {
            Invalid::Field => new(ErrorReason::InvalidField),
            Invalid::WrongId { expected, got } => {
                new(ErrorReason::WrongIdKind).with("expected", expected).with("got", got)
            }
            Invalid::Url { rule } => new(ErrorReason::UrlForbidden).with("rule", rule),
            Invalid::TooLarge { limit, actual } => {
                new(ErrorReason::PayloadTooLarge).with("limit_bytes", limit).with("actual_bytes", actual)
            }
        };
        Self { violations, ..facts }
    }

    pub fn add_details(&self, details: &mut ErrorDetails) {
        if !self.violations.0.is_empty() {
            let violations = self.violations.0.iter().map(|it| FieldViolation {
                field: it.field.clone(),
                description: it.description.clone(),
                reason: it.rule.code().to_owned(),
                ..FieldViolation::default()
            });
            details.set_bad_request(violations.collect::<Vec<_>>());
        }
        if let Some((resource, name)) = &self.resource {
            details.set_resource_info(*resource, name, "", &self.message);
        }
        if self.code == Code::FailedPrecondition {
            details.add_precondition_failure_violation(reason_name(self.reason), "", &self.message);
        }
        if self.reason == ErrorReason::QuotaExceeded {
            details.add_quota_failure_violation("endpoint", &self.message);
        }
        if let Some(delay) = self.retry_delay() {
            details.set_retry_info(Some(delay));
        }
        if self.code == Code::Internal && details.request_info().is_none() {
            details.set_request_info("", "");
        }
    }

    /// After how long it may be tried again.
    pub fn retry_delay(&self) -> Option<Duration> {
        if matches!(self.reason, ErrorReason::QueueFull | ErrorReason::ReadersBusy) {
            Some(RETRY_FULL)
        } else if self.retry_after.is_some() {
            self.retry_after
        } else {
            (self.reason == ErrorReason::NotServing).then_some(RETRY_SOON)
        }
    }

    /// Milliseconds until a generic client may try again.
    pub fn pushback(&self) -> Option<i64> {
        let delay = self.retry_delay().map(|delay| delay.as_millis() as i64);
        let never = matches!(self.reason, ErrorReason::QuotaExceeded | ErrorReason::TooManyStreams);
        delay.or(never.then_some(-1))
    }
}

/// The name of a reason without its prefix.
pub(super) fn reason_name(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("ERROR_REASON_").unwrap_or(name)
}

/// The code that a reason comes with.
pub(super) fn code_of(reason: ErrorReason) -> Code {
    match reason {
        ErrorReason::Unspecified => Code::Unknown,
        ErrorReason::QueueFull
        | ErrorReason::ReadersBusy
        | ErrorReason::TooManyStreams
        | ErrorReason::QuotaExceeded
        | ErrorReason::RateLimited => Code::ResourceExhausted,
        ErrorReason::CredentialMissing | ErrorReason::CredentialInvalid => Code::Unauthenticated,
        ErrorReason::ScopeMissing | ErrorReason::TenantForbidden => Code::PermissionDenied,
        ErrorReason::NotServing => Code::Unavailable,
        ErrorReason::WatchLagged | ErrorReason::EtagMismatch => Code::Aborted,
        ErrorReason::InvalidField
        | ErrorReason::WrongIdKind
        | ErrorReason::PageTokenInvalid
        | ErrorReason::ResumeTokenInvalid
        | ErrorReason::PayloadTooLarge
        | ErrorReason::UrlForbidden => Code::InvalidArgument,
        ErrorReason::EndpointNotFound
        | ErrorReason::EventNotFound
        | ErrorReason::DeliveryNotFound
        | ErrorReason::DeadLetterNotFound
        | ErrorReason::OperationNotFound
        | ErrorReason::SecretNotFound
        | ErrorReason::TenantNotFound
        | ErrorReason::ApiKeyNotFound => Code::NotFound,
        ErrorReason::IdTaken | ErrorReason::IdempotencyConflict => Code::AlreadyExists,
        ErrorReason::DeliveryState
        | ErrorReason::EndpointInactive
        | ErrorReason::DeadLetterState
        | ErrorReason::OperationDone
        | ErrorReason::LastSecret
        | ErrorReason::InUse => Code::FailedPrecondition,
        ErrorReason::WatchCompacted => Code::OutOfRange,
        ErrorReason::Internal => Code::Internal,
    }
}

fn not_found(kind: Kind) -> (ErrorReason, &'static str) {
    match kind {
        Kind::Endpoint => (ErrorReason::EndpointNotFound, "hookwire.v1.Endpoint"),
        Kind::Event => (ErrorReason::EventNotFound, "hookwire.v1.Event"),
        Kind::Delivery => (ErrorReason::DeliveryNotFound, "hookwire.v1.Delivery"),
        Kind::DeadLetter => (ErrorReason::DeadLetterNotFound, "hookwire.v1.DeadLetter"),
        Kind::Operation => (ErrorReason::OperationNotFound, "hookwire.v1.Operation"),
        Kind::Tenant => (ErrorReason::TenantNotFound, "hookwire.v1.Tenant"),
        Kind::ApiKey => (ErrorReason::ApiKeyNotFound, "hookwire.v1.ApiKey"),
        Kind::Secret => (ErrorReason::SecretNotFound, "hookwire.v1.SigningSecret"),
    }
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Pending => "PENDING",
        State::Retrying => "RETRYING",
        State::Delivered => "DELIVERED",
        State::DeadLetter => "DEAD_LETTER",
        State::Failed => "FAILED",
        State::Cancelled => "CANCELLED",
        State::Expired => "EXPIRED",
    }
}

fn letter_state_name(state: LetterState) -> &'static str {
    match state {
        LetterState::Open => "OPEN",
        LetterState::Replaying => "REPLAYING",
        LetterState::Replayed => "REPLAYED",
    }
}
