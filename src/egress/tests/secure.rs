//! Endpoints behind TLS, with certificates made on the spot.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use tokio::{io::AsyncWriteExt as _, sync::mpsc};
use tokio_rustls::TlsAcceptor;

use super::peer::{OK, Peer, read_request};
use crate::domain::{SecretText, TlsIdentity, TlsOptions};

/// Bytes in PEM.
pub fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64_STANDARD.encode(der))
}

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// A certificate authority.
pub fn authority() -> Issuer {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for `name` and its key.
fn issue(authority: &Issuer, name: &str) -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (params.signed_by(&key, authority).unwrap(), key)
}

/// A certificate that is its own issuer.
pub struct SelfSigned {
    pub der: CertificateDer<'static>,
    pub key: KeyPair,
}

impl SelfSigned {
    /// One that is good from one year to another.
    pub fn at(name: &str, is_authority: bool, years: (i32, i32)) -> Self {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if is_authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate().unwrap();
        Self { der: params.self_signed(&key).unwrap().der().clone(), key }
    }

    pub fn pem(&self) -> String {
        pem("CERTIFICATE", &self.der)
    }
}

/// One for `name`, which calls itself an authority or does not.
pub fn self_signed(name: &str, is_authority: bool) -> SelfSigned {
    SelfSigned::at(name, is_authority, (2001, 4001))
}

/// The configuration of a server that shows `certificate` and, if `clients` is given, demands a
/// certificate that this authority issued.
pub fn config(
    certificate: CertificateDer<'static>,
    key: &KeyPair,
    clients: Option<&Issuer>,
) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let mut config = builder.with_single_cert(vec![certificate], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// What a TLS endpoint saw of one request: the client's certificates and the request.
pub type Seen = (Vec<CertificateDer<'static>>, String);

/// An endpoint behind TLS that answers every request with [`OK`] and reports it.
pub async fn serve(config: Arc<ServerConfig>) -> (Peer, mpsc::UnboundedReceiver<Seen>) {
    let acceptor = TlsAcceptor::from(config);
    let (seen, requests) = mpsc::unbounded_channel();
    let peer = Peer::start(move |stream, _| {
        let (acceptor, seen) = (acceptor.clone(), seen.clone());
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
            let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
            while let Some(request) = read_request(&mut stream).await {
                let _ = seen.send((certificates.clone(), request));
                stream.write_all(OK).await.unwrap();
            }
        }
    })
    .await;
    (peer, requests)
}

/// A server behind a certificate for `name`, and the authority that issued it.
pub async fn secure(name: &str) -> (Peer, CertificateDer<'static>) {
    let authority = authority();
    let (certificate, key) = issue(&authority, name);
    let (peer, _) = serve(config(certificate.der().clone(), &key, None)).await;
    (peer, authority.der().clone())
}

/// A server that demands a client certificate, with the TLS options that satisfy it and the
/// certificate in them.
pub struct Mutual {
    pub peer: Peer,
    pub requests: mpsc::UnboundedReceiver<Seen>,
    pub options: TlsOptions,
    pub client: CertificateDer<'static>,
}

/// Starts one behind a certificate for `name`.
pub async fn mutual(name: &str) -> Mutual {
    let (servers, clients) = (authority(), authority());
    let (certificate, key) = issue(&servers, name);
    let (peer, requests) = serve(config(certificate.der().clone(), &key, Some(&clients))).await;
    let (client, key) = issue(&clients, "hookwire");
    let identity = TlsIdentity {
        certificates: pem("CERTIFICATE", client.der()),
        key: SecretText::from(pem("PRIVATE KEY", &key.serialize_der())),
    };
    let options = TlsOptions { ca_certificates: pem("CERTIFICATE", servers.der()), identity: Some(identity) };
    Mutual { peer, requests, options, client: client.der().clone() }
}
