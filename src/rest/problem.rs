//! Errors as `application/problem+json` (RFC 9457), made from a gRPC status and
//! its `google.rpc` details.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::domain::Violations;

/// Media types that a resource takes by POST.
const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");
/// Violations told in the one line that is `detail`; `errors` has all.
const DETAIL_VIOLATIONS_MAX: usize = 3;

/// Bytes of a path that an error repeats.
const PATH_BYTES_SHOWN: usize = 256;

/// An error response.
#[derive(Debug, Serialize)]
pub struct Problem {
    /// `urn:hookwire:error:` and the reason: stable, and nothing to fetch.
    #[serde(rename = "type")]
    kind: String,
    title: String,
    #[serde(serialize_with = "number")]
    status: StatusCode,
    detail: String,
    /// Name of the gRPC code.
    #[serde(rename = "code", serialize_with = "name")]
    grpc: Code,
    /// Name of the `ErrorReason`; the code again where there is none.
    reason: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(skip)]
    retry_after_secs: Option<u64>,
    #[serde(skip)]
    allow: Option<HeaderValue>,
    #[serde(skip)]
    accept_post: Option<&'static str>,
}

/// One invalid field.
#[derive(Debug, Serialize)]
pub struct FieldError {
    /// Path in proto names; empty for the body as a whole.
    pub field: String,
    /// Stable code of the rule broken.
    pub reason: String,
    /// Why, in English.
    pub description: String,
}

impl Problem {
    /// A problem without details; the HTTP status follows from code and reason.
    pub fn new(code: Code, reason: &str, detail: impl Into<String>) -> Self {
        let name = code_name(code);
        let reason = if reason.is_empty() { name } else { reason };
        let (title, detail) = (title(reason), detail.into());
        Self {
            kind: format!("urn:hookwire:error:{reason}"),
            status: http_status(code, reason),
            detail: if detail.is_empty() { title.clone() } else { detail },
            title,
            grpc: code,
            reason: reason.to_owned(),
            metadata: BTreeMap::new(),
            errors: Vec::new(),
            request_id: None,
            retry_after_secs: None,
            allow: None,
            accept_post: None,
        }
    }

