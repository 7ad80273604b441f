//! From a target to a connection: resolve, judge, connect, shake hands.
//!
//! The socket is opened to an address that was judged and to nothing else: the name is
//! not looked up a second time by anybody.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::{
    Policy, Proxy, Target,
    client::Shared,
    fault::{connect_timeout, fault, unconnected},
    link::Link,
    race::race,
    resolver::NOWHERE,
    target::{FORBIDDEN, Host},
    tls::{self, Stream, Tls},
};
use crate::domain::{Cause, Fault, Micros, Timings};

/// Makes a connection within `limit`, and notes where the time went.
pub(super) async fn connect(
    shared: &Shared,
    target: &Target,
    tls: Option<&Tls>,
    limit: Duration,
    timings: &mut Timings,
) -> Result<Link, Fault> {
    timeout(limit, dial(shared, target, tls, timings)).await.unwrap_or_else(|_| Err(connect_timeout(limit)))
}

async fn dial(
    shared: &Shared,
    target: &Target,
    tls: Option<&Tls>,
    timings: &mut Timings,
) -> Result<Link, Fault> {
    if let Some(proxy) = &shared.proxy {
        return through(shared, proxy, target, tls, timings).await;
    }
    let clock = &shared.clock;
    let mut last = clock.now();
    let mut lap = || -> Option<Micros> {
        let now = clock.now();
        let span = now.since(last);
        last = now;
        Some(span)
    };
    let addresses = addresses(shared, target.host(), target.port()).await?;
    if matches!(target.host(), Host::Name(_)) {
        timings.dns = lap();
    }
    let policy = target.policy();
    if !addresses.iter().all(|address| may_dial(policy, *address)) {
        return Err(match target.host() {
            Host::Ip(_) => fault(Cause::TargetForbidden, FORBIDDEN),
            Host::Name(name) => {
                tracing::debug!(name, "a name has an address that is not allowed");
                fault(Cause::Dns, NOWHERE)
            }
        });
    }
    let (tcp, remote) = connect_any(&addresses).await.map_err(|error| unconnected(&error))?;
    // Whatever lies between us and the network, nothing is sent to anybody else.
    let peer = tcp.peer_addr().map_err(|error| unconnected(&error))?;
    if peer != remote || !policy.permits(peer) {
        return Err(fault(Cause::TargetForbidden, FORBIDDEN));
    }
    timings.connect = lap();
    let stream = match target.server_name() {
        None => Stream::Plain(tcp),
        Some(name) => Stream::Tls(Box::new(tls::wrap(connector(shared, tls), name, tcp).await?)),
    };
    if !target.is_plain() {
        timings.tls = lap();
    }
    Link::start(stream, Some(remote)).await
}

/// The same by a proxy, which resolves and judges the name. An address is judged here, as
/// the URL was.
async fn through(
    shared: &Shared,
    proxy: &Proxy,
    target: &Target,
    tls: Option<&Tls>,
    timings: &mut Timings,
) -> Result<Link, Fault> {
    let started = shared.clock.now();
    let tunnel = proxy.tunnel(shared, target).await?;
    let connected = shared.clock.now();
    timings.connect = Some(connected.since(started));
    let stream = match target.server_name() {
        None => tunnel,
        Some(name) => Box::new(tls::wrap(connector(shared, tls), name, tunnel).await?),
    };
    if !target.is_plain() {
        timings.tls = Some(shared.clock.now().since(connected));
    }
    Link::start(Stream::Proxied(stream), None).await
}

/// The TLS configuration towards a target: the endpoint's own if it has one. The handshake
/// with a proxy itself never uses it.
fn connector<'a>(shared: &'a Shared, tls: Option<&'a Tls>) -> &'a TlsConnector {
    tls.map_or(&shared.tls, Tls::connector)
}

/// Where a host is. One address that is not allowed refuses all of them: a name that has
/// both kinds wants to be at another one next time.
pub(super) async fn addresses(shared: &Shared, host: &Host, port: u16) -> Result<Vec<SocketAddr>, Fault> {
    let ips = match host {
        Host::Ip(ip) => vec![*ip],
        Host::Name(name) => shared.resolver.addresses(name).await?,
    };
    Ok(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

/// Whether a socket may be opened to an address, now and on this machine.
fn may_dial(policy: &Policy, address: SocketAddr) -> bool {
    policy.permits(address) && !(policy.doubts(address) && is_local(address.ip()))
}

/// Whether an address is one of this machine: then the system would send from that same
/// address. Nothing is sent to find out.
fn is_local(ip: IpAddr) -> bool {
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((ip, 9))?;
        socket.local_addr()
    });
    ip.to_canonical().is_loopback() || source.is_ok_and(|source| source.ip() == ip)
}

/// A connection to one of the addresses, and the address.
pub(super) async fn connect_any(addresses: &[SocketAddr]) -> io::Result<(TcpStream, SocketAddr)> {
    let connected = race(addresses, |address| {
        let address = *address;
        async move { io::Result::Ok((TcpStream::connect(address).await?, address)) }
    });
    match connected.await {
        Ok((stream, address)) => prepared(stream, address),
        Err(last) => Err(last.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into())),
    }
}

/// Requests are written whole: there is nothing to wait for.
fn prepared(stream: TcpStream, address: SocketAddr) -> io::Result<(TcpStream, SocketAddr)> {
    stream.set_nodelay(true)?;
    Ok((stream, address))
}
