//! Where requests may go, and by which way.

use std::{convert::Infallible, path::PathBuf};

use clap::{Args, builder::BoolishValueParser};
use secrecy::SecretString;

/// Where requests may go, and by which way.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Targets")]
pub struct Egress {
    /// Network that endpoints may be in beside public addresses, with a port if only that
    /// one is meant: 10.1.0.0/16, 10.1.2.3:8080, fd00::/8 or [fd00::1]:8080. May be given
    /// several times.
    #[arg(
        long = "allow-target",
        env = "HOOKWIRE_ALLOW_TARGETS",
        value_name = "CIDR[:PORT]",
        value_delimiter = ','
    )]
    pub allow_targets: Vec<String>,
    /// Name server to ask instead of the system's. May be given several times.
    #[arg(
        long = "dns-server",
        env = "HOOKWIRE_DNS_SERVERS",
        value_name = "ADDR[:PORT]",
        value_delimiter = ','
    )]
    pub dns_servers: Vec<String>,
    /// Let names of /etc/hosts, and names that the search domains of /etc/resolv.conf
    /// complete, be targets, too. `hookwire dev` always does.
    #[arg(long = "local-names", env = "HOOKWIRE_LOCAL_NAMES", value_parser = BoolishValueParser::new())]
    pub local_names: bool,
    /// File of certificate authorities (PEM) to trust beside the public ones when calling
    /// endpoints. May be given several times.
    #[arg(long = "egress-ca", env = "HOOKWIRE_EGRESS_CA", value_name = "FILE", value_delimiter = ',')]
    pub egress_ca: Vec<PathBuf>,
    /// Proxy that requests go through: http://, https:// or socks5://, with user:password@
    /// if it wants that. It resolves the names, so it must also guard the addresses.
    #[arg(
        long = "egress-proxy",
        env = "HOOKWIRE_EGRESS_PROXY",
        value_name = "URL",
        hide_env_values = true,
        value_parser = secret
    )]
    pub egress_proxy: Option<SecretString>,
}

/// Anything: what is wrong with it is said later, without repeating it.
pub(super) fn secret(text: &str) -> Result<SecretString, Infallible> {
    Ok(SecretString::from(text))
}
