//! Where a timeline stands, as its driver publishes it and everybody else may rely on it.

use std::sync::Arc;

use pgformat::Lsn;
use proto::id::Term;

use crate::core::{self, Admission};

/// Positions of a timeline as outsiders may rely on them; changes wake the watchers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimelinePositions {
    /// The highest term promised here.
    pub term: Term,
    /// Term that wrote the end of the log.
    pub last_log_term: Term,
    /// Durable end, a record boundary; `None` = no log yet.
    pub flush_lsn: Option<Lsn>,
    /// Known to be committed; `None` = nothing yet.
    pub commit_lsn: Option<Lsn>,
    /// Below it no peer needs WAL.
    pub peer_horizon_lsn: Option<Lsn>,
    /// Whether an elected proposer is connected.
    pub streaming: bool,
    /// Whether this member votes and counts.
    pub admission: Admission,
    /// Why it refuses the leader, when that lacks what is committed here.
    pub parted: Option<String>,
    /// Entries of the term history that count towards its capacity.
    pub history_entries: usize,
    /// Why no WAL is accepted for the time being, when so (full disk, failed write).
    pub stopped: Option<Stopped>,
}

/// Why a timeline accepts no WAL for the time being.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stopped {
    /// SQLSTATE of the answer to proposers.
    pub code: &'static str,
    /// The reason in words, for people.
    pub reason: Arc<str>,
}

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

impl TimelinePositions {
    /// Why this member takes no part, when it will not by itself, or not soon.
    pub fn not_admitted(&self) -> Option<String> {
        match &self.admission {
            Admission::Barred { why, waits_for } => Some(format!("{why}; {waits_for}")),
            Admission::Admitted | Admission::Asking => self.parted.clone(),
        }
    }

    pub(super) fn new(acceptor: &core::Acceptor, stopped: Option<Stopped>) -> TimelinePositions {
        let core = acceptor.positions();
        TimelinePositions {
            term: core.term,
            last_log_term: core.last_log_term,
            flush_lsn: core.flush_lsn,
            commit_lsn: core.commit_lsn,
            peer_horizon_lsn: core.peer_horizon_lsn,
            streaming: core.streaming,
            admission: acceptor.admission(),
            parted: acceptor.parted(),
            history_entries: core.history_entries,
            stopped,
        }
    }
}
