//! Who we say we are, and who clients prove to be.

use std::{fs, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::Channel;

use super::{
    super::tls::{Error, Files, Tls},
    *,
};
use crate::grpc::pb::endpoint_service_client::EndpointServiceClient;

/// Signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn sign(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.0);
        Identity { certificate: certificate.unwrap(), key }
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64_STANDARD.encode(der))
}

/// Files of a server and the authority that clients know it by.
struct Setup {
    folder: TempDir,
    authority: Authority,
    files: Files,
}

impl Setup {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name| folder.path().join(name);
        let files = Files {
            certificate: at("cert.pem"),
            key: at("key.pem"),
            client_ca: None,
            require_client_certificate: false,
        };
        let setup = Self { folder, authority: Authority::new(), files };
        setup.renew();
        setup
    }

    /// Asks clients for certificates of the same authority.
    fn asking(required: bool) -> Self {
        let mut setup = Self::new();
        let path = setup.folder.path().join("ca.pem");
        fs::write(&path, pem("CERTIFICATE", setup.authority.0.der())).unwrap();
        setup.files.client_ca = Some(path);
        setup.files.require_client_certificate = required;
        setup
    }

    /// Another certificate for the server.
    fn renew(&self) -> Identity {
        let identity = self.authority.sign("localhost");
        write(&self.files.certificate, &self.files.key, &identity);
        identity
    }

    fn load(&self) -> Arc<Tls> {
        Tls::load(self.files.clone()).unwrap()
    }

    fn client(&self, identity: Option<&Identity>, alpn: &[&str]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.0.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => config.with_no_client_auth(),
            Some(Identity { certificate, key }) => {
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
                config.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
            }
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }
}

fn write(certificate: &Path, key: &Path, identity: &Identity) {
    fs::write(certificate, pem("CERTIFICATE", identity.certificate.der())).unwrap();
    fs::write(key, pem("PRIVATE KEY", &identity.key.serialize_der())).unwrap();
}

async fn connect(connector: &TlsConnector, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await.unwrap();
    connector.connect(ServerName::try_from("localhost").unwrap(), stream).await
}

/// The digest of the certificate that the other end showed.
fn shown(stream: &TlsStream<TcpStream>) -> [u8; 32] {
    Sha256::digest(&stream.get_ref().1.peer_certificates().unwrap()[0]).into()
}

fn digest(identity: &Identity) -> [u8; 32] {
    Sha256::digest(identity.certificate.der()).into()
}

async fn get_endpoint(connector: TlsConnector, address: SocketAddr) -> Result<(), tonic::Status> {
    let channel: Channel = tonic::transport::Endpoint::from_static("http://localhost")
        .connect_with_connector_lazy(tower::service_fn(move |_| {
            let connector = connector.clone();
            async move { connect(&connector, address).await.map(TokioIo::new) }
        }));
    let request = pb::GetEndpointRequest { id: "e".to_owned() };
    EndpointServiceClient::new(channel).get_endpoint(request).await.map(|_| ())
}

async fn rest(connector: &TlsConnector, address: SocketAddr) -> String {
    match connect(connector, address).await {
        Ok(stream) => ask(stream, "/v1/endpoints/e", "").await,
        Err(_) => String::new(),
    }
}

#[tokio::test]
async fn grpc_and_rest_share_the_port_by_alpn() {
    let (setup, fake) = (Setup::new(), Fake::default());
    let address = start_tls(&fake, &setup.load()).await;
    get_endpoint(setup.client(None, &["h2"]), address).await.unwrap();
    assert_eq!(fake.peer.lock().unwrap().unwrap().certificate, None);
    for offered in [&["http/1.1"][..], &[]] {
        assert!(rest(&setup.client(None, offered), address).await.starts_with("HTTP/1.1 200"));
    }
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1", "h2"], Some(b"h2")),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let stream = connect(&setup.client(None, offered), address).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen, "{offered:?}");
    }
    // Clear text is not understood.
    let stream = TcpStream::connect(address).await.unwrap();
    assert!(!ask(stream, "/v1/endpoints/e", "").await.contains("HTTP"));
}

#[tokio::test]
async fn a_client_is_known_by_its_certificate_on_every_way_in() {
    let (setup, fake) = (Setup::asking(true), Fake::default());
    let address = start_tls(&fake, &setup.load()).await;
    let identity = setup.authority.sign("client");
    let seen = || fake.peer.lock().unwrap().take().and_then(|peer| peer.certificate);
    get_endpoint(setup.client(Some(&identity), &["h2"]), address).await.unwrap();
    assert_eq!(seen(), Some(digest(&identity)));
    assert!(rest(&setup.client(Some(&identity), &[]), address).await.starts_with("HTTP/1.1 200"));
    assert_eq!(seen(), Some(digest(&identity)));
}

