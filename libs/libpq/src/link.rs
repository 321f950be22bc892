//! The two halves of a socket with their buffers. Each half has one owner; neither waits for the other.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::error::NetError;
use proto::consensus::MAX_SEND_SIZE;
use proto::pg::frame::{Expect, Frame, FrameError, HEADER, take_frame};

/// First size of a receive buffer: an idle session should not hold much.
const READ_MIN: usize = 8 << 10;
/// Size that it grows to while reads fill it: room for two messages of the largest kind with their heads, so that a
/// stream of them leaves next to nothing of a third one to be copied into the next buffer.
const READ_MAX: usize = 2 * (MAX_SEND_SIZE + 64);
/// Room made at once for the rest of a long frame; a peer that announces 16 MiB must send them before it is given them.
const ROOM_MAX: usize = 1 << 20;
/// Bodies up to this size are copied behind their head: cheaper than one more element of a gather write.
const INLINE_MAX: usize = 1 << 10;
/// Elements of one gather write (IOV_MAX is 1024; more than this does not pay).
const GATHER_MAX: usize = 64;

/// The receiving half of a connection: cuts what the socket delivers into frames.
pub(crate) struct Incoming {
    socket: Box<dyn AsyncRead + Send + Unpin>,
    buffer: BytesMut,
    read_size: usize,
    peer: Arc<str>,
}

impl Incoming {
    pub(crate) fn new(socket: Box<dyn AsyncRead + Send + Unpin>, peer: Arc<str>) -> Incoming {
        Incoming { socket, buffer: BytesMut::new(), read_size: READ_MIN, peer }
    }

    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    /// A frame that was received already.
    pub(crate) fn try_frame(&mut self, expect: Expect) -> Result<Option<Frame>, FrameError> {
        take_frame(&mut self.buffer, expect).map(Result::ok)
    }

    /// The next frame; `None` when the peer closed between frames. Cancel safe: what was received stays in the buffer.
    pub(crate) async fn frame(&mut self, expect: Expect) -> Result<Option<Frame>, RecvError> {
        loop {
            let needed = match take_frame(&mut self.buffer, expect)? {
                Ok(frame) => return Ok(Some(frame)),
                Err(needed) => needed,
            };
            if self.fill(needed).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(RecvError::Torn) };
            }
        }
    }

    /// Exactly `len` bytes, for what comes before frames. Cancel safe.
    pub(crate) async fn exactly(&mut self, len: usize) -> Result<Option<Bytes>, RecvError> {
        while self.buffer.len() < len {
            if self.fill(len - self.buffer.len()).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(RecvError::Torn) };
            }
        }
        Ok(Some(self.buffer.split_to(len).freeze()))
    }

    /// Reads and drops up to `max` bytes, until the peer closes.
    pub(crate) async fn discard(&mut self, max: usize) {
        let mut dropped = self.buffer.len();
        while dropped < max {
            self.buffer.clear();
            match self.fill(1).await {
                Ok(n) if n > 0 => dropped += n,
                _ => return,
            }
        }
    }

    /// One read; 0 at the end of the stream. `needed` is how many bytes are surely still to come.
    async fn fill(&mut self, needed: usize) -> Result<usize, RecvError> {
        let spare = self.buffer.capacity() - self.buffer.len();
        let needed = needed.min(ROOM_MAX);
        // A system call to fill a sliver gains little, but costs less than copying the frame that the sliver completes.
        let sliver = HEADER.max(self.read_size / 8);
        let inside = self.buffer.len() >= HEADER;
        if spare < needed || (spare < sliver && !inside) {
            self.make_room(needed);
        }
        let spare = self.buffer.capacity() - self.buffer.len();
        let n = self.socket.read_buf(&mut self.buffer).await.map_err(RecvError::Io)?;
        if n == spare && spare >= sliver {
            self.read_size = (self.read_size * 2).min(READ_MAX);
        }
        Ok(n)
    }

    /// Moves the frame that has begun to the front of a buffer with room for `needed` more bytes: the old one when
    /// nobody holds a part of it, otherwise one that is no longer than it has to be, since WAL that is kept keeps the
    /// whole buffer.
    fn make_room(&mut self, needed: usize) {
        let begun = self.buffer.len();
        // For a very long frame the buffer doubles, so that the frame is not copied at each step.
        let more = if begun < ROOM_MAX { needed } else { needed.max(begun) };
        let size = self.read_size.max(begun + more);
        if !self.buffer.try_reclaim(size - begun) {
            let mut fresh = BytesMut::with_capacity(size);
            fresh.put_slice(&self.buffer);
            self.buffer = fresh;
        }
    }
}

