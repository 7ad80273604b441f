//! A method that panics answers like one that fails.
//!
//! Only the call that panicked is lost: what it held is given back as it is dropped,
//! and locks are taken again though they were held.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderValue;
use http_body::{Frame, SizeHint};
use tonic::{Status, body::Body};

use super::status::{Caller, last_frame};
use crate::{app::Error, peer::OpenStream};

/// What a panic said, as its `panic!` had it.
pub fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a text")
}

/// What the caller is told, and the log: INTERNAL with the request's id there, what
/// the panic said here.
pub(super) fn refuse(panic: &(dyn Any + Send), caller: &Caller) -> Status {
    caller.refuse(Error::Internal(format!("panic: {}", said(panic)).into()))
}

/// A stream's body that ends with a status if the stream panics.
#[derive(Debug)]
pub(super) struct Caught {
    pub body: Body,
    /// The request's id.
    pub id: Option<HeaderValue>,
    /// Counts the stream for its connection, for as long as it is open.
    pub _open: Option<OpenStream>,
}

impl http_body::Body for Caught {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut self.body).poll_frame(context)));
        polled.unwrap_or_else(|panic| {
            self.body = Body::empty();
            let status = refuse(&*panic, &Caller::named(self.id.as_ref()));
            Poll::Ready(Some(last_frame(&status)))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
