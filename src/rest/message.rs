//! The message of a request, made once the services ask for it.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::request::Parts;
use tokio::sync::Semaphore;
use tonic::Status;

use super::{
    body::{self, BODY_BYTES_MAX, Whole},
    problem::Problem,
    request::{assemble, resume_after},
    route::Route,
    transcode::Refusal,
};
use crate::grpc::{
    EVENTS_BYTES_MAX, OTHER_BYTES_MAX,
    large_body::{OwnerCell, Room},
    weight::is_too_heavy,
};

/// Bodies up to this size are made into messages at once. It takes longer with others, so
/// that is done where nobody else waits for the thread.
const QUICK_BYTES_MAX: usize = 256 << 10;
/// How many of those are made at the same time: each takes several times its body in memory.
const SLOW_MAX: usize = 1;

/// Makes messages out of requests.
#[derive(Debug)]
pub(super) struct Messages {
    room: Room,
    slow: Semaphore,
}

/// A request whose message is to be made.
pub(super) struct Source {
    pub route: Arc<Route>,
    pub variables: Vec<(String, String)>,
    pub head: Parts,
    /// Set by the services when they let its caller in.
    pub owner: OwnerCell,
}

impl Messages {
    /// Messages whose bodies are read in that room.
    pub fn new(room: Room) -> Self {
        Self { room, slow: Semaphore::new(SLOW_MAX) }
    }

    /// Reads the body of a request and makes its message, in wire form.
    pub async fn make(&self, source: Source, body: Body) -> Result<Bytes, Status> {
        let bytes_max = if source.route.publishes { BODY_BYTES_MAX } else { OTHER_BYTES_MAX };
        let owner = source.owner.get();
        let Whole { bytes, large } =
            body::read(&source.head.headers, body, bytes_max, &self.room, owner).await?;
        if bytes.len() <= QUICK_BYTES_MAX {
            return source.message(&bytes).map_err(|problem| problem.into_status());
        }
        let _slot = self.slow.acquire().await;
        let made = tokio::task::spawn_blocking(move || {
            // Held until the body is read, even if the caller hangs up.
            let _large = large;
            source.message(&bytes)
        });
        match made.await {
            Ok(made) => made.map_err(|problem| problem.into_status()),
            Err(_) => Err(Status::internal("the message of a request could not be made")),
        }
    }
}

impl Source {
    fn message(&self, body: &[u8]) -> Result<Bytes, Box<Problem>> {
        let wire_max = if self.route.publishes { EVENTS_BYTES_MAX } else { OTHER_BYTES_MAX };
        let query = self.head.uri.query().unwrap_or_default();
        let message = self.route.rpc.input();
        let mut wire = match assemble(&self.route, &self.variables, query, wire_max, body) {
            Ok(wire) => wire,
            Err(Refusal::Invalid(violations)) => return Err(Problem::invalid(violations).into()),
            Err(Refusal::TooLarge) => return Err(Problem::message_too_large(wire_max).into()),
        };
        if is_too_heavy(&message, wire.bytes.as_slice()) {
            return Err(Problem::too_heavy().into());
        }
        if self.route.rpc.is_server_streaming() {
            let last_event_id = self.head.headers.get("last-event-id").and_then(|id| id.to_str().ok());
            resume_after(&message, &mut wire, last_event_id.unwrap_or_default());
        }
        Ok(wire.bytes.into())
    }
}
