//! The first bytes of a connection, which decide its protocol.
//!
//! Hyper reads them without a limit of time: a client that sends nothing, or a part of
//! HTTP/2's preface, would be waited for as long as it likes.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const HTTP_2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether what a client sent so far says which protocol it speaks.
#[derive(Clone, Debug, Default)]
pub(super) struct Decided(Arc<AtomicBool>);

impl Decided {
    /// Whether it does.
    pub fn get(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// A connection whose first bytes are looked at.
#[derive(Debug)]
pub(super) struct Opening<I> {
    io: I,
    /// Bytes of the preface seen; None once the protocol is decided.
    seen: Option<usize>,
    decided: Decided,
}

impl<I> Opening<I> {
    /// A connection on which nothing was read, and whether its protocol is decided.
    pub fn new(io: I) -> (Self, Decided) {
        let decided = Decided::default();
        (Self { io, seen: Some(0), decided: decided.clone() }, decided)
    }

    fn look(&mut self, seen: usize, bytes: &[u8]) {
        let expected = &HTTP_2_PREFACE[seen..];
        let is_preface = bytes.len() < expected.len() && expected.starts_with(bytes);
        self.seen = is_preface.then_some(seen + bytes.len());
        self.decided.0.store(!is_preface, Relaxed);
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Opening<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        if let (Some(seen), true) = (self.seen, polled.is_ready()) {
            self.look(seen, &buffer.filled()[before..]);
        }
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Opening<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    async fn decides(pieces: &[&[u8]]) -> Vec<bool> {
        let (mut client, server) = duplex(100);
        let (mut server, decided) = Opening::new(server);
        let mut seen = Vec::new();
        for piece in pieces {
            client.write_all(piece).await.unwrap();
            server.read_exact(&mut vec![0; piece.len()]).await.unwrap();
            seen.push(decided.get());
        }
        seen
    }

    #[tokio::test]
    async fn a_protocol_is_decided_by_a_whole_preface_or_by_what_is_none() {
        assert_eq!(decides(&[b"GET"]).await, [true]);
        assert_eq!(decides(&[b"P", b"OST /"]).await, [false, true]);
        assert_eq!(decides(&[&HTTP_2_PREFACE[..23], b"\n", b"more"]).await, [false, true, true]);
        assert_eq!(decides(&[HTTP_2_PREFACE]).await, [true]);
        assert_eq!(decides(&[]).await, [false; 0]);
    }
}
