//! Whose word about a client's address is taken.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// Where a request comes from: the other end of the connection or, if that is in a
/// network of `trusted` proxies, the nearest address in `x-forwarded-for` that is not.
/// What stands left of that was written by somebody who is not trusted.
pub(super) fn origin(connection: SocketAddr, headers: &HeaderMap, trusted: &[IpNet]) -> SocketAddr {
    let trusts = |ip| trusts(trusted, ip);
    if !trusts(connection.ip()) {
        return connection;
    }
    let mut origin = connection;
    let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
    for line in lines {
        for told in line.to_str().unwrap_or("?").rsplit(',') {
            if !trusts(origin.ip()) {
                return origin;
            }
            // A proxy that does not know is the last that can be named.
            let Some(address) = address(told.trim()) else { return origin };
            origin = address;
        }
    }
    origin
}

/// Whether an address is that of a trusted proxy.
pub(super) fn trusts(trusted: &[IpNet], ip: IpAddr) -> bool {
    trusted.iter().any(|network| network.contains(&ip))
}

/// An address without its IPv6 form, if it is one of IPv4.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`.
fn address(text: &str) -> Option<SocketAddr> {
    let bare = || text.trim_start_matches('[').trim_end_matches(']').parse().ok();
    let address = text.parse().ok().or_else(|| bare().map(|ip| SocketAddr::new(ip, 0)))?;
    Some(canonical(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(connection: &str, lines: &[&str]) -> String {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap());
        let name = http::HeaderName::from_static(X_FORWARDED_FOR);
        let headers = lines.iter().map(|line| (name.clone(), line.parse().unwrap())).collect();
        origin(connection.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed_and_only_about_the_next() {
        for (connection, lines, origin) in [
            ("192.0.2.1:5", &["198.51.100.1"][..], "192.0.2.1:5"),
            ("10.0.0.1:5", &[], "10.0.0.1:5"),
            ("10.0.0.1:5", &["198.51.100.1"], "198.51.100.1:0"),
            ("10.0.0.1:5", &["203.0.113.9, 198.51.100.1"], "198.51.100.1:0"),
            ("10.0.0.1:5", &["203.0.113.9, 198.51.100.1, 10.2.3.4"], "198.51.100.1:0"),
            ("10.0.0.1:5", &["203.0.113.9", "198.51.100.1,10.2.3.4"], "198.51.100.1:0"),
            ("[fd00::1]:5", &["[2001:db8::1]:77"], "[2001:db8::1]:77"),
            ("10.0.0.1:5", &["::ffff:198.51.100.1"], "198.51.100.1:0"),
            ("10.0.0.1:5", &["2001:db8::1, 10.0.0.2:81"], "[2001:db8::1]:0"),
            ("10.0.0.1:5", &["198.51.100.1, unknown"], "10.0.0.1:5"),
            ("10.0.0.1:5", &["198.51.100.1, unknown, 10.9.9.9"], "10.9.9.9:0"),
            ("10.0.0.1:5", &[""], "10.0.0.1:5"),
            ("10.0.0.1:5", &["10.0.0.3, 10.0.0.2"], "10.0.0.3:0"),
        ] {
            assert_eq!(seen(connection, lines), origin, "{connection} {lines:?}");
        }
    }
}
