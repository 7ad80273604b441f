//! Where a request may go: from a URL to a [`Target`], once.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use http::{HeaderValue, Uri};
use rustls::pki_types::ServerName;
use url::{Position, Url};

use super::Policy;

/// Longest URL in bytes, as given and as serialised: what browsers and proxies
/// are generally known to take.
pub const URL_LEN_MAX: usize = 2048;

/// What is said of an address that is not allowed: never which one it is, or whether
/// somebody is there.
pub(super) const FORBIDDEN: &str =
    "the target is forbidden: requests go to public addresses and to those that the operator allowed";

/// Why a URL is not a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Forbidden {
    /// Stable name of the rule, such as `url.scheme`.
    pub rule: &'static str,
    /// One sentence. It does not repeat the URL, which may hold a secret.
    pub message: String,
}

/// A URL that was vetted, in the parts a request needs. Cheap to clone; make it
/// once per endpoint.
#[derive(Clone)]
pub struct Target(Arc<Parts>);

struct Parts {
    policy: Policy,
    policy_version: u64,
    origin: Arc<str>,
    host: Host,
    port: u16,
    /// Name on the certificate; nothing for plain HTTP.
    server_name: Option<ServerName<'static>>,
    host_header: HeaderValue,
    path: Uri,
}

/// Host of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// A name to resolve.
    Name(String),
    /// An address.
    Ip(IpAddr),
}

/// Checks a URL against a policy.
///
/// The URL is parsed here and nowhere else, and what is used afterwards is what
/// the parser understood: `http://0x7f.1/` is 127.0.0.1 for every rule, for the
/// `host` header and for the socket.
///
/// An address is judged at once, and so is `localhost`, which is the same everywhere.
/// Other names are not resolved here: what they mean today says nothing about the
/// moment of a request, when the same policy judges every address of the name.
pub fn vet(url: &str, policy: &Policy) -> Result<Target, Forbidden> {
    let too_long = || forbidden("url.length", format!("the URL must not be longer than {URL_LEN_MAX} bytes"));
    if url.len() > URL_LEN_MAX {
        return Err(too_long());
    }
    let url = Url::parse(url).map_err(|error| forbidden("url.format", format!("not a URL: {error}")))?;
    if url.as_str().len() > URL_LEN_MAX {
        return Err(too_long());
    }
    let tls = match url.scheme() {
        "https" => true,
        "http" if policy.allow_http => false,
        "http" => return Err(forbidden("url.scheme", "the URL must be https")),
        _ => return Err(forbidden("url.scheme", "the URL must be http or https")),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(forbidden("url.user_info", "the URL must not have a user name or password"));
    }
    if url.fragment().is_some() {
        return Err(forbidden("url.fragment", "the URL must not have a fragment"));
    }
    let no_host = || forbidden("url.host", "the URL must have a host");
    let host = match url.host().ok_or_else(no_host)? {
        url::Host::Domain(name) => Host::Name(name.to_owned()),
        url::Host::Ipv4(ip) => Host::Ip(ip.into()),
        url::Host::Ipv6(ip) => Host::Ip(ip.into()),
    };
    let port = match url.port_or_known_default() {
        Some(0) | None => return Err(forbidden("url.port", "the port must be 1 to 65535")),
        Some(port) => port,
    };
    if !is_permitted(&host, port, policy) {
        return Err(forbidden("url.address", FORBIDDEN));
    }
    let bad_host = || forbidden("url.host", "the host is not a valid name");
    let host_header = HeaderValue::from_str(&url[Position::BeforeHost..Position::AfterPort]);
    let path: Result<Uri, _> = url[Position::BeforePath..Position::AfterQuery].parse();
    Ok(Target(Arc::new(Parts {
        policy: policy.clone(),
        policy_version: policy.version(),
        origin: url[..Position::BeforePath].into(),
        server_name: if tls { Some(host.server_name().ok_or_else(bad_host)?) } else { None },
        host,
        port,
        host_header: host_header.map_err(|_| bad_host())?,
        path: path.map_err(|_| forbidden("url.format", "the path or query has invalid characters"))?,
    })))
}

