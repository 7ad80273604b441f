//! Undoes gzip in slices, so that nobody waits long for a message that is large once
//! it is inflated, and none is inflated without room for it.

use std::{collections::VecDeque, io::Read as _};

use bytes::{Buf, Bytes};
use flate2::bufread::GzDecoder;

use super::large_body::{FREE_BYTES, LargeBody, Refused};

/// Inflated without letting others run; a fraction of a millisecond.
const SLICE_BYTES: usize = 64 << 10;

/// Why a message cannot be inflated.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is larger than the limit.
    TooLarge,
    /// It is no gzip.
    Malformed,
    /// There is no room for it.
    Refused(Refused),
}

/// The length that a gzip has once it is inflated, by its last four bytes.
pub(super) fn announced(packed: &VecDeque<Bytes>) -> Option<usize> {
    let mut last = packed.iter().rev().flat_map(|piece| piece.iter().rev().copied());
    let length = [last.next()?, last.next()?, last.next()?, last.next()?];
    usize::try_from(u32::from_be_bytes(length)).ok()
}

/// Inflates `packed` to the length that it [`announced`], if that is within `bytes_max`
/// and `body` can have room for it.
pub(super) async fn inflate(
    packed: impl Buf,
    announced: usize,
    bytes_max: usize,
    body: &mut LargeBody,
) -> Result<Vec<Bytes>, Fault> {
    if announced > bytes_max {
        return Err(Fault::TooLarge);
    }
    if announced > FREE_BYTES {
        body.reserve(announced - FREE_BYTES).await.map_err(Fault::Refused)?;
    }
    let mut gzip = GzDecoder::new(packed.reader());
    let (mut slices, mut length) = (Vec::new(), 0);
    loop {
        // One more than announced, to meet the end or a lie.
        let mut slice = vec![0; SLICE_BYTES.min(announced - length + 1)];
        let mut filled = 0;
        while filled < slice.len() {
            match gzip.read(&mut slice[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(_) => return Err(Fault::Malformed),
            }
        }
        let is_last = filled < slice.len();
        slice.truncate(filled);
        length += filled;
        if length > announced {
            return Err(Fault::Malformed);
        }
        slices.push(Bytes::from(slice));
        if is_last {
            return Ok(slices);
        }
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};

    use super::*;
    use crate::grpc::large_body::Room;

    fn packed(bytes: usize) -> Vec<u8> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(&vec![7; bytes]).unwrap();
        gzip.finish().unwrap()
    }

    async fn inflated(packed: &[u8], bytes_max: usize, room: &Room) -> Result<Vec<u8>, Fault> {
        let announced = announced(&VecDeque::from([Bytes::copy_from_slice(packed)])).unwrap();
        let slices = inflate(packed, announced, bytes_max, &mut room.enter(None)).await?;
        Ok(slices.concat())
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_inflated_is_whole_and_bounded_by_the_limit_and_the_room() {
        let room = Room::of(1 << 20);
        for bytes in [0, 1, SLICE_BYTES - 1, SLICE_BYTES, 1 << 20] {
            assert_eq!(inflated(&packed(bytes), 1 << 20, &room).await.unwrap(), vec![7; bytes]);
        }
        let bomb = packed(2 << 20);
        assert_eq!(inflated(&bomb, 1 << 20, &room).await, Err(Fault::TooLarge));
        assert_eq!(inflated(&bomb, 4 << 20, &room).await, Err(Fault::Refused(Refused::NoRoom)));
        let mut lie = bomb.clone();
        lie.truncate(bomb.len() - 4);
        lie.extend(1000_u32.to_le_bytes());
        assert_eq!(inflated(&lie, 1 << 20, &room).await, Err(Fault::Malformed));
        let mut damaged = packed(1000);
        damaged[12] ^= 0xff;
        assert_eq!(inflated(&damaged, 1 << 20, &room).await, Err(Fault::Malformed));
    }

    #[tokio::test]
    async fn others_run_between_two_slices() {
        let bomb = packed(1 << 20);
        let room = Room::default();
        let mut body = room.enter(None);
        let mut inflating = std::pin::pin!(inflate(bomb.as_slice(), 1 << 20, 4 << 20, &mut body));
        let mut turns = 1;
        while futures_util::poll!(inflating.as_mut()).is_pending() {
            turns += 1;
        }
        assert!(turns > 10, "{turns}");
    }
}
