//! Which addresses are public: the table of those that are not.
//!
//! IPv6 is refused unless it is known to be public: nothing outside `2000::/3` is,
//! so every form in which another address hides (mapped, compatible, NAT64, link- and
//! site-local, unique local, multicast) is refused without being named. IPv4 is
//! allowed unless the IANA registry of special-purpose addresses names it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// What IPv4 has that is not a single host of the public internet.
const SPECIAL_V4: [Ipv4Net; 15] = [
    // This network; reaches loopback on Linux.
    v4(0, 0, 0, 0, 8),
    // Private.
    v4(10, 0, 0, 0, 8),
    // Shared with a carrier's translator.
    v4(100, 64, 0, 0, 10),
    // Loopback.
    v4(127, 0, 0, 0, 8),
    // Link-local, and where clouds keep their metadata.
    v4(169, 254, 0, 0, 16),
    // Private.
    v4(172, 16, 0, 0, 12),
    // Of protocols.
    v4(192, 0, 0, 0, 24),
    // Documentation.
    v4(192, 0, 2, 0, 24),
    // Relays of 6to4.
    v4(192, 88, 99, 0, 24),
    // Private.
    v4(192, 168, 0, 0, 16),
    // Benchmarks.
    v4(198, 18, 0, 0, 15),
    // Documentation.
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    // Multicast.
    v4(224, 0, 0, 0, 4),
    // Reserved, and broadcast.
    v4(240, 0, 0, 0, 4),
];

/// Where public IPv6 addresses are.
const GLOBAL_V6: Ipv6Net = v6([0x2000, 0, 0, 0], 3);

/// What is not public in there.
const SPECIAL_V6: [Ipv6Net; 4] = [
    // Of protocols: Teredo, benchmarks, ORCHID.
    v6([0x2001, 0, 0, 0], 23),
    // Documentation.
    v6([0x2001, 0xdb8, 0, 0], 32),
    // 6to4, which carries an IPv4 address.
    v6([0x2002, 0, 0, 0], 16),
    // Documentation.
    v6([0x3fff, 0, 0, 0], 20),
];

/// The well-known prefix of translators to IPv4.
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0, 0], 96);

const fn v4(a: u8, b: u8, c: u8, d: u8, len: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), len)
}

const fn v6([a, b, c, d]: [u16; 4], len: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0), len)
}

/// Whether an address is a host of the public internet.
pub(super) fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !SPECIAL_V4.iter().any(|net| net.contains(&ip)),
        IpAddr::V6(ip) => GLOBAL_V6.contains(&ip) && !SPECIAL_V6.iter().any(|net| net.contains(&ip)),
    }
}

/// The IPv4 address that a translator would send to.
pub(super) fn translated(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else { return None };
    let [.., a, b, c, d] = ip.octets();
    NAT64.contains(&ip).then(|| Ipv4Addr::new(a, b, c, d))
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;
    use proptest::prelude::*;

    use super::*;

    /// First and last address of each network that is not public, as the registries
    /// write it, with the neighbours that are.
    #[test]
    fn the_table_is_exact() {
        let special = [
            ("0.0.0.0/8", "", "1.0.0.0"),
            ("10.0.0.0/8", "9.255.255.255", "11.0.0.0"),
            ("100.64.0.0/10", "100.63.255.255", "100.128.0.0"),
            ("127.0.0.0/8", "126.255.255.255", "128.0.0.0"),
            ("169.254.0.0/16", "169.253.255.255", "169.255.0.0"),
            ("172.16.0.0/12", "172.15.255.255", "172.32.0.0"),
            ("192.0.0.0/24", "191.255.255.255", "192.0.1.0"),
            ("192.0.2.0/24", "192.0.1.255", "192.0.3.0"),
            ("192.88.99.0/24", "192.88.98.255", "192.88.100.0"),
            ("192.168.0.0/16", "192.167.255.255", "192.169.0.0"),
            ("198.18.0.0/15", "198.17.255.255", "198.20.0.0"),
            ("198.51.100.0/24", "198.51.99.255", "198.51.101.0"),
            ("203.0.113.0/24", "203.0.112.255", "203.0.114.0"),
            ("224.0.0.0/4", "223.255.255.255", ""),
            ("240.0.0.0/4", "", ""),
            ("2001::/23", "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:200::"),
            ("2001:db8::/32", "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db9::"),
            ("2002::/16", "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2003::"),
            ("3fff::/20", "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff:1000::"),
            ("::/3", "", "2000::"),
            ("4000::/2", "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ""),
            ("8000::/1", "", ""),
        ];
        for (net, before, after) in special {
            let net: IpNet = net.parse().unwrap();
            for inside in [net.network(), net.broadcast()] {
                assert!(!is_public(inside), "{inside}");
            }
            for outside in [before, after].into_iter().filter(|it| !it.is_empty()) {
                assert!(is_public(outside.parse().unwrap()), "{outside}");
            }
        }
    }

    #[test]
    fn forms_in_which_an_address_hides_are_refused() {
        let hidden = [
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:93.184.216.34",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::93.184.216.34",
            "64:ff9b:1::7f00:1",
            "100::1",
            "2001::1",
            "2001:0:7f00:1::",
            "2001:10::1",
            "2001:20::1",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "5f00::1",
        ];
        for text in hidden {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
        for text in ["2606:4700::1111", "2a00:1450:4001::200e", "2400::", "2001:4860:4860::8888"] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn what_a_translator_sends_to_is_found() {
        let cases = [
            ("64:ff9b::7f00:1", Some("127.0.0.1")),
            ("64:ff9b::a9fe:a9fe", Some("169.254.169.254")),
            ("64:ff9b:1::7f00:1", None),
            ("64:ff9b::1:7f00:1", None),
            ("127.0.0.1", None),
        ];
        for (ip, found) in cases {
            let expected = found.map(|it| it.parse().unwrap());
            assert_eq!(translated(ip.parse().unwrap()), expected, "{ip}");
        }
    }

    proptest! {
        /// The table against what the standard library knows about IPv4 by itself.
        #[test]
        fn no_special_ipv4_is_public(bits: u32) {
            let ip = Ipv4Addr::from(bits);
            let special = ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_multicast()
                || ip.is_broadcast() || ip.is_documentation() || ip.is_unspecified();
            prop_assert!(!(special && is_public(ip.into())));
            // However it is dressed up.
            for dressed in [
                ip.to_ipv6_mapped(),
                ip.to_ipv6_compatible(),
                Ipv6Addr::from(0x0064_ff9b_u128 << 96 | u128::from(bits)),
                Ipv6Addr::from(0x2002_u128 << 112 | u128::from(bits) << 80),
                Ipv6Addr::from(0x2001_u128 << 112 | u128::from(bits) << 64 | u128::from(!bits)),
            ] {
                prop_assert!(!is_public(dressed.into()), "{}", dressed);
            }
        }

        /// Nothing outside 2000::/3 is.
        #[test]
        fn ipv6_is_public_only_where_it_was_given_out(bits: u128) {
            prop_assert!(bits >> 125 == 1 || !is_public(Ipv6Addr::from(bits).into()));
        }
    }
}
