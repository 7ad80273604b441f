//! One connection, from its first byte to its last.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
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
    sync::{OwnedSemaphorePermit, Semaphore},
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
use crate::{
    explain,
    peer::{Peer, Streams},
};

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
    /// A permit for each call that is worked on.
    calls: Arc<Semaphore>,
    streams: Streams,
}

impl<S> Attached<S> {
    /// A connection on which nothing went on yet.
    pub fn new(app: S, address: SocketAddr, certificate: Option<[u8; 32]>, proxies: Arc<[IpNet]>) -> Self {
        let address = proxies::canonical(address);
        Self {
            app,
            address,
            certificate,
            proxies,
            activity: Arc::default(),
            calls: Arc::new(Semaphore::new(limits::CALLS_MAX)),
            streams: Streams::new(limits::STREAMS_MAX),
        }
    }
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Attached<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Unpin + Send + 'static,
{
    type Response = Response<Sent<B>>;
    type Error = Infallible;
    type Future = Calling<S::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let address = proxies::origin(self.address, request.headers(), &self.proxies);
        let proxied = proxies::trusts(&self.proxies, self.address.ip());
        request.extensions_mut().insert(Peer { address, certificate: self.certificate, proxied });
        request.extensions_mut().insert(self.streams.clone());
        let counted = Some(Counted::begin(&self.activity));
        // The house is always ready: there is nothing to poll first.
        let mut app = self.app.clone();
        let answer = match Arc::clone(&self.calls).try_acquire_owned() {
            Ok(permit) => Answering::Now { answer: app.call(request), _permit: permit },
            Err(_) => {
                let permit = Arc::clone(&self.calls).acquire_owned();
                Answering::Later(Box::pin(async move {
                    let _permit = permit.await;
                    app.call(request).await
                }))
            }
        };
        Calling { answer, counted }
    }
}

/// A call that counts.
pub(super) struct Calling<F: Future> {
    answer: Answering<F>,
    counted: Option<Counted>,
}

/// A call that is worked on, or waits until it is.
enum Answering<F: Future> {
    Now { answer: F, _permit: OwnedSemaphorePermit },
    Later(BoxFuture<'static, F::Output>),
}

impl<F, B> Future for Calling<F>
where
    F: Future<Output = Result<Response<B>, Infallible>> + Unpin,
{
    type Output = Result<Response<Sent<B>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(response) = ready!(match &mut self.answer {
            Answering::Now { answer, .. } => Pin::new(answer).poll(context),
            Answering::Later(answer) => answer.as_mut().poll(context),
        });
        // Futures are not polled after their end.
        let counted = self.counted.take().expect("a call ends once");
        Poll::Ready(Ok(response.map(|body| Sent::new(body, counted))))
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
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
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
                        debug!(error = explain::chain(&*error), "a connection ended with an error");
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
