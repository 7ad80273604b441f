//! Which service a call is for.
//!
//! A list of paths, and one look through it, is all the routing gRPC needs: a router
//! of axum's would copy, box and unwrap each call several times.

use std::{
    convert::Infallible,
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tonic::{Status, body::Body, server::NamedService};
use tower::Service;

use super::{access::Access, gateway, large_body::Room};

/// What a call comes to; the future of all services that tonic generates.
pub(super) type Answer = BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// Starts a call.
type Call = Arc<dyn Fn(Request<Body>) -> Answer + Send + Sync>;

/// gRPC services as one, each behind the same guard. Cheap to clone.
#[derive(Clone, Default)]
pub struct Services {
    calls: Arc<Vec<(String, Call)>>,
    access: Option<Arc<Access>>,
}

impl Services {
    /// Lets only those call who may.
    pub(super) fn guarded_by(self, access: Access) -> Self {
        Self { access: Some(Arc::new(access)), ..self }
    }

    /// Where large requests are read.
    pub fn room(&self) -> Room {
        self.access.as_ref().map_or_else(Room::default, |access| access.room.clone())
    }

    /// Adds a generated service under its name.
    pub fn with<S>(self, service: S) -> Self
    where
        S: Service<Request<Body>, Future = Answer> + NamedService + Clone + Send + Sync + 'static,
    {
        self.with_path(format!("/{}/", S::NAME), service)
    }

    /// Adds a generated service for all paths that begin so, unless they begin with
    /// one that was added before.
    pub fn with_path<S>(mut self, prefix: String, service: S) -> Self
    where
        S: Service<Request<Body>, Future = Answer> + Clone + Send + Sync + 'static,
    {
        // A generated service is always ready: there is nothing to poll first.
        let call = move |request| service.clone().call(request);
        Arc::make_mut(&mut self.calls).push((prefix, Arc::new(call)));
        self
    }

    /// Whether a path belongs to one of the services.
    pub fn serve(&self, path: &str) -> bool {
        self.find(path).is_some()
    }

    fn find(&self, path: &str) -> Option<&Call> {
        self.calls.iter().find(|(prefix, _)| path.starts_with(prefix)).map(|(_, call)| call)
    }
}

impl Service<Request<Body>> for Services {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        match self.find(request.uri().path()) {
            Some(call) => gateway::guard(request, self.access.as_ref(), &**call),
            None => {
                let status =
                    Status::unimplemented(format!("there is no service at {}", request.uri().path()));
                Box::pin(async move { Ok(status.into_http()) })
            }
        }
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.calls.iter().map(|(prefix, _)| prefix)).finish()
    }
}

#[cfg(test)]
mod tests {
    use tower::service_fn;

    use super::*;

    async fn answer(path: &str) -> Response<Body> {
        let says = |word: &'static str| {
            service_fn(move |_| -> Answer {
                Box::pin(
                    async move { Ok(Response::builder().header("said", word).body(Body::empty()).unwrap()) },
                )
            })
        };
        let mut services = Services::default()
            .with_path("/a.Service/Stream".to_owned(), says("stream"))
            .with_path("/a.Service/".to_owned(), says("service"));
        let Ok(answer) = services.call(Request::post(path).body(Body::empty()).unwrap()).await;
        answer
    }

    #[tokio::test]
    async fn a_call_goes_to_the_first_that_its_path_begins_with() {
        assert_eq!(answer("/a.Service/Get").await.headers()["said"], "service");
        assert_eq!(answer("/a.Service/Stream").await.headers()["said"], "stream");
    }

    #[tokio::test]
    async fn a_call_to_no_service_is_unimplemented() {
        for path in ["/a.Other/Get", "/a.Service", "/"] {
            assert_eq!(answer(path).await.headers()["grpc-status"], "12", "{path}");
        }
    }
}
