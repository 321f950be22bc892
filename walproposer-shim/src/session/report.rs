//! What PostgreSQL is told: standby status updates.
//!
//! Pure but for the queueing. write = flush = what the core allows; apply = flush, or what a pageserver has ingested.
//! All of it is monotone within a session, and never more than flush.

use bytes::Bytes;
use libpq::CopyWriter;
use node::pg_now;
use pgformat::Lsn;
use proto::replication::{ReceiverMessage, StatusUpdate};
use tokio::time::Instant;

use crate::config::ApplySource;

/// Positions reported in this session.
#[derive(Debug)]
pub(crate) struct PositionReport {
    flush: Option<Lsn>,
    apply: Option<Lsn>,
    sent_at: Instant,
    /// An update waits until the socket has taken those before it.
    held_back: bool,
}

/// Status updates that wait for the socket, bytes: when PostgreSQL does not read, newer positions replace older ones.
const QUEUE_MAX: usize = 1 << 10;

impl Default for PositionReport {
    fn default() -> PositionReport {
        PositionReport { flush: None, apply: None, sent_at: Instant::now(), held_back: false }
    }
}

impl PositionReport {
    /// Takes over new positions; whether PostgreSQL should be told at once.
    pub(crate) fn update(&mut self, reportable: Option<Lsn>, applied: Option<Lsn>, source: ApplySource) -> bool {
        let flush = self.flush.max(reportable);
        let apply = match source {
            ApplySource::Flush => flush,
            ApplySource::Pageserver => self.apply.max(applied.min(flush)),
        };
        let moved = flush > self.flush || apply > self.apply;
        (self.flush, self.apply) = (flush, apply);
        moved
    }

    /// Reported as write and flush position.
    pub(crate) fn flush(&self) -> Option<Lsn> {
        self.flush
    }

    /// Reported as apply position.
    pub(crate) fn apply(&self) -> Option<Lsn> {
        self.apply
    }

    /// When the last status update was queued.
    pub(crate) fn sent_at(&self) -> Instant {
        self.sent_at
    }

    /// Queues a status update; `ask` wants an answer.
    pub(crate) fn queue(&mut self, writer: &mut CopyWriter, ask: bool) {
        self.sent_at = Instant::now();
        if writer.queued_bytes() > QUEUE_MAX {
            self.held_back = true;
            return;
        }
        writer.queue(&ReceiverMessage::StatusUpdate(self.message(pg_now(), ask)).encode(), Bytes::new());
    }

    /// The socket has taken everything: sends what was held back.
    pub(crate) fn flushed(&mut self, writer: &mut CopyWriter) {
        if std::mem::take(&mut self.held_back) {
            self.queue(writer, false);
        }
    }

    fn message(&self, ts: i64, reply_requested: bool) -> StatusUpdate {
        StatusUpdate { write: self.flush, flush: self.flush, apply: self.apply, ts, reply_requested }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lsn: u64) -> Option<Lsn> {
        Some(Lsn::new(lsn))
    }

    #[test]
    fn positions_never_fall_and_apply_never_passes_flush() {
        let mut report = PositionReport::default();
        assert!(!report.update(None, at(50), ApplySource::Pageserver), "nothing is committed yet");
        assert_eq!(report.message(0, false).flush, None);
        assert!(report.update(at(100), at(50), ApplySource::Pageserver));
        assert_eq!((report.flush(), report.apply()), (at(100), at(50)));
        assert!(report.update(at(90), at(200), ApplySource::Pageserver), "the pageserver caught up");
        assert_eq!((report.flush(), report.apply()), (at(100), at(100)));
        assert!(!report.update(at(100), at(10), ApplySource::Pageserver));
        assert_eq!(report.apply(), at(100));
    }

    #[test]
    fn write_and_flush_are_one() {
        let mut report = PositionReport::default();
        report.update(at(7), None, ApplySource::Flush);
        let m = report.message(1, true);
        assert_eq!((m.write, m.flush, m.apply, m.reply_requested), (at(7), at(7), at(7), true));
    }
}
