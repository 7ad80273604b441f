//! From the errors of the libraries to a [`Fault`]: a cause that can be told
//! from all others and one sentence, made of nothing the request contained.

use std::{error::Error, io, iter, time::Duration};

use crate::{
    domain::{Cause, Fault},
    explain,
};

/// A fault.
pub(super) fn fault(cause: Cause, message: impl Into<String>) -> Fault {
    Fault { cause, message: message.into() }
}

/// Not connected in time.
pub(super) fn connect_timeout(limit: Duration) -> Fault {
    fault(Cause::ConnectTimeout, format!("not connected within {limit:?}"))
}

/// No complete head in time.
pub(super) fn response_timeout(limit: Duration) -> Fault {
    fault(Cause::ResponseTimeout, format!("no complete response within {limit:?}"))
}

/// What an I/O error says, without the noise of error numbers.
pub(super) fn sentence(error: &io::Error) -> String {
    let kind = error.kind().to_string();
    // The kinds that say nothing: the error itself knows more.
    if kind.starts_with("other") || kind.starts_with("uncategorized") { error.to_string() } else { kind }
}

/// A connection that could not be made.
pub(super) fn unconnected(error: &io::Error) -> Fault {
    if error.kind() == io::ErrorKind::TimedOut {
        // The system gave up before we did.
        return fault(Cause::ConnectTimeout, "the connection attempt timed out");
    }
    fault(Cause::Connect, format!("cannot connect: {}", sentence(error)))
}

/// An exchange that ended before the head was complete.
pub(super) fn broken(error: &hyper::Error) -> Fault {
    if error.is_parse_too_large() {
        return fault(Cause::MalformedResponse, "the response head is over 64 KiB or 100 headers");
    }
    if error.is_parse() {
        return fault(Cause::MalformedResponse, format!("not a valid HTTP response: {error}"));
    }
    // It may lie deeper: what was to be sent is called off for what became of the connection.
    let mut causes = iter::successors(error.source(), |cause| (*cause).source());
    let inner = causes.find_map(|cause| cause.downcast_ref::<io::Error>());
    if let Some(reason) = inner.and_then(|error| explain::tls_in(error)) {
        // In TLS 1.3 a server refuses the client only after the handshake.
        return fault(Cause::Tls, format!("the TLS connection failed: {}", explain::tls(reason)));
    }
    let why = match inner {
        Some(inner) => sentence(inner),
        None if error.is_incomplete_message() => "closed by the endpoint".to_owned(),
        None => error.to_string(),
    };
    fault(Cause::ConnectionReset, format!("the connection broke before the response was complete: {why}"))
}
