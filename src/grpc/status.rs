//! Errors on the wire: the only place that decides a code, a reason and details.
//!
//! Every error has an `ErrorInfo`; what else it has follows from its reason and is
//! documented with it in `error_reason.proto`. A stream or batch tells the same
//! facts in an `ItemError`.

use std::{collections::HashMap, error::Error as _};

use bytes::Bytes;
use http::HeaderValue;
use http_body::Frame;
use prost::Message;
use tonic::{
    Code, Request, Response, Status,
    metadata::{MetadataMap, MetadataValue},
};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{
    COMPRESSED_BYTES_MIN,
    facts::{Facts, reason_name},
    pb::{self, ErrorReason},
    record::Subject,
};
use crate::{
    app::{Error, Principal},
    explain,
};

/// Domain of every reason.
pub(super) const DOMAIN: &str = "hookwire";
/// Metadata key of a request's id.
pub(super) const REQUEST_ID: &str = "x-request-id";
/// Tells generic clients when to try again; negative: do not.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Who asked, as far as errors care.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller {
    request_id: Option<String>,
    /// Where its messages are noted for the audit log.
    subject: Option<Subject>,
}

impl Caller {
    /// The caller of a request, and who that is.
    pub fn of<T: Message>(request: &Request<T>) -> Result<(Self, Principal), Status> {
        let (mut caller, principal) = Self::of_stream(request)?;
        caller.subject = request.extensions().get::<Subject>().cloned();
        if let Some(subject) = &caller.subject {
            subject.asked(request.get_ref());
        }
        Ok((caller, principal))
    }

    /// As [`Self::of`], of a stream of requests.
    pub fn of_stream<T>(request: &Request<T>) -> Result<(Self, Principal), Status> {
        let caller = Self::called(request.metadata().get(REQUEST_ID).and_then(|id| id.to_str().ok()));
        match request.extensions().get::<Principal>() {
            // The message may have come long after the call was let in.
            Some(principal) if principal.is_over() => Err(caller.refuse(Error::CredentialInvalid)),
            Some(principal) => Ok((caller, principal.clone())),
            None => Err(caller.refuse(Error::Internal("a call came without a principal".into()))),
        }
    }

    /// The request's id; empty if it has none.
    pub fn request_id(&self) -> &str {
        self.request_id.as_deref().unwrap_or_default()
    }

    /// The caller of a request whose header `x-request-id` is this.
    pub fn named(id: Option<&HeaderValue>) -> Self {
        Self::called(id.and_then(|id| id.to_str().ok()))
    }

    fn called(id: Option<&str>) -> Self {
        Self { request_id: id.filter(|id| !id.is_empty()).map(str::to_owned), subject: None }
    }

    /// What a call answers; compressed, if the caller takes that and it is worth it.
    pub fn answer<T: Message>(&self, outcome: Result<T, Error>) -> Result<Response<T>, Status> {
        let mut response = Response::new(outcome.map_err(|error| self.refuse(error))?);
        if let Some(subject) = &self.subject {
            subject.answered(response.get_ref());
        }
        if response.get_ref().encoded_len() < COMPRESSED_BYTES_MIN {
            response.disable_compression();
        }
        Ok(response)
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
                let cause = source.source().map(explain::chain).unwrap_or_default();
                tracing::warn!(request_id, phase, error = %source, cause, "a call was turned away");
            }
            Error::NotFound { .. }
            | Error::Invalid { .. }
            | Error::PageToken
            | Error::ResumeToken
            | Error::IdTaken { .. }
            | Error::IdempotencyConflict { .. }
            | Error::EtagMismatch { .. }
            | Error::DeliveryState(_)
            | Error::EndpointInactive { .. }
            | Error::EndpointQuarantined
            | Error::LetterState(_)
            | Error::OperationDone
            | Error::CredentialMissing
            | Error::CredentialInvalid
            | Error::ScopeMissing { .. }
            | Error::Forbidden { .. }
            | Error::RateLimited { .. }
            | Error::InUse { .. }
            | Error::LastSecret
            | Error::Quota { .. }
            | Error::QueueFull { .. }
            | Error::ReadersBusy { .. }
            | Error::TooManyStreams { .. }
            | Error::Lagged { .. }
            | Error::Compacted { .. }
            | Error::Unavailable { .. } => {}
        }
    }
}

