//! Answers that end before their time.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};

use super::status::last_frame;

/// How often it is asked whether it is over, besides being told: well within the 5 s
/// after which a key is of no use anywhere.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The body of a stream's answer, which ends with a status of its own once its
/// principal is over. What the stream is made of is dropped then.
pub(super) struct Until {
    inner: Option<Body>,
    told: Pin<Box<WaitForCancellationFutureOwned>>,
    look: Pin<Box<Sleep>>,
    is_over: Box<dyn Fn() -> bool + Send>,
    status: Status,
}

impl Until {
    /// A body that ends with `status` once `told`, or when it `is_over`.
    pub fn new(
        inner: Body,
        told: CancellationToken,
        is_over: impl Fn() -> bool + Send + 'static,
        status: Status,
    ) -> Self {
        let (told, look) = (Box::pin(told.cancelled_owned()), Box::pin(sleep(LOOK_EVERY)));
        Self { inner: Some(inner), told, look, is_over: Box::new(is_over), status }
    }

    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        while self.look.as_mut().poll(context).is_ready() {
            if (self.is_over)() {
                return true;
            }
            self.look.as_mut().set(sleep(LOOK_EVERY));
        }
        self.told.as_mut().poll(context).is_ready()
    }
}

impl HttpBody for Until {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.inner.is_none() {
            return Poll::Ready(None);
        }
        if self.is_over(context) {
            self.inner = None;
            return Poll::Ready(Some(last_frame(&self.status)));
        }
        match &mut self.inner {
            Some(inner) => Pin::new(inner).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    fn endless() -> Body {
        let frames = futures_util::stream::iter([Ok::<_, Status>(Frame::data(Bytes::from_static(b"x")))]);
        Body::new(StreamBody::new(futures_util::StreamExt::chain(frames, futures_util::stream::pending())))
    }

    #[tokio::test]
    async fn a_stream_ends_once_told() {
        let told = CancellationToken::new();
        let mut body = Until::new(endless(), told.clone(), || false, Status::unauthenticated("over"));
        assert!(body.frame().await.unwrap().unwrap().is_data());
        told.cancel();
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "16");
        assert!(body.frame().await.is_none() && body.is_end_stream());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_soon_after_it_is_over() {
        let looks = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&looks);
        let is_over = move || count.fetch_add(1, Ordering::Relaxed) == 2;
        let never = CancellationToken::new();
        let mut body = Until::new(endless(), never, is_over, Status::unauthenticated("over"));
        assert!(body.frame().await.unwrap().unwrap().is_data());
        assert!(body.frame().await.unwrap().unwrap().is_trailers());
        assert_eq!(looks.load(Ordering::Relaxed), 3, "it is looked at again and again");
    }
}
