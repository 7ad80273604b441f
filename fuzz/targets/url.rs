//! Where requests may go: URLs of tenants, networks of operators.
#![no_main]

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use hookwire::egress::{Allow, Policy, Proxy, vet};
use libfuzzer_sys::fuzz_target;
use url::{Host, Url};

/// The registries of special-purpose addresses again, in another hand than the
/// server's own table.
const SPECIAL: [&str; 16] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
    "2001::/23",
    "2001:db8::/32",
];

/// Whether an address is a host of the public internet.
fn is_global(ip: IpAddr) -> bool {
    let special = SPECIAL.iter().any(|net| net.parse::<ipnet::IpNet>().expect("a network").contains(&ip));
    !special
        && match ip {
            IpAddr::V4(_) => true,
            // Neither 6to4 nor the newer documentation prefix, and nothing beyond 2000::/3.
            IpAddr::V6(ip) => {
                let [first, second, ..] = ip.segments();
                first >> 13 == 1 && first != 0x2002 && !(first == 0x3fff && second < 0x1000)
            }
        }
}

/// The address in a URL that has one; every `localhost` is one.
fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(ip) => Some(ip.into()),
        Host::Ipv6(ip) => Some(ip.into()),
        Host::Domain(name) => {
            let name = name.trim_end_matches('.');
            (name == "localhost" || name.ends_with(".localhost")).then_some(Ipv6Addr::LOCALHOST.into())
        }
    }
}

// A URL, and on the lines below it networks that an operator allowed.
fuzz_target!(|text: &str| {
    let mut lines = text.split('\n');
    let given = lines.next().unwrap_or_default();
    let allow: Vec<Allow> = lines.filter_map(|line| line.parse().ok()).collect();
    for entry in &allow {
        assert_eq!(entry.to_string().parse(), Ok(*entry), "an entry is read as it is shown");
    }
    if let Ok(proxy) = Proxy::parse(given) {
        assert!(Proxy::parse(&proxy.to_string()).is_ok(), "{proxy}");
    }

    check(given, &Policy::default());
    check(given, &Policy { allow_http: true, allow: allow.into(), own: [].into() });
});

fn check(given: &str, policy: &Policy) {
    let verdict = vet(given, policy);
    let Ok(url) = Url::parse(given) else {
        assert!(verdict.is_err(), "taken, and yet not a URL: {given:?}");
        return;
    };
    // The same whether it is spelled as given or as understood.
    match (&verdict, vet(url.as_str(), policy)) {
        (Ok(one), Ok(other)) => assert_eq!(one.origin(), other.origin()),
        (Err(one), Err(other)) => assert!(one == &other || one.rule == "url.length", "{one} / {other}"),
        // Understood it may be shorter than it was given.
        (Err(one), Ok(_)) => assert_eq!(one.rule, "url.length", "{given:?}"),
        (Ok(_), Err(other)) => panic!("{given:?} is taken, {url} is not: {other}"),
    }
    let Ok(target) = verdict else { return };
    assert!(url.scheme() == "https" || policy.allow_http && url.scheme() == "http");
    assert_eq!(target.is_plain(), url.scheme() == "http");
    assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none());
    let again = vet(target.origin(), policy).expect("the origin of a target is one");
    assert_eq!(again.origin(), target.origin());
    let port = url.port_or_known_default().expect("a port");
    if let Some(ip) = literal(&url) {
        let listed = |entry: &Allow| entry.net.contains(&ip) && entry.port.is_none_or(|it| it == port);
        assert!(is_global(ip) || policy.allow.iter().any(listed), "{given:?} leads to {ip}");
        assert!(!ip.to_canonical().is_unspecified());
        assert!(policy.permits(SocketAddr::new(ip, port)) || url.domain().is_some());
    }
}
