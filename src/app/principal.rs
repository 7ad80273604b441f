//! Who calls, and what that lets them do.

use std::{net::IpAddr, sync::Arc};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio_util::sync::CancellationToken;

use super::{App, Error, Forbidden};
use crate::{
    clock::Clock,
    domain::{ApiKey, ApiKeyId, Scope, Tenant, TenantKey, Timestamp, TokenHash, Uid},
    machine::body_budget::Owner,
    store::Credential,
};

/// What changes of API keys need.
const KEYS_WRITE: &str = "api_keys:write";

/// What a caller shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shown<'r> {
    /// The token.
    pub token: Option<&'r str>,
    /// SHA-256 of the client certificate of its connection.
    pub certificate: Option<[u8; 32]>,
    /// Whether that certificate is a proxy's, which others call through as well.
    pub proxied: bool,
    /// Where it calls from, if known.
    pub address: Option<IpAddr>,
    /// The tenant that it wants to act for.
    pub tenant: Option<&'r str>,
}

/// Who calls. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Principal {
    tenant: Arc<Tenant>,
    credential: Option<Arc<Credential>>,
    certificate: Option<[u8; 32]>,
    chosen: bool,
    ends: Ends,
}

/// When what a principal opened ends.
#[derive(Clone, Debug)]
struct Ends {
    at: Option<Timestamp>,
    /// By its token, if it has one: the one before has a signal of its own.
    told: CancellationToken,
    /// By the token that the key has now, or by a certificate.
    by_current: bool,
    clock: Clock,
}

impl Principal {
    /// Whom it acts for.
    pub fn tenant(&self) -> TenantKey {
        self.tenant.key
    }

    /// The name of whom it acts for.
    pub fn tenant_id(&self) -> &Arc<str> {
        &self.tenant.id
    }

    /// The key; nothing where no keys are asked for.
    pub fn key(&self) -> Option<ApiKeyId> {
        self.credential.as_ref().map(|it| it.key.id)
    }

    /// Whose the large bodies of its requests are; None where no keys are asked for.
    pub fn body_owner(&self) -> Option<Owner> {
        self.key().map(|key| Owner { tenant: self.tenant(), key })
    }

    /// Whether it may act for any tenant.
    pub fn is_administrator(&self) -> bool {
        self.credential.as_ref().is_none_or(|it| it.key.tenant.is_none())
    }

    /// An administrator who named no tenant sees the keys of all.
    pub(super) fn sees(&self, key: &ApiKey) -> bool {
        key.tenant == Some(self.tenant.key) || self.is_administrator() && !self.chosen
    }

    /// Checks that it may do what needs a scope.
    pub fn require(&self, scope: &str) -> Result<(), Error> {
        match &self.credential {
            // A token that leaked is replaced to be rid of it: its holder makes no others.
            Some(_) if scope == KEYS_WRITE && !self.ends.by_current => {
                Err(Error::Forbidden { why: Forbidden::Replaced })
            }
            Some(it) if !it.key.may(scope) => Err(lacks(scope, &it.key.scopes)),
            Some(_) | None => Ok(()),
        }
    }

    /// Checks that it may grant some scopes: those that it has.
    pub(super) fn may_grant(&self, scopes: &[Scope]) -> Result<(), Error> {
        let Some(key) = self.credential() else { return Ok(()) };
        let lacking = scopes.iter().find(|wanted| !key.scopes.iter().any(|own| own.allows(wanted.as_str())));
        lacking.map_or(Ok(()), |scope| Err(lacks(scope.as_str(), &key.scopes)))
    }

    /// Whether it sees a tenant: its own, or as an administrator any.
    pub(super) fn sees_tenant(&self, key: TenantKey) -> bool {
        key == self.tenant.key || self.is_administrator()
    }

    /// Token bucket over the calls of its tenant; administrators are not counted.
    pub(super) fn call_rate(&self) -> Option<crate::domain::RateLimit> {
        self.tenant.call_rate.filter(|_| !self.is_administrator())
    }

    /// The key that calls.
    pub(super) fn credential(&self) -> Option<&ApiKey> {
        self.credential.as_ref().map(|it| &it.key)
    }

    /// SHA-256 of the client certificate that it proved to have, itself and not by a proxy.
    pub(super) fn certificate(&self) -> Option<[u8; 32]> {
        self.certificate
    }

    /// When it ends by itself.
    pub(super) fn ends_at(&self) -> Option<Timestamp> {
        self.ends.at
    }

    /// Cancelled when what it opened ends before its time. See [`Self::is_over`].
    pub fn told(&self) -> &CancellationToken {
        &self.ends.told
    }

    /// Whether it may act no more: its key was revoked or has ended, or its token was
    /// replaced and its grace is over.
    pub fn is_over(&self) -> bool {
        let Some(credential) = &self.credential else { return false };
        let now = self.ends.clock.wall();
        self.ends.told.is_cancelled()
            || self.ends.at.is_some_and(|at| at <= now)
            || self.ends.by_current && credential.is_replaced(now)
    }
}

