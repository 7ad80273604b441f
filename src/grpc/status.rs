//! Errors on the wire: the only place that decides a code, a reason and details.
//!
//! Every error has an `ErrorInfo`; what else it has follows from its reason and is
//! documented with it in `error_reason.proto`. A stream or batch tells the same
//! facts in an `ItemError`.

use std::{collections::HashMap, error::Error as _, time::Duration};

use tonic::{
    Code, Request, Response, Status,
    metadata::{MetadataMap, MetadataValue},
};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use super::pb::{self, ErrorReason};
use crate::{
    app::{Error, Invalid, Kind},
    domain::{LetterState, State, Violations},
};

/// Domain of every reason.
pub(super) const DOMAIN: &str = "hookwire";
/// Metadata key of a request's id.
pub(super) const REQUEST_ID: &str = "x-request-id";
/// Tells generic clients when to try again; negative: do not.
const PUSHBACK: &str = "grpc-retry-pushback-ms";
/// When a full queue, or a server that is about to go, is worth another try.
const RETRY_FULL: Duration = Duration::from_secs(1);
const RETRY_SOON: Duration = Duration::from_millis(250);
/// Violations told in the message; the details have all.
const TOLD_MAX: usize = 3;

/// Who asked, as far as errors care.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller {
    request_id: Option<String>,
}

impl Caller {
    /// The caller of a request.
    pub fn of<T>(request: &Request<T>) -> Self {
        Self::by(request.metadata())
    }

    /// The caller named in metadata.
    pub fn by(metadata: &MetadataMap) -> Self {
        let id = metadata.get(REQUEST_ID).and_then(|id| id.to_str().ok());
        Self { request_id: id.filter(|id| !id.is_empty()).map(str::to_owned) }
    }

    /// What a call answers.
    pub fn answer<T>(&self, outcome: Result<T, Error>) -> Result<Response<T>, Status> {
        outcome.map(Response::new).map_err(|error| self.refuse(error))
    }

    /// The status that a call ends with.
    pub fn refuse(&self, error: Error) -> Status {
        self.log(&error);
        let facts = Facts::of(error);
        let mut details = ErrorDetails::new();
        details.set_error_info(reason_name(facts.reason), DOMAIN, facts.metadata.clone());
        if let Some(id) = &self.request_id {
            details.set_request_info(id, "");
        }
        facts.add_details(&mut details);
        let mut metadata = MetadataMap::new();
        if let Some(pushback) = facts.pushback() {
            metadata.insert(PUSHBACK, MetadataValue::from(pushback));
        }
        Status::with_error_details_and_metadata(facts.code, facts.message, details, metadata)
    }

    fn log(&self, error: &Error) {
        let request_id = self.request_id.as_deref().unwrap_or_default();
        match error {
            Error::Internal(source) => {
                tracing::error!(request_id, error = &**source as &dyn std::error::Error, "a call failed");
            }
            Error::Unavailable { phase, source: Some(source) } => {
                let cause = source.source().map(ToString::to_string).unwrap_or_default();
                tracing::warn!(request_id, phase, error = %source, cause, "a call was turned away");
            }
            _ => {}
        }
    }
}

/// The error of one item of a batch or stream.
pub(super) fn item_error(error: Error) -> pb::ItemError {
    Caller::default().log(&error);
    let facts = Facts::of(error);
    let violations = facts.violations.0.into_iter().map(|it| pb::FieldViolation {
        field: it.field,
        description: it.description,
        reason: it.rule.code().to_owned(),
    });
    pb::ItemError {
        code: facts.code as i32,
        reason: facts.reason.into(),
        message: facts.message,
        metadata: facts.metadata,
        field_violations: violations.collect(),
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
        ErrorReason::QueueFull | ErrorReason::TooManyStreams | ErrorReason::QuotaExceeded => {
            Code::ResourceExhausted
        }
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
        | ErrorReason::SecretNotFound => Code::NotFound,
        ErrorReason::IdTaken | ErrorReason::IdempotencyConflict => Code::AlreadyExists,
        ErrorReason::DeliveryState
        | ErrorReason::EndpointInactive
        | ErrorReason::DeadLetterState
        | ErrorReason::OperationDone
        | ErrorReason::LastSecret => Code::FailedPrecondition,
        ErrorReason::WatchCompacted => Code::OutOfRange,
        ErrorReason::Internal => Code::Internal,
    }
}

