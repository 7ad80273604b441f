//! What an endpoint is shown: who calls, and over which TLS. Secrets come in and
//! never go out; one that is left empty stays as it is stored.

use super::Checks;
use crate::{
    app::{Policy, check_tls, check_url},
    domain::{Authentication, OAuth2, Relocation, Rule, SecretText, StoredSecret, TlsIdentity, TlsOptions},
    grpc::pb::{self, authentication::Kind, o_auth2_client_credentials::ClientAuthentication},
};

/// Bytes of a name, of a secret, and of a token at most.
const NAME_MAX: usize = 256;
const SECRET_MAX: usize = 1024;
const TOKEN_MAX: usize = 4096;
const SCOPES_MAX: usize = 32;
/// Bytes of certificates and of a key in PEM.
const CERTIFICATES_MAX: usize = 64 << 10;
const KEY_MAX: usize = 16 << 10;
/// What is said where a stored secret was to stay and there is none.
const NOT_STORED: &str = "is needed: none is stored that could stay";
/// What is said where a stored secret does not go along to another origin.
pub(super) const WITHHELD: &str = "is needed: requests would go to another origin, and the stored value does not \
     go there unless the key that calls has the scope `secrets:write`: send the value anew";

/// A stored secret, as far as a change may keep it.
#[derive(Clone, Copy, Debug)]
enum Stored<'a> {
    Absent,
    Withheld,
    Kept(&'a SecretText),
}

impl<'a> Stored<'a> {
    fn new(secret: StoredSecret, stored: Option<&'a SecretText>, relocation: &Relocation) -> Self {
        match stored {
            None => Self::Absent,
            Some(_) if !relocation.keeps(secret) => Self::Withheld,
            Some(stored) => Self::Kept(stored),
        }
    }

    /// The secret that stays; why there is none otherwise.
    fn kept(self) -> Result<SecretText, &'static str> {
        match self {
            Self::Absent => Err(NOT_STORED),
            Self::Withheld => Err(WITHHELD),
            Self::Kept(stored) => Ok(stored.clone()),
        }
    }
}

/// Where tokens would be fetched.
pub fn token_url(given: Option<&pb::Authentication>) -> Option<&str> {
    match given?.kind.as_ref()? {
        Kind::Oauth2(oauth2) => Some(&oauth2.token_url),
        Kind::Basic(_) | Kind::Bearer(_) => None,
    }
}

/// Who calls. `stored` is what the endpoint has so far.
pub fn authentication(
    checks: &mut Checks,
    given: Option<pb::Authentication>,
    stored: Option<&Authentication>,
    targets: &Policy,
    relocation: &Relocation,
) -> Option<Authentication> {
    let pb::Authentication { kind } = given?;
    let Some(kind) = kind else {
        checks.add("authentication", Rule::Required, "needs one of `basic`, `bearer` and `oauth2`");
        return None;
    };
    Some(match kind {
        Kind::Basic(pb::BasicAuthentication { username, password }) => {
            let field = "authentication.basic.username";
            name(checks, field, &username);
            checks.check(!username.contains(':'), field, Rule::BadFormat, "must not have a colon");
            let stored = match stored {
                Some(Authentication::Basic { password, .. }) => Some(password),
                Some(Authentication::Bearer { .. } | Authentication::OAuth2(_)) | None => None,
            };
            let stored = Stored::new(StoredSecret::Password, stored, relocation);
            let password = secret(checks, "authentication.basic.password", password, stored, SECRET_MAX);
            Authentication::Basic { username, password }
        }
        Kind::Bearer(pb::BearerAuthentication { token }) => {
            let field = "authentication.bearer.token";
            let why = "must be visible ASCII";
            checks.check(token.bytes().all(|byte| byte.is_ascii_graphic()), field, Rule::BadFormat, why);
            let stored = match stored {
                Some(Authentication::Bearer { token }) => Some(token),
                Some(Authentication::Basic { .. } | Authentication::OAuth2(_)) | None => None,
            };
            let stored = Stored::new(StoredSecret::BearerToken, stored, relocation);
            Authentication::Bearer { token: secret(checks, field, token, stored, TOKEN_MAX) }
        }
        Kind::Oauth2(given) => {
            let stored = match stored {
                Some(Authentication::OAuth2(stored)) => Some(stored),
                Some(Authentication::Basic { .. } | Authentication::Bearer { .. }) | None => None,
            };
            let stored = stored.map(|stored| &stored.client_secret);
            let stored = Stored::new(StoredSecret::ClientSecret, stored, relocation);
            Authentication::OAuth2(oauth2(checks, given, stored, targets))
        }
    })
}

