//! One connection, from its first byte to its last.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use ipnet::IpNet;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Service};
use tracing::debug;

use super::{
    activity::{Activity, Counted, Keeper, Sent, Step},
    after_others::after_others,
    limits,
    opening::Opening,
    proxies,
};
use crate::peer::Peer;

/// What is known of a connection, and what answers on it.
#[derive(Debug)]
pub(super) struct Attached<S> {
    pub app: S,
    /// The other end of the connection.
    pub address: SocketAddr,
    /// See [`Peer::certificate`].
    pub certificate: Option<[u8; 32]>,
    pub proxies: Arc<[IpNet]>,
    activity: Arc<Activity>,
}

impl<S> Attached<S> {
    /// A connection on which nothing went on yet.
    pub fn new(app: S, address: SocketAddr, certificate: Option<[u8; 32]>, proxies: Arc<[IpNet]>) -> Self {
        let address = proxies::canonical(address);
        Self { app, address, certificate, proxies, activity: Arc::default() }
    }
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Attached<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone,
    S::Future: Unpin,
{
    type Response = Response<Sent<B>>;
    type Error = Infallible;
    type Future = Calling<S::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let address = proxies::origin(self.address, request.headers(), &self.proxies);
        let proxied = proxies::trusts(&self.proxies, self.address.ip());
        request.extensions_mut().insert(Peer { address, certificate: self.certificate, proxied });
        let call = Some(Counted::begin(&self.activity));
        // The house is always ready: there is nothing to poll first.
        Calling { answer: self.app.clone().call(request), call }
    }
}

/// A call that counts.
#[derive(Debug)]
pub(super) struct Calling<F> {
    answer: F,
    call: Option<Counted>,
}

impl<F, B> Future for Calling<F>
where
    F: Future<Output = Result<Response<B>, Infallible>> + Unpin,
{
    type Output = Result<Response<Sent<B>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(response) = ready!(Pin::new(&mut self.answer).poll(context));
        // Futures are not polled after their end.
        let call = self.call.take().expect("a call ends once");
        Poll::Ready(Ok(response.map(|body| Sent::new(body, call))))
    }
}

/// Speaks HTTP on a connection until it ends, or until it was idle or unread for too
/// long; from `shutdown` on, or once it is older than `age`, only until the calls on it
/// have ended. One whose client does not say in time which protocol it speaks is dropped.
pub(super) async fn converse<I, S, B>(
    io: I,
    builder: Arc<Builder<TokioExecutor>>,
    service: Attached<S>,
    age: std::time::Duration,
    shutdown: CancellationToken,
) where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + 'static,
    S::Future: Unpin + Send + 'static,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    let activity = Arc::clone(&service.activity);
    // Boxed, as is a TLS session: a future that holds another holds it several times over,
    // and there are thousands of idle connections.
    let (io, decided) = Opening::new(io);
    let mut connection = Box::pin(builder.serve_connection(TokioIo::new(io), service));
    let kept = async {
        let (mut age, mut opening) = (pin!(sleep(age)), pin!(sleep(limits::OPENING_TIMEOUT)));
        let mut is_open = false;
        let mut looks = interval(limits::LOOK_EVERY);
        // The first is due after that time.
        looks.reset();
        let (mut keeper, mut closing) = (Keeper::default(), false);
        loop {
            let close = tokio::select! {
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        debug!(%error, "a connection ended with an error");
                    }
                    return;
                }
                () = shutdown.cancelled(), if !closing => true,
                () = age.as_mut(), if !closing => true,
                () = opening.as_mut(), if !is_open => {
                    if !decided.get() {
                        debug!("a connection was dropped: its client did not say which protocol it speaks");
                        return;
                    }
                    is_open = true;
                    false
                }
                _ = looks.tick() => match keeper.look(&activity, limits::QUIET_LOOKS) {
                    Step::Keep => false,
                    Step::Close => true,
                    Step::Drop => {
                        debug!("a connection was dropped: nothing moved on it");
                        return;
                    }
                },
            };
            if close && !closing {
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    after_others(kept).await;
}
