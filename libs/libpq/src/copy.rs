//! The CopyBoth stream: two halves with separate owners, polled independently of each other.
//!
//! Received payloads are slices of the receive buffer, and sent ones are queued segments of the sender: WAL is not
//! copied between socket and caller. The owner of a [`CopyWriter`] bounds its queue by [`CopyWriter::queued_bytes`].

use bytes::{Bytes, BytesMut};

use super::error::NetError;
use super::link::{Incoming, Outgoing};
use super::server::ServerState;
use proto::pg::SqlError;
use proto::pg::frame::{FROM_CLIENT_COPY, FROM_SERVER, Frame, put_cstr, put_error, put_frame, read_error};

/// Which end of the session this is.
pub(crate) enum Role {
    Client { parameters: std::collections::HashMap<String, String> },
    Server(Box<ServerState>),
}

/// What came in on a CopyBoth stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CopyEvent {
    /// One CopyData payload.
    Data(Bytes),
    /// CopyDone: the peer's direction is finished. A PostgreSQL that shuts down says CommandComplete instead.
    Done,
    /// CopyFail with its text (from a client).
    Fail(String),
    /// ErrorResponse (from a server).
    Error(Box<SqlError>),
    /// The socket ended (or Terminate).
    Closed,
}

/// Reading half of a CopyBoth stream. Owned independently of the writing half.
pub struct CopyReader {
    pub(crate) incoming: Incoming,
    pub(crate) role: Role,
    /// CopyDone (or its equivalent) was received.
    pub(crate) done: bool,
}

impl CopyReader {
    pub(crate) fn new(incoming: Incoming, role: Role) -> CopyReader {
        CopyReader { incoming, role, done: false }
    }

    /// The next event. Cancel safe.
    ///
    /// # Errors
    /// See [`NetError`]; a frame above 16 MiB is [`NetError::Protocol`].
    pub async fn next(&mut self) -> Result<CopyEvent, NetError> {
        loop {
            let frame = self.incoming.frame(self.expect()).await;
            match frame.map_err(|e| e.at(self.incoming.peer()))? {
                None => return Ok(CopyEvent::Closed),
                Some(frame) => {
                    if let Some(event) = self.event(frame)? {
                        return Ok(event);
                    }
                }
            }
        }
    }

    /// The next event, if a whole one was received already; never waits.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn try_next(&mut self) -> Result<Option<CopyEvent>, NetError> {
        loop {
            let frame = self.incoming.try_frame(self.expect());
            match frame.map_err(|e| NetError::protocol(self.incoming.peer(), e.to_string()))? {
                None => return Ok(None),
                Some(frame) => {
                    if let Some(event) = self.event(frame)? {
                        return Ok(Some(event));
                    }
                }
            }
        }
    }

    /// The other end, for logs.
    pub fn peer(&self) -> &str {
        self.incoming.peer()
    }

    fn expect(&self) -> proto::pg::frame::Expect {
        match self.role {
            Role::Client { .. } => FROM_SERVER,
            Role::Server(_) => FROM_CLIENT_COPY,
        }
    }

    fn event(&mut self, frame: Frame) -> Result<Option<CopyEvent>, NetError> {
        let client = matches!(self.role, Role::Client { .. });
        Ok(match frame.tag {
            b'd' => Some(CopyEvent::Data(frame.body)),
            b'c' => {
                self.done = true;
                Some(CopyEvent::Done)
            }
            // A walsender that is being shut down ends the command without CopyDone.
            b'C' if client && !self.done => {
                self.done = true;
                Some(CopyEvent::Done)
            }
            b'f' if !client => {
                let mut body = frame.body;
                Some(CopyEvent::Fail(proto::pg::frame::take_cstr(&mut body).unwrap_or_default()))
            }
            b'E' if client => Some(CopyEvent::Error(Box::new(read_error(frame.body)))),
            b'N' | b'S' | b'A' if client => None,
            // Clients of the extended protocol send Sync (and Flush) after Execute.
            b'S' | b'H' if !client => None,
            b'X' if !client => Some(CopyEvent::Closed),
            tag => {
                let problem = format!("message type {:?} is not expected in a copy stream", char::from(tag));
                return Err(NetError::protocol(self.incoming.peer(), problem));
            }
        })
    }
}

/// Writing half of a CopyBoth stream. Frames are queued, then flushed with as few system calls as possible (gather
/// writes).
pub struct CopyWriter {
    pub(crate) outgoing: Outgoing,
    client: bool,
    /// CopyDone was queued.
    pub(crate) done: bool,
}

impl CopyWriter {
    pub(crate) fn new(outgoing: Outgoing, client: bool) -> CopyWriter {
        CopyWriter { outgoing, client, done: false }
    }

    /// Queues one CopyData frame whose payload is `head` followed by `body`; `body` is not copied.
    pub fn queue(&mut self, head: &[u8], body: Bytes) {
        self.outgoing.put_frame(b'd', head, body);
    }

    /// Queues one CopyData frame whose payload is `head` followed by every one of `bodies`; long ones are not copied.
    pub fn queue_slices(&mut self, head: &[u8], bodies: Vec<Bytes>) {
        self.outgoing.put_frame_slices(b'd', head, bodies);
    }

    /// Bytes queued and not yet handed to the socket.
    pub fn queued_bytes(&self) -> usize {
        self.outgoing.queued_bytes()
    }

    /// Writes all that is queued. Cancel safe: what was not written stays queued.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn flush(&mut self) -> Result<(), NetError> {
        self.outgoing.flush().await
    }

    /// Queues CopyDone, once.
    pub fn queue_done(&mut self) {
        if !self.done {
            self.done = true;
            self.outgoing.put_frame(b'c', &[], Bytes::new());
        }
    }

    /// Queues CopyFail (client side) or ErrorResponse (server side).
    pub fn queue_error(&mut self, error: &SqlError) {
        let client = self.client;
        self.outgoing.put(|out: &mut BytesMut| {
            if client {
                put_frame(out, b'f', |out| put_cstr(out, &error.to_copy_fail()));
            } else {
                put_error(out, error);
            }
        });
    }

    /// Sends `error` as [`CopyWriter::queue_error`] does and closes both directions, giving the peer a moment to read
    /// it.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn close_with(mut self, mut reader: CopyReader, error: &SqlError) -> Result<(), NetError> {
        self.queue_error(error);
        super::socket::linger(&mut reader.incoming, self.outgoing).await
    }

    /// Flushes and closes the sending direction of the socket.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn shutdown(mut self) -> Result<(), NetError> {
        self.outgoing.shutdown().await
    }
}
