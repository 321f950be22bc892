//! What is reported to the sender, and when: at once after each durable advance and on request, and within 100 ms
//! when only the received position moved.

use std::time::Duration;

use bytes::Bytes;
use proto::feedback::PageserverFeedback;
use proto::net::CopyWriter;
use proto::replication::{ReceiverMessage, StatusUpdate};
use tokio::time::Instant;

use crate::ingest::Position;

/// A change of the received position alone is reported within this.
const COALESCE: Duration = Duration::from_millis(100);
/// While no space is left the sender hears that we live this often.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// Reports that the peer has not read; beyond this the next ones are merged. One report is about 120 bytes.
const UNREAD_BYTES_MAX: usize = 16 << 10;

/// Decides when to report.
pub(super) struct Feedback {
    sent: Option<Position>,
    due: Option<Instant>,
}

impl Feedback {
    pub(super) fn new() -> Feedback {
        Feedback { sent: None, due: None }
    }

    /// When a report falls due; not while the peer leaves the last ones unread.
    pub(super) fn due(&self, writer: &CopyWriter) -> Option<Instant> {
        self.due.filter(|_| writer.queued_bytes() <= UNREAD_BYTES_MAX)
    }

    /// Something may have changed.
    pub(super) fn changed(&mut self, position: Position) {
        let now = Instant::now();
        match self.sent {
            Some(sent) if sent.disk_consistent_lsn == position.disk_consistent_lsn => {
                if sent.last_record_lsn != position.last_record_lsn && self.due.is_none() {
                    self.due = Some(now + COALESCE);
                }
            }
            _ => self.due = Some(now),
        }
    }

    /// The sender wants to hear from us.
    pub(super) fn requested(&mut self) {
        self.due = Some(Instant::now());
    }

    /// No WAL is read for lack of space: report again later all the same.
    pub(super) fn stay_alive(&mut self) {
        self.due.get_or_insert(Instant::now() + SIGN_OF_LIFE);
    }

    /// Queues a report when it is due and the peer reads; whether it did.
    pub(super) fn send_due(&mut self, position: Position, writer: &mut CopyWriter) -> bool {
        if self.due.is_none_or(|due| due > Instant::now()) || writer.queued_bytes() > UNREAD_BYTES_MAX {
            return false;
        }
        self.due = None;
        self.sent = Some(position);
        for message in reports(position) {
            writer.queue(&message.encode(), Bytes::new());
        }
        true
    }
}

/// The standby status update for stock senders, and the feedback with what it cannot say.
fn reports(position: Position) -> [ReceiverMessage; 2] {
    let ts = proto::runtime::pg_now();
    let (received, durable) = (Some(position.last_record_lsn), Some(position.disk_consistent_lsn));
    [
        ReceiverMessage::StatusUpdate(StatusUpdate {
            write: received,
            flush: durable,
            apply: durable,
            ts,
            reply_requested: false,
        }),
        ReceiverMessage::Feedback(PageserverFeedback {
            last_received_lsn: received,
            disk_consistent_lsn: durable,
            // Nothing is in object storage in this version: unknown, and left out.
            remote_consistent_lsn: None,
            reply_time: Some(ts),
            ..PageserverFeedback::default()
        }),
    ]
}
