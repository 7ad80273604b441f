//! Calls that publish, turned away at the door while there is no room for them.

use std::{
    convert::Infallible,
    future::ready,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::body::Body;
use tower::Service;

use super::{
    services::Answer,
    status::{Caller, REQUEST_ID},
};
use crate::app::App;

/// Refuses calls before their messages are read, while calls that publish have no
/// hope of being taken: what reading costs is missing for what was taken before.
#[derive(Clone, Debug)]
pub(super) struct Shed<S> {
    /// Knows how much room there is.
    pub app: Arc<App>,
    /// Takes the calls.
    pub inner: S,
}

impl<S> Service<Request<Body>> for Shed<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Answer>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        let Some(error) = self.app.crowded() else { return self.inner.call(request) };
        let caller = Caller::named(request.headers().get(REQUEST_ID));
        Box::pin(ready(Ok(caller.refuse(error).into_http())))
    }
}