/// Why no frame came.
#[derive(Debug)]
pub(crate) enum RecvError {
    Io(std::io::Error),
    /// The peer closed inside a frame.
    Torn,
    Frame(FrameError),
}

impl From<FrameError> for RecvError {
    fn from(e: FrameError) -> RecvError {
        RecvError::Frame(e)
    }
}

impl RecvError {
    pub(crate) fn at(self, peer: &str) -> NetError {
        match self {
            RecvError::Io(e) => NetError::io(peer, e),
            RecvError::Torn => NetError::closed(peer),
            RecvError::Frame(e) => NetError::protocol(peer, e.to_string()),
        }
    }
}

/// Sending half: a queue of segments, written with gather writes.
pub(crate) struct Outgoing {
    socket: Box<dyn AsyncWrite + Send + Unpin>,
    /// Finished segments, oldest first.
    segments: VecDeque<Bytes>,
    /// What is being appended to; follows the last segment.
    tail: BytesMut,
    queued: usize,
    peer: Arc<str>,
}

impl Outgoing {
    pub(crate) fn new(socket: Box<dyn AsyncWrite + Send + Unpin>, peer: Arc<str>) -> Outgoing {
        Outgoing { socket, segments: VecDeque::new(), tail: BytesMut::new(), queued: 0, peer }
    }

    /// Appends what `fill` writes.
    pub(crate) fn put(&mut self, fill: impl FnOnce(&mut BytesMut)) {
        let before = self.tail.len();
        fill(&mut self.tail);
        self.queued += self.tail.len() - before;
    }

    /// Appends one frame; a long `body` is queued as it is.
    pub(crate) fn put_frame(&mut self, tag: u8, head: &[u8], body: Bytes) {
        let len = body.len();
        self.put_frame_of(tag, head, std::iter::once(body), len);
    }

    /// Appends one frame whose payload is `head` and then `bodies`, `len` bytes together; long ones are queued as they
    /// are.
    pub(crate) fn put_frame_slices(&mut self, tag: u8, head: &[u8], bodies: Vec<Bytes>) {
        let len = bodies.iter().map(Bytes::len).sum();
        self.put_frame_of(tag, head, bodies.into_iter(), len);
    }

    fn put_frame_of(&mut self, tag: u8, head: &[u8], bodies: impl Iterator<Item = Bytes>, bodies_len: usize) {
        let len = u32::try_from(4 + head.len() + bodies_len).expect("messages are far below 4 GiB");
        self.tail.put_u8(tag);
        self.tail.put_u32(len);
        self.tail.put_slice(head);
        self.queued += HEADER + head.len() + bodies_len;
        for body in bodies {
            if body.len() <= INLINE_MAX {
                self.tail.put_slice(&body);
            } else {
                if !self.tail.is_empty() {
                    self.segments.push_back(self.tail.split().freeze());
                }
                self.segments.push_back(body);
            }
        }
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued
    }

