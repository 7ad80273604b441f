//! Server streams over HTTP: server-sent events or newline-delimited JSON.

use std::convert::Infallible;

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use prost_reflect::{DynamicMessage, FieldDescriptor};
use tonic::{Status, Streaming};

use super::{problem::Problem, render};

/// How messages are told apart in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// `text/event-stream`, for browsers.
    Events,
    /// `application/x-ndjson`, for everything else.
    Lines,
}

impl Framing {
    /// As asked for with `accept`.
    pub(super) fn asked_for(headers: &HeaderMap) -> Self {
        let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut ranges = accepted.flat_map(|value| value.split(','));
        if ranges.any(accepts_events) { Self::Events } else { Self::Lines }
    }

    fn media_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Events => "text/event-stream",
            Self::Lines => "application/x-ndjson",
        })
    }

    fn message(self, message: &DynamicMessage, body: Option<&FieldDescriptor>) -> Result<String, Status> {
        let json = render::json(message, body)?;
        let json = String::from_utf8(json).map_err(|_| Status::internal("the response is not UTF-8"))?;
        Ok(match self {
            Self::Lines => json + "\n",
            Self::Events => {
                let id = event_id(message).map(|id| format!("id: {id}\n")).unwrap_or_default();
                // A comment shows no event, but an id without data still counts.
                if is_progress(message) {
                    format!(": progress\n{id}\n")
                } else {
                    format!("{id}data: {json}\n\n")
                }
            }
        })
    }

    fn error(self, problem: &Problem) -> String {
        let json = problem.to_json();
        match self {
            Self::Lines => format!("{{\"error\":{json}}}\n"),
            Self::Events => format!("event: error\ndata: {json}\n\n"),
        }
    }
}

/// Whether a range of `accept` takes server-sent events: a weight of zero refuses them.
fn accepts_events(range: &str) -> bool {
    let mut parts = range.split(';').map(str::trim);
    let is_events = parts.next().is_some_and(|media| media.eq_ignore_ascii_case("text/event-stream"));
    let is_refused = parts.filter_map(|part| part.split_once('=')).any(|(name, value)| {
        name.trim().eq_ignore_ascii_case("q") && value.trim().parse::<f32>().is_ok_and(|weight| weight <= 0.0)
    });
    is_events && !is_refused
}

/// Answers with the stream, once its first message is there: until then an error is
/// an ordinary response. The body owns the call, so a client that goes away ends it.
pub(super) async fn respond(
    mut messages: Streaming<DynamicMessage>,
    framing: Framing,
    body: Option<FieldDescriptor>,
    request_id: Option<HeaderValue>,
) -> Result<Response, Status> {
    let first = messages.message().await?;
    let frames = stream::iter(first.map(Ok)).chain(messages).map(move |item| {
        let frame = item.and_then(|message| framing.message(&message, body.as_ref()));
        let frame = frame.unwrap_or_else(|status| {
            framing.error(&Problem::from_status(&status).with_request_id(request_id.as_ref()))
        });
        Ok::<_, Infallible>(Bytes::from(frame))
    });
    let mut response = Response::new(Body::from_stream(frames));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, framing.media_type());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Asks nginx and its like not to hold events back.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

/// The position to resume at, where messages have one.
fn event_id(message: &DynamicMessage) -> Option<String> {
    let token = message.get_field_by_name("resume_token")?.as_str()?.to_owned();
    // A line break would end the field and let the rest pass for another.
    (!token.is_empty() && !token.contains(['\n', '\r', '\0'])).then_some(token)
}

fn is_progress(message: &DynamicMessage) -> bool {
    let changes = message.get_field_by_name("changes");
    changes.is_some_and(|changes| changes.as_list().is_some_and(<[_]>::is_empty))
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;
    use crate::grpc::pb;

    fn response(changes: usize, token: &str) -> DynamicMessage {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        let mut message =
            DynamicMessage::new(pool.get_message_by_name("hookwire.v1.WatchDeliveriesResponse").unwrap());
        let typed = pb::WatchDeliveriesResponse {
            changes: vec![pb::DeliveryChange::default(); changes],
            resume_token: token.to_owned(),
            ..Default::default()
        };
        message.transcode_from(&typed).unwrap();
        message
    }

    #[test]
    fn events_carry_the_token_as_their_id() {
        let event = Framing::Events.message(&response(1, "t1"), None).unwrap();
        assert!(event.starts_with("id: t1\ndata: {\"changes\":[{"), "{event}");
        assert!(event.ends_with("}\n\n"), "{event}");
        assert_eq!(event.lines().count(), 3);
    }

    #[test]
    fn progress_is_a_comment_with_an_id() {
        assert_eq!(Framing::Events.message(&response(0, "t2"), None).unwrap(), ": progress\nid: t2\n\n");
        assert_eq!(Framing::Events.message(&response(0, "a\ndata: x"), None).unwrap(), ": progress\n\n");
    }

    #[test]
    fn lines_are_whole_messages() {
        let line = Framing::Lines.message(&response(0, "t3"), None).unwrap();
        assert_eq!(line, "{\"changes\":[],\"resume_token\":\"t3\",\"lag\":\"0\"}\n");
    }

    #[test]
    fn errors_are_told_in_the_stream_s_own_way() {
        let problem = Problem::from_status(&Status::aborted("x"));
        assert!(Framing::Lines.error(&problem).starts_with("{\"error\":{\"type\":\"urn:"));
        assert!(Framing::Events.error(&problem).starts_with("event: error\ndata: {\"type\":\"urn:"));
    }

    #[test]
    fn events_are_only_sent_to_those_who_ask() {
        let framing = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            Framing::asked_for(&headers)
        };
        assert_eq!(framing("text/event-stream"), Framing::Events);
        assert_eq!(framing("text/html, Text/Event-Stream;q=0.9"), Framing::Events);
        assert_eq!(framing("*/*"), Framing::Lines);
        assert_eq!(Framing::asked_for(&HeaderMap::new()), Framing::Lines);
    }
}
