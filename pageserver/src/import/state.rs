//! How far an import is: written by its task, read by whoever asks for the timeline.

use std::time::{Duration, Instant};

use pgformat::Lsn;
use proto::api::{ImportStage, ImportStatus};

/// How far an import is.
#[derive(Clone, Debug, Default)]
pub(crate) struct ImportState {
    /// None without an import.
    pub(super) stage: Option<ImportStage>,
    /// Bytes of files that were loaded.
    pub(super) bytes: u64,
    /// Bytes of the cluster, as the server estimates them.
    pub(super) bytes_total: u64,
    /// Beginning of the attempt.
    pub(super) began: Option<Instant>,
    /// Time that the copy took, once it is over.
    pub(super) took: Option<Duration>,
    /// The backup's redo position.
    pub(super) start: Option<Lsn>,
    /// The backup's end: from here on everything is consistent.
    pub(super) end: Option<Lsn>,
    /// Attempts so far, this one included.
    pub(super) attempts: u32,
    /// Why the attempt before failed.
    pub(super) last_error: Option<String>,
    /// Why it must begin anew.
    pub(crate) again: Option<String>,
}

impl ImportState {
    /// As HTTP says it; none without an import.
    pub(crate) fn status(&self) -> Option<ImportStatus> {
        let elapsed = self.took.or(self.began.map(|b| b.elapsed())).unwrap_or_default();
        self.stage.map(|stage| ImportStatus {
            state: stage,
            bytes: self.bytes,
            bytes_total: self.bytes_total,
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            start_lsn: self.start,
            end_lsn: self.end,
            attempts: self.attempts,
            last_error: self.last_error.clone(),
        })
    }
}
