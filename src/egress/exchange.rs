//! One request on one connection, under one deadline.

use std::{
    pin::{Pin, pin},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use tokio::time::{Sleep, sleep, timeout};

use super::{
    Request,
    answer::{answer, keep_alive, read},
    client::Shared,
    connect::connect,
    fault::{broken, connect_timeout, fault, response_timeout},
    link::Link,
    pool::Key,
};
use crate::domain::{Answer, Cause, Fault, Timings};

/// How long to wait for a body once its head has been read: the attempt is
/// decided, and the rest is only for the record.
const BODY_GRACE: Duration = Duration::from_secs(1);

/// Headers that frame the message or belong to the connection: they are the
/// client's to write. What is encoded would have to be decoded.
static RESERVED: [HeaderName; 11] = [
    header::ACCEPT_ENCODING,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

type Message = http::Request<Full<Bytes>>;

/// Sends a request and reads its answer.
pub(super) async fn run(shared: &Shared, request: Request, timings: &mut Timings) -> Result<Answer, Fault> {
    let key = Key::new(request.sender, &request.target, request.tls.as_ref());
    let mut deadline = pin!(sleep(request.timeout.to_std()));
    let (link, response) = head(shared, request, &key, deadline.as_mut(), timings).await?;
    let (head, mut incoming) = response.into_parts();

    let mut body = Vec::new();
    let whole = incoming.is_end_stream()
        || within(deadline, timeout(BODY_GRACE, read(&mut incoming, &mut body))).await == Some(Ok(true));
    let answer = answer(&head, body, !whole, &link);
    if whole && is_one_length(&head.headers) {
        shared.pool.put(key, link, keep_alive(&head.headers));
    }
    Ok(answer)
}

/// Sends a request up to the head of its final response, on a pooled connection
/// or else on a new one.
async fn head(
    shared: &Shared,
    request: Request,
    key: &Key,
    mut deadline: Pin<&mut Sleep>,
    timings: &mut Timings,
) -> Result<(Link, http::Response<Incoming>), Fault> {
    let Request { sender: _, target, tls, headers, body, timeout, connect_timeout: connect_limit } = request;
    let limit = timeout.to_std();
    let connect_limit = connect_limit.min(timeout).to_std();
    let length = body.len();
    let mut message = Message::new(Full::new(body));
    *message.method_mut() = Method::POST;
    *message.uri_mut() = target.path().clone();
    *message.headers_mut() = complete(headers, shared, target.host_header(), length);
    loop {
        let pooled = shared.pool.take(key).await;
        let reused = pooled.is_some();
        let mut link = match pooled {
            Some(link) => link,
            None => {
                // Boxed: large, and not on the usual path.
                let made = Box::pin(connect(shared, &target, tls.as_ref(), connect_limit, timings));
                let mut made =
                    within(deadline.as_mut(), made).await.unwrap_or_else(|| Err(connect_timeout(limit)))?;
                shared.pool.admit(&mut made);
                made
            }
        };
        link.watch(&mut message);
        let sent_at = shared.clock.now();
        let sent = within(deadline.as_mut(), link.sender.try_send_request(message)).await;
        let mut failed = match sent {
            None => return Err(response_timeout(limit)),
            Some(Ok(response)) => {
                timings.first_byte = Some(shared.clock.now().since(sent_at));
                return checked(link, response);
            }
            Some(Err(failed)) => failed,
        };
        if link.is_flooded() {
            return Err(flooded());
        }
        // The message comes back only if the connection was found closed before
        // any of it was taken up: it has not been sent, and this is not a resend.
        match failed.take_message() {
            Some(returned) if reused => message = returned,
            Some(_) => {
                // A new connection that was over before it was used: as one that a server ends
                // which refuses the client by TLS.
                let end = within(deadline.as_mut(), link.end()).await.flatten();
                return Err(broken(end.as_ref().unwrap_or(failed.error())));
            }
            None => return Err(broken(failed.error())),
        }
    }
}

/// A response that may end an attempt.
fn checked(
    link: Link,
    response: http::Response<Incoming>,
) -> Result<(Link, http::Response<Incoming>), Fault> {
    if link.is_flooded() {
        return Err(flooded());
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(fault(Cause::MalformedResponse, "the endpoint switched protocols without being asked"));
    }
    Ok((link, response))
}

fn flooded() -> Fault {
    fault(Cause::MalformedResponse, "more than 8 informational responses")
}

/// Whether a response says in one way only how long its body is. After a length beside a transfer
/// coding the connection may not be used again (RFC 9112, section 6.3): the next response might
/// begin elsewhere than we think.
fn is_one_length(headers: &HeaderMap) -> bool {
    !(headers.contains_key(header::TRANSFER_ENCODING) && headers.contains_key(header::CONTENT_LENGTH))
}

/// The headers in the order in which they go out: `host`, which some receivers and proxies expect to
/// be first, those of the client, and those of the request.
fn complete(headers: HeaderMap, shared: &Shared, host: &HeaderValue, length: usize) -> HeaderMap {
    let mut all = HeaderMap::with_capacity(headers.len() + 3);
    all.insert(header::HOST, host.clone());
    all.insert(header::USER_AGENT, shared.user_agent.clone());
    // Said also of an empty body, where hyper would leave it out: receivers that
    // want a length get one.
    all.insert(header::CONTENT_LENGTH, length.into());
    let mut last = None;
    for (name, value) in headers {
        // A name with several values stands beside the first of them only.
        let is_first = name.is_some();
        last = name.or(last);
        match &last {
            Some(name) if RESERVED.contains(name) => {}
            Some(name) if is_first => drop(all.insert(name.clone(), value)),
            Some(name) => drop(all.append(name.clone(), value)),
            None => {}
        }
    }
    all
}

/// The result of some work, or nothing if the deadline passes first.
async fn within<T>(deadline: Pin<&mut Sleep>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = deadline => None,
    }
}
