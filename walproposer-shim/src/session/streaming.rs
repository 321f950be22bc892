//! The stream from PostgreSQL: WAL comes in, is checked and kept in the ring; reports go out.
//!
//! Owner of the connection's two halves while WAL flows. It decides nothing about commits: the driver says what may be
//! reported.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use libpq::{CopyEvent, NetError};
use node::pg_now;
use pgformat::Lsn;
use proto::consensus::HotStandbyFeedback;
use proto::replication::SenderMessage;
use tokio::time::{Instant, sleep_until};

use super::report::PositionReport;
use super::ring::Ring;
use super::standbys::{self, StandbyReport};
use crate::attach::proof::LinkCheck;
use crate::dial::upstream::PrimaryStream;
use crate::metrics::ShimMetrics;
use crate::status::StreamPositions;
use crate::stop::{AttachRefusal, StopCause};

/// Silence of a PostgreSQL that was asked for an answer, after which it counts as gone.
const UPSTREAM_SILENCE: Duration = Duration::from_secs(30);

/// The stream with what belongs to it.
pub(super) struct Streaming {
    stream: PrimaryStream,
    pub(super) ring: Ring,
    link: LinkCheck,
    pub(super) report: PositionReport,
    standbys: StandbyReport,
    /// When PostgreSQL was heard last.
    heard: Instant,
}

/// What the select of a stream picked.
pub(super) enum StreamPick {
    /// PostgreSQL sent something, or the connection failed.
    Received(Result<CopyEvent, NetError>),
    /// Reports were written, or the connection failed.
    Written(Result<(), NetError>),
    /// The last report is so old that it is repeated.
    ReportDue,
}

impl Streaming {
    /// A stream that has just begun; the ring holds `ring_bytes` at most.
    pub(super) fn new(stream: PrimaryStream, link: LinkCheck, ring_bytes: usize) -> Streaming {
        let ring = Ring::new(stream.start, ring_bytes);
        let (report, standbys) = (PositionReport::default(), StandbyReport::default());
        Streaming { stream, ring, link, report, standbys, heard: Instant::now() }
    }

    /// Position of the first byte that came.
    pub(super) fn start(&self) -> Lsn {
        self.stream.start
    }

    /// Where it stands, for the status page.
    pub(super) fn positions(&self) -> StreamPositions {
        StreamPositions {
            received: self.ring.end(),
            ring_bytes: self.ring.bytes(),
            reported: self.report.positions.flush,
            reported_apply: self.report.positions.apply,
        }
    }

    /// Waits for whatever comes first. Cancel safe.
    pub(super) async fn pick(&mut self, reply_every: Duration) -> StreamPick {
        let room = self.ring.has_room();
        let reply_at = self.report.sent_at() + reply_every;
        let PrimaryStream { reader, writer, .. } = &mut self.stream;
        tokio::select! {
            result = writer.flush(), if writer.queued_bytes() > 0 => StreamPick::Written(result),
            event = reader.next(), if room => StreamPick::Received(event),
            () = sleep_until(reply_at) => StreamPick::ReportDue,
        }
    }

    /// Takes in `event`, and what else has come by now; whether there is more WAL now.
    pub(super) fn take_batch(&mut self, event: CopyEvent, metrics: &ShimMetrics) -> Result<bool, StopCause> {
        let before = self.ring.end();
        self.heard = Instant::now();
        self.take(event, metrics)?;
        while self.ring.batch_goes_on(before) {
            match self.stream.reader.try_next()? {
                Some(event) => self.take(event, metrics)?,
                None => break,
            }
        }
        Ok(self.ring.end() > before)
    }

