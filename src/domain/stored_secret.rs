//! Which stored secrets of an endpoint stay when the endpoint is changed.
//!
//! A secret is given for the origins that it was going to at that time. Who may change an
//! endpoint, but not write secrets, must not have them sent to a server of their own by
//! moving the endpoint there. So a secret stays only as long as all its recipients stay,
//! or if the caller may write secrets. Otherwise it is sent anew with the change, or, if
//! the server made it, made anew.

use url::{Origin, Url};

use super::{Authentication, Endpoint};

/// A kind of secret that is stored with an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredSecret {
    /// Values of sensitive headers.
    SensitiveHeader,
    /// Password of basic authentication.
    Password,
    /// Bearer token.
    BearerToken,
    /// Secret of an OAuth 2.0 client.
    ClientSecret,
    /// Private key of the client certificate.
    ClientKey,
    /// Secrets that requests are signed with.
    SigningSecret,
}

/// Who receives a secret, or what it proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recipient {
    Endpoint,
    TokenServer,
}

impl StoredSecret {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::SensitiveHeader,
        Self::Password,
        Self::BearerToken,
        Self::ClientSecret,
        Self::ClientKey,
        Self::SigningSecret,
    ];

    /// Path of its field in an endpoint, in proto names.
    pub fn field(self) -> &'static str {
        match self {
            Self::SensitiveHeader => "sensitive_headers",
            Self::Password => "authentication.basic.password",
            Self::BearerToken => "authentication.bearer.token",
            Self::ClientSecret => "authentication.oauth2.client_secret",
            Self::ClientKey => "tls.client_key_pem",
            Self::SigningSecret => "secrets.value",
        }
    }

    fn recipients(self) -> &'static [Recipient] {
        match self {
            Self::SensitiveHeader | Self::Password | Self::BearerToken | Self::SigningSecret => {
                &[Recipient::Endpoint]
            }
            // The token that the secret fetches goes to the endpoint.
            Self::ClientSecret | Self::ClientKey => &[Recipient::Endpoint, Recipient::TokenServer],
        }
    }
}

/// Origins that an endpoint's secrets go to; `None` if there is no such recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destinations {
    endpoint: Option<Origin>,
    token_server: Option<Origin>,
}

impl Destinations {
    /// Those of a target URL and of the URL that tokens are fetched from, if they are.
    pub fn new(url: &str, token_url: Option<&str>) -> Self {
        let origin = |url| Url::parse(url).ok().map(|url| url.origin());
        Self { endpoint: origin(url), token_server: token_url.and_then(origin) }
    }

    /// Those of an endpoint.
    pub fn of(endpoint: &Endpoint) -> Self {
        let token_url = match &endpoint.authentication {
            Some(Authentication::OAuth2(oauth2)) => Some(&*oauth2.token_url),
            Some(Authentication::Basic { .. } | Authentication::Bearer { .. }) | None => None,
        };
        Self::new(&endpoint.url, token_url)
    }

    fn get(&self, recipient: Recipient) -> Option<&Origin> {
        match recipient {
            Recipient::Endpoint => self.endpoint.as_ref(),
            Recipient::TokenServer => self.token_server.as_ref(),
        }
    }
}

/// A change of an endpoint, as far as its secrets are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relocation {
    /// Where secrets went so far.
    pub before: Destinations,
    /// Where they would go.
    pub after: Destinations,
    /// Whether the caller may write secrets.
    pub may_write_secrets: bool,
}

impl Relocation {
    /// Whether a stored secret stays. The secret of an OAuth 2.0 client goes to another
    /// token server only if it is sent anew, whoever calls.
    pub fn keeps(&self, secret: StoredSecret) -> bool {
        let moves = |recipient: Recipient| self.before.get(recipient) != self.after.get(recipient);
        if secret == StoredSecret::ClientSecret && moves(Recipient::TokenServer) {
            return false;
        }
        self.may_write_secrets || !secret.recipients().iter().any(|it| moves(*it))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: (&str, Option<&str>) = ("https://a.example/x", Some("https://t.example/token"));

    fn kept(after: (&str, Option<&str>), may_write_secrets: bool) -> Vec<StoredSecret> {
        let [before, after] = [HERE, after].map(|(url, token_url)| Destinations::new(url, token_url));
        let relocation = Relocation { before, after, may_write_secrets };
        StoredSecret::ALL.into_iter().filter(|secret| relocation.keeps(*secret)).collect()
    }

    #[test]
    fn a_secret_stays_as_long_as_all_that_receive_it_stay() {
        use StoredSecret::{BearerToken, Password, SensitiveHeader, SigningSecret};
        let all = StoredSecret::ALL;
        let (token, other) = (HERE.1, Some("https://t.example:444/token"));
        for same in ["https://a.example/y?z", "https://A.example:443/"] {
            assert_eq!(kept((same, Some("https://t.example/other")), false), all, "{same}");
        }
        for moved in ["https://b.example/x", "http://a.example/x", "https://a.example:444/x", "?"] {
            assert_eq!(kept((moved, token), false), [], "{moved}");
            assert_eq!(kept((moved, token), true), all, "{moved}");
        }
        for token in [other, None] {
            let stay = [SensitiveHeader, Password, BearerToken, SigningSecret];
            assert_eq!(kept((HERE.0, token), false), stay, "{token:?}");
            assert!(!kept((HERE.0, token), true).contains(&StoredSecret::ClientSecret), "{token:?}");
        }
    }
}
