//! The messages of a call on their way in, before they are decoded.
//!
//! Small ones pass as they are. One that is large or compressed is read here to its end,
//! within the room that there is for large bodies ([`Room`]), inflated in slices, and
//! weighed; then it goes on in pieces. What it holds is given back once the next one is
//! asked for, or the body is dropped: the message is decoded by then.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures_util::{FutureExt as _, future::BoxFuture};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;
use prost_reflect::MessageDescriptor;
use tonic::{Status, body::Body};

use super::{
    inflate::{Fault, announced, inflate},
    large_body::{FREE_BYTES, LargeBody, Room},
    status::{self, Caller},
    weight::is_too_heavy,
};
use crate::machine::body_budget::Owner;

/// Of each message: whether it is compressed, and its length.
const HEAD_BYTES: usize = 5;

/// What the messages of a call may be.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    /// Largest message, compressed or not.
    pub bytes_max: usize,
    /// What they are, if that is one of ours.
    pub message: Option<MessageDescriptor>,
}

/// The body of a request, read as this module says.
pub(super) struct Intake {
    body: Option<Body>,
    context: Reading,
    /// Arrived and not looked at.
    arrived: Bytes,
    /// Bytes of a small message that are to come.
    left: usize,
    /// Pieces of a large message that were read.
    pieces: VecDeque<Bytes>,
    /// The reservation of the large message that was read last.
    large: Option<LargeBody>,
    reading: Option<BoxFuture<'static, Read>>,
}

/// What is needed to read a large message.
#[derive(Clone)]
struct Reading {
    bounds: Bounds,
    room: Room,
    owner: Option<Owner>,
    is_gzip: bool,
    caller: Caller,
}

/// A large message that was read, with the body it came from and what came after it.
struct Read {
    body: Body,
    after: Bytes,
    message: Result<(VecDeque<Bytes>, LargeBody), Status>,
}

/// What the bytes that arrived begin with.
enum Next {
    /// This many bytes of small messages.
    Pass(usize),
    /// A message that is read here.
    Large { length: usize, is_compressed: bool },
    /// A part of a head.
    Incomplete,
}

impl Intake {
    /// The body of a request with these headers.
    pub fn new(
        body: Body,
        headers: &HeaderMap,
        bounds: Bounds,
        room: Room,
        owner: Option<Owner>,
        caller: Caller,
    ) -> Self {
        let is_gzip = headers.get("grpc-encoding").is_some_and(|it| it == "gzip");
        Self {
            body: Some(body),
            context: Reading { bounds, room, owner, is_gzip, caller },
            arrived: Bytes::new(),
            left: 0,
            pieces: VecDeque::new(),
            large: None,
            reading: None,
        }
    }

    fn next(&mut self) -> Next {
        let mut at = self.left.min(self.arrived.len());
        let mut left = self.left - at;
        while let Some(head) = self.arrived.get(at..at + HEAD_BYTES) {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let is_compressed = head[0] == 1 && self.context.is_gzip;
            // Whatever else is wrong with a head is refused where messages are decoded.
            if is_compressed || head[0] == 0 && length > FREE_BYTES {
                if at == 0 {
                    return Next::Large { length, is_compressed };
                }
                break;
            }
            let here = length.min(self.arrived.len() - at - HEAD_BYTES);
            at += HEAD_BYTES + here;
            left = length - here;
        }
        if at == 0 {
            return Next::Incomplete;
        }
        self.left = left;
        Next::Pass(at)
    }

    fn fail(&mut self, status: Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        (self.body, self.large) = (None, None);
        (self.arrived, self.left) = (Bytes::new(), 0);
        Poll::Ready(Some(Err(status)))
    }
}

