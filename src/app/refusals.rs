//! Credentials that were refused: counted, and logged at a limited rate.

use std::sync::{Mutex, PoisonError};

use metrics::counter;

use super::{App, Error, Shown, principal};
use crate::{
    domain::{ApiKeyId, RateLimit, Timestamp},
    machine::bucket::Bucket,
};

/// Lines of the log about refused credentials: one a second, ten at once.
const LINES: RateLimit = RateLimit { per_second: 1.0, burst: 10, disabled: false };

/// What limits the lines of the log.
#[derive(Debug)]
pub(super) struct Refusals(Mutex<Lines>);

#[derive(Debug)]
struct Lines {
    bucket: Bucket,
    left_out: u64,
}

/// A credential that was shown and refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusedCredential {
    /// The key that it names, if there is one.
    pub key: Option<ApiKeyId>,
}

impl Refusals {
    pub fn new(now: Timestamp) -> Self {
        Self(Mutex::new(Lines { bucket: Bucket::new(LINES, now), left_out: 0 }))
    }

    /// Whether to write a line, and how many were left out before it.
    fn line(&self, now: Timestamp) -> Option<u64> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.bucket.ready_at(now) > now {
            lines.left_out += 1;
            return None;
        }
        lines.bucket.take();
        Some(std::mem::take(&mut lines.left_out))
    }
}

impl App {
    /// Counts and logs a call that was not let in, if that was for the credential it
    /// showed.
    pub fn note_refused(&self, shown: Shown<'_>, error: &Error) -> Option<RefusedCredential> {
        let reason = if let Error::Forbidden { why } = error {
            why.name()
        } else if matches!(error, Error::CredentialInvalid) {
            "invalid"
        } else if matches!(error, Error::CredentialMissing) && shown.certificate.is_some() {
            "unknown certificate"
        } else {
            return None;
        };
        let directory = self.store.directory();
        let named = match shown.token {
            Some(token) => principal::token_id(token).and_then(|id| directory.key(id)),
            None => shown.certificate.and_then(|it| directory.key_of_certificate(&it)),
        };
        let key = named.map(|credential| credential.key.id);
        counter!("hookwire_refused_credentials_total", "reason" => reason).increment(1);
        if let Some(left_out) = self.refusals.line(self.clock.now()) {
            let address = shown.address.map(|it| it.to_string()).unwrap_or_default();
            let key = key.map(|id| id.to_string()).unwrap_or_default();
            tracing::warn!(key, address, reason, left_out, "a credential was refused");
        }
        Some(RefusedCredential { key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Micros;

    #[test]
    fn lines_have_a_rate_and_say_how_many_were_left_out() {
        let now = Timestamp(0);
        let refusals = Refusals::new(now);
        let lines: Vec<_> = (0..100).filter_map(|_| refusals.line(now)).collect();
        assert_eq!(lines, [0; 10]);
        assert_eq!(refusals.line(now.plus(Micros::from_secs(2))), Some(90));
    }
}
