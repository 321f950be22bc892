//! What is reported to the sender, and when.
//!
//! The received position is what a shim with `--apply-source pageserver` reports as applied: a commit under
//! `synchronous_commit = remote_apply` waits for it. Nobody tells us whether somebody waits, but whoever waits sends
//! nothing meanwhile, so a pause in the WAL tells. A report therefore goes out
//! - at once after a quiet time, on request, and as the first one of a stream;
//! - else as soon as the WAL pauses for [`PAUSE`];
//! - while it does not pause, every [`INTERVAL`].
//!
//! The durable position alone is reported within [`DURABLE_ALONE`]: no commit waits for it. Every report wakes the
//! safekeeper and the shim, so that one for each batch of WAL would cost the commits more than it tells.

use std::time::Duration;

use bytes::Bytes;
use libpq::CopyWriter;
use proto::feedback::PageserverFeedback;
use proto::replication::{ReceiverMessage, StatusUpdate};
use tokio::time::Instant;

use crate::ingest::IngestPosition;

/// WAL that stops for this long may have somebody waiting at its end.
const PAUSE: Duration = Duration::from_millis(1);
/// The most that a report of received WAL is put off; after so long without one the next goes out at once.
const INTERVAL: Duration = Duration::from_millis(10);
/// The most that a report is put off when only the durable position moved.
const DURABLE_ALONE: Duration = Duration::from_millis(100);
/// While no space is left the sender hears that we live this often.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// Reports that the peer has not read; beyond this the next ones are merged. One report is about 120 bytes.
const UNREAD_BYTES_MAX: usize = 16 << 10;

/// Decides when to report.
pub(super) struct Feedback {
    /// What was reported last, and when.
    sent: Option<(IngestPosition, Instant)>,
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
    pub(super) fn changed(&mut self, position: IngestPosition, now: Instant) {
        let due = match self.sent {
            None => now,
            Some((sent, at)) if sent.last_record_lsn != position.last_record_lsn => {
                let latest = at + INTERVAL;
                // Each batch of WAL puts it off again, up to the interval; what is due already stays so.
                let due = if latest <= now { now } else { latest.min(now + PAUSE) };
                self.due = self.due.filter(|d| *d <= now);
                due
            }
            Some((sent, _)) if sent.disk_consistent_lsn != position.disk_consistent_lsn => now + DURABLE_ALONE,
            Some(_) => return,
        };
        self.due = Some(self.due.map_or(due, |d| d.min(due)));
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
    pub(super) fn send_due(&mut self, position: IngestPosition, writer: &mut CopyWriter) -> bool {
        if self.due.is_none_or(|due| due > Instant::now()) || writer.queued_bytes() > UNREAD_BYTES_MAX {
            return false;
        }
        self.due = None;
        self.sent = Some((position, Instant::now()));
        for message in reports(position) {
            writer.queue(&message.encode(), Bytes::new());
        }
        true
    }
}

/// The standby status update for stock senders, and the feedback with what it cannot say.
fn reports(position: IngestPosition) -> [ReceiverMessage; 2] {
    let ts = node::pg_now();
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
            // One storage holds everything: what is durable is there.
            remote_consistent_lsn: durable,
            reply_time: Some(ts),
            ..PageserverFeedback::default()
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(received: u64, durable: u64) -> IngestPosition {
        let lsn = pgformat::Lsn::new;
        IngestPosition { last_record_lsn: lsn(received), last_record_start: None, disk_consistent_lsn: lsn(durable) }
    }

    /// A feedback that reported `at(100, 100)` at `then`.
    fn reported(then: Instant) -> Feedback {
        Feedback { sent: Some((at(100, 100), then)), due: None }
    }

    #[test]
    fn the_first_report_and_one_after_a_quiet_time_go_at_once() {
        let now = Instant::now();
        let mut feedback = Feedback::new();
        feedback.changed(at(100, 100), now);
        assert_eq!(feedback.due, Some(now));
        let mut feedback = reported(now);
        feedback.changed(at(200, 100), now + INTERVAL);
        assert_eq!(feedback.due, Some(now + INTERVAL));
    }

    #[test]
    fn wal_that_goes_on_puts_a_report_off_and_a_pause_or_the_interval_ends_that() {
        let then = Instant::now();
        let mut feedback = reported(then);
        let ms = Duration::from_millis;
        feedback.changed(at(200, 100), then + ms(2));
        assert_eq!(feedback.due, Some(then + ms(2) + PAUSE), "nobody waits longer than the pause");
        for step in 1..16u32 {
            let now = then + ms(2) + ms(1) / 2 * step;
            feedback.changed(at(200 + u64::from(step), 100), now);
            assert_eq!(feedback.due, Some((now + PAUSE).min(then + INTERVAL)), "more WAL: not yet, up to the interval");
        }
        assert_eq!(feedback.due, Some(then + INTERVAL));
    }

    #[test]
    fn a_request_is_not_put_off_and_the_durable_position_alone_is_no_hurry() {
        let then = Instant::now();
        let mut feedback = reported(then);
        feedback.changed(at(100, 100), then);
        assert_eq!(feedback.due, None, "nothing new");
        feedback.changed(at(100, 90), then);
        assert_eq!(feedback.due, Some(then + DURABLE_ALONE));
        feedback.requested();
        let requested = feedback.due.expect("due");
        feedback.changed(at(200, 100), requested + PAUSE);
        assert_eq!(feedback.due, Some(requested), "what is due already stays so");
    }
}
