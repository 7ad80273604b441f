//! TLS: which authorities are trusted, who we are, and the handshake.

mod pin;

use std::{fmt, io, sync::Arc};

use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore,
    client::{WantsClientCert, WebPkiServerVerifier},
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{fault::fault, proxy::Io};
use crate::{
    domain::{Cause, Fault, TlsIdentity, TlsOptions},
    explain,
};

/// A connector that trusts the public authorities and `extra`, offers HTTP/1.1
/// alone, and resumes sessions.
pub(super) fn connector(extra: &[CertificateDer<'static>]) -> Result<TlsConnector, rustls::Error> {
    Ok(finish(trusting(extra)?.with_no_client_auth()))
}

/// TLS options that cannot be used, and why. Names no part of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTls {
    /// The authorities.
    #[error("{0}")]
    Authorities(String),
    /// Our certificate.
    #[error("{0}")]
    Certificate(String),
    /// Its key.
    #[error("{0}")]
    Key(String),
}

/// TLS towards one endpoint, where it differs from TLS towards all others. Made by
/// [`Client::tls`](super::Client::tls).
#[derive(Clone)]
pub struct Tls(Arc<Own>);

struct Own {
    connector: TlsConnector,
    /// Connections are shared by those who have the same.
    mark: Arc<str>,
}

impl Tls {
    pub(super) fn new(extra: &[CertificateDer<'static>], options: &TlsOptions) -> Result<Self, BadTls> {
        let authorities = certificates(&options.ca_certificates).map_err(BadTls::Authorities)?;
        if authorities.is_empty() && !options.ca_certificates.is_empty() {
            return Err(BadTls::Authorities("has no certificate in PEM".to_owned()));
        }
        let roots: Vec<_> = extra.iter().cloned().chain(authorities).collect();
        let unusable = |error| {
            BadTls::Authorities(format!("has a certificate that cannot be used: {}", explain::tls(&error)))
        };
        let builder = trusting(&roots).map_err(unusable)?;
        let config = match &options.identity {
            Some(identity) => identified(builder, identity)?,
            None => builder.with_no_client_auth(),
        };
        let mut hash = Sha256::new();
        let identity = options.identity.as_ref();
        let (chain, key) = identity.map_or(("", ""), |it| (it.certificates.as_str(), it.key.expose()));
        for part in [&options.ca_certificates, chain, key] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mark = hex::encode(hash.finalize()).into();
        Ok(Self(Arc::new(Own { connector: finish(config), mark })))
    }

    pub(super) fn connector(&self) -> &TlsConnector {
        &self.0.connector
    }

    pub(super) fn mark(&self) -> &Arc<str> {
        &self.0.mark
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(***)")
    }
}

/// Checks TLS options: they can be read, and the key is the certificate's.
pub fn check_tls(options: &TlsOptions) -> Result<(), BadTls> {
    Tls::new(&[], options).map(drop)
}

fn trusting(
    extra: &[CertificateDer<'static>],
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, rustls::Error> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for root in extra {
        roots.add(root.clone())?;
    }
    let provider = Arc::new(ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    if extra.is_empty() {
        return Ok(builder.with_root_certificates(roots));
    }
    let by_authority = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let verifier = pin::Verifier { by_authority, given: extra.to_vec() };
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
}

fn identified(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    identity: &TlsIdentity,
) -> Result<ClientConfig, BadTls> {
    let chain = certificates(&identity.certificates).map_err(BadTls::Certificate)?;
    if chain.is_empty() {
        return Err(BadTls::Certificate("has no certificate in PEM".to_owned()));
    }
    // What the parser says might quote the key.
    let key = PrivateKeyDer::from_pem_slice(identity.key.expose().as_bytes())
        .map_err(|_| BadTls::Key("is not an unencrypted private key in PEM".to_owned()))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| {
        if let rustls::Error::InvalidCertificate(why) = error {
            BadTls::Certificate(format!("cannot be used: it {}", explain::certificate(&why)))
        } else if let rustls::Error::InconsistentKeys(_) = error {
            BadTls::Key("is not the key of the certificate".to_owned())
        } else {
            BadTls::Key("cannot be used: of an unknown kind, or damaged".to_owned())
        }
    })
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<_, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    all.map_err(|_| "is not PEM: send it with its BEGIN and END lines".to_owned())
}

fn finish(mut config: ClientConfig) -> TlsConnector {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
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
    let why = match explain::tls_in(error) {
        Some(reason) => explain::tls(reason),
        None => super::fault::sentence(error),
    };
    fault(Cause::Tls, format!("the TLS handshake failed: {why}"))
}
