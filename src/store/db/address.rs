//! What a URL of a database server says about where that is.

use std::net::IpAddr;

/// Whether a URL names more than one host, or more than one port: as libpq allows.
pub(super) fn has_many_hosts(url: &str) -> bool {
    let authority =
        url.split_once("://").map_or("", |(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or(""));
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    let listed = |(key, value): &(String, String)| {
        matches!(&**key, "host" | "hostaddr" | "port") && value.contains(',')
    };
    hosts.contains(',') || parameters(url).iter().any(listed)
}

/// The kind of server that a URL asks for, if that is not one that takes writes.
pub(super) fn unfit_attributes(url: &str) -> Option<String> {
    let wanted = parameters(url).into_iter().find(|(key, _)| key == "target_session_attrs")?.1;
    (!matches!(&*wanted, "any" | "read-write" | "primary")).then_some(wanted)
}

/// What stands in brackets, as addresses of IPv6 do in a URL.
pub(super) fn bracketed(host: &str) -> Option<&str> {
    host.strip_prefix('[')?.strip_suffix(']')
}

/// Whether a host is this machine.
pub(super) fn is_here(host: &str) -> bool {
    host.starts_with('/')
        || host.trim_end_matches('.').eq_ignore_ascii_case("localhost")
        || host.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
}

fn parameters(url: &str) -> Vec<(String, String)> {
    let query = url.split_once('?').map_or("", |(_, rest)| rest.split('#').next().unwrap_or(""));
    url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_counted_wherever_they_stand() {
        for many in [
            "postgres://a:5432,b:5432/db",
            "postgres://user:pass,word@a,b/db",
            "postgres:///db?host=a,b",
            "postgres://a/db?port=1,2",
            "postgres:///db?host=a%2Cb",
        ] {
            assert!(has_many_hosts(many), "{many}");
        }
        for one in [
            "postgres://a/db",
            "postgres://user:pass,word@a/d,b",
            "postgres://a/db?options=-cx%3D1,2#,",
            "nonsense,",
        ] {
            assert!(!has_many_hosts(one), "{one}");
        }
    }

    #[test]
    fn a_kind_of_server_that_takes_writes_may_be_asked_for() {
        let unfit = |attributes: &str| {
            unfit_attributes(&format!("postgres://a/db?target_session_attrs={attributes}"))
        };
        assert_eq!(["any", "read-write", "primary"].map(unfit), [None, None, None]);
        for bad in ["read-only", "standby", "prefer-standby", "", "nonsense"] {
            assert_eq!(unfit(bad), Some(bad.to_owned()));
        }
    }

    #[test]
    fn this_machine_has_many_names() {
        for here in [
            "localhost",
            "LOCALHOST",
            "LocalHost.",
            "127.0.0.1",
            "127.255.0.9",
            "::1",
            "::ffff:127.0.0.1",
            "/run/postgresql",
        ] {
            assert!(is_here(here), "{here}");
        }
        for there in ["localhost.example", "10.0.0.1", "::2", "128.0.0.1", "db", "127.0.0.1.example"] {
            assert!(!is_here(there), "{there}");
        }
        assert_eq!((bracketed("[::1]"), bracketed("::1"), bracketed("[::1")), (Some("::1"), None, None));
    }
}
