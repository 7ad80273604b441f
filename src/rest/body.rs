//! Request bodies, read whole within bounds of size, time and memory.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tonic::Status;

use super::problem::Problem;
use crate::grpc::large_body::{FREE_BYTES, LargeBody, Owner, Room};

/// Largest body of a request that publishes: the 16 MiB that one publishing call may
/// carry, and room for the JSON around them.
pub const BODY_BYTES_MAX: usize = 17 << 20;
/// For the whole of a request's body, which is within the 60 s of its call: 17 MiB take as
/// long at 2.9 Mbit/s.
const READ_TIMEOUT: Duration = Duration::from_secs(50);

/// A body, and the room that it takes.
#[derive(Debug)]
pub(super) struct Whole {
    pub bytes: Bytes,
    pub large: Option<LargeBody>,
}

/// Reads a body of at most `max` bytes to its end, or says what is wrong with it.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    max: usize,
    room: &Room,
    owner: Option<Owner>,
) -> Result<Whole, Status> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let length = length.and_then(|value| value.parse::<usize>().ok());
    if length.is_some_and(|length| length > max) {
        return Err(Problem::too_large(max, length).into_status());
    }
    let encoding = headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Problem::unsupported_encoding().into_status());
    }
    let reading = Reading { max, room, owner, large: None, reserved: FREE_BYTES };
    match tokio::time::timeout(READ_TIMEOUT, reading.collect(body, length)).await {
        Ok(read) => read,
        Err(_) => Err(Problem::too_slow(READ_TIMEOUT).into_status()),
    }
}

struct Reading<'r> {
    max: usize,
    room: &'r Room,
    owner: Option<Owner>,
    large: Option<LargeBody>,
    /// Bytes that it may have without reserving more.
    reserved: usize,
}

impl Reading<'_> {
    async fn collect(mut self, mut body: Body, length: Option<usize>) -> Result<Whole, Status> {
        self.reserve(length.unwrap_or_default()).await?;
        let mut bytes = BytesMut::with_capacity(length.unwrap_or_default());
        loop {
            let frame = match &mut self.large {
                Some(large) => large.next(body.frame()).await?,
                None => body.frame().await,
            };
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|_| Problem::cut_short().into_status())?;
            let Ok(piece) = frame.into_data() else { continue };
            if bytes.len() + piece.len() > self.max {
                return Err(Problem::too_large(self.max, None).into_status());
            }
            self.reserve(bytes.len() + piece.len()).await?;
            if let Some(large) = &mut self.large {
                large.arrived(piece.len());
            }
            if bytes.is_empty() && body.is_end_stream() {
                // All of it in one piece, as most are.
                return Ok(Whole { bytes: piece, large: self.large });
            }
            bytes.extend_from_slice(&piece);
        }
        if let Some(large) = &mut self.large {
            large.is_whole();
        }
        Ok(Whole { bytes: bytes.freeze(), large: self.large })
    }

    /// Has room for a body of that length reserved.
    async fn reserve(&mut self, length: usize) -> Result<(), Status> {
        if length > self.reserved {
            let large = self.large.get_or_insert_with(|| self.room.enter(self.owner));
            large.reserve(length - self.reserved).await?;
            self.reserved = length;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt as _, stream};
    use tonic::Code;

    use super::*;

    fn pieces(count: usize) -> Body {
        let piece = || Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 16 << 10]));
        Body::from_stream(stream::iter((0..count).map(move |_| piece())))
    }

    async fn read_from(room: &Room, body: Body) -> Result<Whole, Status> {
        read(&HeaderMap::new(), body, BODY_BYTES_MAX, room, None).await
    }

    #[tokio::test(start_paused = true)]
    async fn large_bodies_share_their_room_and_small_ones_need_none() {
        let room = Room::of(40 << 10);
        let large = read_from(&room, pieces(6)).await.unwrap();
        assert_eq!(large.bytes.len(), 96 << 10);
        let refused = read_from(&room, pieces(6)).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(read_from(&room, pieces(4)).await.unwrap().large.is_none());
        drop(large);
        assert!(read_from(&room, pieces(6)).await.is_ok(), "the refused one gave back what it had");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_gives_way_and_one_whose_client_is_gone_gives_back_its_room() {
        let room = Room::of(40 << 10);
        let slow = || Body::from_stream(pieces(6).into_data_stream().chain(stream::pending()));
        let reading = tokio::spawn({
            let room = room.clone();
            async move { read_from(&room, slow()).await.map(|_| ()) }
        });
        tokio::task::yield_now().await;
        assert!(read_from(&room, pieces(6)).await.is_ok());
        assert_eq!(reading.await.unwrap().unwrap_err().code(), Code::ResourceExhausted);

        let mut reading = Box::pin(read_from(&room, slow()));
        assert!(futures_util::poll!(&mut reading).is_pending());
        drop(reading);
        assert!(read_from(&room, pieces(6)).await.is_ok());
    }
}
