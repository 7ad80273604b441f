//! How Hookwire proves to an endpoint who calls, besides the signature.

use super::SecretText;

/// What the header `authorization` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// A user name and a password.
    Basic {
        /// The name; without a colon.
        username: String,
        /// The password.
        password: SecretText,
    },
    /// A token that does not change.
    Bearer {
        /// The token.
        token: SecretText,
    },
    /// A token fetched from an authorization server.
    OAuth2(OAuth2),
}

/// OAuth 2.0 client credentials (RFC 6749, section 4.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuth2 {
    /// Where tokens are fetched.
    pub token_url: String,
    /// Who asks.
    pub client_id: String,
    /// Its secret.
    pub client_secret: SecretText,
    /// What the token is to allow; may be empty.
    pub scopes: Vec<String>,
    /// Whom the token is for; empty: not said.
    pub audience: String,
    /// The credentials go into the body instead of the header `authorization`.
    pub in_body: bool,
}

/// How TLS with one endpoint differs from TLS with all others. All of it in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// Authorities trusted besides the public ones; may be empty.
    pub ca_certificates: String,
    /// Who we are, if the endpoint asks.
    pub identity: Option<TlsIdentity>,
}

/// A certificate of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsIdentity {
    /// The certificate, then those that vouch for it.
    pub certificates: String,
    /// Its private key.
    pub key: SecretText,
}
