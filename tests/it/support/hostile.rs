//! Receivers that misbehave in every way that occurred to us, byte by byte.

use std::{
    io::Write as _,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::tls::Certificate;

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
