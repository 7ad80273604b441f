//! A server that is started while its database is away.
//!
//! It waits for a while, and its port answers meanwhile: liveness with 200, since there is
//! nothing to restart; readiness with 503 and what it waits for; everything else with "try
//! again".

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use tokio::{net::TcpListener, sync::oneshot, time};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::{
    Error, Signals, pages,
    readiness::{Readiness, STORE},
};
use crate::{
    clock::Clock,
    entropy::Entropy,
    front,
    rest::Problem,
    store::{self, Store},
};

/// Between two tries.
const TRY_EVERY: Duration = Duration::from_millis(500);
/// What callers are told.
const AWAY: &str = "the server waits for its database: try again";

/// A store that was opened, and the end of its writer.
pub(super) type Opened = (Arc<Store>, oneshot::Receiver<Result<(), store::Error>>);

/// How the port is opened meanwhile.
pub(super) struct Room {
    pub listener: TcpListener,
    pub config: front::Config,
    pub clock: Clock,
    pub entropy: Entropy,
    pub readiness: Readiness,
    /// Whether only this machine may ask.
    pub loopback_only: bool,
}

/// Opens the store by `attempt`. Waits up to `grace` for a database server that is away; `None`
/// if the server is told to stop meanwhile.
pub(super) async fn open(
    attempt: impl AsyncFn() -> Result<Opened, Error>,
    grace: Duration,
    room: impl FnOnce() -> Result<Room, Error>,
    signals: &Signals,
) -> Result<Option<Opened>, Error> {
    let first = match attempt().await {
        Ok(opened) => return Ok(Some(opened)),
        Err(error) if is_away(&error) && !grace.is_zero() => error,
        Err(error) => return Err(error),
    };
    let room = room()?;
    let readiness = room.readiness.clone();
    let stop = CancellationToken::new();
    let _closes = stop.clone().drop_guard();
    tokio::spawn(answer(room, stop));
    tracing::warn!(
        error = &first as &dyn std::error::Error,
        seconds = grace.as_secs_f64(),
        "the database is away; waiting for it, not ready meanwhile"
    );
    let mut last = first;
    let tries = async {
        loop {
            readiness.set(STORE, Some(format!("waiting for the database: {last}")));
            time::sleep(TRY_EVERY).await;
            match attempt().await {
                Ok(opened) => return Ok(opened),
                Err(error) if is_away(&error) => last = error,
                Err(error) => return Err(error),
            }
        }
    };
    let waited = tokio::select! {
        () = signals.stop.cancelled() => return Ok(None),
        waited = time::timeout(grace, tries) => waited,
    };
    match waited {
        Ok(opened) => opened.map(Some),
        Err(_) => Err(last),
    }
}

/// Whether a start failed because the database server is away.
fn is_away(error: &Error) -> bool {
    matches!(error, Error::Store(error) if error.is_away())
}

/// Answers on the port until `stop`.
async fn answer(room: Room, stop: CancellationToken) {
    let pages = pages::probes(room.readiness).fallback(away);
    let house = front::loopback_only(pages, room.loopback_only);
    let door = front::door(house, room.clock, room.entropy.clone());
    front::serve(room.listener, door, room.config, room.entropy, stop).await;
}

/// What whoever comes for anything else is told.
async fn away(request: Request) -> Response {
    let kind = request
        .headers()
        .get(header::CONTENT_TYPE)
        .filter(|it| it.as_bytes().starts_with(b"application/grpc"));
    let Some(kind) = kind else {
        let mut response = Problem::new(Code::Unavailable, "", AWAY).into_response();
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        return response;
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, kind.clone());
    headers.insert("grpc-status", header::HeaderValue::from_static("14"));
    headers.insert("grpc-message", header::HeaderValue::from_static(AWAY));
    response
}
