//! Standby status updates, which tell PostgreSQL the positions of the session's course.
//!
//! This file decides only when they are sent: newer positions replace those that the socket has not taken.

use bytes::Bytes;
use libpq::CopyWriter;
use node::pg_now;
use proto::replication::{ReceiverMessage, StatusUpdate};
use tokio::time::Instant;

use super::course::ReportedPositions;

/// The positions reported in this session, and the updates under way.
#[derive(Debug)]
pub(crate) struct PositionReport {
    /// Written is the same as flushed.
    pub(crate) positions: ReportedPositions,
    sent_at: Instant,
    /// An update waits until the socket has taken those before it.
    held_back: bool,
}

/// Status updates that wait for the socket, bytes: when PostgreSQL does not read, newer positions replace older ones.
const QUEUE_MAX: usize = 1 << 10;

impl Default for PositionReport {
    fn default() -> PositionReport {
        PositionReport { positions: ReportedPositions::default(), sent_at: Instant::now(), held_back: false }
    }
}

impl PositionReport {
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
        let ReportedPositions { flush, apply } = self.positions;
        StatusUpdate { write: flush, flush, apply, ts, reply_requested }
    }
}

#[cfg(test)]
mod tests {
    use pgformat::Lsn;

    use super::*;

    #[test]
    fn write_and_flush_are_one() {
        let (flush, apply) = (Some(Lsn::new(7)), Some(Lsn::new(5)));
        let report = PositionReport { positions: ReportedPositions { flush, apply }, ..PositionReport::default() };
        let m = report.message(1, true);
        assert_eq!((m.write, m.flush, m.apply, m.reply_requested), (flush, flush, apply, true));
    }
}