#[tokio::test]
async fn a_client_without_a_certificate_passes_unless_one_is_required() {
    for required in [false, true] {
        let (setup, fake) = (Setup::asking(required), Fake::default());
        let address = start_tls(&fake, &setup.load()).await;
        let answer = rest(&setup.client(None, &[]), address).await;
        assert_eq!(answer.starts_with("HTTP/1.1 200"), !required, "{answer}");
        assert_eq!(get_endpoint(setup.client(None, &["h2"]), address).await.is_ok(), !required);
        let asked = fake.peer.lock().unwrap().is_some();
        assert_eq!(asked, !required, "nothing of a refused client gets through");
    }
}

#[tokio::test]
async fn a_client_of_a_foreign_authority_is_turned_away_even_if_none_is_required() {
    let (setup, fake) = (Setup::asking(false), Fake::default());
    let address = start_tls(&fake, &setup.load()).await;
    let stranger = Authority::new().sign("client");
    assert_eq!(rest(&setup.client(Some(&stranger), &[]), address).await, "");
    get_endpoint(setup.client(Some(&stranger), &["h2"]), address).await.unwrap_err();
    assert!(fake.peer.lock().unwrap().is_none());
}

#[tokio::test]
async fn new_files_are_for_new_connections_and_bad_ones_for_none() {
    let (setup, fake) = (Setup::new(), Fake::default());
    let tls = setup.load();
    let address = start_tls(&fake, &tls).await;
    let now = Arc::new(Notify::new());
    tokio::spawn(Arc::clone(&tls).keep_current(Arc::clone(&now), CancellationToken::new()));
    let client = setup.client(None, &[]);
    let old = connect(&client, address).await.unwrap();
    let first = shown(&old);

    let second = digest(&setup.renew());
    assert_ne!(first, second);
    now.notify_one();
    let becomes = |wanted: [u8; 32]| {
        let client = client.clone();
        timeout(LONG, async move {
            while shown(&connect(&client, address).await.unwrap()) != wanted {
                tokio::task::yield_now().await;
            }
        })
    };
    becomes(second).await.expect("new connections get the new certificate");

    // A key of another certificate, as while the two are being replaced.
    let third = setup.authority.sign("localhost");
    fs::write(&setup.files.certificate, pem("CERTIFICATE", third.certificate.der())).unwrap();
    tls.look(false);
    assert_eq!(shown(&connect(&client, address).await.unwrap()), second, "the last good ones stay");
    fs::remove_file(&setup.files.certificate).unwrap();
    tls.look(false);
    assert_eq!(shown(&connect(&client, address).await.unwrap()), second, "also when they are gone");
    write(&setup.files.certificate, &setup.files.key, &third);
    tls.look(false);
    assert_eq!(shown(&connect(&client, address).await.unwrap()), digest(&third));

    assert!(ask(old, "/v1/endpoints/e", "").await.starts_with("HTTP/1.1 200"), "the oldest goes on");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_does_not_end_is_broken_off_after_five_seconds() {
    let (setup, listener) = (Setup::new(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let _silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let tls = setup.load();
    let mut accepted = std::pin::pin!(tls.accept(stream));
    assert!(timeout(Duration::from_millis(4900), accepted.as_mut()).await.is_err());
    let error = timeout(Duration::from_millis(200), accepted).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn handshakes_that_do_not_end_hold_up_nobody() {
    let (setup, fake) = (Setup::new(), Fake::default());
    let address = start_tls(&fake, &setup.load()).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let client = setup.client(None, &[]);
    let answer = timeout(Duration::from_secs(4), rest(&client, address)).await.expect("before theirs end");
    assert!(answer.starts_with("HTTP/1.1 200"));
}

#[test]
fn what_is_wrong_with_the_files_is_said_by_name() {
    let setup = Setup::asking(false);
    let refused = |path: &Path, content: &[u8]| {
        let before = fs::read(path).unwrap();
        fs::write(path, content).unwrap();
        let error = Tls::load(setup.files.clone()).unwrap_err();
        fs::write(path, before).unwrap();
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        error
    };
    let Files { certificate, key, client_ca, .. } = &setup.files;
    let client_ca = client_ca.as_ref().unwrap();
    let other = Authority::new().sign("localhost");
    let other_key = pem("PRIVATE KEY", &other.key.serialize_der());
    assert!(matches!(refused(certificate, b""), Error::NoCertificate(_)));
    assert!(matches!(refused(certificate, other_key.as_bytes()), Error::NoCertificate(_)));
    assert!(matches!(
        refused(certificate, b"-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n"),
        Error::NotPem(..)
    ));
    assert!(matches!(refused(certificate, pem("CERTIFICATE", b"?").as_bytes()), Error::Unusable { .. }));
    assert!(matches!(refused(key, b"nothing"), Error::NoKey(_)));
    assert!(matches!(refused(key, pem("PRIVATE KEY", b"?").as_bytes()), Error::Unusable { .. }));
    assert!(matches!(refused(key, other_key.as_bytes()), Error::OtherKey { .. }));
    assert!(matches!(refused(client_ca, b""), Error::NoCertificate(_)));
    assert!(matches!(refused(client_ca, pem("CERTIFICATE", b"?").as_bytes()), Error::Authority(..)));
    fs::remove_file(key).unwrap();
    assert!(matches!(Tls::load(setup.files.clone()).unwrap_err(), Error::Unreadable(..)));
}