impl HttpBody for Intake {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        loop {
            if let Some(piece) = this.pieces.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            this.large = None;
            if let Some(reading) = &mut this.reading {
                let Read { body, after, message } = ready!(reading.poll_unpin(context));
                (this.reading, this.body, this.arrived) = (None, Some(body), after);
                match message {
                    Ok((pieces, large)) => (this.pieces, this.large) = (pieces, Some(large)),
                    Err(status) => return this.fail(status),
                }
                continue;
            }
            if !this.arrived.is_empty() {
                match this.next() {
                    Next::Pass(length) => {
                        return Poll::Ready(Some(Ok(Frame::data(this.arrived.split_to(length)))));
                    }
                    Next::Large { length, is_compressed } => {
                        let Some(body) = this.body.take() else { return Poll::Ready(None) };
                        let mut first = std::mem::take(&mut this.arrived);
                        first.advance(HEAD_BYTES);
                        let reading = this.context.clone();
                        this.reading = Some(reading.read(body, first, length, is_compressed).boxed());
                        continue;
                    }
                    Next::Incomplete => {}
                }
            }
            let Some(body) = &mut this.body else { return Poll::Ready(None) };
            match ready!(Pin::new(body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if this.arrived.is_empty() => this.arrived = data,
                    Ok(data) => this.arrived = [&this.arrived[..], &data[..]].concat().into(),
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                // A head that is cut short is refused where messages are decoded.
                None if !this.arrived.is_empty() => {
                    this.body = None;
                    return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.arrived)))));
                }
                ended @ (None | Some(Err(_))) => return Poll::Ready(ended),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_over = self.body.as_ref().is_none_or(HttpBody::is_end_stream);
        is_over && self.reading.is_none() && self.pieces.is_empty() && self.arrived.is_empty()
    }
}

impl Reading {
    async fn read(self, mut body: Body, first: Bytes, length: usize, is_compressed: bool) -> Read {
        let mut arrived = VecDeque::from([first]);
        let message = self.message(&mut body, &mut arrived, length, is_compressed).await;
        // All that arrived after the message is in one piece.
        let after = arrived.pop_back().unwrap_or_default();
        Read { body, after, message }
    }

    /// Reads a message of that length; leaves in `arrived` only what came after it.
    async fn message(
        &self,
        body: &mut Body,
        arrived: &mut VecDeque<Bytes>,
        length: usize,
        is_compressed: bool,
    ) -> Result<(VecDeque<Bytes>, LargeBody), Status> {
        let bytes_max = self.bounds.bytes_max;
        if length > bytes_max {
            return Err(status::too_large(bytes_max, Some(length), &self.caller));
        }
        let mut large = self.room.enter(self.owner);
        if length > FREE_BYTES {
            large.reserve(length - FREE_BYTES).await?;
        }
        let mut have = arrived.iter().map(Bytes::len).sum::<usize>();
        large.arrived(have);
        while have < length {
            let data = match large.next(body.frame()).await? {
                Some(Ok(frame)) => frame.into_data().map_err(|_| self.cut_short())?,
                Some(Err(status)) => return Err(status),
                None => return Err(self.cut_short()),
            };
            have += data.len();
            large.arrived(data.len());
            arrived.push_back(data);
        }
        large.is_whole();
        let mut message = std::mem::take(arrived);
        if have > length
            && let Some(last) = message.back_mut()
        {
            let after = last.split_off(last.len() - (have - length));
            arrived.push_back(after);
        }
        if is_compressed {
            let announced = announced(&message).ok_or_else(|| self.refuse(&Fault::Malformed))?;
            let inflated = inflate(Pieces::new(message), announced, bytes_max, &mut large).await;
            message = inflated.map_err(|fault| self.refuse(&fault))?.into();
        }
        let length: usize = message.iter().map(Bytes::len).sum();
        if let Some(descriptor) = &self.bounds.message
            && is_too_heavy(descriptor, Pieces::new(message.clone()))
        {
            return Err(status::too_heavy(&self.caller));
        }
        let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        message.push_front(Bytes::from([&[0], length.as_slice()].concat()));
        Ok((message, large))
    }

    fn refuse(&self, fault: &Fault) -> Status {
        match *fault {
            Fault::TooLarge => status::too_large(self.bounds.bytes_max, None, &self.caller),
            Fault::Malformed => status::malformed("the message is not valid gzip", &self.caller),
            Fault::Refused(refused) => refused.into(),
        }
    }

