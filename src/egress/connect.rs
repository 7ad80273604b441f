//! From a target to a connection: resolve, connect, shake hands.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use super::{
    Target,
    client::Shared,
    fault::{connect_timeout, fault, unconnected},
    link::Link,
    target::Host,
    tls::{self, Tls},
};
use crate::domain::{Cause, Fault, Timings};

/// Addresses of a name that are tried at most. A name with more is a mistake or
/// an attempt to keep us busy.
const ADDRESSES_MAX: usize = 16;

/// Makes a connection within `limit`, and notes where the time went.
pub(super) async fn connect(
    shared: &Shared,
    target: &Target,
    tls: Option<&Tls>,
    limit: Duration,
    timings: &mut Timings,
) -> Result<Link, Fault> {
    timeout(limit, dial(shared, target, tls, limit, timings))
        .await
        .unwrap_or_else(|_| Err(connect_timeout(limit)))
}

async fn dial(
    shared: &Shared,
    target: &Target,
    tls: Option<&Tls>,
    limit: Duration,
    timings: &mut Timings,
) -> Result<Link, Fault> {
    let clock = &shared.clock;
    let mut last = clock.now();
    let mut lap = || {
        let now = clock.now();
        let span = now.since(last);
        last = now;
        Some(span)
    };
    let addresses = match target.host() {
        Host::Ip(ip) => vec![SocketAddr::new(*ip, target.port())],
        Host::Name(name) => {
            let found = resolve(name, target.port()).await?;
            timings.dns = lap();
            found
        }
    };
    // Rules about addresses go here: the socket is opened to one of these and to
    // nothing else.
    let (tcp, remote) = connect_any(&addresses, limit).await.map_err(|error| unconnected(&error))?;
    // Requests are written whole: there is nothing to wait for.
    tcp.set_nodelay(true).map_err(|error| unconnected(&error))?;
    timings.connect = lap();
    let connector = tls.map_or(&shared.tls, Tls::connector);
    let stream = tls::wrap(connector, target, tcp).await?;
    if !target.is_plain() {
        timings.tls = lap();
    }
    Link::start(stream, remote).await
}

/// The addresses of a name, in the order of the system's preference.
async fn resolve(name: &str, port: u16) -> Result<Vec<SocketAddr>, Fault> {
    let found = lookup_host((name, port)).await;
    let found =
        found.map_err(|error| fault(Cause::Dns, format!("the host name did not resolve: {error}")))?;
    let addresses: Vec<_> = found.take(ADDRESSES_MAX).collect();
    if addresses.is_empty() {
        return Err(fault(Cause::Dns, "the host name has no address"));
    }
    Ok(addresses)
}

/// The first address that takes a connection. Each but the last gets an equal
/// share of the limit, so that one that never answers does not keep the others
/// from their turn; the last gets what is left.
pub(super) async fn connect_any(
    addresses: &[SocketAddr],
    limit: Duration,
) -> io::Result<(TcpStream, SocketAddr)> {
    let Some((last, others)) = addresses.split_last() else {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    };
    let share = limit / u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    for address in others {
        if let Ok(Ok(stream)) = timeout(share, TcpStream::connect(address)).await {
            return Ok((stream, *address));
        }
    }
    Ok((TcpStream::connect(last).await?, *last))
}
