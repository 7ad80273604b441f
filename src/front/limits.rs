//! What one client may take, in numbers.

use std::time::Duration;

use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::conn::auto::Builder,
};

use crate::entropy::Entropy;

/// For the first bytes of a connection, by which its client says which protocol it speaks:
/// the whole preface of HTTP/2, or the first byte of HTTP/1 that is no part of one.
pub(super) const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
/// For the whole of a TLS handshake, which takes two round trips.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// For the head of an HTTP/1 request, and so for the silence between two: longer than
/// the 60 s for which common proxies keep a connection to use it again, so that it is
/// they who close it and no request is on its way then.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(75);
/// A peer that is gone without a word is found out within the two of these, which
/// is below the 60 s after which common proxies forget an idle connection.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How often it is looked at what goes on on a connection.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Looks without a move after which a connection is given up, that is 5 minutes: longer
/// than a client pauses that calls every few minutes, and a client that does not read
/// what it asked for holds up to a window of it for so long.
pub(super) const QUIET_LOOKS: u32 = 5;
/// After which a connection takes no more calls, so that clients spread anew over
/// servers that were added; a tenth more or less, so that they do not all do so at once.
const AGE: Duration = Duration::from_secs(30 * 60);
/// Calls of one connection that are worked on at once: from the request to the head of
/// the answer. A call beyond that waits for another one to be answered. It is four times
/// what keeps the server busy: `hookwire bench unary` has 32 on each of eight connections.
pub(super) const CALLS_MAX: usize = 128;
/// Open streams of one connection, which mostly wait: watches, publishing streams, health.
/// One more is refused.
pub(super) const STREAMS_MAX: usize = 512;
/// Streams of HTTP/2 of one connection: calls and open streams have room of their own, so
/// that neither keeps the other out. A client waits or opens another connection for more.
const HTTP2_STREAMS_MAX: u32 = (CALLS_MAX + STREAMS_MAX) as u32;
/// Calls that a client may open and reset before we got to them, before it is taken for
/// an attack (rapid reset) and hung up on. The usual number.
const RESETS_PENDING_MAX: usize = 20;
/// Streams that we reset for errors of the client, before it is hung up on.
const RESETS_FOR_ERRORS_MAX: usize = 256;
/// Lets one publisher keep 1 MiB in flight, so that a round trip does not bound it.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Several such publishers on one connection.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Headers of one request; what proxies commonly allow.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// Headers of one HTTP/1 request by number.
const HEADERS_MAX: usize = 100;

/// What speaks HTTP/1.1 and HTTP/2 within these limits.
pub(super) fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_headers(HEADERS_MAX)
        // The head of a request has to fit; its body passes through.
        .max_buf_size(HEADER_BYTES_MAX as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .max_local_error_reset_streams(RESETS_FOR_ERRORS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEADER_BYTES_MAX);
    builder
}

/// How long this connection takes calls.
pub(super) fn age(entropy: &Entropy) -> Duration {
    AGE.mul_f64(0.9 + 0.2 * entropy.unit())
}
