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
        if let Some(scope) = maker.lacks(&asked.scopes) {
            return Err(Error::ScopeMissing { scope: scope.to_string() });
        }
        let tenant = match asked.tenant.as_str() {
            "" => Some(maker.tenant()),
            "*" if maker.is_administrator() => None,
            id if *id == **maker.tenant_id() => Some(maker.tenant()),
            id if maker.is_administrator() => Some(self.named(id)?),
            id => return Err(Error::not_found(Kind::Tenant, id)),
        };
        let (expires_at, networks) = bounded(maker.credential(), asked.expires_at, asked.networks)?;
        self.certificates_are_free(&asked.certificates)?;
        let id = ApiKeyId(self.fresh_uid(now));
        let token = principal::token(id, self.entropy.bytes());
        let key = ApiKey {
            name: asked.name,
            tenant,
            scopes: asked.scopes,
            expires_at,
            call_rate: asked.call_rate,
            networks,
            certificates: asked.certificates,
            ..ApiKey::new(id, principal::hash(&token), now)
        };
        self.store.edit_key(id, move |_| (Some(key), ())).await?;
        Ok((self.key_view(&self.find_key(maker, id)?), token))
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
        let more = found.len() > cut.page.size as usize;
        found.truncate(cut.page.size as usize);
        let next = found.last().filter(|_| more).map(|last| Pos(last.key.number));
        Ok((found.iter().map(|it| self.key_view(it)).collect(), cut.next(next)))
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
        if let Some(scope) = principal.lacks(&known.key.scopes) {
            return Err(Error::ScopeMissing { scope: scope.to_string() });
        }
        let (expires_at, networks) = (known.key.expires_at, known.key.networks.clone());
        if bounded(principal.credential(), expires_at, networks.clone())? != (expires_at, networks) {
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
        let rotated = self.store.edit_key(id, rotate).await?;
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
        let revoked = self.store.edit_key(id, revoke).await?;
        revoked.map(|key| self.told(key)).ok_or_else(|| Error::not_found(Kind::ApiKey, id.to_string()))
    }

    /// Sees to it that an administrator's key with this id works with the token of
    /// this hash.
    pub async fn admit_administrator(&self, id: ApiKeyId, hash: TokenHash) -> Result<(), Error> {
        let now = self.now();
        let admit = move |known: Option<&ApiKey>| {
            let known = known.filter(|key| key.hash == hash && key.is_live(now) && key.tenant.is_none());
            let new = || ApiKey {
                name: "administrator".to_owned(),
                scopes: vec![Scope::all()],
                ..ApiKey::new(id, hash, now)
            };
            (known.is_none().then(new), ())
        };
        Ok(self.store.edit_key(id, admit).await?)
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
        let uses = used.iter().filter_map(|it| {
            let at = it.used_at().filter(|at| it.key.last_used_at.is_none_or(|known| known < *at))?;
            Some((it.key.id, at))
        });
        let uses: Vec<_> = uses.collect();
        if uses.is_empty() { Ok(()) } else { Ok(self.store.keys_used(uses).await?) }
    }

    fn find_key(&self, principal: &Principal, id: ApiKeyId) -> Result<Arc<Credential>, Error> {
        let found = self.store.directory().key(id).filter(|it| principal.sees(&it.key));
        found.ok_or_else(|| Error::not_found(Kind::ApiKey, id.to_string()))
    }

    fn certificates_are_free(&self, wanted: &[[u8; 32]]) -> Result<(), Error> {
        let taken = |it: &[u8; 32]| self.store.directory().key_of_certificate(it).is_some();
        if wanted.iter().any(taken) {
            let why = "stands for another key";
            return Err(Error::invalid("api_key.client_certificates", Rule::Duplicate, why));
        }
        Ok(())
    }

    fn named(&self, id: &str) -> Result<crate::domain::TenantKey, Error> {
        let found = self.store.directory().tenant_named(id);
        found.map(|tenant| tenant.key).ok_or_else(|| Error::not_found(Kind::Tenant, id))
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
    maker: Option<&ApiKey>,
    expires_at: Option<Timestamp>,
    networks: Vec<IpNet>,
) -> Result<(Option<Timestamp>, Vec<IpNet>), Error> {
    let Some(maker) = maker else { return Ok((expires_at, networks)) };
    if let (Some(wanted), Some(own)) = (expires_at, maker.expires_at)
        && wanted > own
    {
        let why = "must not be later than that of the key that makes it";
        return Err(Error::invalid("api_key.expire_time", Rule::OutOfRange, why));
    }
    let outside = |net: &IpNet| !maker.networks.iter().any(|own| own.contains(net));
    if !maker.networks.is_empty() && networks.iter().any(outside) {
        let why = "must lie within those of the key that makes it";
        return Err(Error::invalid("api_key.allowed_networks", Rule::OutOfRange, why));
    }
    let networks = if networks.is_empty() { maker.networks.clone() } else { networks };
    Ok((expires_at.or(maker.expires_at), networks))
}
