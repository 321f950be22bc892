//! The receiver: one task per stream that reads WAL, answers, and lets the disk work beside it.
//!
//! Reading, writing back and waiting for the disk are polled independently of one another: a slow disk or a peer that
//! does not read its feedback stops nothing but itself. Memory is bounded by `PENDING_BYTES_MAX` per timeline: beyond
//! that the socket is left unread, and TCP tells the sender.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use libpq::{CopyEvent, CopyReader, CopyWriter, NetError};
use pgformat::Lsn;
use pgformat::wal::WalError;
use proto::replication::SenderMessage;
use tokio::time::Instant;

use super::StreamEnd;
use super::feedback::Feedback;
use crate::ingest::lease::IngestLease;
use crate::ingest::{Halt, IngestEvent};
use crate::process::Pageserver;
use crate::timeline::Timeline;
use crate::timeline::stream::StreamGuard;

/// WAL taken from the socket's buffer in one go before the disk is looked after: a few frames of 128 KiB.
const DRAIN_BYTES_MAX: usize = 1 << 20;
/// How long a peer may take to accept our last words.
const GOODBYE_LIMIT: Duration = Duration::from_secs(2);

/// A stream at work.
pub(super) struct Receiver {
    pub(super) pageserver: Arc<Pageserver>,
    pub(super) timeline: Arc<Timeline>,
    pub(super) lease: IngestLease,
    pub(super) reader: CopyReader,
    pub(super) writer: CopyWriter,
    /// The stream before ended because storage could not be read.
    pub(super) had_trouble: bool,
}

enum Action {
    End(StreamEnd),
    Disk(IngestEvent),
    Wrote(Result<(), NetError>),
    Read(Result<CopyEvent, NetError>),
    Time,
}

impl Receiver {
    /// Runs until the stream ends; then reports the end to the manager, and the writer goes back with all that was
    /// received on disk.
    pub(super) async fn run(mut self, guard: StreamGuard, seq: u64) -> StreamEnd {
        #[cfg(test)]
        assert!(!self.timeline.stream_panics.load(std::sync::atomic::Ordering::Relaxed), "planted");
        let mut feedback = Feedback::new();
        let mut last_message = Instant::now();
        feedback.changed(self.lease.position(), Instant::now());
        self.lease.note_choice_seq(seq);
        let end = loop {
            if !self.lease.has_room() {
                // We do not read: the sender's silence is our own doing.
                last_message = Instant::now();
                self.timeline.stream.gauge.message(self.pageserver.now(), None);
            }
            let action = self.next_action(&guard, &feedback, last_message).await;
            let went = match action {
                Action::End(end) => Err(end),
                Action::Disk(event) => self.on_disk(event, &mut feedback),
                Action::Wrote(result) => result.map_err(lost),
                Action::Read(event) => {
                    last_message = Instant::now();
                    event.map_err(lost).and_then(|event| self.on_batch(event, &mut feedback))
                }
                Action::Time => self.on_time(last_message),
            };
            if let Err(end) = went {
                break end;
            }
            if feedback.send_due(self.lease.position(), &mut self.writer) {
                self.pageserver.metrics.feedback_sent();
            }
        };
        // First the news, so that the next choice does not wait for the disk; then the disk; then the next stream.
        let kind = end.kind(guard.is_replaced());
        if kind != crate::choose::Ended::Replaced {
            self.timeline.stream_ended(kind == crate::choose::Ended::BadWal, end.to_string());
        }
        self.timeline.tell(crate::choose::Input::StreamEnded { seq, how: kind }).await;
        self.finish(&end, &mut feedback, &guard).await;
        drop(guard);
        end
    }

    async fn next_action(&mut self, guard: &StreamGuard, feedback: &Feedback, last_message: Instant) -> Action {
        let has_room = self.lease.has_room();
        let limit = self.pageserver.config.choice.silence_limit;
        let silent_at = last_message + if has_room { limit } else { limit / 4 };
        let wake = feedback.due(&self.writer).map_or(silent_at, |due| due.min(silent_at));
        tokio::select! {
            // In this order: an end is never outrun by data, and finished disk work frees room before more is read.
            biased;
            () = guard.cancelled().cancelled() => Action::End(StreamEnd::Cancelled),
            () = self.pageserver.shutdown.cancelled() => Action::End(StreamEnd::Shutdown),
            event = self.lease.event() => Action::Disk(event),
            wrote = self.writer.flush(), if self.writer.queued_bytes() > 0 => Action::Wrote(wrote),
            event = self.reader.next(), if has_room => Action::Read(event),
            () = tokio::time::sleep_until(wake) => Action::Time,
        }
    }

    fn on_disk(&mut self, event: IngestEvent, feedback: &mut Feedback) -> Result<(), StreamEnd> {
        self.publish_position();
        match event {
            IngestEvent::Quiet => {}
            IngestEvent::Taken { records } => {
                self.pageserver.metrics.ingested(records);
                self.timeline.stream.gauge.wal(self.pageserver.now(), records);
                if records > 0 {
                    self.timeline.took_records();
                }
                if self.had_trouble && records > 0 {
                    self.had_trouble = false;
                    self.timeline.set_full(None);
                }
                feedback.changed(self.lease.position(), Instant::now());
            }
            IngestEvent::Refused(e) => {
                self.pageserver.metrics.wal_refused();
                let text = format!("WAL of timeline {} refused: {e}", self.timeline.ttid);
                return Err(match e {
                    WalError::NotContiguous { .. } => StreamEnd::NotContiguous(text),
                    _ => StreamEnd::BadWal(text),
                });
            }
            IngestEvent::Synced => {
                if self.timeline.set_full(None) {
                    tracing::info!(timeline = %self.timeline.ttid, "storage takes layers again");
                }
                feedback.changed(self.lease.position(), Instant::now());
            }
            IngestEvent::Full(why) => {
                if self.timeline.set_full(Some(&why)) {
                    let ttid = self.timeline.ttid;
                    tracing::error!(timeline = %ttid, "{why}; it is tried again, and reads go on");
                }
                feedback.stay_alive();
            }
            IngestEvent::Waits(why) => {
                self.pageserver.metrics.record_waits();
                tracing::debug!(timeline = %self.timeline.ttid, why, "a long record waits");
                feedback.stay_alive();
            }
            IngestEvent::Halted(halt) => return Err(self.halted(halt)),
        }
        Ok(())
    }

