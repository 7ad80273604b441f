//! One connection: the end that takes requests, and the task that drives it.

use std::{
    future::{Future as _, poll_fn},
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::Poll,
};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinHandle,
};

use super::{fault::broken, tls::Stream};
use crate::domain::{Fault, Timestamp};

/// Bytes of a response head at most; also the size of the read buffer.
const HEAD_MAX: usize = 64 * 1024;

/// Informational responses to one request at most. One is common, a few may be
/// early hints; the library itself would take any number.
const INFORMATIONAL_MAX: u32 = 8;

/// A connection to an origin. Unless it is parked, dropping it closes the socket
/// at once.
pub(super) struct Link {
    pub(super) sender: SendRequest<Full<Bytes>>,
    /// Who is at the other end; nobody knows behind a proxy.
    pub(super) remote: Option<Arc<str>>,
    /// Until when it may be used again, while it is idle.
    pub(super) idle_until: Timestamp,
    /// From here on it is not kept for another request.
    pub(super) retire_at: Timestamp,
    /// Requests that it has carried.
    pub(super) requests: u32,
    informational: Arc<AtomicU32>,
    driver: JoinHandle<Option<hyper::Error>>,
    parked: bool,
}

/// How HTTP is spoken, also to a proxy.
///
/// Receivers write odd header lines, and what they mean is clear all the same. A folded line is
/// read as one line (RFC 9112, section 5.2), white space before a colon is not part of the name,
/// and a line that is no header is skipped. None of this is done to the length of the body: two
/// different lengths, or one that is not a number, end the connection without an answer.
pub(super) fn http1() -> Builder {
    let mut builder = Builder::new();
    // The number of headers is left at its default of 100: to set it, even to
    // the same number, costs an allocation per response.
    builder
        .max_buf_size(HEAD_MAX)
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .ignore_invalid_headers_in_responses(true);
    builder
}

impl Link {
    /// Starts HTTP on a connection.
    pub(super) async fn start(stream: Stream, remote: Option<SocketAddr>) -> Result<Self, Fault> {
        match stream {
            Stream::Plain(stream) => Self::spawn(stream, remote).await,
            Stream::Tls(stream) => Self::spawn(stream, remote).await,
            Stream::Proxied(stream) => Self::spawn(stream, remote).await,
        }
    }

    async fn spawn<S>(stream: S, remote: Option<SocketAddr>) -> Result<Self, Fault>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let started = http1().handshake(TokioIo::new(stream)).await;
        let (sender, connection) = started.map_err(|error| broken(&error))?;
        let informational = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&informational);
        let driver = tokio::spawn(async move {
            let mut connection = pin!(connection);
            // How it ends is told to the request in flight.
            poll_fn(|cx| match connection.as_mut().poll(cx) {
                Poll::Pending if seen.load(Ordering::Relaxed) <= INFORMATIONAL_MAX => Poll::Pending,
                Poll::Pending => Poll::Ready(None),
                Poll::Ready(ended) => Poll::Ready(ended.err()),
            })
            .await
        });
        let remote = remote.map(|remote| remote.to_string().into());
        Ok(Self {
            sender,
            remote,
            idle_until: Timestamp::MAX,
            retire_at: Timestamp::MAX,
            requests: 0,
            informational,
            driver,
            parked: false,
        })
    }

    /// Counts the informational responses to a request that is about to be sent.
    pub(super) fn watch(&self, message: &mut Request<Full<Bytes>>) {
        self.informational.store(0, Ordering::Relaxed);
        let seen = Arc::clone(&self.informational);
        hyper::ext::on_informational(message, move |_| {
            seen.fetch_add(1, Ordering::Relaxed);
        });
    }

    /// Whether there were too many of them.
    pub(super) fn is_flooded(&self) -> bool {
        self.informational.load(Ordering::Relaxed) > INFORMATIONAL_MAX
    }

    /// What ended it, if no request was told.
    pub(super) async fn end(&mut self) -> Option<hyper::Error> {
        (&mut self.driver).await.ok().flatten()
    }

    /// Whether it is known to be closed.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Marks it as idle, or as in use again. When an idle connection is dropped,
    /// it is closed in order: TLS says goodbye.
    pub(super) fn park(&mut self, parked: bool) {
        self.parked = parked;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The driver owns the socket. Left to itself it might hold on to it: to
        // drain a body, or to write to a peer that does not read.
        if !self.parked {
            self.driver.abort();
        }
    }
}
