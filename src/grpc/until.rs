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

/// The body of a stream's answer, which ends with a status of its own once told or
/// when a time is over. What the stream is made of is dropped then.
pub(super) struct Until {
    inner: Option<Body>,
    told: Pin<Box<WaitForCancellationFutureOwned>>,
    time: Option<Pin<Box<Sleep>>>,
    status: Status,
}

impl Until {
    /// A body that ends with `status` once `told`, or after `time`.
    pub fn new(inner: Body, told: CancellationToken, time: Option<Duration>, status: Status) -> Self {
        let time = time.map(|time| Box::pin(sleep(time)));
        Self { inner: Some(inner), told: Box::pin(told.cancelled_owned()), time, status }
    }

    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        let timed_out = self.time.as_mut().is_some_and(|time| time.as_mut().poll(context).is_ready());
        timed_out || self.told.as_mut().poll(context).is_ready()
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
            let mut trailers = http::HeaderMap::new();
            return Poll::Ready(Some(match self.status.add_header(&mut trailers) {
                Ok(()) => Ok(Frame::trailers(trailers)),
                Err(error) => Err(error),
            }));
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
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    fn endless() -> Body {
        let frames = futures_util::stream::iter([Ok::<_, Status>(Frame::data(Bytes::from_static(b"x")))]);
        Body::new(StreamBody::new(futures_util::StreamExt::chain(frames, futures_util::stream::pending())))
    }

    async fn ends(told: CancellationToken, time: Option<Duration>) {
        let status = Status::unauthenticated("over");
        let mut body = Until::new(endless(), told.clone(), time, status);
        assert!(body.frame().await.unwrap().unwrap().is_data());
        told.cancel();
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "16");
        assert!(body.frame().await.is_none() && body.is_end_stream());
    }

    #[tokio::test]
    async fn a_stream_ends_once_told() {
        ends(CancellationToken::new(), None).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_when_its_time_is_over() {
        let never = CancellationToken::new();
        let time = Some(Duration::from_secs(60));
        let mut body = Until::new(endless(), never, time, Status::unauthenticated("over"));
        assert!(body.frame().await.unwrap().unwrap().is_data());
        assert!(body.frame().await.unwrap().unwrap().is_trailers());
    }
}
