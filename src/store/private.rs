//! What of an endpoint is stored sealed, and its only serialised form.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Error;
use crate::{
    domain::{
        Authentication, Endpoint, Header, OAuth2, Secret, SecretText, TenantKey, Timestamp, TlsIdentity,
        TlsOptions,
    },
    vault::Place,
};

/// What of an endpoint may be secret, in the open. Lives only between the store's
/// memory and the vault.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Private {
    pub secrets: Vec<PlainSecret>,
    /// Values, and whether reads hide them.
    headers: BTreeMap<String, (Plain, bool)>,
    authentication: Option<PlainAuthentication>,
    ca_certificates: String,
    identity: Option<(String, Plain)>,
}

/// Wiped after use.
type Plain = Zeroizing<String>;

/// A signing secret; also how rows of before hold it.
#[derive(Serialize, Deserialize)]
pub(super) struct PlainSecret {
    id: String,
    value: Plain,
    created_at: Timestamp,
    primary_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
enum PlainAuthentication {
    Basic(String, Plain),
    Bearer(Plain),
    OAuth2 {
        token_url: String,
        client_id: String,
        client_secret: Plain,
        scopes: Vec<String>,
        audience: String,
        in_body: bool,
    },
}

/// Where the sealed part of an endpoint belongs.
pub(super) fn place(tenant: TenantKey, id: &str, version: u64) -> Place<'_> {
    Place { tenant, kind: "endpoint", id, version }
}

impl Private {
    /// What a row of before holds in the open.
    pub(super) fn of_old(secrets: Vec<PlainSecret>, headers: BTreeMap<String, String>) -> Self {
        let headers = headers.into_iter().map(|(name, value)| (name, (value.into(), false))).collect();
        Self { secrets, headers, ..Self::default() }
    }

    /// Takes it from an endpoint.
    pub(super) fn of(endpoint: &Endpoint) -> Self {
        let secret = |it: &Secret| PlainSecret {
            id: it.id.clone(),
            value: plain(&it.value),
            created_at: it.created_at,
            primary_at: it.primary_at,
            expires_at: it.expires_at,
        };
        let header = |(name, it): (&String, &Header)| (name.clone(), (plain(&it.value), it.sensitive));
        let identity = |it: &TlsIdentity| (it.certificates.clone(), plain(&it.key));
        Self {
            secrets: endpoint.secrets.iter().map(secret).collect(),
            headers: endpoint.headers.iter().map(header).collect(),
            authentication: endpoint.authentication.as_ref().map(PlainAuthentication::of),
            ca_certificates: endpoint.tls.ca_certificates.clone(),
            identity: endpoint.tls.identity.as_ref().map(identity),
        }
    }

    /// Puts it back.
    pub(super) fn into(self, endpoint: &mut Endpoint) {
        let secret = |it: PlainSecret| Secret {
            id: it.id,
            value: hidden(&it.value),
            created_at: it.created_at,
            primary_at: it.primary_at,
            expires_at: it.expires_at,
        };
        let header = |(name, (value, sensitive)): (String, (Plain, bool))| {
            (name, Header { value: hidden(&value), sensitive })
        };
        let identity = |(certificates, key): (String, Plain)| TlsIdentity { certificates, key: hidden(&key) };
        endpoint.secrets = self.secrets.into_iter().map(secret).collect();
        endpoint.headers = self.headers.into_iter().map(header).collect();
        endpoint.authentication = self.authentication.map(PlainAuthentication::hide);
        endpoint.tls =
            TlsOptions { ca_certificates: self.ca_certificates, identity: self.identity.map(identity) };
    }

    /// As bytes, to be sealed.
    pub(super) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(serde_json::to_vec(self).expect("plain data with text keys is JSON"))
    }

    /// From bytes that were opened. What is wrong with them is not told: the message
    /// might quote them.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(bytes)
            .map_err(|_| Error::Corrupt("the sealed part of an endpoint does not decode".to_owned()))
    }
}

impl PlainAuthentication {
    fn of(it: &Authentication) -> Self {
        match it {
            Authentication::Basic { username, password } => Self::Basic(username.clone(), plain(password)),
            Authentication::Bearer { token } => Self::Bearer(plain(token)),
            Authentication::OAuth2(it) => Self::OAuth2 {
                token_url: it.token_url.clone(),
                client_id: it.client_id.clone(),
                client_secret: plain(&it.client_secret),
                scopes: it.scopes.clone(),
                audience: it.audience.clone(),
                in_body: it.in_body,
            },
        }
    }

    fn hide(self) -> Authentication {
        match self {
            Self::Basic(username, password) => {
                Authentication::Basic { username, password: hidden(&password) }
            }
            Self::Bearer(token) => Authentication::Bearer { token: hidden(&token) },
            Self::OAuth2 { token_url, client_id, client_secret, scopes, audience, in_body } => {
                let client_secret = hidden(&client_secret);
                Authentication::OAuth2(OAuth2 {
                    token_url,
                    client_id,
                    client_secret,
                    scopes,
                    audience,
                    in_body,
                })
            }
        }
    }
}

fn plain(text: &SecretText) -> Plain {
    Zeroizing::new(text.expose().to_owned())
}

fn hidden(text: &Plain) -> SecretText {
    text.as_str().into()
}
