//! API keys: made, rotated and revoked. No key grants more than its maker has.

use std::sync::Arc;

use ipnet::IpNet;

use super::{App, Error, Kind, List, PageQuery, Principal, principal};
use crate::{
    domain::{ApiKey, ApiKeyId, Micros, Pos, RateLimit, Rule, Scope, Tenant, Timestamp, TokenHash},
    store::Credential,
};

/// How long the token before may work after a rotation at most: 7 days.
pub const KEY_GRACE_MAX: Micros = Micros::from_secs(7 * 86_400);

/// Keys of one tenant at most, those that have ended too: they are all in memory.
const KEYS_MAX: usize = 10_000;
/// Last uses noted in one transaction.
const USES_AT_ONCE: usize = 500;

/// What is asked of a new key.
#[derive(Clone, Debug)]
pub struct NewApiKey {
    /// Display name.
    pub name: String,
    /// Id of the tenant it acts for; empty: that of the call; `*`: any.
    pub tenant: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it stops working.
    pub expires_at: Option<Timestamp>,
    /// Token bucket over its calls.
    pub call_rate: Option<RateLimit>,
    /// Networks it may be used from.
    pub networks: Vec<IpNet>,
    /// SHA-256 of client certificates that stand for it.
    pub certificates: Vec<[u8; 32]>,
    /// SHA-256 of client certificates of which one is required besides the token.
    pub required_certificates: Vec<[u8; 32]>,
}

/// A key with the name of its tenant.
#[derive(Clone, Debug)]
pub struct ApiKeyView {
    /// The key.
    pub key: ApiKey,
    /// Id of its tenant, or `*`.
    pub tenant: Arc<str>,
}

impl App {
    /// Makes a key; the token is told this once.
    pub async fn create_key(
        &self,
        maker: &Principal,
        asked: NewApiKey,
    ) -> Result<(ApiKeyView, String), Error> {
        let now = self.now();
        maker.may_grant(&asked.scopes)?;
        let tenant = match asked.tenant.as_str() {
            "" => Some(maker.tenant()),
            "*" if maker.is_administrator() => None,
            id if *id == **maker.tenant_id() => Some(maker.tenant()),
            id if maker.is_administrator() => Some(self.find_tenant(id)?.key),
            id => return Err(Error::not_found(Kind::Tenant, id)),
        };
        may_register(maker, &asked.certificates)?;
        let wanted = Reach {
            expires_at: asked.expires_at,
            networks: asked.networks,
            required_certificates: asked.required_certificates,
            call_rate: asked.call_rate,
        };
        let reach = wanted
            .within(maker)
            .map_err(|(field, why)| Error::invalid(format!("api_key.{field}"), Rule::OutOfRange, why))?;
        let directory = self.store.directory();
        if directory.keys(|key| key.tenant == tenant).len() >= KEYS_MAX {
            return Err(Error::Quota { quota: "API keys", limit: KEYS_MAX as u64 });
        }
        let id = ApiKeyId(self.fresh_uid(now));
        let token = principal::token(id, self.entropy.bytes());
        let key = ApiKey {
            name: asked.name,
            tenant,
            scopes: asked.scopes,
            expires_at: reach.expires_at,
            call_rate: reach.call_rate,
            networks: reach.networks,
            certificates: asked.certificates,
            required_certificates: reach.required_certificates,
            ..ApiKey::new(id, principal::hash(&token), now)
        };
        let view = self.told(key.clone());
        let stored = self.store.edit_key(id, move |_| (Some(key), ())).await?;
        let why = "stands for another key";
        let taken = || Error::invalid("api_key.client_certificates", Rule::Duplicate, why);
        stored.map(|()| (view, token)).ok_or_else(taken)
    }

    /// Reads a key.
    pub fn key(&self, principal: &Principal, id: ApiKeyId) -> Result<ApiKeyView, Error> {
        Ok(self.key_view(&self.find_key(principal, id)?))
    }