    fn take(&mut self, event: CopyEvent, metrics: &ShimMetrics) -> Result<(), StopCause> {
        let data = match event {
            CopyEvent::Data(data) => data,
            CopyEvent::Error(e) => return Err(StopCause::Retry(format!("PostgreSQL ended the stream: {e}"))),
            CopyEvent::Done | CopyEvent::Closed | CopyEvent::Fail(_) => {
                return Err(StopCause::Retry("PostgreSQL closed the stream".to_owned()));
            }
        };
        let message = SenderMessage::decode(data);
        match message.map_err(|e| StopCause::Retry(format!("PostgreSQL broke the protocol: {e}")))? {
            SenderMessage::XLogData { start, wal, .. } => self.wal(start, wal, metrics),
            SenderMessage::Keepalive { reply_requested, .. } => {
                if reply_requested {
                    self.report.queue(&mut self.stream.writer, false);
                }
                Ok(())
            }
        }
    }

    fn wal(&mut self, start: Lsn, wal: Bytes, metrics: &ShimMetrics) -> Result<(), StopCause> {
        self.link.feed(start, &wal).map_err(AttachRefusal::DoesNotFollow)?;
        metrics.received_bytes.inc_by(wal.len() as u64);
        self.ring.push(start, wal).map_err(|gap| StopCause::Retry(gap.to_string()))
    }

    /// The socket has taken all reports: sends what was held back.
    pub(super) fn written(&mut self) {
        self.report.flushed(&mut self.stream.writer);
    }

    /// Queues a report, and writes it at once when the socket takes it, which it nearly always does; the rest goes out
    /// with the next [`Streaming::pick`].
    pub(super) fn report_now(&mut self) -> Result<(), StopCause> {
        self.report.queue(&mut self.stream.writer, false);
        if self.stream.writer.flush().now_or_never().transpose()?.is_some() {
            self.written();
        }
        Ok(())
    }

    /// Repeats the report; asks for an answer when PostgreSQL has been silent, and gives it up when it was too long.
    pub(super) fn report_again(&mut self, reply_every: Duration) -> Result<(), StopCause> {
        // While the ring is full nothing is read, so silence says nothing.
        if self.ring.has_room() && self.heard.elapsed() > UPSTREAM_SILENCE {
            return Err(StopCause::Retry(format!("PostgreSQL was silent for {UPSTREAM_SILENCE:?}")));
        }
        let ask = self.heard.elapsed() >= reply_every;
        self.report.queue(&mut self.stream.writer, ask);
        Ok(())
    }

    /// Queues what the standbys need kept, when it is due; whether it was.
    pub(super) fn tell_standbys(&mut self, needed: HotStandbyFeedback, next_xid: Option<u64>) -> bool {
        let now = Instant::now();
        let needed = next_xid.map_or(needed, |next| needed.recent_at(next));
        let Some(due) = self.standbys.due(needed, now) else { return false };
        if self.stream.writer.queued_bytes() > 0 {
            return false; // PostgreSQL does not read: the next look is soon enough
        }
        self.stream.writer.queue(&standbys::encode(due, pg_now()), Bytes::new());
        self.standbys.said(due, now);
        true
    }

    /// Before an orderly end the slot is released: it would keep rows for standbys for as long as no shim runs.
    pub(super) async fn release_slot(&mut self, limit: Duration) {
        if self.standbys.may_hold() && tokio::time::timeout(limit, self.take_back()).await.is_err() {
            tracing::warn!("PostgreSQL did not take back in time what its slot keeps for standbys");
        }
    }

    /// Takes back what the slot keeps for standbys; over when PostgreSQL has read it, or has ended the stream.
    async fn take_back(&mut self) {
        let PrimaryStream { reader, writer, .. } = &mut self.stream;
        writer.queue(&standbys::encode(HotStandbyFeedback::default(), pg_now()), Bytes::new());
        // Its answer says that the word before was read: closing at once may throw that away.
        self.report.queue(writer, true);
        if writer.flush().await.is_err() {
            return;
        }
        while let Ok(CopyEvent::Data(data)) = reader.next().await {
            if matches!(SenderMessage::decode(data), Ok(SenderMessage::Keepalive { .. })) {
                return;
            }
        }
    }
}
