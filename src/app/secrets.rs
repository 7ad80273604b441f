//! Signing secrets: made, rotated, expired and shown.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use super::{App, Error, Kind};
use crate::domain::{Endpoint, Micros, Rule, Secret, SecretId, SecretText, TenantKey, Timestamp};

/// How long the other secrets stay live after a rotation, unless asked otherwise.
pub const DEFAULT_GRACE: Micros = Micros::from_secs(24 * 3600);
/// How long they may stay live at most.
pub const GRACE_MAX: Micros = Micros::from_secs(30 * 24 * 3600);
/// Length of a key in bytes.
pub const SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=512;

/// How secrets are to be rotated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The new secret; nothing: one is made.
    pub value: Option<SecretText>,
    /// How long the others stay live.
    pub grace: Micros,
    /// How long the old primary stays so.
    pub primary_delay: Option<Micros>,
}

/// What came of a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// The new secret.
    pub secret: Secret,
    /// Whether it is the primary by now.
    pub primary: bool,
    /// When the others expire.
    pub others_expire_at: Timestamp,
}

/// Checks a secret given by a caller. What a receiver's page shows beside a secret, or what copying
/// adds to it, would make another key of it, so it is refused and not taken off silently.
pub fn check_secret(value: &str) -> Result<(), (Rule, &'static str)> {
    if value.trim() != value {
        let why = "must not begin or end with white space: send the secret alone, such as `whsec_…`";
        return Err((Rule::BadFormat, why));
    }
    let begins = |prefix: &str| value.get(..prefix.len()).is_some_and(|it| it.eq_ignore_ascii_case(prefix));
    if begins("v1,") || begins("v1=") {
        return Err((
            Rule::BadFormat,
            "must not begin with a version of signatures: send what follows `v1,`",
        ));
    }
    let prefixed = value.to_ascii_lowercase().find("whsec_");
    if prefixed.is_some_and(|at| at > 0) || prefixed == Some(0) && !value.starts_with("whsec_") {
        let why = "must begin with `whsec_`, in lower case: send the secret without what stands before that";
        return Err((Rule::BadFormat, why));
    }
    let key_bytes = match value.strip_prefix("whsec_") {
        None => value.len(),
        Some(text) => match BASE64.decode(text) {
            Ok(key) => key.len(),
            Err(_) => return Err((Rule::BadFormat, "must be base64 with padding after `whsec_`")),
        },
    };
    if key_bytes < *SECRET_BYTES.start() {
        Err((Rule::TooShort, "must have at least 16 bytes"))
    } else if key_bytes > *SECRET_BYTES.end() {
        Err((Rule::TooLong, "must have at most 512 bytes"))
    } else {
        Ok(())
    }
}

impl App {
    /// A secret with a given value or 256 random bits.
    pub fn new_secret(&self, value: Option<SecretText>, now: Timestamp) -> Secret {
        let made = || format!("whsec_{}", BASE64.encode(self.entropy.bytes::<32>())).into();
        let value = value.unwrap_or_else(made);
        let id = self.fresh_uid(now).to_string();
        Secret { id, value, created_at: now, primary_at: None, expires_at: None }
    }

    /// Adds a secret and lets the others expire.
    pub async fn rotate_secret(
        &self,
        tenant: TenantKey,
        id: &str,
        rotation: Rotation,
    ) -> Result<Rotated, Error> {
        let now = self.now();
        let mut secret = self.new_secret(rotation.value, now);
        secret.primary_at =
            rotation.primary_delay.filter(|delay| *delay > Micros::ZERO).map(|it| now.plus(it));
        let others_expire_at = now.plus(rotation.grace);
        let added = secret.clone();
        let view = self
            .update_endpoint(tenant, id, "", move |endpoint| add(endpoint, added, others_expire_at, now))
            .await?;
        let primary = view.endpoint.primary_secret(now).is_some_and(|primary| primary.id == secret.id);
        Ok(Rotated { secret, primary, others_expire_at })
    }

    /// Expires one secret now.
    pub async fn expire_secret(
        &self,
        tenant: TenantKey,
        id: &str,
        secret: SecretId,
    ) -> Result<super::EndpointView, Error> {
        let now = self.now();
        self.update_endpoint(tenant, id, "", move |endpoint| expire(endpoint, secret, now)).await
    }

