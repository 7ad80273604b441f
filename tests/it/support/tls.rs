//! Authorities and their certificates, and a receiver behind TLS that asks its
//! callers who they are.

use std::{
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What a certificate says of itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The truth.
    Good,
    /// It ended years ago.
    Expired,
    /// Another name.
    OtherName,
    /// Nobody vouches for it.
    SelfSigned,
}

/// Issues certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    /// A new one, which nobody knows.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        Self { issuer, folder: tempfile::tempdir().expect("temporary directory") }
    }

    /// Its own certificate in PEM.
    pub fn pem(&self) -> String {
        pem("CERTIFICATE", self.issuer.der())
    }

    /// Its own certificate as a file.
    pub fn file(&self) -> PathBuf {
        let file = self.folder.path().join("ca.pem");
        std::fs::write(&file, self.pem()).expect("file");
        file
    }

    /// A certificate for 127.0.0.1 that makes a claim.
    pub fn certificate(&self, claim: Claim) -> Certificate {
        let name = if claim == Claim::OtherName { "other.example" } else { "127.0.0.1" };
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        if claim == Claim::Expired {
            (params.not_before, params.not_after) = (date_time_ymd(2019, 1, 1), date_time_ymd(2020, 1, 1));
        }
        let key = KeyPair::generate().expect("a key");
        let made = match claim {
            Claim::SelfSigned => params.self_signed(&key),
            Claim::Good | Claim::Expired | Claim::OtherName => params.signed_by(&key, &self.issuer),
        };
        Certificate { certificate: made.expect("a certificate"), key }
    }

    /// A certificate for a name in PEM, and its key.
    pub fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (pem("CERTIFICATE", certificate.der()), pem("PRIVATE KEY", &key.serialize_der()))
    }

    /// What a server is started with to have a certificate of this authority for
    /// `localhost`, and to take clients' certificates of it.
    pub fn server_args(&self) -> Vec<String> {
        let (certificate, key) = self.issue("localhost");
        let file = |name: &str, content: &str| {
            let file = self.folder.path().join(name);
            std::fs::write(&file, content).expect("file");
            file.display().to_string()
        };
        let (certificate, key) = (file("server.pem", &certificate), file("server.key", &key));
        let authority = self.file().display().to_string();
        ["--tls-cert", &certificate, "--tls-key", &key, "--tls-client-ca", &authority]
            .map(str::to_owned)
            .into()
    }

    /// How a client that trusts this authority connects, with a certificate and its key in
    /// PEM if it shows one.
    pub fn client(&self, identity: Option<&(String, String)>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("an authority");
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let config = match identity {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM");
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
                config.with_client_auth_cert(vec![certificate], key).expect("a certificate and its key")
            }
        };
        TlsConnector::from(Arc::new(config))
    }

    /// A receiver on loopback with a certificate of this authority, that serves
    /// nobody without one.
    pub async fn receiver(&self) -> TlsReceiver {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("an authority");
        let callers = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(callers.build().expect("a verifier"))
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .expect("a configuration");
        TlsReceiver::start(TlsAcceptor::from(Arc::new(config))).await
    }
}

/// A certificate and its key.
pub struct Certificate {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Certificate {
    pub fn acceptor(&self) -> TlsAcceptor {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.der().clone()], key)
            .expect("a certificate and its key");
        TlsAcceptor::from(Arc::new(config))
    }
}

/// SHA-256 of a certificate in PEM, in hex.
pub fn fingerprint(pem: &str) -> String {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
    hex::encode(Sha256::digest(&der))
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Answers 200 and keeps the headers of every request.
pub struct TlsReceiver {
    requests: Arc<Mutex<Vec<HeaderMap>>>,
    accepting: JoinHandle<()>,
    /// `https://127.0.0.1:PORT/`.
    pub url: String,
}

impl TlsReceiver {
    async fn start(acceptor: TlsAcceptor) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bind");
        let url = format!("https://{}/", listener.local_addr().expect("address"));
        let requests = Arc::<Mutex<Vec<HeaderMap>>>::default();
        let seen = Arc::clone(&requests);
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accept");
                let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
                tokio::spawn(async move {
                    // Who has no certificate is sent away here.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let answer = service_fn(|request: Request<Incoming>| {
                        let seen = Arc::clone(&seen);
                        async move {
                            let (head, body) = request.into_parts();
                            let _ = body.collect().await;
                            seen.lock().unwrap_or_else(PoisonError::into_inner).push(head.headers);
                            Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
                        }
                    });
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Self { requests, accepting, url }
    }

    /// The headers of every request so far.
    pub fn requests(&self) -> Vec<HeaderMap> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for TlsReceiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