    /// What a call failed with.
    pub fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let mut problem = Self::new(status.code(), info.map_or("", |info| &info.reason), status.message());
        problem.metadata = info.map(|info| info.metadata.clone().into_iter().collect()).unwrap_or_default();
        if let Some(bad) = details.bad_request() {
            problem.errors.extend(bad.field_violations.iter().map(|violation| FieldError {
                field: violation.field.clone(),
                reason: violation.reason.clone(),
                description: violation.description.clone(),
            }));
        }
        problem.request_id = details.request_info().map(|info| info.request_id.clone());
        problem.retry_after_secs = details.retry_info().and_then(|info| info.retry_delay).map(|delay| {
            // Rounded up: a client that comes early is only refused again.
            delay.as_secs() + u64::from(delay.subsec_nanos() > 0)
        });
        problem
    }

    /// The same as a status: what a call ends with whose message cannot be made.
    /// [`Self::from_status`] undoes it.
    pub(super) fn into_status(self) -> Status {
        let mut details = ErrorDetails::new();
        details.set_error_info(self.reason, "hookwire", HashMap::from_iter(self.metadata));
        if !self.errors.is_empty() {
            let violations = self.errors.into_iter().map(|error| FieldViolation {
                field: error.field,
                description: error.description,
                reason: error.reason,
                ..FieldViolation::default()
            });
            details.set_bad_request(violations.collect::<Vec<_>>());
        }
        if let Some(seconds) = self.retry_after_secs {
            details.set_retry_info(Some(Duration::from_secs(seconds)));
        }
        Status::with_error_details(self.grpc, self.detail, details)
    }

    /// A request that never became a message.
    pub fn invalid(violations: Violations) -> Self {
        let told = violations.0.iter().take(DETAIL_VIOLATIONS_MAX).map(|violation| {
            let separator = if violation.field.is_empty() { "" } else { ": " };
            format!("{}{separator}{}", violation.field, violation.description)
        });
        let mut detail = told.collect::<Vec<_>>().join("; ");
        if violations.count() > DETAIL_VIOLATIONS_MAX {
            detail.push_str(&format!("; and {} more", violations.count() - DETAIL_VIOLATIONS_MAX));
        }
        let mut problem = Self::new(Code::InvalidArgument, "INVALID_FIELD", detail);
        problem.errors.extend(violations.0.into_iter().map(|violation| FieldError {
            field: violation.field,
            reason: violation.rule.code().to_owned(),
            description: violation.description,
        }));
        problem
    }

    /// A body over the limit.
    pub fn too_large(limit_bytes: usize, actual_bytes: Option<usize>) -> Self {
        let detail = format!("the request body is over {limit_bytes} bytes");
        let mut problem = Self::new(Code::InvalidArgument, "PAYLOAD_TOO_LARGE", detail);
        problem.metadata.insert("limit_bytes".to_owned(), limit_bytes.to_string());
        problem.metadata.extend(actual_bytes.map(|actual| ("actual_bytes".to_owned(), actual.to_string())));
        problem
    }

    /// A body that ended before its end, or whose chunks are malformed.
    pub fn cut_short() -> Self {
        let detail = "the request body is cut short or its chunks are malformed";
        Self::new(Code::InvalidArgument, "BODY_CUT_SHORT", detail)
    }

    /// A body whose message is over the limit.
    pub fn message_too_large(limit_bytes: usize) -> Self {
        let detail = format!("the request message is over {limit_bytes} bytes");
        let mut problem = Self::new(Code::InvalidArgument, "PAYLOAD_TOO_LARGE", detail);
        problem.metadata.insert("limit_bytes".to_owned(), limit_bytes.to_string());
        problem
    }

    /// A message that would take too much memory once it is decoded.
    pub fn too_heavy() -> Self {
        let detail = "the request consists of too many small values; send fewer at once, or give payloads as \
                      JSON text in `json`";
        Self::new(Code::InvalidArgument, "PAYLOAD_TOO_LARGE", detail)
    }

    /// A body that was not there in time.
    pub fn too_slow(limit: Duration) -> Self {
        let detail = format!("the request body did not come within {} s", limit.as_secs());
        Self::new(Code::DeadlineExceeded, "REQUEST_TIMEOUT", detail)
    }

    /// A path that nothing is at.
    pub fn no_route(path: &str, hint: Option<&str>) -> Self {
        let shown = &path[..path.floor_char_boundary(PATH_BYTES_SHOWN)];
        let hint = hint.map(|hint| format!("; did you mean `{hint}`?")).unwrap_or_default();
        Self::new(Code::NotFound, "ROUTE_NOT_FOUND", format!("there is nothing at {shown}{hint}"))
    }

    /// A path where there is something, but not by this method; `allow` is empty if somebody
    /// else adds that header.
    pub fn method_not_allowed(allow: &str) -> Self {
        let detail = match allow {
            "" => "this path takes other methods, see the header `allow`".to_owned(),
            _ => format!("this path takes {allow}"),
        };
        let mut problem = Self::new(Code::Unimplemented, "METHOD_NOT_ALLOWED", detail);
        problem.allow = HeaderValue::from_str(allow).ok().filter(|allow| !allow.is_empty());
        problem
    }

    /// A body in a coding that is not undone here.
    pub fn unsupported_encoding() -> Self {
        let detail = "the request body must come without content-encoding";
        Self::new(Code::InvalidArgument, "UNSUPPORTED_MEDIA_TYPE", detail)
    }

    /// A body of another media type than those that are taken, which `accept` lists.
    pub fn unsupported_media_type(detail: impl Into<String>, accept: &'static str) -> Self {
        let problem = Self::new(Code::InvalidArgument, "UNSUPPORTED_MEDIA_TYPE", detail);
        Self { accept_post: Some(accept), ..problem }
    }

    /// The same, with the request's id unless the service gave one.
    #[must_use]
    pub fn with_request_id(mut self, id: Option<&HeaderValue>) -> Self {
        if self.request_id.as_ref().is_none_or(String::is_empty) {
            self.request_id = id.and_then(|id| id.to_str().ok()).map(str::to_owned);
        }
        self
    }

    /// The document alone, on one line: how a stream that has begun says it.
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.to_json()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_secs {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, allow);
        }
        if let Some(accept) = self.accept_post {
            headers.insert(ACCEPT_POST, HeaderValue::from_static(accept));
        }
        response
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn name<S: serde::Serializer>(code: &Code, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(code_name(*code))
}

