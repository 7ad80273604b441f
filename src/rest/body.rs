//! Request bodies, read whole within bounds of size, time and memory.
//!
//! Here a body is in memory before anybody has been asked who sent it, so what all
//! clients together may have sent is bounded as well.

use std::{sync::Arc, time::Duration};

use super::problem::Problem;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Largest body of a request that publishes: the 16 MiB that one publishing call may carry, and room
/// for the JSON around them.
pub const BODY_BYTES_MAX: usize = 17 << 20;
/// For the whole of a request's body, which is within the 60 s of its call: 17 MiB take as
/// long at 2.9 Mbit/s.
const READ_TIMEOUT: Duration = Duration::from_secs(50);
/// What a body may have without room of its own: any single event of a usual size, so
/// that clients who send large bodies slowly cannot keep the others out.
const FREE_BYTES: usize = 64 << 10;
/// What is beyond that of all bodies at once: four of the largest.
const ROOM_BYTES: usize = 4 * BODY_BYTES_MAX;

/// The room for large bodies.
#[derive(Clone, Debug)]
pub(super) struct Bodies(Arc<Semaphore>);

/// A body, and the room it takes until its request is over.
#[derive(Debug)]
pub(super) struct Whole {
    pub bytes: Bytes,
    pub room: Option<OwnedSemaphorePermit>,
}

impl Default for Bodies {
    fn default() -> Self {
        Self::with_room(ROOM_BYTES)
    }
}

impl Bodies {
    fn with_room(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }

    /// Reads a body of at most `max` bytes to its end, or says what is wrong with it.
    pub async fn read(&self, headers: &HeaderMap, body: Body, max: usize) -> Result<Whole, Problem> {
        let limit = max as u64;
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let length = length.and_then(|value| value.parse::<u64>().ok());
        if length.is_some_and(|length| length > limit) {
            return Err(Problem::too_large(limit, length));
        }
        let encoding = headers.get(header::CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(Problem::unsupported_encoding());
        }
        match tokio::time::timeout(READ_TIMEOUT, self.collect(body, max)).await {
            Ok(read) => read,
            Err(_) => Err(Problem::too_slow(READ_TIMEOUT)),
        }
    }

    async fn collect(&self, mut body: Body, max: usize) -> Result<Whole, Problem> {
        let (mut pieces, mut length, mut room) = (Vec::<Bytes>::new(), 0, None);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Problem::cut_short())?;
            let Ok(piece) = frame.into_data() else { continue };
            let before = length;
            length += piece.len();
            if length > max {
                return Err(Problem::too_large(max as u64, None));
            }
            let beyond = length.saturating_sub(before.max(FREE_BYTES));
            if beyond > 0 && !self.grow(&mut room, beyond) {
                return Err(Problem::no_room());
            }
            pieces.push(piece);
        }
        let bytes = match pieces.as_slice() {
            [whole] => whole.clone(),
            pieces => {
                let mut bytes = BytesMut::with_capacity(length);
                pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
                bytes.freeze()
            }
        };
        Ok(Whole { bytes, room })
    }

    /// Takes more room; false if there is none.
    fn grow(&self, room: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> bool {
        // Below the largest body, which fits.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let Ok(more) = Arc::clone(&self.0).try_acquire_many_owned(bytes) else { return false };
        match room {
            Some(room) => room.merge(more),
            None => *room = Some(more),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;
    use futures_util::{StreamExt as _, stream};

    use super::*;

    fn pieces(count: usize) -> Body {
        let piece = || Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 16 << 10]));
        Body::from_stream(stream::iter((0..count).map(move |_| piece())))
    }

    #[tokio::test]
    async fn large_bodies_share_their_room_and_small_ones_need_none() {
        let bodies = Bodies::with_room(40 << 10);
        let headers = HeaderMap::new();
        let large = bodies.read(&headers, pieces(6), BODY_BYTES_MAX).await.unwrap();
        assert_eq!((large.bytes.len(), large.room.as_ref().unwrap().num_permits()), (96 << 10, 32 << 10));

        let refused = bodies.read(&headers, pieces(6), BODY_BYTES_MAX).await.unwrap_err().into_response();
        assert_eq!(
            (refused.status().as_u16(), &refused.headers()["retry-after"]),
            (429, &"1".parse().unwrap())
        );
        assert!(bodies.read(&headers, pieces(4), BODY_BYTES_MAX).await.unwrap().room.is_none());

        drop(large);
        assert!(
            bodies.read(&headers, pieces(6), BODY_BYTES_MAX).await.is_ok(),
            "the refused one gave back what it had"
        );
    }

    #[tokio::test]
    async fn a_body_under_way_has_its_room_and_gives_it_back_when_its_client_is_gone() {
        let bodies = Bodies::with_room(40 << 10);
        let slow = Body::from_stream(pieces(6).into_data_stream().chain(stream::pending()));
        let headers = HeaderMap::new();
        let mut reading = Box::pin(bodies.read(&headers, slow, BODY_BYTES_MAX));
        assert!(futures_util::poll!(&mut reading).is_pending());
        assert!(bodies.read(&headers, pieces(6), BODY_BYTES_MAX).await.is_err());
        drop(reading);
        assert!(bodies.read(&headers, pieces(6), BODY_BYTES_MAX).await.is_ok());
    }
}