fn oauth2(
    checks: &mut Checks,
    given: pb::OAuth2ClientCredentials,
    stored: Stored<'_>,
    targets: &Policy,
) -> OAuth2 {
    let pb::OAuth2ClientCredentials {
        token_url,
        client_id,
        client_secret,
        scopes,
        audience,
        client_authentication,
    } = given;
    if let Err(refusal) = check_url(&token_url, targets) {
        checks.bad_url("authentication.oauth2.token_url", refusal);
    }
    name(checks, "authentication.oauth2.client_id", &client_id);
    let field = "authentication.oauth2.scopes";
    checks.check(scopes.len() <= SCOPES_MAX, field, Rule::TooMany, "must have at most 32 scopes");
    let is_scope_byte = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    for (index, scope) in scopes.iter().enumerate() {
        let good = (1..=NAME_MAX).contains(&scope.len()) && scope.bytes().all(is_scope_byte);
        let why = "must be 1 to 256 bytes of visible ASCII without `\"` and `\\`";
        checks.check(good, format_args!("{field}[{index}]"), Rule::BadFormat, why);
    }
    let why = "must have at most 1024 bytes";
    let field = "authentication.oauth2.audience";
    checks.check(audience.len() <= SECRET_MAX, field, Rule::TooLong, why);
    let field = "authentication.oauth2.client_authentication";
    let in_body = match ClientAuthentication::try_from(client_authentication) {
        Ok(ClientAuthentication::Unspecified | ClientAuthentication::Basic) => false,
        Ok(ClientAuthentication::Post) => true,
        Err(_) => {
            checks.add(field, Rule::UnknownValue, "is not a known way to authenticate a client");
            false
        }
    };
    let field = "authentication.oauth2.client_secret";
    let client_secret = secret(checks, field, client_secret, stored, SECRET_MAX);
    OAuth2 { token_url, client_id, client_secret, scopes, audience, in_body }
}

fn name(checks: &mut Checks, field: &str, text: &str) {
    checks.check(!text.is_empty(), field, Rule::Required, "is needed");
    checks.check(text.len() <= NAME_MAX, field, Rule::TooLong, "must have at most 256 bytes");
    checks.check(is_plain(text), field, Rule::BadFormat, "must not have control characters");
}

/// A secret as given, or, if it was left empty, as stored.
fn secret(
    checks: &mut Checks,
    field: &str,
    given: String,
    stored: Stored<'_>,
    bytes_max: usize,
) -> SecretText {
    if given.is_empty() {
        return stored.kept().unwrap_or_else(|why| {
            checks.add(field, Rule::Required, why);
            SecretText::default()
        });
    }
    if given.len() > bytes_max {
        checks.too_large(field, bytes_max, given.len());
    }
    checks.check(is_plain(&given), field, Rule::BadFormat, "must not have control characters");
    given.into()
}

fn is_plain(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// Over which TLS. `stored` is what the endpoint has so far.
pub fn tls(
    checks: &mut Checks,
    given: Option<pb::TlsOptions>,
    stored: &TlsOptions,
    url: &str,
    relocation: &Relocation,
) -> TlsOptions {
    let pb::TlsOptions { ca_certificates_pem, client_certificate_pem, client_key_pem } =
        given.unwrap_or_default();
    let sizes = [
        ("tls.ca_certificates_pem", ca_certificates_pem.len(), CERTIFICATES_MAX),
        ("tls.client_certificate_pem", client_certificate_pem.len(), CERTIFICATES_MAX),
        ("tls.client_key_pem", client_key_pem.len(), KEY_MAX),
    ];
    let mut fits = true;
    for (field, bytes, bytes_max) in sizes {
        if bytes > bytes_max {
            checks.too_large(field, bytes_max, bytes);
            fits = false;
        }
    }
    let identity = match (client_certificate_pem.is_empty(), client_key_pem.is_empty()) {
        (true, true) => None,
        (true, false) => {
            let why = "is needed: a key alone proves nothing";
            fits = checks.check(false, "tls.client_certificate_pem", Rule::Required, why);
            None
        }
        (false, false) => {
            Some(TlsIdentity { certificates: client_certificate_pem, key: client_key_pem.into() })
        }
        (false, true) => {
            let stored = stored.identity.as_ref().map(|identity| &identity.key);
            match Stored::new(StoredSecret::ClientKey, stored, relocation).kept() {
                Ok(key) => Some(TlsIdentity { certificates: client_certificate_pem, key }),
                Err(why) => {
                    fits = checks.check(false, "tls.client_key_pem", Rule::Required, why);
                    None
                }
            }
        }
    };
    let options = TlsOptions { ca_certificates: ca_certificates_pem, identity };
    if options == TlsOptions::default() {
        return options;
    }
    let is_plain = url.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("http:"));
    checks.check(!is_plain, "tls", Rule::Conflict, "needs an https URL");
    if fits && let Err((field, rule, why)) = check_tls(&options) {
        checks.add(format_args!("tls.{field}"), rule, why);
    }
    options
}

