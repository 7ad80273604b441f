//! The way through a proxy.
//!
//! The proxy is asked for a tunnel to the host by its name, so it is the proxy that finds
//! and judges the address. Literal addresses are judged here as always.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, SocketAddr},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use rustls::pki_types::ServerName;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;
use tokio_socks::{TargetAddr, tcp::Socks5Stream};
use url::Url;

use super::{
    Target,
    client::Shared,
    connect::{addresses, connect_any},
    fault::{fault, unconnected},
    link::http1,
    target::Host,
    tls,
};
use crate::domain::{Cause, Fault};

/// A proxy that requests go through. `Debug` and `Display` show neither user nor password.
#[derive(Clone)]
pub struct Proxy {
    kind: Kind,
    host: Host,
    port: u16,
    login: Option<Login>,
}

#[derive(Clone)]
enum Kind {
    /// `CONNECT`.
    Http,
    /// `CONNECT` over TLS.
    Https(ServerName<'static>),
    /// SOCKS 5, with names resolved by the proxy.
    Socks,
}

#[derive(Clone)]
struct Login {
    user: String,
    password: SecretString,
}

/// Why a text is not a [`Proxy`]. It does not repeat the text, which may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it must be http://, https:// or socks5:// with a host and no path, such as http://user:password@10.0.0.9:3128"
)]
pub struct NotAProxy;

impl Proxy {
    /// Reads a URL.
    pub fn parse(text: &str) -> Result<Self, NotAProxy> {
        let url = Url::parse(text).map_err(|_| NotAProxy)?;
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        let host = url.host_str().filter(|host| bare && !host.is_empty()).ok_or(NotAProxy)?;
        // Brackets are of the URL; of other schemes than HTTP it parses no addresses.
        let host = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(ip) => Host::Ip(ip),
            Err(_) => Host::Name(host.to_owned()),
        };
        let (kind, usual) = match url.scheme() {
            "http" => (Kind::Http, 80),
            "https" => (Kind::Https(host.server_name().ok_or(NotAProxy)?), 443),
            "socks5" | "socks5h" => (Kind::Socks, 1080),
            _ => return Err(NotAProxy),
        };
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(Cow::into_owned);
        let login = match (url.username(), url.password()) {
            ("", None) => None,
            (user, password) => Some(Login {
                user: decoded(user).map_err(|_| NotAProxy)?,
                password: decoded(password.unwrap_or_default()).map_err(|_| NotAProxy)?.into(),
            }),
        };
        // What a proxy of this kind can take.
        let too_long = |login: &Login| login.user.len().max(login.password.expose_secret().len()) > 255;
        if login.as_ref().is_some_and(too_long) || url.port() == Some(0) {
            return Err(NotAProxy);
        }
        Ok(Self { kind, host, port: url.port().unwrap_or(usual), login })
    }

    /// A tunnel to a target: what is written to it arrives there.
    pub(super) async fn tunnel(&self, shared: &Shared, target: &Target) -> Result<Box<dyn Io>, Fault> {
        let addresses = addresses(shared, &self.host, self.port).await?;
        let (tcp, _) = connect_any(&addresses).await.map_err(|error| unconnected(&error))?;
        match &self.kind {
            Kind::Http => self.connect(tcp, target).await,
            Kind::Https(name) => {
                let tls: TlsStream<TcpStream> = tls::wrap(&shared.tls, name, tcp).await?;
                self.connect(tls, target).await
            }
            Kind::Socks => self.socks(tcp, target).await,
        }
    }

    /// Asks by HTTP.
    async fn connect(&self, stream: impl Io + 'static, target: &Target) -> Result<Box<dyn Io>, Fault> {
        let request = self.request(target)?;
        let broken = |error: hyper::Error| refused(&error.to_string());
        let (mut sender, connection) = http1().handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends with the tunnel, or with `sender` if there is none.
        tokio::spawn(connection.with_upgrades());
        let response = sender.send_request(request).await.map_err(broken)?;
        if !response.status().is_success() {
            return Err(refused(&format!("HTTP {}", response.status().as_u16())));
        }
        Ok(Box::new(TokioIo::new(hyper::upgrade::on(response).await.map_err(broken)?)))
    }

    fn request(&self, target: &Target) -> Result<Request<Empty<Bytes>>, Fault> {
        let place = match target.host() {
            Host::Name(name) => format!("{name}:{}", target.port()),
            Host::Ip(ip) => SocketAddr::new(*ip, target.port()).to_string(),
        };
        let bad = || refused("the host cannot be written in a request for a tunnel");
        let uri: Uri = place.parse().map_err(|_| bad())?;
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = uri;
        request.headers_mut().insert(header::HOST, HeaderValue::try_from(place).map_err(|_| bad())?);
        if let Some(Login { user, password }) = &self.login {
            let login = BASE64_STANDARD.encode(format!("{user}:{}", password.expose_secret()));
            let mut value = HeaderValue::try_from(format!("Basic {login}")).map_err(|_| bad())?;
            value.set_sensitive(true);
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, value);
        }
        Ok(request)
    }

    /// Asks by SOCKS.
    async fn socks(&self, stream: TcpStream, target: &Target) -> Result<Box<dyn Io>, Fault> {
        let place = match target.host() {
            Host::Name(name) => TargetAddr::Domain(name.into(), target.port()),
            Host::Ip(ip) => TargetAddr::Ip(SocketAddr::new(*ip, target.port())),
        };
        let tunnel = match &self.login {
            None => Socks5Stream::connect_with_socket(stream, place).await,
            Some(Login { user, password }) => {
                let password = password.expose_secret();
                Socks5Stream::connect_with_password_and_socket(stream, place, user, password).await
            }
        };
        Ok(Box::new(tunnel.map_err(|error| refused(&error.to_string()))?))
    }
}

/// What bytes go through.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

fn refused(why: &str) -> Fault {
    fault(Cause::Connect, format!("the egress proxy made no connection: {why}"))
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            Kind::Http => "http",
            Kind::Https(_) => "https",
            Kind::Socks => "socks5",
        };
        match &self.host {
            Host::Name(name) => write!(f, "{scheme}://{name}:{}", self.port),
            Host::Ip(ip) => write!(f, "{scheme}://{}", SocketAddr::new(*ip, self.port)),
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_read_and_keeps_its_password() {
        let cases = [
            ("http://10.0.0.9:3128", "http://10.0.0.9:3128", None),
            ("http://proxy", "http://proxy:80", None),
            ("https://u:p%40ss@proxy.example/", "https://proxy.example:443", Some(("u", "p@ss"))),
            ("socks5://user@127.0.0.1", "socks5://127.0.0.1:1080", Some(("user", ""))),
            ("socks5h://[::1]:9", "socks5://[::1]:9", None),
        ];
        for (text, shown, login) in cases {
            let proxy = Proxy::parse(text).unwrap();
            assert_eq!((proxy.to_string(), format!("{proxy:?}")), (shown.into(), format!("Proxy({shown})")));
            let found = proxy.login.as_ref().map(|it| (it.user.as_str(), it.password.expose_secret()));
            assert_eq!(found, login, "{text}");
        }
        let long = format!("http://{}@proxy", "u".repeat(256));
        for text in [
            "",
            "proxy:3128",
            "ftp://proxy",
            "http://proxy/path",
            "http://proxy/?q",
            "http://",
            "http://proxy:0",
            &long,
        ] {
            assert_eq!(Proxy::parse(text).err(), Some(NotAProxy), "{text}");
        }
    }
}