/// Whether what is known about a host without asking anybody is allowed.
fn is_permitted(host: &Host, port: u16, policy: &Policy) -> bool {
    let permits = |ip: IpAddr| policy.permits(SocketAddr::new(ip, port));
    match host {
        Host::Ip(ip) => permits(*ip),
        Host::Name(name) => {
            let last = name.trim_end_matches('.').rsplit('.').next();
            last != Some("localhost")
                || permits(Ipv4Addr::LOCALHOST.into()) && permits(Ipv6Addr::LOCALHOST.into())
        }
    }
}

fn forbidden(rule: &'static str, message: impl Into<String>) -> Forbidden {
    Forbidden { rule, message: message.into() }
}

impl Host {
    /// The name a certificate must have. A trailing dot is for the resolver only.
    pub(super) fn server_name(&self) -> Option<ServerName<'static>> {
        match self {
            Self::Name(name) => ServerName::try_from(name.trim_end_matches('.').to_owned()).ok(),
            Self::Ip(ip) => Some(ServerName::from(*ip)),
        }
    }
}

impl Target {
    /// Scheme, host and port, such as `https://example.com:8443`.
    pub fn origin(&self) -> &str {
        &self.0.origin
    }

    /// Whether it is plain HTTP.
    pub fn is_plain(&self) -> bool {
        self.0.server_name.is_none()
    }

    /// The policy it was vetted under, which judges its addresses.
    pub(super) fn policy(&self) -> &Policy {
        &self.0.policy
    }

    /// What may share its connections, as far as the target decides it: those of the same
    /// origin under the same policy.
    pub(super) fn place(&self) -> (Arc<str>, u64) {
        (Arc::clone(&self.0.origin), self.0.policy_version)
    }

    pub(super) fn host(&self) -> &Host {
        &self.0.host
    }

    pub(super) fn port(&self) -> u16 {
        self.0.port
    }

    pub(super) fn server_name(&self) -> Option<&ServerName<'static>> {
        self.0.server_name.as_ref()
    }

    pub(super) fn host_header(&self) -> &HeaderValue {
        &self.0.host_header
    }

    /// Path and query, as they stand in the request line.
    pub(super) fn path(&self) -> &Uri {
        &self.0.path
    }
}