/// What there is to say about an error.
struct Facts {
    code: Code,
    reason: ErrorReason,
    message: String,
    metadata: HashMap<String, String>,
    violations: Violations,
    /// Type and name of what was looked for or is in the way.
    resource: Option<(&'static str, String)>,
}

impl Facts {
    fn new(reason: ErrorReason, message: String) -> Self {
        let (metadata, violations) = (HashMap::new(), Violations::default());
        Self { code: code_of(reason), reason, message, metadata, violations, resource: None }
    }

    fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    fn of(error: Error) -> Self {
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
            Error::IdTaken(id) => {
                Self { resource: Some((not_found(Kind::Endpoint).1, id)), ..new(ErrorReason::IdTaken) }
            }
            Error::IdempotencyConflict { key, event } => {
                new(ErrorReason::IdempotencyConflict).with("idempotency_key", key).with("event_id", event)
            }
            Error::EtagMismatch { current } => new(ErrorReason::EtagMismatch).with("etag", current),
            Error::DeliveryState(state) => new(ErrorReason::DeliveryState).with("status", state_name(state)),
            Error::EndpointInactive { state } => new(ErrorReason::EndpointInactive).with("state", state),
            Error::LetterState(state) => {
                new(ErrorReason::DeadLetterState).with("state", letter_state_name(state))
            }
            Error::OperationDone => new(ErrorReason::OperationDone),
            Error::LastSecret => new(ErrorReason::LastSecret),
            Error::Quota { quota, limit } => {
                new(ErrorReason::QuotaExceeded).with("quota", quota).with("limit", limit)
            }
            Error::QueueFull { depth, limit } => {
                new(ErrorReason::QueueFull).with("queue_depth", depth).with("limit", limit)
            }
            Error::TooManyStreams { limit } => new(ErrorReason::TooManyStreams).with("limit", limit),
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
        if violations.0.len() > TOLD_MAX {
            message.push_str(&format!("; and {} more", violations.0.len() - TOLD_MAX));
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

    fn add_details(&self, details: &mut ErrorDetails) {
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

    fn retry_delay(&self) -> Option<Duration> {
        match self.reason {
            ErrorReason::QueueFull => Some(RETRY_FULL),
            ErrorReason::NotServing => Some(RETRY_SOON),
            _ => None,
        }
    }

    /// Milliseconds until a generic client may try again.
    fn pushback(&self) -> Option<i64> {
        let delay = self.retry_delay().map(|delay| delay.as_millis() as i64);
        let never = matches!(self.reason, ErrorReason::QuotaExceeded | ErrorReason::TooManyStreams);
        delay.or(never.then_some(-1))
    }
}

/// The same status in words of our own, if it says that a message was over the
/// limit of what is decoded at all.
pub(super) fn undecodable(status: &Status, caller: &Caller) -> Option<Status> {
    let (limit, actual) = match status.code() {
        Code::OutOfRange => {
            let told = status.message().strip_prefix("Error, decoded message length too large: found ")?;
            let (actual, limit) = told.split_once(" bytes, the limit is: ")?;
            (limit.split(' ').next()?, Some(actual))
        }
        Code::ResourceExhausted => {
            let told = status.message().strip_prefix("Error decompressing: size limit, of ")?;
            (told.split(' ').next()?, None)
        }
        _ => return None,
    };
    let mut metadata = HashMap::from([("limit_bytes".to_owned(), limit.to_owned())]);
    metadata.extend(actual.map(|actual| ("actual_bytes".to_owned(), actual.to_owned())));
    let mut details = ErrorDetails::new();
    details.set_error_info(reason_name(ErrorReason::PayloadTooLarge), DOMAIN, metadata);
    if let Some(id) = &caller.request_id {
        details.set_request_info(id, "");
    }
    let message = format!("the request message is over {limit} bytes");
    Some(Status::with_error_details(Code::InvalidArgument, message, details))
}

/// How a stream ends whose next message cannot be taken.
pub(super) fn decoding(status: Status, caller: &Caller) -> Status {
    undecodable(&status, caller).unwrap_or(status)
}

fn not_found(kind: Kind) -> (ErrorReason, &'static str) {
    match kind {
        Kind::Endpoint => (ErrorReason::EndpointNotFound, "hookwire.v1.Endpoint"),
        Kind::Event => (ErrorReason::EventNotFound, "hookwire.v1.Event"),
        Kind::Delivery => (ErrorReason::DeliveryNotFound, "hookwire.v1.Delivery"),
        Kind::DeadLetter => (ErrorReason::DeadLetterNotFound, "hookwire.v1.DeadLetter"),
        Kind::Operation => (ErrorReason::OperationNotFound, "hookwire.v1.Operation"),
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
