//! Who may connect, and how many.

use clap::{Args, value_parser};
use ipnet::IpNet;

/// Bounds on those who connect.
#[derive(Clone, Debug, Args)]
pub struct Clients {
    /// Connections at once; one more is closed as soon as it is there. An idle one takes
    /// some 16 KiB. Fewer if the system allows too few open files.
    #[arg(long, env = "HOOKWIRE_MAX_CONNECTIONS", default_value_t = 16_384, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,
    /// Calls a second that a key without a rate limit of its own may make, and twice as
    /// many at once; publishing is not counted. 0 sets no limit.
    #[arg(long, env = "HOOKWIRE_KEY_RATE", default_value_t = 500, value_parser = value_parser!(u32).range(0..=10_000))]
    pub key_rate: u32,
    /// Network of proxies whose `x-forwarded-for` is believed, as in 10.0.0.0/8; may be
    /// given more than once. The header is ignored in requests from elsewhere.
    #[arg(
        long = "trusted-proxy",
        env = "HOOKWIRE_TRUSTED_PROXIES",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub trusted_proxies: Vec<IpNet>,
}