    /// A page of keys, newest first, and the token of the next. Those that work no
    /// more only if asked.
    pub fn keys(
        &self,
        principal: &Principal,
        ended_too: bool,
        query: &PageQuery,
    ) -> Result<(Vec<ApiKeyView>, String), Error> {
        let cut = self.cut(principal.tenant(), List::ApiKeys, query)?;
        let now = self.now();
        let keep = |key: &ApiKey| principal.sees(key) && (ended_too || key.is_live(now));
        let mut found = self.store.directory().keys(keep);
        found.retain(|it| cut.page.follows(Pos(it.key.number)));
        let (found, next) = cut.first(found, |it| Pos(it.key.number));
        Ok((found.iter().map(|it| self.key_view(it)).collect(), next))
    }

    /// Gives a key a new token, told this once; the one before works on for `grace`.
    /// Who gets it could act by it, so it may do nothing that they may not.
    pub async fn rotate_key(
        &self,
        principal: &Principal,
        id: ApiKeyId,
        grace: Micros,
    ) -> Result<(ApiKeyView, String), Error> {
        let known = self.find_key(principal, id)?;
        principal.may_grant(&known.key.scopes)?;
        let reach = Reach::of(&known.key);
        if reach.clone().within(principal).as_ref() != Ok(&reach) {
            let why = "is of a key that ends later, may call faster, works from more networks or needs no \
                 client certificate, other than the key that calls";
            return Err(Error::invalid("id", Rule::OutOfRange, why));
        }
        let now = self.now();
        let token = principal::token(id, self.entropy.bytes());
        let hash = principal::hash(&token);
        let rotate = move |known: Option<&ApiKey>| {
            let live = known.filter(|key| key.is_live(now)).cloned();
            let rotated = live.map(|key| ApiKey {
                previous: (grace > Micros::ZERO).then(|| (key.hash, now.plus(grace))),
                hash,
                ..key
            });
            (rotated.clone(), rotated)
        };
        let rotated = self.store.edit_key(id, rotate).await?.flatten();
        let why = "is of a key that was revoked or has expired: make another one";
        let rotated = rotated.ok_or_else(|| Error::invalid("id", Rule::Conflict, why))?;
        Ok((self.told(rotated), token))
    }

    /// Revokes a key: it stops working at once, and what was opened with it ends.
    pub async fn revoke_key(&self, principal: &Principal, id: ApiKeyId) -> Result<ApiKeyView, Error> {
        self.find_key(principal, id)?;
        let now = self.now();
        let revoke = move |known: Option<&ApiKey>| {
            let revoked = known.map(|key| ApiKey {
                revoked_at: key.revoked_at.or(Some(now)),
                certificates: Vec::new(),
                ..key.clone()
            });
            (revoked.clone(), revoked)
        };
        let revoked = self.store.edit_key(id, revoke).await?.flatten();
        revoked.map(|key| self.told(key)).ok_or_else(|| Error::not_found(Kind::ApiKey, id.to_string()))
    }

    /// Takes an administrator's key with the token of this hash, unless one with its id
    /// is known: whatever became of that since is not undone.
    pub async fn admit_administrator(&self, id: ApiKeyId, hash: TokenHash) -> Result<(), Error> {
        let now = self.now();
        let admit = move |known: Option<&ApiKey>| {
            let new = || ApiKey {
                name: "administrator".to_owned(),
                scopes: vec![Scope::all()],
                ..ApiKey::new(id, hash, now)
            };
            (known.is_none().then(new), ())
        };
        self.store.edit_key(id, admit).await?;
        Ok(())
    }

    /// The id and the token of a first administrator's key, where there never was a key.
    /// It is not stored yet.
    pub fn first_administrator(&self) -> Option<(ApiKeyId, String)> {
        if !self.store.directory().keys(|_| true).is_empty() {
            return None;
        }
        let id = ApiKeyId(self.fresh_uid(self.now()));
        Some((id, principal::token(id, self.entropy.bytes())))
    }

    /// Whether some key can administer.
    pub fn has_administrator(&self) -> bool {
        let now = self.now();
        let keys = self.store.directory().keys(|key| key.is_live(now) && key.may("api_keys:write"));
        keys.iter().any(|it| it.key.tenant.is_none())
    }

    /// Notes when keys were last used.
    pub(super) async fn note_uses(&self) -> Result<(), Error> {
        let used = self.store.directory().keys(|_| true);
        let uses: Vec<_> = used.iter().filter_map(|it| Some((it, it.unnoted()?))).collect();
        for some in uses.chunks(USES_AT_ONCE) {
            self.store.keys_used(some.iter().map(|(it, at)| (it.key.id, *at)).collect()).await?;
            some.iter().for_each(|(it, at)| it.noted(*at));
        }
        Ok(())
    }

