//! Credentials.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{ApiKeyId, RateLimit, Scope, TenantKey, Timestamp};

/// SHA-256 of a token.
pub type TokenHash = [u8; 32];

/// A credential. Tokens have 256 random bits, so a plain hash of them is enough, and
/// only that is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiKey {
    /// Its place among keys, by age; zero until it is stored.
    pub number: u64,
    /// Public identifier; part of the token.
    pub id: ApiKeyId,
    /// Display name.
    pub name: String,
    /// Whom it acts for; nothing: any tenant, for administrators.
    pub tenant: Option<TenantKey>,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it stops working.
    pub expires_at: Option<Timestamp>,
    /// Token bucket over its calls; nothing: none.
    pub call_rate: Option<RateLimit>,
    /// Networks it may be used from; none means any.
    pub networks: Vec<IpNet>,
    /// SHA-256 of client certificates that stand for the token: a connection with one of
    /// them needs no token.
    pub certificates: Vec<[u8; 32]>,
    /// SHA-256 of client certificates of which a connection must show one besides the
    /// token. Empty: none is needed.
    pub required_certificates: Vec<[u8; 32]>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// Hash of the token.
    pub hash: TokenHash,
    /// Hash of the token before a rotation, and until when it works.
    pub previous: Option<(TokenHash, Timestamp)>,
    /// Creation.
    pub created_at: Timestamp,
    /// Last use, to the minute.
    pub last_used_at: Option<Timestamp>,
}

impl ApiKey {
    /// A key of administrators that may do nothing yet.
    pub fn new(id: ApiKeyId, hash: TokenHash, at: Timestamp) -> Self {
        Self {
            number: 0,
            id,
            name: String::new(),
            tenant: None,
            scopes: Vec::new(),
            expires_at: None,
            call_rate: None,
            networks: Vec::new(),
            certificates: Vec::new(),
            required_certificates: Vec::new(),
            revoked_at: None,
            hash,
            previous: None,
            created_at: at,
            last_used_at: None,
        }
    }

    /// Whether it works, as far as time goes.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|at| now < at)
    }

    /// Whether it may do what needs `scope`.
    pub fn may(&self, scope: &str) -> bool {
        (self.tenant.is_none() || !Scope::is_administrative(scope))
            && self.scopes.iter().any(|it| it.allows(scope))
    }

    /// Whether it may be used from an address. One that is not known fits no network.
    pub fn admits(&self, address: Option<IpAddr>) -> bool {
        let address = address.map(|it| it.to_canonical());
        self.networks.is_empty()
            || address.is_some_and(|address| self.networks.iter().any(|net| net.contains(&address)))
    }

    /// Whether it may be used on a connection that shows this certificate.
    pub fn admits_certificate(&self, shown: Option<[u8; 32]>) -> bool {
        self.required_certificates.is_empty()
            || shown.is_some_and(|shown| self.required_certificates.contains(&shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Uid;

    fn key() -> ApiKey {
        let id = ApiKeyId(Uid::from_bytes(&[7; 16]).unwrap());
        let scopes = vec![Scope::all()];
        ApiKey { tenant: Some(TenantKey(2)), scopes, ..ApiKey::new(id, [0; 32], Timestamp(0)) }
    }

    #[test]
    fn a_key_of_one_tenant_is_no_administrator() {
        assert!(key().may("endpoints:write"));
        assert!(!key().may("tenants:write") && !key().may("audit:read"));
        assert!(ApiKey { tenant: None, ..key() }.may("tenants:write"));
    }

    #[test]
    fn a_key_works_within_its_time_and_networks() {
        let ends = ApiKey { expires_at: Some(Timestamp(10)), ..key() };
        assert!(ends.is_live(Timestamp(9)) && !ends.is_live(Timestamp(10)));
        assert!(!ApiKey { revoked_at: Some(Timestamp(1)), ..key() }.is_live(Timestamp(0)));
        let bound = ApiKey { networks: vec!["10.1.0.0/16".parse().unwrap()], ..key() };
        assert!(bound.admits(Some("10.1.2.3".parse().unwrap())));
        assert!(bound.admits(Some("::ffff:10.1.2.3".parse().unwrap())), "IPv4 over an IPv6 socket");
        assert!(!bound.admits(Some("10.2.0.1".parse().unwrap())) && !bound.admits(None));
        assert!(key().admits(None));
    }

    #[test]
    fn a_key_that_requires_a_certificate_works_with_that_certificate_only() {
        let bound = ApiKey { required_certificates: vec![[1; 32], [2; 32]], ..key() };
        assert!(bound.admits_certificate(Some([2; 32])));
        assert!(!bound.admits_certificate(Some([3; 32])) && !bound.admits_certificate(None));
        assert!(key().admits_certificate(Some([3; 32])) && key().admits_certificate(None));
    }
}
