//! What holds for every call, before and after its method: the time it has, an error of
//! our own where a message was too large to be decoded, and an answer though it panics.
//!
//! The front drives hyper itself, so nothing below has looked at `grpc-timeout`.

use std::{future::ready, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, Request, Response};
use tonic::{Code, Status, body::Body};

use super::{
    TIMEOUT_MAX,
    access::{Access, Admission},
    intake::Intake,
    large_body::OwnerCell,
    panics::{self, Caught},
    record::Record,
    services::Answer,
    status::{self, Caller},
    until::Until,
};
use crate::{
    app::{Error, Principal},
    machine::body_budget::Owner,
    peer::{OpenStream, Streams},
};

/// Methods whose answer is a stream: they have no ceiling of time.
const STREAMS: [&str; 3] = ["/WatchDeliveries", "/PublishEventStream", "/ServerReflectionInfo"];
/// Health is watched, too.
const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";

/// What a caller is told whose time is over. What was handed to the store's writer is
/// committed all the same.
const TIME_OVER: &str = "the call's time is over; it may or may not have taken effect; \
     a publish with an idempotency key can be repeated safely";

/// Lets a call in if its caller may make it, bounds it, and words its errors.
pub(super) fn guard(
    mut request: Request<Body>,
    access: Option<&Arc<Access>>,
    call: impl Fn(Request<Body>) -> Answer,
) -> Answer {
    let id = request.headers().get(status::REQUEST_ID).cloned();
    let path = request.uri().path();
    let streams = path == HEALTH_WATCH || STREAMS.iter().any(|method| path.ends_with(method));
    let asked = timeout(request.headers());
    let limit = if streams { asked } else { Some(asked.unwrap_or(TIMEOUT_MAX).min(TIMEOUT_MAX)) };
    let open = match request.extensions().get::<Streams>().filter(|_| streams).map(Streams::open) {
        None => None,
        Some(Ok(open)) => Some(open),
        Some(Err(limit)) => {
            let error = Error::TooManyStreams { of: "connection", limit };
            return Box::pin(ready(Ok(Caller::named(id.as_ref()).refuse(error).into_http())));
        }
    };
    let kind = if streams { Kind::Stream(open) } else { Kind::Unary };
    let Some(access) = access else { return bounded(call(request), limit, kind, id) };
    let Admission { verdict, record, principal, looks } = access.admit(&mut request);
    if verdict.is_ok() {
        let owner = principal.as_ref().and_then(Principal::body_owner);
        request = bounded_messages(request, access, owner, &Caller::named(id.as_ref()));
    }
    let answer = match verdict {
        Ok(()) if looks => bounded(up_to_date(access, id.as_ref(), call(request)), limit, kind, id.clone()),
        Ok(()) => bounded(call(request), limit, kind, id.clone()),
        Err(status) => Box::pin(ready(Ok(status.into_http()))),
    };
    if let Some(record) = record {
        return entered(answer, Arc::clone(access), record);
    }
    match principal.filter(|_| streams) {
        Some(principal) => {
            let over = Caller::named(id.as_ref()).refuse(Error::CredentialInvalid);
            let told = principal.told().clone();
            let until = |body| Body::new(Until::new(body, told, move || principal.is_over(), over));
            Box::pin(async move { Ok(answer.await?.map(until)) })
        }
        None => answer,
    }
}

/// Bounds the messages of a call; those that REST makes are bounded where it reads bodies,
/// which needs to know whose they are.
fn bounded_messages(
    request: Request<Body>,
    access: &Access,
    owner: Option<Owner>,
    caller: &Caller,
) -> Request<Body> {
    if let Some(cell) = request.extensions().get::<OwnerCell>() {
        cell.set(owner);
        return request;
    }
    let bounds = access.bounds(request.uri().path());
    let (head, body) = request.into_parts();
    let body = Intake::new(body, &head.headers, bounds, access.room.clone(), owner, caller.clone());
    Request::from_parts(head, Body::new(body))
}

/// Makes a call once what is in memory is as it stands everywhere.
fn up_to_date(access: &Arc<Access>, id: Option<&HeaderValue>, answer: Answer) -> Answer {
    let (access, caller) = (Arc::clone(access), Caller::named(id));
    Box::pin(async move {
        match access.look(&caller).await {
            Ok(()) => answer.await,
            Err(status) => Ok(status.into_http()),
        }
    })
}

/// What a call answers with.
enum Kind {
    /// One message.
    Unary,
    /// A stream, which may count for its connection.
    Stream(Option<OpenStream>),
}