    fn cut_short(&self) -> Status {
        status::malformed("the message is cut short", &self.caller)
    }
}

/// Pieces read as one.
struct Pieces {
    pieces: VecDeque<Bytes>,
    left: usize,
}

impl Pieces {
    fn new(mut pieces: VecDeque<Bytes>) -> Self {
        pieces.retain(|piece| !piece.is_empty());
        let left = pieces.iter().map(Bytes::len).sum();
        Self { pieces, left }
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map(|piece| &piece[..]).unwrap_or_default()
    }

    fn advance(&mut self, mut count: usize) {
        self.left -= count;
        while count > 0 {
            let Some(piece) = self.pieces.front_mut() else { return };
            let here = count.min(piece.len());
            piece.advance(here);
            count -= here;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};
    use futures_util::stream;
    use http_body_util::StreamBody;

    use super::*;

    fn message(flag: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[flag], length.as_slice(), payload].concat()
    }

    fn packed(payload: &[u8]) -> Vec<u8> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(payload).unwrap();
        gzip.finish().unwrap()
    }

    fn intake(wire: &[u8], frame_bytes: usize, room: &Room) -> Intake {
        let frames: Vec<_> = wire
            .chunks(frame_bytes)
            .map(|it| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(it))))
            .collect();
        let body = Body::new(StreamBody::new(stream::iter(frames)));
        let headers = HeaderMap::from_iter([("grpc-encoding".parse().unwrap(), "gzip".parse().unwrap())]);
        let bounds = Bounds { bytes_max: 1 << 20, message: None };
        Intake::new(body, &headers, bounds, room.clone(), None, Caller::default())
    }

    async fn read(wire: &[u8], frame_bytes: usize) -> Result<Vec<u8>, Status> {
        let collected = intake(wire, frame_bytes, &Room::default()).collect().await?;
        Ok(collected.to_bytes().to_vec())
    }

    #[tokio::test]
    async fn messages_come_through_whole_wherever_their_frames_end() {
        let large: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        let payloads: [&[u8]; 6] = [b"", b"small", &large, b"x", &large[..FREE_BYTES], &large];
        let plain: Vec<u8> = payloads.iter().flat_map(|payload| message(0, payload)).collect();
        let mixed: Vec<u8> = payloads
            .iter()
            .enumerate()
            .flat_map(|(index, payload)| match index % 2 {
                0 => message(1, &packed(payload)),
                _ => message(0, payload),
            })
            .collect();
        for frame_bytes in [3, 7, 4096, 100_000, usize::MAX >> 1] {
            assert!(read(&plain, frame_bytes).await.unwrap() == plain, "{frame_bytes}");
            assert!(read(&mixed, frame_bytes).await.unwrap() == plain, "{frame_bytes}: inflated");
        }
    }

    #[tokio::test]
    async fn what_is_too_large_or_cut_short_is_refused() {
        for (wire, code) in [
            (message(1, &packed(&vec![0; 2 << 20])), 3),
            (message(0, &[0; 70_000])[..60_000].to_vec(), 3),
            (vec![0, 0x40, 0, 0, 0], 3),
            (message(1, b"no gzip"), 3),
        ] {
            assert_eq!(read(&wire, 4096).await.unwrap_err().code() as i32, code);
        }
        // A head that is cut short is left to the decoder.
        assert_eq!(read(&[0, 0], 4096).await.unwrap(), [0, 0]);
    }

    #[tokio::test]
    async fn the_room_of_a_message_is_free_once_the_next_is_asked_for() {
        let room = Room::of(100_000);
        let large = message(0, &[1; 160_000]);
        let wire = [large.clone(), large].concat();
        let mut body = intake(&wire, 16 << 10, &room);
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            length += frame.unwrap().into_data().unwrap().len();
        }
        assert_eq!(length, wire.len());
        room.enter(None).reserve(100_000).await.unwrap();
    }
}
