//! How an endpoint is to be called. Values are effective: defaults are filled in
//! when an endpoint is written.

use serde::{Deserialize, Serialize};

use super::Micros;

/// When and how often a failed delivery is tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Requests in all, 1 to 50.
    pub max_attempts: u32,
    /// Delay before the first retry.
    pub initial_delay: Micros,
    /// Ceiling of a delay.
    pub max_delay: Micros,
    /// Growth per retry, 1 to 10.
    pub multiplier: f64,
    /// Spread, 0 to 1: a delay is multiplied by a number in 1 ± this.
    pub jitter_ratio: f64,
    /// Explicit delays instead of the exponential ones; the last repeats.
    pub schedule: Vec<Micros>,
    /// Statuses retried besides the standard set.
    pub retry_statuses: Vec<u16>,
    /// Statuses not retried although in the standard set.
    pub no_retry_statuses: Vec<u16>,
    /// Ignore `retry-after`.
    pub ignore_retry_after: bool,
    /// Ceiling for `retry-after`.
    pub max_retry_after: Micros,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            initial_delay: Micros::from_secs(1),
            max_delay: Micros::from_secs(300),
            multiplier: 2.0,
            jitter_ratio: 0.25,
            schedule: Vec::new(),
            retry_statuses: Vec::new(),
            no_retry_statuses: Vec::new(),
            ignore_retry_after: false,
            max_retry_after: Micros::from_secs(24 * 3600),
        }
    }
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Refill per second, above 0 and up to 10,000.
    pub per_second: f64,
    /// Bucket size, 1 to 100,000.
    pub burst: u32,
    /// No limit.
    pub disabled: bool,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self { per_second: 10.0, burst: 50, disabled: false }
    }
}

/// When to stop calling an endpoint that keeps failing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerPolicy {
    /// Consecutive failures that open it.
    pub failure_threshold: u32,
    /// How long it stays open before a probe.
    pub cooldown: Micros,
    /// Never open.
    pub disabled: bool,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self { failure_threshold: 5, cooldown: Micros::from_secs(60), disabled: false }
    }
}

/// Timeouts of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpOptions {
    /// Whole attempt, from name resolution to last body byte read.
    pub timeout: Micros,
    /// Part of it for name resolution, TCP and TLS.
    pub connect_timeout: Micros,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self { timeout: Micros::from_secs(30), connect_timeout: Micros::from_secs(10) }
    }
}

/// What happens to a delivery that is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterPolicy {
    /// How long a dead letter is kept.
    pub retention: Micros,
    /// Keep none.
    pub disabled: bool,
}

impl Default for DeadLetterPolicy {
    fn default() -> Self {
        Self { retention: Micros::from_secs(7 * 24 * 3600), disabled: false }
    }
}

/// How requests are signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signing {
    /// Signatures sent side by side, 1 to 4, or none to send none.
    pub signatures: Vec<Signature>,
}

impl Default for Signing {
    fn default() -> Self {
        Self { signatures: vec![Signature::default()] }
    }
}

/// One signature header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Format.
    pub scheme: Scheme,
    /// Header name in lower case.
    pub header: String,
    /// What is signed, where the scheme leaves a choice.
    pub content: Content,
    /// Add `v2` over timestamp and body to a `Timestamped` header over the body.
    pub add_v2: bool,
}

impl Default for Signature {
    fn default() -> Self {
        let header = "webhook-signature".to_owned();
        Self { scheme: Scheme::StandardWebhooks, header, content: Content::TimestampBody, add_v2: false }
    }
}

/// Format of a signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scheme {
    /// Standard Webhooks: `v1,<base64>` for every live secret.
    #[default]
    StandardWebhooks,
    /// `sha256=<hex>`.
    Sha256Hex,
    /// `t=<unix seconds>,v1=<hex>`.
    Timestamped,
}

/// What is signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Content {
    /// The body alone.
    #[default]
    Body,
    /// `<timestamp>.<body>`.
    TimestampBody,
}