/// Who calls, without secrets.
pub fn out_authentication(it: &Authentication) -> pb::Authentication {
    let kind = match it {
        Authentication::Basic { username, password: _ } => {
            Kind::Basic(pb::BasicAuthentication { username: username.clone(), password: String::new() })
        }
        Authentication::Bearer { token: _ } => {
            Kind::Bearer(pb::BearerAuthentication { token: String::new() })
        }
        Authentication::OAuth2(it) => {
            let way = if it.in_body { ClientAuthentication::Post } else { ClientAuthentication::Basic };
            Kind::Oauth2(pb::OAuth2ClientCredentials {
                token_url: it.token_url.clone(),
                client_id: it.client_id.clone(),
                client_secret: String::new(),
                scopes: it.scopes.clone(),
                audience: it.audience.clone(),
                client_authentication: way.into(),
            })
        }
    };
    pb::Authentication { kind: Some(kind) }
}

/// Over which TLS, without the key; nothing if nothing was said.
pub fn out_tls(it: &TlsOptions) -> Option<pb::TlsOptions> {
    (*it != TlsOptions::default()).then(|| pb::TlsOptions {
        ca_certificates_pem: it.ca_certificates.clone(),
        client_certificate_pem: it.identity.as_ref().map(|it| it.certificates.clone()).unwrap_or_default(),
        client_key_pem: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use prost_reflect::{DescriptorPool, ExtensionDescriptor, FieldDescriptor, MessageDescriptor};

    use super::*;

    /// All fields of a message and of the messages in it, by path.
    fn fields(message: &MessageDescriptor, within: &str) -> Vec<(String, FieldDescriptor)> {
        let fields_of = |field: FieldDescriptor| {
            let path = format!("{within}{}", field.name());
            let kind = field.kind();
            let message = kind.as_message().filter(|_| !field.is_map());
            let inner = message.map(|inner| fields(inner, &format!("{path}."))).unwrap_or_default();
            std::iter::once((path, field)).chain(inner).collect::<Vec<_>>()
        };
        message.fields().flat_map(fields_of).collect()
    }

    #[test]
    fn every_field_of_an_endpoint_that_holds_a_secret_is_marked_and_has_a_rule() {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        let option = |name: &str| pool.get_extension_by_name(name).unwrap();
        let (secret, behavior) = (option("hookwire.v1.secret"), option("google.api.field_behavior"));
        let is_secret = |field: &FieldDescriptor, secret: &ExtensionDescriptor| {
            field.options().get_extension(secret).as_bool() == Some(true)
        };
        let mut marked = Vec::new();
        for (path, field) in fields(&pool.get_message_by_name("hookwire.v1.Endpoint").unwrap(), "") {
            // What is written and never read back is a secret.
            let behaviors = format!("{:?}", field.options().get_extension(&behavior));
            let input_only = behaviors.contains("EnumNumber(4)");
            assert!(!input_only || is_secret(&field, &secret), "{path} is not marked as a secret");
            if is_secret(&field, &secret) {
                marked.push(path);
            }
        }
        let mut known = StoredSecret::ALL.map(StoredSecret::field).to_vec();
        known.sort_unstable();
        marked.sort_unstable();
        assert_eq!(marked, known);
    }
}
