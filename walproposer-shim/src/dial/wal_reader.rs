//! A bounded stretch of WAL, read over START_REPLICATION from PostgreSQL or from a safekeeper.
//!
//! Owner of the connection while it reads. Chunks come in order, without gap, and are cut at the end asked for;
//! everything that the server sends beyond it is dropped. Never holds more than one message.

use std::time::Duration;

use bytes::Bytes;
use libpq::{ClientConnection, CopyEvent, CopyReader, CopyWriter, NetError};
use node::pg_now;
use pgformat::Lsn;
use proto::pg::SqlError;
use proto::replication::{ReceiverMessage, SenderMessage, StatusUpdate};
use tokio::time::timeout;

/// Silence after which the other side counts as gone. WAL that is asked for exists, so it comes at once.
const SILENCE: Duration = Duration::from_secs(10);

/// Why WAL did not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StretchError {
    /// The session failed; worth another attempt.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The server refused or ended the stream.
    #[error("{from} says: {error}")]
    Server {
        /// The server that was read from.
        from: String,
        /// What it said.
        error: Box<SqlError>,
    },
    /// The stream ended before the stretch did.
    #[error("{from} ended the stream at {at}, before {end}")]
    Ended {
        /// The server that was read from.
        from: String,
        /// How far it came.
        at: Lsn,
        /// How far it should have come.
        end: Lsn,
    },
    /// Bytes of another position than asked for, or a message that is none.
    #[error("{from} broke the replication protocol: {problem}")]
    Protocol {
        /// The server that was read from.
        from: String,
        /// What was wrong, in words.
        problem: String,
    },
}

/// Reads `[next, end)`.
pub(crate) struct WalReader {
    reader: CopyReader,
    writer: CopyWriter,
    next: Lsn,
    end: Lsn,
    /// Bytes at `next` that came beyond `end`.
    rest: Bytes,
}

impl WalReader {
    /// Sends `command`, a START_REPLICATION that begins at `from`.
    pub(crate) async fn start(
        connection: ClientConnection,
        command: &str,
        from: Lsn,
        end: Lsn,
    ) -> Result<WalReader, StretchError> {
        let (reader, writer) = connection.copy_both(command).await?;
        Ok(WalReader { reader, writer, next: from, end, rest: Bytes::new() })
    }

    /// Position of the next byte.
    pub(crate) fn position(&self) -> Lsn {
        self.next
    }

    /// Reads on up to `end`, on the same stream.
    pub(crate) fn extend(&mut self, end: Lsn) {
        self.end = self.end.max(end);
    }

    /// The next bytes with their position; `None` at the end of the stretch. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Option<(Lsn, Bytes)>, StretchError> {
        while self.next < self.end {
            if !self.rest.is_empty() {
                return Ok(Some(self.cut()));
            }
            self.writer.flush().await?;
            let event = timeout(SILENCE, self.reader.next()).await.map_err(|_| NetError::Timeout {
                peer: self.reader.peer().to_owned(),
                what: "WAL",
                limit: SILENCE,
            })??;
            let from = || self.reader.peer().to_owned();
            match event {
                CopyEvent::Data(data) => {
                    self.data(data)?;
                }
                CopyEvent::Error(error) => return Err(StretchError::Server { from: from(), error }),
                CopyEvent::Done | CopyEvent::Closed | CopyEvent::Fail(_) => {
                    return Err(StretchError::Ended { from: from(), at: self.next, end: self.end });
                }
            }
        }
        Ok(None)
    }

    /// Takes what is wanted of the bytes that came.
    fn cut(&mut self) -> (Lsn, Bytes) {
        let wanted = usize::try_from(self.end.bytes_since(self.next)).unwrap_or(usize::MAX);
        let wal = self.rest.split_to(self.rest.len().min(wanted));
        let at = self.next;
        self.next = at.add(wal.len() as u64);
        (at, wal)
    }

    fn data(&mut self, data: Bytes) -> Result<(), StretchError> {
        let problem = |problem: String| StretchError::Protocol { from: self.reader.peer().to_owned(), problem };
        match SenderMessage::decode(data).map_err(|e| problem(e.to_string()))? {
            SenderMessage::XLogData { start, wal, .. } => {
                if start != self.next {
                    return Err(problem(format!("sent WAL at {start} where {} comes next", self.next)));
                }
                self.rest = wal;
            }
            SenderMessage::Keepalive { reply_requested, .. } => {
                if reply_requested {
                    let nothing =
                        StatusUpdate { write: None, flush: None, apply: None, ts: pg_now(), reply_requested: false };
                    self.writer.queue(&ReceiverMessage::StatusUpdate(nothing).encode(), Bytes::new());
                }
            }
        }
        Ok(())
    }

    /// Back to commands on the same connection.
    pub(crate) async fn finish(self) -> Result<ClientConnection, NetError> {
        let peer = self.reader.peer().to_owned();
        let ending = ClientConnection::after_copy(self.reader, self.writer);
        let ended = timeout(SILENCE, ending).await;
        ended.map_err(|_| NetError::Timeout { peer, what: "end of the stream", limit: SILENCE })?.map(|(c, _)| c)
    }
}
