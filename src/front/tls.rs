//! TLS on the one port: who we are, whom we ask who they are, and new files for both.

mod files;

use std::{
    io,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
    server::{VerifierBuilderError, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use sha2::{Digest as _, Sha256};
use tokio::{
    net::TcpStream,
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use self::files::Contents;
pub use self::files::Files;
use super::limits;
use crate::explain;

/// How often the files are looked at. They are small, and a certificate is renewed days
/// before its end.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why the files cannot be used. Each sentence says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {0}: give the path of a file that the server may read")]
    Unreadable(String, #[source] io::Error),
    /// A file is not PEM.
    #[error("{0} is not PEM: give a file with BEGIN and END lines")]
    NotPem(String, #[source] pem::Error),
    /// A file has no certificate.
    #[error("there is no certificate in {0}: give a PEM file with one or more")]
    NoCertificate(String),
    /// The key's file has none.
    #[error("there is no private key in {0}: give a PEM file with a PKCS#8, PKCS#1 or SEC1 key")]
    NoKey(String),
    /// The key is another certificate's.
    #[error("{key} does not fit {certificate}: give the key that the first certificate was made for")]
    OtherKey {
        /// The key's file.
        key: String,
        /// The certificate's file.
        certificate: String,
    },
    /// Certificate or key are damaged or of an unknown kind.
    #[error("{certificate} and {key} cannot be used: give a certificate with an RSA, ECDSA or Ed25519 key")]
    Unusable {
        /// The certificate's file.
        certificate: String,
        /// The key's file.
        key: String,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// An authority's certificate is damaged.
    #[error("{0} cannot be used: give the certificates of the authorities that sign the clients'")]
    Authority(String, #[source] rustls::Error),
    /// The authorities cannot verify anybody.
    #[error("{0} cannot be used: give the certificates of the authorities that sign the clients'")]
    Verifier(String, #[source] VerifierBuilderError),
}

/// The server's side of TLS, made from files and made again when they change.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    current: RwLock<Arc<ServerConfig>>,
    /// What was read last, good or bad.
    seen: RwLock<Option<[u8; 32]>>,
}

impl Tls {
    /// Reads the files.
    pub fn load(files: Files) -> Result<Arc<Self>, Error> {
        let contents = files.read()?;
        let (current, seen) = (configure(&files, &contents)?, contents.digest());
        Ok(Arc::new(Self { files, current: RwLock::new(current), seen: RwLock::new(Some(seen)) }))
    }

    /// Until `stop`, reads the files again every few seconds and whenever told to, and
    /// uses them for new connections if they changed. Files that are of no use are
    /// logged, and the last good ones used on.
    pub async fn keep_current(self: Arc<Self>, now: Arc<Notify>, stop: CancellationToken) {
        loop {
            let told = tokio::select! {
                () = stop.cancelled() => return,
                () = now.notified() => true,
                () = sleep(LOOK_EVERY) => false,
            };
            let this = Arc::clone(&self);
            if let Err(error) = tokio::task::spawn_blocking(move || this.look(told)).await {
                tracing::error!(%error, "the TLS files could not be looked at");
            }
        }
    }

    /// Uses the files if they are others than last time; `told` says it even if not.
    pub(super) fn look(&self, told: bool) {
        let read = self.files.read();
        let digest = read.as_ref().ok().map(Contents::digest);
        let before = std::mem::replace(&mut *lock(self.seen.write()), digest);
        if before == digest && !told {
            return;
        }
        match read.and_then(|contents| configure(&self.files, &contents)) {
            Ok(config) => {
                *lock(self.current.write()) = config;
                tracing::info!("new connections use the TLS files as they are now");
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(explain::chain).unwrap_or_default();
                tracing::error!(%error, cause, "the TLS files are of no use; the last good ones stay in use");
            }
        }
    }

    /// Shakes hands, and tells the digest of the client's certificate if it showed one.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Option<[u8; 32]>)> {
        let current = Arc::clone(&*lock(self.current.read()));
        let acceptor = TlsAcceptor::from(current);
        let stream = timeout(limits::HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let digest = shown.map(|leaf| Sha256::digest(leaf).into());
        Ok((stream, digest))
    }
}

/// What rustls needs to know. Resumed sessions are this configuration's own, so they end
/// with it.
fn configure(files: &Files, contents: &Contents) -> Result<Arc<ServerConfig>, Error> {
    let (certificate, key) = (files::named(&files.certificate), files::named(&files.key));
    let unusable = |source| Error::Unusable { certificate: certificate.clone(), key: key.clone(), source };
    let chain = certificates(&certificate, &contents.certificate)?;
    let private = PrivateKeyDer::from_pem_slice(&contents.key).map_err(|error| {
        let none = matches!(error, pem::Error::NoItemsFound);
        if none { Error::NoKey(key.clone()) } else { Error::NotPem(key.clone(), error) }
    })?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = match (&files.client_ca, &contents.client_ca) {
        (Some(path), Some(pem)) => builder.with_client_cert_verifier(verifier(
            &files::named(path),
            pem,
            files.require_client_certificate,
        )?),
        (None, _) | (_, None) => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, private).map_err(|error| {
        if matches!(error, rustls::Error::InconsistentKeys(_)) {
            Error::OtherKey { key: key.clone(), certificate: certificate.clone() }
        } else {
            unusable(error)
        }
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| Error::NotPem(path.to_owned(), error))?;
    if all.is_empty() { Err(Error::NoCertificate(path.to_owned())) } else { Ok(all) }
}

/// Verifies what a client shows against these authorities; one that shows nothing may
/// pass unless `required`.
fn verifier(path: &str, pem: &[u8], required: bool) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(path, pem)? {
        roots.add(authority).map_err(|error| Error::Authority(path.to_owned(), error))?;
    }
    let provider = Arc::new(ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| Error::Verifier(path.to_owned(), error))
}

fn lock<T>(locked: Result<T, PoisonError<T>>) -> T {
    locked.unwrap_or_else(PoisonError::into_inner)
}
