//! I/O effects that are under way. Owner: the acceptor, which takes their completions in order.

use pgformat::Lsn;

use super::effect::WriteId;
use super::state::LogEnd;

/// An I/O effect that is not finished.
#[derive(Debug)]
pub(super) enum Pending {
    /// Makes the log durable up to `end`; `None` when the log was cut meanwhile.
    Flush { write: WriteId, end: Option<LogEnd> },
    /// Holds this commit position.
    Persist { write: WriteId, commit_lsn: Option<Lsn> },
    /// Cuts the log.
    Truncate { write: WriteId, to: Lsn },
}

impl Pending {
    pub(super) fn id(&self) -> WriteId {
        match self {
            Pending::Flush { write, .. } | Pending::Persist { write, .. } | Pending::Truncate { write, .. } => *write,
        }
    }

    pub(super) fn forget_log(&mut self) {
        if let Pending::Flush { end, .. } = self {
            *end = None;
        }
    }
}