/// The origin alone: paths and queries of webhook URLs often hold a secret.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.origin()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::address::is_public, *};

    fn parts(url: &str) -> (String, Host, u16, String, String) {
        let target = vet(url, &Policy::loopback()).unwrap();
        (
            target.origin().to_owned(),
            target.host().clone(),
            target.port(),
            target.host_header().to_str().unwrap().to_owned(),
            target.path().to_string(),
        )
    }

    fn name(text: &str) -> Host {
        Host::Name(text.to_owned())
    }

    #[test]
    fn a_url_is_taken_apart() {
        let cases = [
            ("https://example.com", "https://example.com", name("example.com"), 443, "example.com", "/"),
            (
                "HTTPS://Example.COM:443/a",
                "https://example.com",
                name("example.com"),
                443,
                "example.com",
                "/a",
            ),
            (
                "http://example.com:8080/a%20b/ü?q=1&r=\"x\"",
                "http://example.com:8080",
                name("example.com"),
                8080,
                "example.com:8080",
                "/a%20b/%C3%BC?q=1&r=%22x%22",
            ),
            (
                "https://[::1]:8443/?",
                "https://[::1]:8443",
                Host::Ip("::1".parse().unwrap()),
                8443,
                "[::1]:8443",
                "/?",
            ),
            ("https://a.b./x", "https://a.b.", name("a.b."), 443, "a.b.", "/x"),
            ("https://h/a/../b?`^|\\{}", "https://h", name("h"), 443, "h", "/b?`^|\\{}"),
        ];
        for (url, origin, host, port, header, path) in cases {
            assert_eq!(
                parts(url),
                (origin.to_owned(), host, port, header.to_owned(), path.to_owned()),
                "{url}"
            );
        }
    }

    #[test]
    fn every_spelling_of_an_address_is_that_address() {
        let loopback = Host::Ip(IpAddr::from([127, 0, 0, 1]));
        for spelling in ["127.0.0.1", "0x7f.1", "2130706433", "0177.0.0.1", "127.1", "127.0.0.1."] {
            let (_, host, _, header, _) = parts(&format!("http://{spelling}/"));
            assert_eq!((host, &*header), (loopback.clone(), "127.0.0.1"), "{spelling}");
        }
    }

    #[test]
    fn what_is_not_allowed_is_refused_by_name() {
        let long = format!("https://example.com/{}", "a".repeat(URL_LEN_MAX));
        let grows = format!("https://example.com/{}", "ü".repeat(700));
        let cases = [
            ("", "url.format"),
            ("/path", "url.format"),
            ("https://", "url.format"),
            ("https://h:99999/", "url.format"),
            ("https://a b/", "url.format"),
            ("https://[fe80::1%25eth0]/", "url.format"),
            ("http://example.com/", "url.scheme"),
            ("ftp://example.com/", "url.scheme"),
            ("javascript:alert(1)", "url.scheme"),
            ("https://user@example.com/", "url.user_info"),
            ("https://:secret@example.com/", "url.user_info"),
            ("https://example.com/#", "url.fragment"),
            ("https://example.com/#x", "url.fragment"),
            ("https://example.com:0/", "url.port"),
            ("https://-x-.com/", "url.host"),
            ("https://127.0.0.1/", "url.address"),
            ("https://0x7f.1:8443/", "url.address"),
            ("https://[::ffff:a9fe:a9fe]/", "url.address"),
            ("https://localhost/", "url.address"),
            ("https://LOCALHOST./", "url.address"),
            ("https://a.localhost/", "url.address"),
            (&long, "url.length"),
            (&grows, "url.length"),
        ];
        for (url, rule) in cases {
            let refused = vet(url, &Policy::default()).unwrap_err();
            assert_eq!(refused.rule, rule, "{url}");
            assert!(!refused.message.contains("secret"));
        }
    }

    #[test]
    fn debug_shows_no_path() {
        let target = vet("https://hooks.example.com/T0/secret?token=secret", &Policy::default()).unwrap();
        assert_eq!(format!("{target:?}"), r#"Target("https://hooks.example.com")"#);
    }

    proptest! {
        /// However an IPv4 address is written, it is that address, and is allowed only if
        /// it is public.
        #[test]
        fn spelling_does_not_matter(bits: u32, style in 0..8) {
            let ip = Ipv4Addr::from(bits);
            let [a, b, c, d] = ip.octets();
            let host = match style {
                0 => ip.to_string(),
                1 => bits.to_string(),
                2 => format!("0x{bits:X}"),
                3 => format!("0{bits:o}"),
                4 => format!("{a}.{}", bits & 0x00ff_ffff),
                5 => format!("0x{a:x}.0{b:o}.{}.", u16::from_be_bytes([c, d])),
                6 => ip.to_string().replace('.', "%2E"),
                _ => ip.to_string().replace('.', "。"),
            };
            let vetted = vet(&format!("https://{host}/"), &Policy::default());
            match vetted {
                Ok(target) => {
                    prop_assert_eq!(target.host(), &Host::Ip(ip.into()));
                    prop_assert!(is_public(ip.into()), "{}", host);
                }
                Err(refused) => {
                    prop_assert_eq!(refused.rule, "url.address", "{}", host);
                    prop_assert!(!is_public(ip.into()), "{}", host);
                }
            }
        }
    }
}
