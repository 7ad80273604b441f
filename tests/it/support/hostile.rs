//! Receivers that misbehave in every way that occurred to us, byte by byte.

use std::{
    io::Write as _,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use flate2::{Compression, write::GzEncoder};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

/// Between the bytes of those who are slow on purpose.
const DRIP: Duration = Duration::from_millis(50);
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;
type Behaviour = Arc<dyn Fn(TcpStream) -> Serving + Send + Sync>;

/// A listening receiver that treats every connection in the same bad way.
pub struct Hostile {
    /// Where it is.
    pub url: String,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Hostile {
    async fn start(scheme: &str, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bind");
        let url = format!("{scheme}://{}/hook", listener.local_addr().expect("address"));
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(behaviour(stream));
            }
        });
        Self { url, connections, accepting }
    }

    /// Serves connections by a function.
    pub async fn serving<F>(serve: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start("http", Arc::new(move |stream| Box::pin(serve(stream)))).await
    }

    /// Takes a request, answers these bytes, and hangs up if asked to; otherwise waits for
    /// the other side to do so.
    pub async fn saying(answer: impl Into<Vec<u8>>, hangs_up: bool) -> Self {
        let answer: Arc<[u8]> = answer.into().into();
        Self::serving(move |mut stream| {
            let answer = Arc::clone(&answer);
            async move {
                while request(&mut stream).await {
                    if stream.write_all(&answer).await.is_err() || hangs_up {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// Takes a request, says a beginning, and goes on with a piece for ever: as fast as it
    /// is read, or drop by drop.
    pub async fn endless(beginning: &'static str, piece: impl Into<Vec<u8>>, drips: bool) -> Self {
        let piece: Arc<[u8]> = piece.into().into();
        Self::serving(move |mut stream| {
            let piece = Arc::clone(&piece);
            async move {
                request(&mut stream).await;
                let mut open = stream.write_all(beginning.as_bytes()).await.is_ok();
                while open {
                    open = stream.write_all(&piece).await.is_ok();
                    if drips {
                        tokio::time::sleep(DRIP).await;
                    }
                }
            }
        })
        .await
    }

    /// Behind TLS with a certificate; a good receiver otherwise.
    pub async fn with_certificate(certificate: Certificate) -> Self {
        let acceptor = certificate.acceptor();
        let serve = move |stream| {
            let acceptor = acceptor.clone();
            let serving = async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                while request(&mut stream).await {
                    if stream.write_all(OK).await.is_err() {
                        return;
                    }
                }
            };
            Box::pin(serving) as Serving
        };
        Self::start("https", Arc::new(serve)).await
    }

    /// Said to speak TLS, and does something else.
    pub async fn without_tls<F>(serve: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start("https", Arc::new(move |stream| Box::pin(serve(stream)))).await
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Reads a request to its end; whether there was one.
pub async fn request(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> bool {
    let mut seen = Vec::new();
    loop {
        if stream.read_buf(&mut seen).await.unwrap_or(0) == 0 {
            return false;
        }
        let Some(at) = seen.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&seen[..at]).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if seen.len() >= at + 4 + length.unwrap_or(0) {
            return true;
        }
    }
}

/// Waits for the other side to hang up.
pub async fn silence(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).await.is_ok_and(|len| len > 0) {}
}

/// An answer whose body is 64 MiB once it is inflated.
pub fn gzip_bomb() -> Vec<u8> {
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    for _ in 0..64 {
        bomb.write_all(&vec![0; 1 << 20]).expect("memory");
    }
    let bomb = bomb.finish().expect("memory");
    let head = format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", bomb.len());
    [head.into_bytes(), bomb].concat()
}

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

/// An authority whose file a server can be told to trust.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        let folder = tempfile::tempdir().expect("temporary directory");
        let der = BASE64_STANDARD.encode(issuer.der());
        let pem = format!("-----BEGIN CERTIFICATE-----\n{der}\n-----END CERTIFICATE-----\n");
        std::fs::write(folder.path().join("ca.pem"), pem).expect("file");
        Self { issuer, folder }
    }

    /// Its certificate as a file.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
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
}

/// A certificate and its key.
pub struct Certificate {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Certificate {
    fn acceptor(&self) -> TlsAcceptor {
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