    /// The secrets in force, newest first, with the one that is primary.
    pub fn secrets(&self, tenant: TenantKey, id: &str) -> Result<(Vec<Secret>, Option<String>), Error> {
        let (endpoint, now) = (self.find(tenant, id)?, self.now());
        if endpoint.quarantined {
            return Err(Error::EndpointQuarantined);
        }
        let primary = endpoint.primary_secret(now).map(|secret| secret.id.clone());
        Ok((endpoint.live_secrets(now).cloned().collect(), primary))
    }
}

fn add(
    endpoint: &mut Endpoint,
    secret: Secret,
    others_expire_at: Timestamp,
    now: Timestamp,
) -> Result<(), Error> {
    endpoint.secrets.retain(|old| old.is_live(now));
    if endpoint.secrets.len() >= Endpoint::SECRETS_MAX {
        return Err(Error::Quota { quota: "live secrets", limit: Endpoint::SECRETS_MAX as u64 });
    }
    if endpoint.secrets.iter().any(|old| old.value == secret.value) {
        return Err(Error::invalid("value", Rule::Duplicate, "is already a live secret of this endpoint"));
    }
    for old in &mut endpoint.secrets {
        old.expires_at = Some(old.expires_at.map_or(others_expire_at, |at| at.min(others_expire_at)));
    }
    endpoint.secrets.insert(0, secret);
    Ok(())
}

fn expire(endpoint: &mut Endpoint, id: SecretId, now: Timestamp) -> Result<(), Error> {
    let Some(index) = endpoint.secrets.iter().position(|secret| secret.is(id)) else {
        return Err(Error::not_found(Kind::Secret, id.to_string()));
    };
    if !endpoint.secrets[index].is_live(now) {
        return Ok(());
    }
    if endpoint.live_secrets(now).count() == 1 {
        return Err(Error::LastSecret);
    }
    endpoint.secrets[index].expires_at = Some(now);
    // What stays must not wait for a turn that nobody holds before it.
    if endpoint.live_secrets(now).all(|secret| secret.primary_at.is_some_and(|at| at > now))
        && let Some(next) = endpoint.secrets.iter_mut().find(|secret| secret.is_live(now))
    {
        next.primary_at = None;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_16_to_512_bytes_of_key() {
        let whsec = |bytes: usize| format!("whsec_{}", BASE64.encode(vec![7; bytes]));
        for good in ["x".repeat(16), "x".repeat(512), whsec(16), whsec(512)] {
            assert_eq!(check_secret(&good), Ok(()), "{good}");
        }
        let cases = [
            ("short".to_owned(), Rule::TooShort),
            ("x".repeat(513), Rule::TooLong),
            (whsec(15), Rule::TooShort),
            (whsec(513), Rule::TooLong),
            ("whsec_not base64 at all".to_owned(), Rule::BadFormat),
        ];
        for (bad, rule) in cases {
            assert_eq!(check_secret(&bad).unwrap_err().0, rule, "{bad}");
        }
    }

    #[test]
    fn a_secret_with_something_around_it_is_no_other_key() {
        let key = format!("whsec_{}", BASE64.encode([7; 32]));
        let cases = [
            (format!(" {key}"), "white space"),
            (format!("{key}\n"), "white space"),
            (format!("\t{}", "x".repeat(32)), "white space"),
            (format!("{}\u{a0}", "x".repeat(32)), "white space"),
            (format!("v1,{key}"), "`v1,`"),
            (format!("V1,{}", "x".repeat(32)), "`v1,`"),
            (format!("v1={}", "x".repeat(32)), "`v1,`"),
            (format!("\"{key}\""), "`whsec_`"),
            (format!("secret={key}"), "`whsec_`"),
            (format!("Bearer {key}"), "`whsec_`"),
            (key.replace("whsec_", "WHSEC_"), "`whsec_`"),
        ];
        for (bad, told) in cases {
            let (rule, why) = check_secret(&bad).unwrap_err();
            assert!(rule == Rule::BadFormat && why.contains(told), "{bad}: {why}");
        }
        // White space inside is part of a text.
        assert_eq!(check_secret("correct horse battery"), Ok(()));
    }
}