/// What ends a stream with a status. Only one whose details are no header cannot be.
pub(super) fn last_frame(status: &Status) -> Result<Frame<Bytes>, Status> {
    let mut trailers = http::HeaderMap::new();
    status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))
}

/// The error of one item of a batch or stream.
pub(super) fn item_error(error: Error) -> pb::ItemError {
    Caller::default().log(&error);
    let facts = Facts::of(error);
    let retry_delay = facts.retry_delay().and_then(|delay| delay.try_into().ok());
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
        retry_delay,
    }
}

/// The same status in words of our own, if it says that a message was over the
/// limit of what is decoded at all.
pub(super) fn undecodable(status: &Status, caller: &Caller) -> Option<Status> {
    const TOO_LONG: &str = "Error, decoded message length too large: found ";
    const INFLATED: &str = "Error decompressing: size limit, of ";
    let (limit, actual) = if let Some(told) = status.message().strip_prefix(TOO_LONG) {
        let (actual, limit) = told.split_once(" bytes, the limit is: ")?;
        (limit, Some(actual))
    } else {
        (status.message().strip_prefix(INFLATED)?, None)
    };
    let limit = limit.split(' ').next()?.parse().ok()?;
    Some(too_large(limit, actual.and_then(|actual| actual.parse().ok()), caller))
}

/// A message is over the limit.
pub(super) fn too_large(limit: usize, actual: Option<usize>, caller: &Caller) -> Status {
    let mut metadata = HashMap::from([("limit_bytes".to_owned(), limit.to_string())]);
    metadata.extend(actual.map(|actual| ("actual_bytes".to_owned(), actual.to_string())));
    let message = format!("the request message is over {limit} bytes");
    refused(reason_name(ErrorReason::PayloadTooLarge), message, metadata, caller)
}

/// A message would take too much memory once it is decoded.
pub(super) fn too_heavy(caller: &Caller) -> Status {
    let message = "the request consists of too many small values; send fewer at once, or give payloads as \
                   JSON text in `json`";
    refused(reason_name(ErrorReason::PayloadTooLarge), message.to_owned(), HashMap::new(), caller)
}

/// A message cannot be read.
pub(super) fn malformed(message: &str, caller: &Caller) -> Status {
    refused(reason_name(ErrorReason::InvalidField), message.to_owned(), HashMap::new(), caller)
}

fn refused(reason: &str, message: String, metadata: HashMap<String, String>, caller: &Caller) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, DOMAIN, metadata);
    if let Some(id) = &caller.request_id {
        details.set_request_info(id, "");
    }
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// How a stream ends whose next message cannot be taken.
pub(super) fn decoding(status: Status, caller: &Caller) -> Status {
    undecodable(&status, caller).unwrap_or(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_refused_for_a_full_queue_says_when_to_try_again_and_an_invalid_one_does_not() {
        let full = item_error(Error::QueueFull { depth: 9, limit: 8 });
        assert_eq!((full.code, full.retry_delay.map(|delay| delay.seconds)), (8, Some(1)));
        let invalid = item_error(Error::invalid("event", crate::domain::Rule::Required, "must be set"));
        assert_eq!((invalid.code, invalid.retry_delay), (3, None));
    }

    #[test]
    fn only_a_large_answer_may_be_compressed() {
        let as_it_is = |bytes| {
            let message = pb::GetOperationRequest { id: "x".repeat(bytes) };
            !Caller::default().answer(Ok(message)).unwrap().extensions().is_empty()
        };
        assert!(as_it_is(COMPRESSED_BYTES_MIN / 2));
        assert!(!as_it_is(COMPRESSED_BYTES_MIN));
    }
}
