//! The rest of a body that nobody wants, after its request was refused.
//!
//! A client may send all of a body before it looks for an answer. If the connection were
//! closed with bytes unread, the system would reset it, and the answer could be lost on
//! the way. So what still comes is read and forgotten, for a while.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Version, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::{runtime::Handle, time::timeout};

use super::body::BODY_BYTES_MAX;

/// How long the rest may take.
const LINGER_TIMEOUT: Duration = Duration::from_secs(5);

/// A body whose rest is read once it is dropped.
struct Lingering(Option<Body>);

/// The body of a request, read to its end by whoever drops it. Over HTTP/2 there is no
/// need, and a client that waits to be told to go on sends nothing more.
pub(super) fn lingering(version: Version, headers: &HeaderMap, body: Body) -> Body {
    let is_needed = version <= Version::HTTP_11 && !headers.contains_key(header::EXPECT);
    if is_needed && !body.is_end_stream() { Body::new(Lingering(Some(body))) } else { body }
}

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(context);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.0 = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let rest = self.0.take().filter(|body| !body.is_end_stream());
        if let (Some(rest), Ok(runtime)) = (rest, Handle::try_current()) {
            runtime.spawn(timeout(LINGER_TIMEOUT, read(rest)));
        }
    }
}

async fn read(mut rest: Body) {
    let mut length = 0;
    while let Some(Ok(frame)) = rest.frame().await {
        length += frame.data_ref().map_or(0, Bytes::len);
        if length > BODY_BYTES_MAX {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use futures_util::{StreamExt as _, stream};

    use super::*;

    fn counted(read: &Arc<AtomicUsize>) -> Body {
        let read = Arc::clone(read);
        Body::from_stream(stream::iter(0..10).map(move |_| {
            read.fetch_add(1, Relaxed);
            Ok::<_, std::io::Error>(Bytes::from_static(b"x"))
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_of_a_dropped_body_is_read_where_it_has_to_be() {
        let expect = HeaderMap::from_iter([(header::EXPECT, "100-continue".parse().unwrap())]);
        for (version, headers, pieces) in [
            (Version::HTTP_11, HeaderMap::new(), 10),
            (Version::HTTP_2, HeaderMap::new(), 1),
            (Version::HTTP_11, expect, 1),
        ] {
            let read = Arc::new(AtomicUsize::new(0));
            let mut body = lingering(version, &headers, counted(&read));
            body.frame().await.unwrap().unwrap();
            drop(body);
            tokio::time::sleep(LINGER_TIMEOUT).await;
            assert_eq!(read.load(Relaxed), pieces, "{version:?}");
        }
    }
}