    fn find_key(&self, principal: &Principal, id: ApiKeyId) -> Result<Arc<Credential>, Error> {
        let found = self.store.directory().key(id).filter(|it| principal.sees(&it.key));
        found.ok_or_else(|| Error::not_found(Kind::ApiKey, id.to_string()))
    }

    fn key_view(&self, credential: &Arc<Credential>) -> ApiKeyView {
        self.told(ApiKey { last_used_at: credential.used_at(), ..credential.key.clone() })
    }

    fn told(&self, key: ApiKey) -> ApiKeyView {
        let tenant = key.tenant.map(|key| self.store.directory().tenant(key));
        let tenant =
            tenant.map(|found| found.map_or_else(|| Tenant::DEFAULT_ID.into(), |it| Arc::clone(&it.id)));
        ApiKeyView { key, tenant: tenant.unwrap_or_else(|| "*".into()) }
    }
}

/// Checks which client certificates a caller lets stand for a key. Whoever shows such a
/// certificate acts for the key's tenant, so a tenant may name only the certificate that
/// it proved to have on this very connection. The answer does not depend on what other
/// keys have.
fn may_register(maker: &Principal, certificates: &[[u8; 32]]) -> Result<(), Error> {
    if maker.is_administrator() {
        return Ok(());
    }
    let Some(foreign) = certificates.iter().position(|it| maker.certificate() != Some(*it)) else {
        return Ok(());
    };
    let why = "must be the client certificate of the TLS connection that makes the key: call with that \
         certificate, or ask an administrator";
    Err(Error::invalid(format!("api_key.client_certificates[{foreign}]"), Rule::Forbidden, why))
}

/// How far a key reaches, apart from its scopes and its tenant.
#[derive(Clone, Debug, PartialEq)]
struct Reach {
    expires_at: Option<Timestamp>,
    networks: Vec<IpNet>,
    required_certificates: Vec<[u8; 32]>,
    call_rate: Option<RateLimit>,
}

impl Reach {
    fn of(key: &ApiKey) -> Self {
        Self {
            expires_at: key.expires_at,
            networks: key.networks.clone(),
            required_certificates: key.required_certificates.clone(),
            call_rate: key.call_rate,
        }
    }

    /// The same within the reach of the caller, whose limits hold where none are asked
    /// for; or the field that reaches further, and why that is refused.
    fn within(self, caller: &Principal) -> Result<Self, (&'static str, &'static str)> {
        let own = caller.credential().map(Self::of);
        let ends_at = caller.ends_at();
        if self.expires_at.zip(ends_at).is_some_and(|(wanted, own)| wanted > own) {
            let why = "must not be later than that of the key, or of the token, that makes it";
            return Err(("expire_time", why));
        }
        let expires_at = self.expires_at.or(ends_at);
        let Some(own) = own else { return Ok(Self { expires_at, ..self }) };
        let lies_within = |net: &IpNet| own.networks.iter().any(|own| own.contains(net));
        if !own.networks.is_empty() && !self.networks.iter().all(lies_within) {
            return Err(("allowed_networks", "must lie within those of the key that makes it"));
        }
        let is_own = |it: &[u8; 32]| own.required_certificates.contains(it);
        if !own.required_certificates.is_empty() && !self.required_certificates.iter().all(is_own) {
            let why = "must be among those of the key that makes it";
            return Err(("required_client_certificates", why));
        }
        let call_rate = match own.call_rate.filter(|own| !own.disabled) {
            Some(own) if self.call_rate.is_some_and(|wanted| is_faster(wanted, own)) => {
                return Err(("rate_limit", "must not be more than that of the key that makes it"));
            }
            own => self.call_rate.or(own),
        };
        let inherits = self.required_certificates.is_empty();
        Ok(Self {
            expires_at,
            networks: if self.networks.is_empty() { own.networks } else { self.networks },
            required_certificates: if inherits {
                own.required_certificates
            } else {
                self.required_certificates
            },
            call_rate,
        })
    }
}

fn is_faster(wanted: RateLimit, own: RateLimit) -> bool {
    wanted.disabled || wanted.per_second > own.per_second || wanted.burst > own.burst
}
