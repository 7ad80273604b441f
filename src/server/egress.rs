//! Where requests may go and by which way: from what was set to what the client needs.

use std::net::{IpAddr, SocketAddr};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use secrecy::ExposeSecret as _;

use super::{Error, Profile};
use crate::{
    config,
    egress::{Allow, Config, Policy, Proxy},
};

/// What was set, understood.
pub(super) struct Settings {
    pub client: Config,
    allow: Vec<Allow>,
}

/// Understands what was set. A development server takes the names of its machine.
pub(super) fn settings(set: &config::Egress, is_dev: bool) -> Result<Settings, Error> {
    let listed = set.allow_targets.iter().map(|text| text.parse());
    let allow = listed.collect::<Result<_, _>>().map_err(Error::AllowTarget)?;
    let name_servers = set.dns_servers.iter().map(|text| name_server(text)).collect::<Result<_, _>>()?;
    let mut extra_roots = Vec::new();
    for file in &set.egress_ca {
        let unread = |source| Error::EgressCa { file: file.clone(), source };
        let found = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let found = found.map_err(|error| unread(Some(error)))?;
        if found.is_empty() {
            return Err(unread(None));
        }
        extra_roots.extend(found);
    }
    let proxy = set.egress_proxy.as_ref().map(|text| Proxy::parse(text.expose_secret()));
    let proxy = proxy.transpose().map_err(Error::EgressProxy)?;
    if let Some(proxy) = &proxy {
        tracing::warn!(
            %proxy,
            "requests go through a proxy, which resolves the names: it must itself refuse private and \
             internal addresses, because this server no longer sees them"
        );
    }
    let local_names = is_dev || set.local_names;
    let client = Config { extra_roots, name_servers, local_names, proxy, ..Config::default() };
    Ok(Settings { client, allow })
}

impl Settings {
    /// Where requests may go from a server that listens at `own`.
    pub fn policy(&self, profile: &Profile, own: SocketAddr) -> Policy {
        let base = match profile {
            Profile::Dev(_) => Policy::loopback(),
            Profile::Serve(serve) => Policy { allow_http: serve.allow_http_targets, ..Policy::default() },
        };
        // The test receiver of a development server is the server itself.
        let receiver = matches!(profile, Profile::Dev(_)).then(|| Allow::exactly(own));
        let allow = base.allow.iter().chain(&self.allow).copied().chain(receiver).collect();
        Policy { allow, own: [own].into(), ..base }
    }
}

fn name_server(text: &str) -> Result<SocketAddr, Error> {
    let text = text.trim();
    let usual = |ip: IpAddr| SocketAddr::new(ip, 53);
    let bad = |_| Error::DnsServer(text.to_owned());
    text.parse().or_else(|_| text.parse().map(usual)).map_err(bad)
}
