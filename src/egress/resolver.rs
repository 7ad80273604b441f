//! From a host name to its addresses, by a resolver of our own: with limits, with an
//! end, and without a thread for each lookup.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
    system_conf::read_system_conf,
};
use tokio::time::timeout;

use super::fault::fault;
use crate::domain::{Cause, Fault};

/// How long a name may take. Common resolvers answer within 100 ms or not at all.
const LIMIT: Duration = Duration::from_secs(5);
/// After this a question is asked again, once: a datagram may be lost.
const PATIENCE: Duration = Duration::from_secs(2);
/// Addresses of a name at most. A name with more is a mistake or an attempt to keep us
/// busy.
const ADDRESSES_MAX: usize = 16;
/// How long an answer is believed at most, whatever its time to live: a receiver that
/// moves is found again within a minute.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(60);
/// The same for the answer that there is no such name, which somebody may be mending.
const NO_ANSWER_AGE_MAX: Duration = Duration::from_secs(10);

/// Finds addresses. What they are is for others to judge.
pub(super) struct Resolver(TokioResolver);

impl Resolver {
    /// Asks these name servers; the system's, as `/etc/resolv.conf` has them, if there are
    /// none. `/etc/hosts` comes first, as it stood at the start.
    pub(super) fn new(servers: &[SocketAddr]) -> Result<Self, NetError> {
        let (config, mut options) = match servers {
            [] => system(),
            servers => (ask(servers), ResolverOpts::default()),
        };
        options.timeout = PATIENCE;
        options.attempts = 1;
        // What has both is reached by IPv4 more often.
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.positive_max_ttl = Some(ANSWER_AGE_MAX);
        options.negative_max_ttl = Some(NO_ANSWER_AGE_MAX);
        let provider = TokioRuntimeProvider::default();
        let mut builder = TokioResolver::builder_with_config(config, provider);
        *builder.options_mut() = options;
        Ok(Self(builder.build()?))
    }

    /// Every address of a name.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Fault> {
        let unresolved = |why: String| fault(Cause::Dns, format!("the host name did not resolve: {why}"));
        let found = timeout(LIMIT, self.0.lookup_ip(name)).await;
        let found = found.map_err(|_| unresolved(format!("no answer within {LIMIT:?}")))?;
        let mut addresses: Vec<_> = match found {
            Ok(found) => found.iter().take(ADDRESSES_MAX + 1).collect(),
            Err(error) => return Err(unresolved(reason(&error))),
        };
        addresses.dedup();
        match addresses.len() {
            0 => Err(unresolved("it has no address".to_owned())),
            1..=ADDRESSES_MAX => Ok(addresses),
            _ => Err(unresolved(format!("it has more than {ADDRESSES_MAX} addresses"))),
        }
    }
}

/// In words that name no server of ours.
fn reason(error: &NetError) -> String {
    if error.is_nx_domain() {
        return "there is no such name".to_owned();
    }
    if error.is_no_records_found() {
        return "it has no address".to_owned();
    }
    "no name server gave an answer".to_owned()
}

/// What the system is set up with. Without a usable configuration the name server of this
/// machine is asked, as the C library does.
fn system() -> (ResolverConfig, ResolverOpts) {
    read_system_conf().unwrap_or_else(|error| {
        tracing::warn!(%error, "/etc/resolv.conf names no name server; asking 127.0.0.1");
        (ask(&[SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53)]), ResolverOpts::default())
    })
}

/// These servers, by UDP and, for long answers, by TCP.
fn ask(servers: &[SocketAddr]) -> ResolverConfig {
    let server = |address: &SocketAddr| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = address.port();
            connection
        });
        NameServerConfig::new(address.ip(), true, connections.into())
    };
    ResolverConfig::from_name_servers(servers.iter().map(server).collect())
}
