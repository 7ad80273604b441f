//! TLS: which authorities are trusted, and the handshake.

use std::{io, sync::Arc};

use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::CertificateDer};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Target, fault::fault};
use crate::domain::{Cause, Fault};

/// Makes TLS connections, or says why it cannot.
pub(super) type Connector = Result<TlsConnector, String>;

/// A connector that trusts the public authorities and `extra`, offers HTTP/1.1
/// alone, and resumes sessions.
pub(super) fn connector(extra: Vec<CertificateDer<'static>>) -> Connector {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for root in extra {
        roots
            .add(root)
            .map_err(|error| format!("a configured certificate authority cannot be used: {error}"))?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be used: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Shakes hands over a connection; a plain one is left as it is.
pub(super) async fn wrap(connector: &Connector, target: &Target, tcp: TcpStream) -> Result<Stream, Fault> {
    let Some(name) = target.server_name() else { return Ok(Stream::Plain(tcp)) };
    let connector = connector.as_ref().map_err(|why| fault(Cause::Tls, why.as_str()))?;
    let stream = connector.connect(name.clone(), tcp).await.map_err(|error| broken(&error))?;
    Ok(Stream::Tls(Box::new(stream)))
}

/// A connection that is ready for HTTP.
pub(super) enum Stream {
    Plain(TcpStream),
    /// Boxed: a TLS session is several times the size of a socket.
    Tls(Box<TlsStream<TcpStream>>),
}

fn broken(error: &io::Error) -> Fault {
    let why = match reason(error) {
        Some(reason) => reason.to_string(),
        None => super::fault::sentence(error),
    };
    fault(Cause::Tls, format!("the TLS handshake failed: {why}"))
}

/// The TLS error inside an I/O error.
pub(super) fn reason(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}
