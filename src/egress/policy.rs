//! Where requests may go: public addresses, and what an operator added.

use std::{
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use ipnet::IpNet;

use super::address::{is_public, translated};

/// Where requests may go. One for a whole deployment, never one of a tenant: who
/// registers endpoints does not decide what the server can reach.
///
/// By default `https` to public addresses, and nothing else. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Allow `http://` besides `https://`.
    pub allow_http: bool,
    /// What is allowed beside public addresses.
    pub allow: Arc<[Allow]>,
    /// Where this server listens itself. Refused, unless an entry of `allow` names the
    /// port: that a network is allowed does not mean that the server may call itself.
    pub own: Arc<[SocketAddr]>,
}

/// A network that is allowed, on one port or on all: `10.1.0.0/16`, `10.1.2.3:8080`,
/// `[fd00::]/8`, `[fd00::1]:8080`.
///
/// `64:ff9b::/96`, the prefix of translators to IPv4, opens no more than what may be
/// reached by IPv4 anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Allow {
    /// Which addresses.
    pub net: IpNet,
    /// Which port; all of them if none is given.
    pub port: Option<u16>,
}

impl Policy {
    /// For development: `http`, and loopback on every port.
    pub fn loopback() -> Self {
        let loopback = ["127.0.0.0/8", "::1/128"].map(|net| Allow::parse(net).expect("a network"));
        Self { allow_http: true, allow: loopback.into(), own: Arc::default() }
    }

    /// Whether a socket may be opened to an address.
    pub fn permits(&self, address: SocketAddr) -> bool {
        let (ip, port) = (address.ip(), address.port());
        // Nobody is there; the system takes it for loopback.
        if ip.to_canonical().is_unspecified() {
            return false;
        }
        if let Some(behind) = translated(ip) {
            return self.lists(ip, port) && self.permits(SocketAddr::new(behind.into(), port));
        }
        if self.own.iter().any(|own| is_same(*own, address)) {
            return self.names(ip, port);
        }
        is_public(ip) || self.lists(ip, port)
    }

    /// Whether this server can be told from others by an address only on the way there:
    /// it listens on that port of every address of its machine, and no entry names it.
    pub(super) fn doubts(&self, address: SocketAddr) -> bool {
        let everywhere = |own: &SocketAddr| own.ip().is_unspecified() && own.port() == address.port();
        self.own.iter().any(everywhere) && !self.names(address.ip(), address.port())
    }

    /// A number that another policy does not have. Connections made under one policy are
    /// not used under another.
    pub(super) fn version(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    fn lists(&self, ip: IpAddr, port: u16) -> bool {
        self.allow.iter().any(|it| it.net.contains(&ip) && it.port.is_none_or(|it| it == port))
    }

    fn names(&self, ip: IpAddr, port: u16) -> bool {
        self.allow.iter().any(|it| it.net.contains(&ip) && it.port == Some(port))
    }
}

fn is_same(own: SocketAddr, address: SocketAddr) -> bool {
    (own.ip().to_canonical(), own.port()) == (address.ip().to_canonical(), address.port())
}

/// Why a text is not an [`Allow`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a network: write it as 10.1.0.0/16, 10.1.2.3:8080, fd00::/8 or [fd00::1]:8080")]
pub struct NotANetwork(String);

impl Allow {
    /// All ports of one address.
    pub fn exactly(address: SocketAddr) -> Self {
        Self { net: address.ip().into(), port: Some(address.port()) }
    }