/// Bounds a call, and words its errors.
fn bounded(answer: Answer, limit: Option<Duration>, kind: Kind, id: Option<HeaderValue>) -> Answer {
    Box::pin(async move {
        let answer = AssertUnwindSafe(answer).catch_unwind();
        let answered = match limit {
            None => answer.await,
            Some(limit) => match tokio::time::timeout(limit, answer).await {
                Ok(answered) => answered,
                Err(_) => Ok(Ok(Status::deadline_exceeded(TIME_OVER).into_http())),
            },
        };
        let response = match answered {
            Ok(Ok(response)) => reworded(response, id.as_ref()),
            Err(panic) => panics::refuse(&*panic, &Caller::named(id.as_ref())).into_http(),
        };
        Ok(match kind {
            Kind::Unary => response,
            Kind::Stream(open) => response.map(|body| Body::new(Caught { body, id, _open: open })),
        })
    })
}

/// Enters a call in the audit log before it is answered. A task of its own, so that
/// a caller who goes away in the middle leaves no change without its entry.
fn entered(answer: Answer, access: Arc<Access>, record: Record) -> Answer {
    let whole = tokio::spawn(async move {
        let response = answer.await?;
        let status = Status::from_header_map(response.headers());
        let code = status.map_or(Code::Ok, |status| status.code());
        match access.enter(record, code).await {
            Ok(()) => Ok(response),
            Err(status) => Ok(status.into_http()),
        }
    });
    Box::pin(async move {
        whole.await.unwrap_or_else(|_| Ok(Status::internal("the call ended in a panic").into_http()))
    })
}

/// The answer, or an error of our own in place of one that says too little.
fn reworded(response: Response<Body>, id: Option<&HeaderValue>) -> Response<Body> {
    // An error before the first message is in the headers.
    match Status::from_header_map(response.headers()) {
        Some(error) if error.code() != tonic::Code::Ok && error.details().is_empty() => {
            status::undecodable(&error, &Caller::named(id)).map_or(response, Status::into_http)
        }
        Some(_) | None => response,
    }
}

/// The time a caller gives, by `grpc-timeout`: up to eight digits and a unit.
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::{StreamExt as _, stream};
    use http_body::Frame;
    use http_body_util::{BodyExt as _, StreamBody};
    use tonic_types::StatusExt as _;

    use super::*;

    fn request(path: &str) -> Request<Body> {
        Request::post(path).header(status::REQUEST_ID, "r-1").body(Body::empty()).unwrap()
    }

    /// INTERNAL with the request's id, and nothing of what was wrong.
    fn assert_bug(headers: &HeaderMap) {
        let status = Status::from_header_map(headers).unwrap();
        assert_eq!(status.code(), tonic::Code::Internal);
        assert_eq!(status.get_details_error_info().unwrap().reason, "INTERNAL");
        assert_eq!(status.get_details_request_info().unwrap().request_id, "r-1");
        assert!(!status.message().contains("what was wrong"), "{status:?}");
    }

    #[tokio::test]
    async fn a_method_that_panics_is_answered_as_internal() {
        let call = |_| -> Answer { Box::pin(async { panic!("what was wrong") }) };
        for path in ["/a.Service/Get", HEALTH_WATCH] {
            assert_bug(guard(request(path), None, call).await.unwrap().headers());
        }
    }

    #[tokio::test]
    async fn a_stream_that_panics_ends_as_internal_after_what_it_sent() {
        let call = |_| -> Answer {
            let first = Frame::data(Bytes::from_static(b"first"));
            let frames = stream::iter([Ok::<_, Status>(first)])
                .chain(stream::once(async { panic!("what was wrong") }));
            let body = Body::new(StreamBody::new(frames.boxed()));
            Box::pin(async { Ok(Response::new(body)) })
        };
        let Ok(response) = guard(request(HEALTH_WATCH), None, call).await;
        let collected = response.into_body().collect().await.unwrap();
        assert_bug(collected.trailers().unwrap());
        assert_eq!(collected.to_bytes(), "first");
    }

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        let cases = [
            ("5S", Some(Duration::from_secs(5))),
            ("1H", Some(Duration::from_secs(3600))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("20u", Some(Duration::from_micros(20))),
            ("", None),
            ("S", None),
            ("5", None),
            ("5x", None),
            ("-5S", None),
            ("123456789S", None),
        ];
        for (text, expected) in cases {
            let headers = HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), text.parse().unwrap())]);
            assert_eq!(timeout(&headers), expected, "{text}");
        }
    }
}
