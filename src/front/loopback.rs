//! Keeps other sites' web pages out where a browser is trusted without a token.
//!
//! A development server trusts whoever reaches it on loopback. A web page in the
//! developer's browser reaches it too: it may post to it, or point a name of its own
//! at 127.0.0.1. So what names another host, or comes from another site, is refused.
//!
//! A server for production trusts a client certificate that stands for a key, and a
//! browser shows its user's certificate whichever page makes it call. So a request by
//! certificate alone is refused if a page of another site made it.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, Ipv6Addr},
    task::{Context, Poll},
};

use axum::response::{IntoResponse as _, Response};
use futures_util::future::{Either, Ready, ready};
use http::{HeaderMap, Request, header};
use tonic::Code;
use tower::Service;

use crate::{peer::Peer, rest::Problem};

/// Lets only requests through to `app` that are not made by pages of other sites; with
/// `on`, of a development server, only those that name this machine, too.
pub fn loopback_only<S>(app: S, on: bool) -> LoopbackOnly<S> {
    LoopbackOnly { app, on }
}

/// Made by [`loopback_only`].
#[derive(Clone, Debug)]
pub struct LoopbackOnly<S> {
    app: S,
    on: bool,
}

impl<S, B> Service<Request<B>> for LoopbackOnly<S>
where
    S: Service<Request<B>, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.app.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match if self.on { foreign(&request) } else { cross_site(&request) } {
            None => Either::Left(self.app.call(request)),
            Some(why) => {
                let problem = Problem::new(Code::PermissionDenied, "ORIGIN_FORBIDDEN", why);
                Either::Right(ready(Ok(problem.into_response())))
            }
        }
    }
}

/// What about the request is not of this machine, if anything.
fn foreign<B>(request: &Request<B>) -> Option<&'static str> {
    let named = |name| text(request.headers(), name);
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    if [authority, named(header::HOST)].into_iter().flatten().any(|host| !is_local(host)) {
        return Some(
            "a development server answers to localhost, 127.0.0.1 and [::1] only: use one of these names",
        );
    }
    let origin = named(header::ORIGIN)?;
    let host = origin.split_once("://").map_or(origin, |(_, host)| host);
    (!is_local(host)).then_some("a development server takes no requests from pages of other sites")
}

/// Whether a page of another site made a request that a certificate alone vouches for.
fn cross_site<B>(request: &Request<B>) -> Option<&'static str> {
    let headers = request.headers();
    let by_certificate = request.extensions().get::<Peer>().is_some_and(|peer| peer.certificate.is_some());
    if !by_certificate || headers.contains_key(header::AUTHORIZATION) {
        return None;
    }
    let origin = text(headers, header::ORIGIN)?;
    let host = request.uri().authority().map(http::uri::Authority::as_str);
    let host = host.or_else(|| text(headers, header::HOST)).unwrap_or_default();
    let is_own = origin.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"))
        && without_port(&origin[8..]).eq_ignore_ascii_case(without_port(host));
    (!is_own).then_some(
        "a page of another site made this call, and a client certificate alone vouches for it: send the \
         token of an API key",
    )
}

/// An authority without the port that HTTPS has anyway.
fn without_port(authority: &str) -> &str {
    authority.strip_suffix(":443").unwrap_or(authority)
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

/// Whether `host` or `host:port` is this machine by its own name: `localhost`, an IPv4
/// address of loopback, or one of IPv6 in brackets. Nothing else may stand before or after.
fn is_local(authority: &str) -> bool {
    if let Some(rest) = authority.strip_prefix('[') {
        let Some((host, rest)) = rest.split_once(']') else { return false };
        let ends_well = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
        return ends_well && host.parse::<Ipv6Addr>().is_ok_and(|it| it.is_loopback());
    }
    let (host, ends_well) =
        authority.split_once(':').map_or((authority, true), |(host, port)| (host, is_port(port)));
    let is_loopback = host.parse::<Ipv4Addr>().is_ok_and(|it| it.is_loopback());
    ends_well && (is_loopback || host.eq_ignore_ascii_case("localhost"))
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, http::StatusCode, routing::post};
    use tower::ServiceExt as _;

    use super::*;

    async fn status(host: Option<&str>, origin: Option<&str>) -> StatusCode {
        let app = loopback_only(Router::new().route("/", post(|| async { "done" })), true);
        let mut request = Request::post("/");
        for (name, value) in [("host", host), ("origin", origin)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status()
    }

    #[tokio::test]
    async fn only_this_machine_and_its_own_pages_get_through() {
        for host in [None, Some("localhost:8000"), Some("127.0.0.1"), Some("127.1.2.3:1"), Some("[::1]:8000")]
        {
            assert_eq!(status(host, None).await, StatusCode::OK, "{host:?}");
        }
        for host in [
            "evil.example",
            "evil.example:8000",
            "10.0.0.1",
            "localhost.evil.example",
            "[::2]:8000",
            "",
            "[::1].evil.example",
            "[::1].evil.example:8000",
            "[::1]8000",
            "[::1]:",
            "[::1",
            "::1",
            "[127.0.0.1]",
            "localhost:80@evil.example",
            "127.0.0.1:8000.evil.example",
            "127.0.0.1:",
            "evil.example:80:localhost",
        ] {
            assert_eq!(status(Some(host), None).await, StatusCode::FORBIDDEN, "{host}");
        }
        for origin in ["http://localhost:3000", "http://127.0.0.1", "https://[::1]:1"] {
            assert_eq!(status(Some("localhost"), Some(origin)).await, StatusCode::OK, "{origin}");
        }
        for origin in [
            "http://evil.example",
            "null",
            "https://localhost.evil.example",
            "file://",
            "http://[::1].evil.example",
        ] {
            assert_eq!(status(Some("localhost"), Some(origin)).await, StatusCode::FORBIDDEN, "{origin}");
        }
    }

    #[tokio::test]
    async fn a_certificate_alone_does_not_vouch_for_a_page_of_another_site() {
        let status = async |certificate: bool, headers: &[(&str, &str)]| {
            let app = loopback_only(Router::new().route("/", post(|| async { "done" })), false);
            let mut request = Request::post("/");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let mut request = request.body(Body::empty()).unwrap();
            let address = "192.0.2.1:5".parse().unwrap();
            let certificate = certificate.then_some([1; 32]);
            request.extensions_mut().insert(Peer { address, certificate, proxied: false });
            app.oneshot(request).await.unwrap().status()
        };
        let (host, evil) = (("host", "hooks.example:8443"), ("origin", "https://evil.example"));
        let token = ("authorization", "Bearer x");
        for origin in [
            "https://evil.example",
            "null",
            "http://hooks.example:8443",
            "https://hooks.example",
            "https://hooks.example:8443.evil.example",
        ] {
            assert_eq!(status(true, &[host, ("origin", origin)]).await, StatusCode::FORBIDDEN, "{origin}");
        }
        assert_eq!(status(true, &[host, ("origin", "https://HOOKS.example:8443")]).await, StatusCode::OK);
        let default = [("host", "hooks.example"), ("origin", "https://hooks.example:443")];
        assert_eq!(status(true, &default).await, StatusCode::OK);
        assert_eq!(status(true, &[host]).await, StatusCode::OK, "no page");
        assert_eq!(status(true, &[host, evil, token]).await, StatusCode::OK, "no browser adds a token");
        assert_eq!(status(false, &[host, evil]).await, StatusCode::OK, "nothing vouches for it");
    }
}
