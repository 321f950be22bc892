//! What sessions, HTTP and the announcer see of a timeline. Owner of nothing: the driver owns the state, this is a handle.

use std::sync::Arc;

use bytes::Bytes;
use pgformat::Lsn;
use proto::api::SafekeeperTimelineStatus;
use proto::consensus::{AcceptorMessage, ProposerMessage, ProtoVersion};
use proto::feedback::PageserverFeedback;
use proto::id::{NodeId, PrimaryEpoch, TenantTimelineId, Term};
use proto::net::SqlError;
use tokio::sync::watch;

use crate::core::ControlState;

/// Positions of a timeline as outsiders may rely on them; changes wake the watchers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Positions {
    /// Current term.
    pub term: Term,
    /// Term that wrote the end of the log.
    pub last_log_term: Term,
    /// Durable end, a record boundary; `None` = no log yet.
    pub flush_lsn: Option<Lsn>,
    /// Committed.
    pub commit_lsn: Option<Lsn>,
    /// Below it no peer needs WAL.
    pub peer_horizon_lsn: Option<Lsn>,
    /// Whether an elected proposer is connected.
    pub streaming: bool,
    /// Why no WAL is accepted for the time being, when so (full disk, failed write).
    pub stopped: Option<Arc<str>>,
}

/// A timeline. Clones share it.
#[derive(Clone, Debug)]
pub struct TimelineHandle {}

/// Why a proposer cannot connect now; the session turns it into an ErrorResponse.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConnectRefused(pub SqlError);

impl TimelineHandle {
    /// Which timeline.
    pub fn ttid(&self) -> TenantTimelineId {
        todo!()
    }

    /// For HTTP and SHOW; `pushes` is left empty for the caller to fill.
    pub fn status(&self) -> SafekeeperTimelineStatus {
        todo!()
    }

    /// The persisted state as it was last made durable.
    pub fn control(&self) -> Arc<ControlState> {
        todo!()
    }

    /// Positions; the watch closes when the timeline is shut down.
    pub fn positions(&self) -> watch::Receiver<Positions> {
        todo!()
    }

    /// Connects a proposer. Dropping the port disconnects it; everything sent before is still made durable.
    ///
    /// # Errors
    /// While the timeline is stopped, or shut down.
    pub fn connect_proposer(
        &self,
        version: ProtoVersion,
        primary_epoch: Option<PrimaryEpoch>,
    ) -> Result<ProposerPort, ConnectRefused> {
        let _ = (version, primary_epoch);
        todo!()
    }

    /// A reader from `start` on; see [`WalReader`].
    ///
    /// # Errors
    /// [`WalReadError::BelowStart`] when `start` lies before the first byte held.
    pub fn wal_reader(&self, mode: ReadMode, start: Lsn) -> Result<WalReader, WalReadError> {
        let _ = (mode, start);
        todo!()
    }

    /// Takes feedback of a pageserver; it goes to the connected proposers at once.
    pub fn record_feedback(&self, pageserver: NodeId, feedback: PageserverFeedback) {
        let _ = (pageserver, feedback);
        todo!()
    }

    /// Bytes of WAL files held.
    pub fn wal_bytes(&self) -> u64 {
        todo!()
    }
}

/// A proposer's connection to the acceptor.
#[derive(Debug)]
pub struct ProposerPort {}

/// What the acceptor says to a proposer.
#[derive(Clone, PartialEq, Debug)]
pub enum PortEvent {
    /// Send this.
    Message(AcceptorMessage),
    /// Send this error and close the connection; nothing follows.
    Close(SqlError),
}

/// The sending half, for the task that reads the socket.
#[derive(Debug)]
pub struct PortSender {}

/// The receiving half, for the task that writes the socket.
#[derive(Debug)]
pub struct PortReceiver {}

impl ProposerPort {
    /// Splits into halves; the proposer is disconnected when both, or the sender, are dropped.
    pub fn split(self) -> (PortSender, PortReceiver) {
        todo!()
    }
}

impl PortSender {
    /// Hands over a message; waits while too many bytes are queued. `Err`: the timeline closed the port.
    #[expect(clippy::result_unit_err, reason = "the reason comes as PortEvent::Close")]
    pub async fn send(&mut self, message: ProposerMessage) -> Result<(), ()> {
        let _ = message;
        todo!()
    }
}

impl PortReceiver {
    /// The next event; `None` when the port is closed. Cancel safe.
    pub async fn recv(&mut self) -> Option<PortEvent> {
        todo!()
    }
}

/// How far a reader may read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadMode {
    /// Up to commit_lsn.
    Committed,
    /// Up to flush_lsn, as long as the term is this.
    Recovery {
        /// The term that must hold.
        term: Term,
    },
}

/// Why WAL cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WalReadError {
    /// Start lies before the first byte held.
    #[error("WAL from {start} is not held here: the first byte is {held}")]
    BelowStart {
        /// Asked for.
        start: Lsn,
        /// First byte held.
        held: Lsn,
    },
    /// No log here yet.
    #[error("no WAL is held here yet")]
    Empty,
    /// The term changed under a recovery reader.
    #[error("the term changed from {asked} to {here}")]
    TermChanged {
        /// Read under.
        asked: Term,
        /// Now.
        here: Term,
    },
    /// A file could not be read.
    #[error("reading WAL at {at}: {source}")]
    Io {
        /// Where.
        at: Lsn,
        /// What the disk said.
        source: std::io::Error,
    },
    /// The timeline is shut down.
    #[error("the timeline is shut down")]
    Closed,
}

/// Contiguous WAL.
#[derive(Clone, Debug)]
pub struct WalChunk {
    /// Position of the first byte.
    pub start: Lsn,
    /// Position behind the last byte.
    pub end: Lsn,
    /// End of what may be read now (commit_lsn or flush_lsn), at least `end`.
    pub available: Lsn,
    /// The bytes, one slice behind the other; none is empty.
    pub bytes: Vec<Bytes>,
}

/// Reads WAL in order, without gap or overlap, from the newest part kept in memory or from the files.
#[derive(Debug)]
pub struct WalReader {}

impl WalReader {
    /// Position of the next byte.
    pub fn position(&self) -> Lsn {
        todo!()
    }

    /// End of what may be read now; `None` = nothing yet. May lie before the position.
    pub fn available(&self) -> Option<Lsn> {
        todo!()
    }

    /// Waits until there is something to read. Cancel safe.
    ///
    /// # Errors
    /// Term changed (recovery mode), or the timeline closed.
    pub async fn wait(&mut self) -> Result<(), WalReadError> {
        todo!()
    }

    /// Reads at most `max` bytes (at least a page); `None` when there is nothing yet. A chunk that does not reach
    /// `available` ends at a page border. Cancel safe: the position moves only with the result.
    ///
    /// # Errors
    /// See [`WalReadError`].
    pub async fn read(&mut self, max: usize) -> Result<Option<WalChunk>, WalReadError> {
        let _ = max;
        todo!()
    }
}
