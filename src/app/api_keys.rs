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
        let (expires_at, networks) = bounded(maker, asked.expires_at, asked.networks)?;
        let call_rate = paced(maker.credential(), asked.call_rate)?;
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
            expires_at,
            call_rate,
            networks,
            certificates: asked.certificates,
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
        let (expires_at, networks) = (known.key.expires_at, known.key.networks.clone());
        if bounded(principal, expires_at, networks.clone())? != (expires_at, networks) {
            let why = "is of a key that ends later, or works from more networks, than the one that calls";
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

    /// A first administrator's key and its token, where there never was a key.
    pub async fn first_administrator(&self) -> Result<Option<String>, Error> {
        if !self.store.directory().keys(|_| true).is_empty() {
            return Ok(None);
        }
        let id = ApiKeyId(self.fresh_uid(self.now()));
        let token = principal::token(id, self.entropy.bytes());
        self.admit_administrator(id, principal::hash(&token)).await?;
        Ok(Some(token))
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

/// The end and the networks of a new key, within those of its maker.
fn bounded(
    maker: &Principal,
    expires_at: Option<Timestamp>,
    networks: Vec<IpNet>,
) -> Result<(Option<Timestamp>, Vec<IpNet>), Error> {
    let own_networks = maker.credential().map(|key| key.networks.as_slice()).unwrap_or_default();
    if let (Some(wanted), Some(own)) = (expires_at, maker.ends_at())
        && wanted > own
    {
        let why = "must not be later than that of the key, or of the token, that makes it";
        return Err(Error::invalid("api_key.expire_time", Rule::OutOfRange, why));
    }
    let outside = |net: &IpNet| !own_networks.iter().any(|own| own.contains(net));
    if !own_networks.is_empty() && networks.iter().any(outside) {
        let why = "must lie within those of the key that makes it";
        return Err(Error::invalid("api_key.allowed_networks", Rule::OutOfRange, why));
    }
    let networks = if networks.is_empty() { own_networks.to_vec() } else { networks };
    Ok((expires_at.or(maker.ends_at()), networks))
}

/// The pace of a new key, within that of its maker.
fn paced(maker: Option<&ApiKey>, wanted: Option<RateLimit>) -> Result<Option<RateLimit>, Error> {
    let Some(own) = maker.and_then(|key| key.call_rate).filter(|own| !own.disabled) else {
        return Ok(wanted);
    };
    let faster = |it: &RateLimit| it.disabled || it.per_second > own.per_second || it.burst > own.burst;
    if wanted.as_ref().is_some_and(faster) {
        let why = "must not be more than that of the key that makes it";
        return Err(Error::invalid("api_key.rate_limit", Rule::OutOfRange, why));
    }
    Ok(wanted.or(Some(own)))
}
