//! TLS: which authorities are trusted, and the handshake.

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{fault::fault, proxy::Io};
use crate::domain::{Cause, Fault};

/// A connector that trusts the public authorities and `extra`, offers HTTP/1.1
/// alone, and resumes sessions.
pub(super) fn connector(extra: &[CertificateDer<'static>]) -> Result<TlsConnector, rustls::Error> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for root in extra {
        roots.add(root.clone())?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Shakes hands over a connection with whoever has this name.
pub(super) async fn wrap<S>(
    connector: &TlsConnector,
    name: &ServerName<'static>,
    stream: S,
) -> Result<TlsStream<S>, Fault>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    connector.connect(name.clone(), stream).await.map_err(|error| broken(&error))
}

/// A connection that is ready for HTTP.
pub(super) enum Stream {
    Plain(TcpStream),
    /// Boxed: a TLS session is several times the size of a socket.
    Tls(Box<TlsStream<TcpStream>>),
    /// Through a proxy; with TLS inside or without.
    Proxied(Box<dyn Io>),
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