    fn parse(text: &str) -> Option<Self> {
        let net = |text: &str| {
            let single = |_| text.parse::<IpAddr>().map(IpNet::from);
            text.parse::<IpNet>().or_else(single).ok().filter(|net| net.addr() == net.network())
        };
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
        if let Some(rest) = text.strip_prefix('[') {
            // `[fd00::1]:80`, `[fd00::]/8`, `[fd00::]/8:80`, `[fd00::/8]:80`.
            let (inside, rest) = rest.split_once(']')?;
            let (len, port_text) = rest.split_once(':').map_or((rest, None), |(len, port)| (len, Some(port)));
            let port = port_text.map(|text| port(text).ok_or(())).transpose().ok()?;
            return Some(Self {
                net: net(&format!("{inside}{len}")).filter(|it| it.addr().is_ipv6())?,
                port,
            });
        }
        if let Some(net) = net(text) {
            return Some(Self { net, port: None });
        }
        let (before, after) = text.rsplit_once(':')?;
        let net = net(before).filter(|it| it.addr().is_ipv4())?;
        Some(Self { net, port: Some(port(after)?) })
    }
}

impl FromStr for Allow {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        Self::parse(text.trim()).ok_or_else(|| NotANetwork(text.to_owned()))
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            None => write!(f, "{}", self.net),
            Some(port) if self.net.addr().is_ipv4() => write!(f, "{}:{port}", self.net),
            Some(port) => write!(f, "[{}]:{port}", self.net),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(allow: &[&str], own: &[&str]) -> Policy {
        Policy {
            allow_http: false,
            allow: allow.iter().map(|it| it.parse().unwrap()).collect(),
            own: own.iter().map(|it| it.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn a_network_is_read_as_it_is_meant() {
        let cases = [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("10.1.2.3:80", "10.1.2.3/32:80"),
            ("10.1.0.0/16:8080", "10.1.0.0/16:8080"),
            (" 0.0.0.0/0 ", "0.0.0.0/0"),
            ("fd00::/8", "fd00::/8"),
            ("::1", "::1/128"),
            ("[::1]", "::1/128"),
            ("[::1]:9000", "[::1/128]:9000"),
            ("[fd00::]/8:80", "[fd00::/8]:80"),
            ("[fd00::/8]:80", "[fd00::/8]:80"),
        ];
        for (text, meant) in cases {
            let allow: Allow = text.parse().unwrap();
            assert_eq!(allow.to_string(), meant, "{text}");
            assert_eq!(allow.to_string().parse(), Ok(allow));
        }
        let bad = [
            "",
            "10.0.0.0/33",
            "10.1.2.3/8",
            "10.0.0.0/8:0",
            "10.0.0.0/8:99999",
            "10.0.0.0/8:",
            "example.com",
            "[10.0.0.0]/8",
            "[fd00::1",
            "*",
            "10.*",
            "fd00::1/8",
        ];
        for text in bad {
            assert_eq!(text.parse::<Allow>(), Err(NotANetwork(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn what_is_allowed_is_what_was_listed() {
        let cases: [(&[&str], &[&str], &str, bool); 22] = [
            (&[], &[], "93.184.216.34:443", true),
            (&[], &[], "127.0.0.1:443", false),
            (&["10.0.0.0/8"], &[], "10.9.9.9:1", true),
            (&["10.0.0.0/8"], &[], "11.0.0.1:1", true),
            (&["10.0.0.0/8:80"], &[], "10.9.9.9:80", true),
            (&["10.0.0.0/8:80"], &[], "10.9.9.9:81", false),
            (&["127.0.0.0/8"], &[], "[::ffff:127.0.0.1]:80", false),
            (&["0.0.0.0/0", "::/0"], &[], "0.0.0.0:80", false),
            (&["0.0.0.0/0", "::/0"], &[], "[::]:80", false),
            (&["0.0.0.0/0", "::/0"], &[], "[::ffff:0.0.0.0]:80", false),
            (&["0.0.0.0/0", "::/0"], &[], "169.254.169.254:80", true),
            // Ourselves, by whatever is allowed, unless the port is named.
            (&["127.0.0.0/8"], &["127.0.0.1:8000"], "127.0.0.1:8000", false),
            (&["127.0.0.0/8"], &["127.0.0.1:8000"], "127.0.0.1:8001", true),
            (&["127.0.0.0/8", "127.0.0.1:8000"], &["127.0.0.1:8000"], "127.0.0.1:8000", true),
            (&["::/0"], &["127.0.0.1:8000"], "[::ffff:127.0.0.1]:8000", false),
            (&[], &["93.184.216.34:443"], "93.184.216.34:443", false),
            (&["93.184.216.34:443"], &["93.184.216.34:443"], "93.184.216.34:443", true),
            // Translated addresses are as good as what is behind them.
            (&[], &[], "[64:ff9b::93.184.216.34]:443", false),
            (&["64:ff9b::/96"], &[], "[64:ff9b::93.184.216.34]:443", true),
            (&["64:ff9b::/96"], &[], "[64:ff9b::127.0.0.1]:443", false),
            (&["64:ff9b::/96", "127.0.0.1"], &[], "[64:ff9b::127.0.0.1]:443", true),
            (&["64:ff9b::/96"], &["93.184.216.34:443"], "[64:ff9b::93.184.216.34]:443", false),
        ];
        for (allow, own, address, permitted) in cases {
            let policy = policy(allow, own);
            assert_eq!(policy.permits(address.parse().unwrap()), permitted, "{policy:?} {address}");
        }
    }

    #[test]
    fn another_policy_has_another_version() {
        let policies = [
            policy(&[], &[]),
            policy(&["10.0.0.0/8"], &[]),
            policy(&["10.0.0.0/8:80"], &[]),
            policy(&[], &["127.0.0.1:80"]),
            Policy { allow_http: true, ..Policy::default() },
        ];
        for (at, one) in policies.iter().enumerate() {
            for (place, other) in policies.iter().enumerate() {
                assert_eq!(one.version() == other.version(), at == place);
            }
        }
    }

    proptest! {
        /// An entry never forbids, and opens nothing outside itself.
        #[test]
        fn an_entry_opens_itself_alone(bits: u32, net: u32, len in 0..=32_u8, port in 1..=u16::MAX) {
            let net = ipnet::Ipv4Net::new(net.into(), len).unwrap().trunc();
            let with = policy(&[&format!("{net}")], &[]);
            let ip = std::net::Ipv4Addr::from(bits);
            let address = SocketAddr::new(ip.into(), port);
            let without = Policy::default().permits(address);
            let listed = net.contains(&ip) && !ip.is_unspecified();
            prop_assert_eq!(with.permits(address), without || listed);
        }
    }
}