    /// Writes everything. Cancel safe: a write that did not happen left its bytes in the queue.
    pub(crate) async fn flush(&mut self) -> Result<(), NetError> {
        if !self.tail.is_empty() {
            self.segments.push_back(self.tail.split().freeze());
        }
        while !self.segments.is_empty() {
            let mut slices = [IoSlice::new(&[]); GATHER_MAX];
            let mut used = 0;
            for (slot, segment) in slices.iter_mut().zip(&self.segments) {
                *slot = IoSlice::new(segment);
                used += 1;
            }
            let written = self.socket.write_vectored(&slices[..used]).await;
            let written = written.map_err(|e| NetError::io(&self.peer, e))?;
            if written == 0 {
                return Err(NetError::io(&self.peer, std::io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        self.socket.flush().await.map_err(|e| NetError::io(&self.peer, e))
    }

    fn advance(&mut self, mut written: usize) {
        self.queued -= written;
        while let Some(first) = self.segments.front_mut() {
            if written < first.len() {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.segments.pop_front();
        }
    }

    /// Writes everything and closes the sending direction.
    pub(crate) async fn shutdown(&mut self) -> Result<(), NetError> {
        self.flush().await?;
        match self.socket.shutdown().await {
            // The peer was faster.
            Err(e) if e.kind() == std::io::ErrorKind::NotConnected => Ok(()),
            other => other.map_err(|e| NetError::io(&self.peer, e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::ReadBuf;

    use super::*;
    use proto::pg::frame::FROM_CLIENT_COPY;

    /// Gives `bytes` in pieces of the sizes of `pieces`, in turn.
    struct Pieces {
        bytes: Bytes,
        pieces: Vec<usize>,
        turn: usize,
    }

    impl AsyncRead for Pieces {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
            let piece = self.pieces[self.turn % self.pieces.len()];
            self.turn += 1;
            let len = piece.min(to.remaining()).min(self.bytes.len());
            to.put_slice(&self.bytes.split_to(len));
            Poll::Ready(Ok(()))
        }
    }

    fn body(n: usize, len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 31 + n * 7) as u8).collect()
    }

    /// The bodies that come out when bodies of `lens` go in.
    async fn through(lens: &[usize], pieces: Vec<usize>) -> Vec<Bytes> {
        let mut bytes = BytesMut::new();
        for (n, len) in lens.iter().enumerate() {
            bytes.put_u8(b'd');
            bytes.put_u32(u32::try_from(len + 4).expect("short"));
            bytes.put_slice(&body(n, *len));
        }
        let socket = Pieces { bytes: bytes.freeze(), pieces, turn: 0 };
        let mut incoming = Incoming::new(Box::new(socket), Arc::from("test"));
        let mut out = Vec::new();
        while let Some(frame) = incoming.frame(FROM_CLIENT_COPY).await.expect("frames") {
            out.push(frame.body);
        }
        out
    }

    #[tokio::test]
    async fn frames_come_out_whole_however_they_arrive() {
        let lens = [0, 1, 200, 131_117, 5, 131_117, 131_117, 3 << 20, 70_000, 0, 9 << 20, 131_117, 40];
        for pieces in [vec![usize::MAX], vec![1, 3, 4096, 100_000], vec![65_536, 7], vec![300_000, 2, 131_000]] {
            let out = through(&lens, pieces.clone()).await;
            assert_eq!(out.len(), lens.len());
            for (n, (got, len)) in out.iter().zip(lens).enumerate() {
                assert!(got[..] == body(n, len), "body {n} of {len} bytes, pieces {pieces:?}");
            }
        }
    }

    #[tokio::test]
    async fn the_largest_messages_share_a_buffer_two_by_two() {
        let len = MAX_SEND_SIZE + 45;
        let out = through(&[len; 40], vec![usize::MAX]).await;
        let adjacent = |a: &Bytes, b: &Bytes| b.as_ptr() as usize == a.as_ptr() as usize + len + HEADER;
        let shared: Vec<bool> = out.windows(2).skip(20).map(|w| adjacent(&w[0], &w[1])).collect();
        assert!(shared.windows(2).all(|w| w[0] != w[1]), "each buffer holds exactly two: {shared:?}");
    }
}
