//! One HTTP request of a delivery, and how it went.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{AttemptId, Micros, Timestamp, Trigger};

/// One HTTP request of a delivery.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Identifier.
    pub id: AttemptId,
    /// 1 for the first.
    pub number: u32,
    /// What made the delivery.
    pub trigger: Trigger,
    /// Start.
    pub started_at: Timestamp,
    /// Duration in all.
    pub duration: Micros,
    /// Where the time went.
    pub timings: Timings,
    /// HTTP status, if a response came.
    pub status: Option<u16>,
    /// What came back, if anything did.
    pub response: Option<Arc<Response>>,
    /// Why it failed; nothing on success.
    pub failure: Option<Failure>,
    /// Delay chosen for the next attempt, if another follows.
    pub retry_delay: Option<Micros>,
}

impl Attempt {
    /// Its end.
    pub fn ended_at(&self) -> Timestamp {
        self.started_at.plus(self.duration)
    }
}

/// Where an attempt's time went. A part that did not happen, for example on a
/// pooled connection, is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// Name resolution.
    pub dns: Option<Micros>,
    /// TCP connect.
    pub connect: Option<Micros>,
    /// TLS handshake.
    pub tls: Option<Micros>,
    /// Request sent to first response byte.
    pub first_byte: Option<Micros>,
}

/// What came back from an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Headers in the order received, at most 8 KiB; `set-cookie` is `***`.
    pub headers: Vec<(String, String)>,
    /// Start of the body, at most 16 KiB.
    #[serde(with = "body_text")]
    pub body: Vec<u8>,
    /// The body was longer.
    pub body_truncated: bool,
    /// Address it came from.
    pub remote: Option<String>,
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Exact cause.
    pub cause: Cause,
    /// One sentence, such as `HTTP 503: Service Unavailable`.
    pub message: String,
    /// Whether the retry policy allows another attempt after it.
    pub retryable: bool,
}

/// Exact cause of a failure. The numbers are stored: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cause {
    /// The host name did not resolve.
    Dns = 1,
    /// The connection was refused or unreachable.
    Connect = 2,
    /// The TLS handshake or the certificate failed.
    Tls = 3,
    /// The connection broke while in use.
    ConnectionReset = 4,
    /// Not connected within the connect timeout.
    ConnectTimeout = 5,
    /// No complete response within the timeout.
    ResponseTimeout = 6,
    /// A redirect; never followed.
    Redirect = 7,
    /// A status of 400 to 499 other than those below.
    ClientError = 8,
    /// A status of 500 to 599.
    ServerError = 9,
    /// Not a valid HTTP response, or one over a limit.
    MalformedResponse = 10,
    /// 429.
    TooManyRequests = 11,
    /// The URL, or an address behind its name, is not allowed. Final: only the endpoint's
    /// owner or the operator can mend it, and each retry would be another look into the
    /// network. The dead letter can be replayed once it is mended.
    TargetForbidden = 12,
    /// The request could not be built.
    InvalidRequest = 13,
    /// 410.
    Gone = 14,
    /// No token could be had to authenticate with.
    Authentication = 15,
    /// The server ended while the request was under way: it may have been received.
    WorkerLost = 16,
}

/// Broad kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No usable connection.
    Network,
    /// A timeout passed.
    Timeout,
    /// A response that is not a success.
    InvalidResponse,
    /// 429.
    RateLimitExceeded,
    /// The request could not be built, or its target is not allowed.
    Validation,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 16] = [
        Self::Dns,
        Self::Connect,
        Self::Tls,
        Self::ConnectionReset,
        Self::ConnectTimeout,
        Self::ResponseTimeout,
        Self::Redirect,
        Self::ClientError,
        Self::ServerError,
        Self::MalformedResponse,
        Self::TooManyRequests,
        Self::TargetForbidden,
        Self::InvalidRequest,
        Self::Gone,
        Self::Authentication,
        Self::WorkerLost,
    ];

    /// The cause stored under a number.
    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| i64::from(*cause as u8) == number)
    }

    /// Its name in logs and metrics; in the API it stands in capitals.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::ConnectionReset => "connection_reset",
            Self::ConnectTimeout => "connect_timeout",
            Self::ResponseTimeout => "response_timeout",
            Self::Redirect => "redirect",
            Self::ClientError => "client_error",
            Self::ServerError => "server_error",
            Self::MalformedResponse => "malformed_response",
            Self::TooManyRequests => "too_many_requests",
            Self::TargetForbidden => "target_forbidden",
            Self::InvalidRequest => "invalid_request",
            Self::Gone => "gone",
            Self::Authentication => "authentication",
            Self::WorkerLost => "worker_lost",
        }
    }

    /// The kind it belongs to.
    pub fn kind(self) -> ErrorKind {
        match self {
            Self::Dns | Self::Connect | Self::Tls | Self::ConnectionReset | Self::WorkerLost => {
                ErrorKind::Network
            }
            Self::ConnectTimeout | Self::ResponseTimeout => ErrorKind::Timeout,
            Self::Redirect | Self::ClientError | Self::ServerError | Self::MalformedResponse | Self::Gone => {
                ErrorKind::InvalidResponse
            }
            Self::TooManyRequests => ErrorKind::RateLimitExceeded,
            Self::TargetForbidden | Self::InvalidRequest | Self::Authentication => ErrorKind::Validation,
        }
    }
}

/// Bodies are mostly text: kept readable where they are, and in hex where not.
mod body_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    enum Body {
        Text(String),
        Hex(String),
    }

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let body = match std::str::from_utf8(bytes) {
            Ok(text) => Body::Text(text.to_owned()),
            Err(_) => Body::Hex(hex::encode(bytes)),
        };
        body.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        match Body::deserialize(deserializer)? {
            Body::Text(text) => Ok(text.into_bytes()),
            Body::Hex(text) => hex::decode(text).map_err(serde::de::Error::custom),
        }
    }
}
