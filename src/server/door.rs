//! What the one port is opened with.

use std::sync::Arc;

use rustix::process::{Resource, getrlimit};

use super::{Error, GRACE, Profile};
use crate::{
    config,
    domain::RateLimit,
    front::{self, tls},
};

/// Files that the server has open besides connections: the store and its readers, the
/// runtimes, logs, lookups, and some to spare.
const OTHER_FILES: u64 = 500;
/// Connections to endpoints kept for the next attempt: as many as are in flight at most.
const FILES_PER_ATTEMPT: u64 = 2;

/// Whether clients come in clear text or by TLS, or why they cannot come at all.
pub(super) fn tls(profile: &Profile) -> Result<Option<Arc<tls::Tls>>, Error> {
    let Profile::Serve(serve) = profile else { return Ok(None) };
    let Some(files) = files(&serve.tls)? else {
        return if serve.host.is_loopback() || serve.tls.plaintext {
            Ok(None)
        } else {
            Err(Error::Plaintext(serve.host))
        };
    };
    Ok(Some(tls::Tls::load(files)?))
}

fn files(tls: &config::Tls) -> Result<Option<tls::Files>, Error> {
    match (&tls.tls_cert, &tls.tls_key, &tls.tls_client_ca) {
        (Some(_), None, _) => Err(Error::HalfOfTls("--tls-cert", "--tls-key")),
        (None, Some(_), _) => Err(Error::HalfOfTls("--tls-key", "--tls-cert")),
        (None, None, Some(_)) => Err(Error::HalfOfTls("--tls-client-ca", "--tls-cert and --tls-key")),
        (_, _, None) if tls.tls_require_client_cert => {
            Err(Error::HalfOfTls("--tls-require-client-cert", "--tls-client-ca"))
        }
        (None, None, None) => Ok(None),
        (Some(_), Some(_), _) if tls.plaintext => Err(Error::TlsAndPlaintext),
        (Some(certificate), Some(key), client_ca) => Ok(Some(tls::Files {
            certificate: certificate.clone(),
            key: key.clone(),
            client_ca: client_ca.clone(),
            require_client_certificate: tls.tls_require_client_cert,
        })),
    }
}

/// What a key without a limit of its own may call.
pub(super) fn key_rate(clients: &config::Clients) -> Option<RateLimit> {
    let per_second = clients.key_rate;
    (per_second > 0).then(|| RateLimit {
        per_second: f64::from(per_second),
        burst: per_second * 2,
        disabled: false,
    })
}

/// How connections are taken.
pub(super) fn config(server: &config::Server, tls: Option<Arc<tls::Tls>>) -> front::Config {
    let asked = u64::from(server.clients.max_connections);
    let open_files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let connections = affordable(asked, open_files, u64::from(server.max_in_flight));
    if connections < asked {
        tracing::warn!(
            asked,
            connections,
            open_files,
            "fewer connections are taken than may be: raise the limit of open files"
        );
    }
    front::Config {
        connections_max: usize::try_from(connections).unwrap_or(usize::MAX),
        trusted_proxies: server.clients.trusted_proxies.clone().into(),
        tls,
        grace: GRACE,
    }
}

/// Connections that leave enough open files for deliveries, whoever connects; at least
/// one.
fn affordable(asked: u64, open_files: u64, in_flight: u64) -> u64 {
    let kept = OTHER_FILES + in_flight.saturating_mul(FILES_PER_ATTEMPT);
    asked.min(open_files.saturating_sub(kept)).max(1)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::config::{Cli, Command};

    fn serve(args: &[&str]) -> Result<bool, String> {
        let cli = Cli::parse_from([&["hookwire", "serve"], args].concat());
        let Command::Serve(serve) = cli.command else { panic!("serve: {cli:?}") };
        tls(&Profile::Serve(serve)).map(|tls| tls.is_some()).map_err(|error| error.to_string())
    }

    #[test]
    fn clear_text_beyond_loopback_needs_consent() {
        for host in ["127.0.0.1", "127.8.9.1", "::1"] {
            assert_eq!(serve(&["--host", host]), Ok(false), "{host}");
        }
        for host in ["0.0.0.0", "::", "192.0.2.1"] {
            let refused = serve(&["--host", host]).unwrap_err();
            assert!(refused.contains(host) && refused.contains("--plaintext"), "{refused}");
            assert_eq!(serve(&["--host", host, "--plaintext"]), Ok(false), "{host}");
        }
    }

    #[test]
    fn deliveries_have_their_open_files_before_clients() {
        assert_eq!(affordable(20_000, u64::MAX, 1024), 20_000);
        assert_eq!(affordable(20_000, 20_000, 1024), 20_000 - 500 - 2048);
        assert_eq!(affordable(20_000, 1024, 1024), 1);
    }
}