    fn halted(&self, halt: Halt) -> StreamEnd {
        match &halt {
            Halt::Stopped(why) => StreamEnd::Stopped(why.clone()),
            Halt::ImportAgain(why) => {
                self.timeline.import_again(why);
                StreamEnd::Stopped(format!("the import begins anew: {why}"))
            }
            Halt::ReadAgain(_) => StreamEnd::ReadAgain(halt.to_string()),
        }
    }

    fn on_time(&mut self, last_message: Instant) -> Result<(), StreamEnd> {
        let limit = self.pageserver.config.choice.silence_limit;
        // While nothing is read for lack of room, silence says nothing about the sender.
        if self.lease.has_room() && last_message.elapsed() >= limit {
            return Err(StreamEnd::Silent(limit));
        }
        Ok(())
    }

    /// Takes `event` and whatever else has arrived already, then gives it to the disk in one batch.
    fn on_batch(&mut self, event: CopyEvent, feedback: &mut Feedback) -> Result<(), StreamEnd> {
        let mut taken = self.on_event(event, feedback)?;
        while taken < DRAIN_BYTES_MAX && self.lease.has_room() {
            match self.reader.try_next().map_err(lost)? {
                Some(event) => taken += self.on_event(event, feedback)?,
                None => break,
            }
        }
        if taken > 0 {
            self.lease.start_take();
        }
        Ok(())
    }

    /// Takes one event; returns the bytes of WAL in it.
    fn on_event(&mut self, event: CopyEvent, feedback: &mut Feedback) -> Result<usize, StreamEnd> {
        let payload = match event {
            CopyEvent::Data(payload) => payload,
            CopyEvent::Done => return Err(StreamEnd::Finished("the sender has finished".into())),
            CopyEvent::Fail(text) => return Err(StreamEnd::Finished(format!("the sender gave up: {text}"))),
            CopyEvent::Error(e) => return Err(StreamEnd::Finished(format!("the sender says: {e}"))),
            CopyEvent::Closed => return Err(StreamEnd::Lost("the sender closed the connection".into())),
        };
        let message = SenderMessage::decode(payload).map_err(|e| StreamEnd::Malformed(e.to_string()))?;
        let now = self.pageserver.now();
        match message {
            SenderMessage::Keepalive { wal_end, reply_requested, .. } => {
                self.timeline.heard(now, wal_end);
                if reply_requested {
                    feedback.requested();
                }
                Ok(0)
            }
            SenderMessage::XLogData { start, wal_end, wal, .. } => {
                self.timeline.heard(now, wal_end);
                self.on_wal(now, start, wal)
            }
        }
    }

    fn on_wal(&mut self, now: Duration, start: Lsn, wal: Bytes) -> Result<usize, StreamEnd> {
        let len = wal.len();
        if len == 0 {
            return Ok(0);
        }
        self.pageserver.metrics.received(len as u64);
        self.timeline.stream.gauge.wal(now, 0);
        self.lease.push(start, wal);
        Ok(len)
    }

    fn publish_position(&self) {
        self.timeline.set_position(self.lease.position());
    }

    /// Everything received goes to disk, the sender hears how far that is, and why this is the end.
    async fn finish(mut self, end: &StreamEnd, feedback: &mut Feedback, guard: &StreamGuard) {
        self.lease.take_all().await;
        // The next stream does not wait for storage: it takes over whatever is under way.
        tokio::select! {
            biased;
            () = guard.cancelled().cancelled(), if !matches!(end, StreamEnd::Shutdown) => {}
            () = self.lease.settle() => {}
        }
        self.publish_position();
        match self.lease.halted() {
            Some(Halt::Stopped(why)) => self.timeline.set_stopped(why),
            Some(Halt::ImportAgain(_)) => {}
            Some(halt @ Halt::ReadAgain(_)) => {
                self.timeline.set_full(Some(&halt.to_string()));
            }
            None => {
                self.timeline.set_full(None);
            }
        }
        let position = self.lease.position();
        // From here on the next stream may begin.
        drop(self.lease);
        if matches!(end, StreamEnd::Lost(_)) {
            return;
        }
        let goodbye = async {
            if matches!(end, StreamEnd::Finished(_) | StreamEnd::Shutdown) {
                feedback.requested();
                feedback.send_due(position, &mut self.writer);
            }
            match end.error() {
                Some(error) => self.writer.close_with(self.reader, &error).await,
                None => {
                    self.writer.queue_done();
                    self.writer.shutdown().await
                }
            }
        };
        // A peer that does not take it learns from the closed socket.
        let _ = tokio::time::timeout(GOODBYE_LIMIT, goodbye).await;
    }
}

fn lost(e: NetError) -> StreamEnd {
    match e {
        NetError::Protocol { problem, .. } => StreamEnd::Malformed(problem),
        other => StreamEnd::Lost(other.to_string()),
    }
}