fn number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

/// `ENDPOINT_NOT_FOUND` as "Endpoint not found".
fn title(reason: &str) -> String {
    let words = reason.to_ascii_lowercase().replace('_', " ");
    let mut chars = words.chars();
    chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

/// The standard mapping, but for reasons that HTTP has a status of its own for.
fn http_status(code: Code, reason: &str) -> StatusCode {
    let by_reason = match reason {
        "METHOD_NOT_ALLOWED" => Some(405),
        "REQUEST_TIMEOUT" => Some(408),
        "WATCH_COMPACTED" => Some(410),
        "ETAG_MISMATCH" => Some(412),
        "PAYLOAD_TOO_LARGE" => Some(413),
        "UNSUPPORTED_MEDIA_TYPE" => Some(415),
        _ => None,
    };
    let by_code = match code {
        Code::Ok => 200,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::ResourceExhausted => 429,
        Code::Cancelled => 499,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
    };
    StatusCode::from_u16(by_reason.unwrap_or(by_code)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::domain::Rule;

    fn document(problem: &Problem) -> Json {
        serde_json::from_str(&problem.to_json()).unwrap()
    }

    #[test]
    fn a_status_with_details_becomes_a_document() {
        let mut details = ErrorDetails::new();
        details
            .set_error_info("INVALID_FIELD", "hookwire", [("a".to_owned(), "b".to_owned())])
            .set_request_info("req-1", "")
            .set_bad_request([FieldViolation {
                field: "endpoint.url".to_owned(),
                description: "is missing".to_owned(),
                reason: "REQUIRED".to_owned(),
                ..FieldViolation::default()
            }]);
        let status = Status::with_error_details(Code::InvalidArgument, "no url", details);
        let expected = json!({
            "type": "urn:hookwire:error:INVALID_FIELD",
            "title": "Invalid field",
            "status": 400,
            "detail": "no url",
            "code": "INVALID_ARGUMENT",
            "reason": "INVALID_FIELD",
            "metadata": {"a": "b"},
            "errors": [{"field": "endpoint.url", "reason": "REQUIRED", "description": "is missing"}],
            "request_id": "req-1",
        });
        assert_eq!(document(&Problem::from_status(&status)), expected);
    }

    #[test]
    fn a_bare_status_is_named_by_its_code() {
        let problem = Problem::from_status(&Status::unavailable(""));
        let id = HeaderValue::from_static("r");
        let expected = json!({
            "type": "urn:hookwire:error:UNAVAILABLE", "title": "Unavailable", "status": 503,
            "detail": "Unavailable", "code": "UNAVAILABLE", "reason": "UNAVAILABLE", "request_id": "r",
        });
        assert_eq!(document(&problem.with_request_id(Some(&id))), expected);
    }

    #[test]
    fn some_reasons_have_a_status_of_their_own() {
        let cases = [
            (Code::OutOfRange, "WATCH_COMPACTED", 410),
            (Code::OutOfRange, "", 400),
            (Code::Aborted, "ETAG_MISMATCH", 412),
            (Code::Aborted, "WATCH_LAGGED", 409),
            (Code::InvalidArgument, "PAYLOAD_TOO_LARGE", 413),
            (Code::Cancelled, "", 499),
        ];
        for (code, reason, expected) in cases {
            assert_eq!(
                Problem::new(code, reason, "").into_response().status().as_u16(),
                expected,
                "{reason}"
            );
        }
    }

    #[test]
    fn retry_after_is_rounded_up() {
        for (millis, seconds) in [(0, "0"), (1, "1"), (1000, "1"), (1200, "2")] {
            let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(millis)));
            let status = Status::with_error_details(Code::ResourceExhausted, "", details);
            let response = Problem::from_status(&status).into_response();
            assert_eq!(response.headers()[header::RETRY_AFTER], seconds);
        }
    }

    #[test]
    fn many_violations_are_cut_short_in_the_detail_only() {
        let mut violations = Violations::default();
        for index in 0..5 {
            violations.add(format!("f{index}"), Rule::UnknownValue, "no");
        }
        let document = document(&Problem::invalid(violations));
        assert_eq!(document["detail"], "f0: no; f1: no; f2: no; and 2 more");
        assert_eq!(document["errors"].as_array().unwrap().len(), 5);
    }
}
