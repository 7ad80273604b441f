//! What is kept of a response.

use http::{HeaderMap, HeaderName, header, response::Parts};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use super::link::Link;
use crate::domain::{Answer, Micros, Response};

/// Bytes of a body that are kept.
pub(super) const BODY_MAX: usize = 16 * 1024;

/// Bytes of headers that are kept, names and values together.
const HEADERS_MAX: usize = 8 * 1024;

/// The answer in a head and what was read of its body.
pub(super) fn answer(head: &Parts, body: Vec<u8>, body_truncated: bool, link: &Link) -> Answer {
    Answer {
        status: head.status.as_u16(),
        retry_after: text(&head.headers, &header::RETRY_AFTER),
        date: text(&head.headers, &header::DATE),
        response: Response {
            headers: record(&head.headers),
            body,
            body_truncated,
            remote: link.remote.as_deref().map(str::to_owned),
        },
    }
}

/// Reads a body up to its limit; whether it was read to its end. What came is in
/// `kept` even if this is dropped half way.
pub(super) async fn read(incoming: &mut Incoming, kept: &mut Vec<u8>) -> bool {
    if let Some(len) = incoming.size_hint().exact() {
        kept.reserve(usize::try_from(len).unwrap_or(BODY_MAX).min(BODY_MAX));
    }
    while !incoming.is_end_stream() {
        let frame = match incoming.frame().await {
            None => break,
            Some(Ok(frame)) => frame,
            Some(Err(_)) => return false,
        };
        // Trailers are of no use to anybody here.
        let Ok(data) = frame.into_data() else { continue };
        let room = BODY_MAX - kept.len();
        kept.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() > room {
            return false;
        }
    }
    true
}

/// How long the endpoint says it keeps an idle connection, less a second for the
/// way there: `keep-alive: timeout=5, max=100`.
pub(super) fn keep_alive(headers: &HeaderMap) -> Option<Micros> {
    let value = headers.get(HeaderName::from_static("keep-alive"))?.to_str().ok()?;
    let seconds = value.split(',').find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| value.trim().parse::<u32>().ok()).flatten()
    })?;
    Some(Micros::from_secs(i64::from(seconds) - 1))
}

/// The headers for the record: as many as fit, without what logs somebody in. What
/// the engine reads there again comes first.
fn record(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut left = HEADERS_MAX;
    let mut kept = Vec::with_capacity(headers.len());
    let first = [header::RETRY_AFTER, header::DATE];
    let needed = first.iter().filter_map(|name| Some((name, headers.get(name)?)));
    let others = headers.iter().filter(|(name, _)| !first.contains(name));
    for (name, value) in needed.chain(others) {
        let value = match *name {
            header::SET_COOKIE => "***".into(),
            _ => String::from_utf8_lossy(value.as_bytes()),
        };
        let Some(rest) = left.checked_sub(name.as_str().len() + value.len()) else { break };
        left = rest;
        kept.push((name.as_str().to_owned(), value.into_owned()));
    }
    kept
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}