impl App {
    /// Recognises a caller and whom it acts for.
    pub fn recognise(&self, shown: Shown<'_>) -> Result<Principal, Error> {
        let now = self.now();
        if !self.limits.keys_required && shown.token.is_none() {
            return self.anyone(shown.tenant);
        }
        let (credential, ends) = self.credential(shown, now)?;
        let key = &credential.key;
        if !key.admits(shown.address) {
            return Err(Error::Forbidden { why: Forbidden::Network });
        }
        if !key.admits_certificate(shown.certificate) {
            return Err(Error::Forbidden { why: Forbidden::Certificate });
        }
        let directory = self.store.directory();
        let tenant = match (key.tenant, shown.tenant) {
            (Some(own), wanted) => {
                let tenant = directory.tenant(own).ok_or(Error::CredentialInvalid)?;
                if wanted.is_some_and(|wanted| *wanted != *tenant.id) {
                    return Err(Error::Forbidden { why: Forbidden::Tenant });
                }
                if tenant.suspended {
                    return Err(Error::Forbidden { why: Forbidden::Suspended });
                }
                tenant
            }
            (None, wanted) => self.tenant_or_default(wanted)?,
        };
        credential.used(now);
        let certificate = shown.certificate.filter(|_| !shown.proxied);
        let (credential, chosen) = (Some(credential), shown.tenant.is_some());
        Ok(Principal { tenant, credential, certificate, chosen, ends })
    }

    /// Where no keys are asked for, everybody is an administrator.
    fn anyone(&self, wanted: Option<&str>) -> Result<Principal, Error> {
        let tenant = self.tenant_or_default(wanted)?;
        let never = CancellationToken::new();
        let ends = Ends { at: None, told: never, by_current: false, clock: self.clock.clone() };
        Ok(Principal { tenant, credential: None, certificate: None, chosen: wanted.is_some(), ends })
    }

    fn tenant_or_default(&self, wanted: Option<&str>) -> Result<Arc<Tenant>, Error> {
        self.find_tenant(wanted.unwrap_or(Tenant::DEFAULT_ID))
    }

    /// The key of what was shown, and when it ends.
    fn credential(&self, shown: Shown<'_>, now: Timestamp) -> Result<(Arc<Credential>, Ends), Error> {
        let directory = self.store.directory();
        let (found, grace_ends) = match shown.token {
            None => {
                let found = shown.certificate.and_then(|it| directory.key_of_certificate(&it));
                (found.ok_or(Error::CredentialMissing)?, None)
            }
            Some(token) => {
                let found =
                    token_id(token).and_then(|id| directory.key(id)).ok_or(Error::CredentialInvalid)?;
                let grace_ends = works(&found.key, &hash(token), now).ok_or(Error::CredentialInvalid)?;
                (found, grace_ends)
            }
        };
        if !found.key.is_live(now) {
            return Err(Error::CredentialInvalid);
        }
        let told = found.before.as_ref().filter(|_| grace_ends.is_some()).unwrap_or(&found.ended).clone();
        let at = [grace_ends, found.key.expires_at].into_iter().flatten().min();
        let ends = Ends { at, told, by_current: grace_ends.is_none(), clock: self.clock.clone() };
        Ok((found, ends))
    }
}

/// Whether a key works with a token, and until when if only for a grace period.
fn works(key: &ApiKey, given: &TokenHash, now: Timestamp) -> Option<Option<Timestamp>> {
    if key.hash.ct_eq(given).into() {
        return Some(None);
    }
    let (previous, ends) = key.previous?;
    (now < ends && bool::from(previous.ct_eq(given))).then_some(Some(ends))
}

/// Start of every token, so that scanners of leaked secrets know one.
const PREFIX: &str = "hw_";

/// SHA-256 of a token.
pub fn hash(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

/// A token: the bits of its key's id, 256 random bits and eight digits of a checksum,
/// by which a scanner tells a token from what looks like one.
pub fn token(id: ApiKeyId, random: [u8; 32]) -> String {
    let body = format!("{PREFIX}{}_{}", id.0, hex::encode(random));
    let check = &hash(&body)[..4];
    format!("{body}_{}", hex::encode(check))
}

/// The key that a token names; nothing if it cannot be one. The checksum is for
/// others: the hash of the whole says more.
pub(super) fn token_id(token: &str) -> Option<ApiKeyId> {
    let (digits, _) = token.strip_prefix(PREFIX)?.split_once('_')?;
    let mut id = [0; 16];
    hex::decode_to_slice(digits, &mut id).ok()?;
    Uid::from_bytes(&id).map(ApiKeyId)
}

/// That a key with these scopes lacks one.
fn lacks(scope: &str, own: &[Scope]) -> Error {
    let has = own.iter().map(|scope| format!("`{scope}`")).collect::<Vec<_>>().join(", ");
    let has = if has.is_empty() { "none".to_owned() } else { has };
    Error::ScopeMissing { scope: scope.to_owned(), has }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_key_and_a_mangled_one_names_none() {
        let id = ApiKeyId(Uid::from_bytes(&[3; 16]).unwrap());
        let token = token(id, [9; 32]);
        assert_eq!(token_id(&token), Some(id));
        assert_eq!(token.len(), 3 + 32 + 1 + 64 + 1 + 8);
        let short = format!("hw_{}", &token[4..]);
        for bad in ["", "hw_", "hw_x_y", "Bearer", &short, &token[1..], &token[..35]] {
            assert_eq!(token_id(bad), None, "{bad}");
        }
    }
}
