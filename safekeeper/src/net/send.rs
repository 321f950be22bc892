//! Sends WAL to one receiver, whoever dialled: readers that pull, proposers that recover, pageservers that are pushed
//! to. Only the handshake differs and lies with the caller.
//!
//! The two halves of the connection are polled independently of each other, so a full socket never keeps a feedback
//! from being read. A receiver that does not read stops its own sender and nothing else: nothing is buffered for it
//! beyond [`COALESCE_BYTES`].

use std::time::Duration;

use bytes::Bytes;
use libpq::{CopyEvent, CopyReader, CopyWriter, NetError};
use node::pg_now;
use pgformat::Lsn;
use proto::consensus::HotStandbyFeedback;
use proto::pg::{SqlError, sqlstate};
use proto::replication::{ReceiverMessage, SenderMessage};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::streams::{OutgoingStream, StreamKind};
use crate::metrics::{SafekeeperMetrics, StreamLabel};
use crate::timeline::{StandbyReader, TimelineHandle, TimelineWalReader, WalChunk, WalReadError};

/// Silence after which a keepalive is sent.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(1);

/// The most WAL in one message, in bytes (as in the existing protocol).
const CHUNK_BYTES: usize = 128 * 1024;

/// WAL gathered before the socket is written: enough for a system call to be worth it, little enough to hold per
/// receiver.
const COALESCE_BYTES: usize = 512 * 1024;

/// A pageserver that answers nothing for so long is gone.
const PUSH_SILENCE_MAX: Duration = Duration::from_secs(10);

/// Readers get PostgreSQL's own `wal_sender_timeout`.
const PULL_SILENCE_MAX: Duration = Duration::from_secs(60);

/// One stream to serve.
pub(crate) struct Outlet<'a> {
    /// The timeline whose WAL is sent.
    pub(crate) handle: TimelineHandle,
    /// Its entry on the status page.
    pub(crate) stream: &'a OutgoingStream,
    /// The process's counters of bytes and streams.
    pub(crate) metrics: &'a SafekeeperMetrics,
    /// Bytes that may be unacknowledged; 0 = as many as TCP takes.
    pub(crate) window: u64,
    /// Silence after which a keepalive is sent.
    pub(crate) keepalive: Duration,
}

/// Why a stream ended.
#[derive(Debug)]
pub(crate) enum SendEnd<T> {
    /// The caller's own condition came true.
    Asked(T),
    /// The receiver sent CopyDone.
    PeerDone,
    /// The receiver sent an error.
    PeerError(Box<SqlError>),
    /// The connection broke, or the receiver fell silent.
    Gone(String),
    /// This side cannot go on; the receiver should be told.
    Failed(SqlError),
}

/// What the reading half knows.
#[derive(Clone, Copy, Debug)]
struct ReceiverWord {
    at: Instant,
    received: Option<Lsn>,
    replies_wanted: u64,
}

enum SendStop {
    Gone(String),
    Failed(SqlError),
}

impl From<NetError> for SendStop {
    fn from(e: NetError) -> SendStop {
        SendStop::Gone(e.to_string())
    }
}

impl From<WalReadError> for SendStop {
    fn from(e: WalReadError) -> SendStop {
        SendStop::Failed(read_error(&e))
    }
}

/// What a receiver is told when WAL cannot be read.
pub(crate) fn read_error(e: &WalReadError) -> SqlError {
    let code = match e {
        WalReadError::BelowStart { .. } => sqlstate::UNDEFINED_FILE,
        WalReadError::Empty => sqlstate::NOT_IN_PREREQUISITE_STATE,
        WalReadError::TermChanged { .. } => sqlstate::TERM_CHANGED,
        WalReadError::Io { .. } => sqlstate::IO_ERROR,
        WalReadError::Busy => sqlstate::OBJECT_IN_USE,
        WalReadError::Closed => sqlstate::ADMIN_SHUTDOWN,
    };
    SqlError::new(code, e.to_string())
}

/// Streams what `wal` reads until one side ends it or `until` is ready; gives the halves back for the last words.
pub(crate) async fn run<T>(
    outlet: Outlet<'_>,
    wal: TimelineWalReader,
    mut reader: CopyReader,
    mut writer: CopyWriter,
    until: impl Future<Output = T>,
) -> (SendEnd<T>, CopyReader, CopyWriter) {
    let now = Instant::now();
    let (told, heard) = watch::channel(ReceiverWord { at: now, received: None, replies_wanted: 0 });
    let start = wal.position();
    let sender =
        OutletSender { outlet: &outlet, wal, start, heard, last_sent: now, unanswered_since: None, replies_given: 0 };
    let end = tokio::select! {
        asked = until => SendEnd::Asked(asked),
        end = hear(&outlet, &mut reader, &told) => end,
        stop = sender.run(&mut writer) => match stop {
            SendStop::Gone(reason) => SendEnd::Gone(reason),
            SendStop::Failed(error) => SendEnd::Failed(error),
        },
    };
    if let SendEnd::PeerError(e) = &end
        && e.code == sqlstate::DATA_CORRUPTED
        && let Some(sent) = outlet.stream.sent()
    {
        outlet.handle.doubt(outlet.stream.received().unwrap_or(start).min(sent), sent);
    }
    (end, reader, writer)
}

/// The writing half.
struct OutletSender<'a> {
    outlet: &'a Outlet<'a>,
    wal: TimelineWalReader,
    start: Lsn,
    heard: watch::Receiver<ReceiverWord>,
    last_sent: Instant,
    unanswered_since: Option<Instant>,
    replies_given: u64,
}

impl OutletSender<'_> {
    async fn run(mut self, writer: &mut CopyWriter) -> SendStop {
        loop {
            if let Err(stop) = self.round(writer).await {
                return stop;
            }
        }
    }

    /// Queues what may be sent and writes it, or waits for something to happen.
    async fn round(&mut self, writer: &mut CopyWriter) -> Result<(), SendStop> {
        let heard = *self.heard.borrow_and_update();
        if heard.replies_wanted != self.replies_given {
            self.replies_given = heard.replies_wanted;
            self.queue_keepalive(false, writer);
        }
        let mut sent = 0;
        while self.in_window(&heard) && writer.queued_bytes() < COALESCE_BYTES {
            let Some(chunk) = self.wal.read(CHUNK_BYTES).await? else { break };
            sent += chunk.end.bytes_since(chunk.start);
            queue_wal(chunk, writer);
        }
        if writer.queued_bytes() == 0 {
            return self.wait(&heard, writer).await;
        }
        self.flush(writer).await?;
        let kind = StreamLabel { kind: self.outlet.stream.kind.name() };
        self.outlet.metrics.sent_bytes.get_or_create(&kind).inc_by(sent);
        self.outlet.stream.set_sent(self.wal.position());
        Ok(())
    }

    /// Nothing can be sent now: waits for WAL, for the receiver, or for the time of the next keepalive.
    async fn wait(&mut self, heard: &ReceiverWord, writer: &mut CopyWriter) -> Result<(), SendStop> {
        let in_window = self.in_window(heard);
        let keepalive_at = self.last_sent + self.outlet.keepalive;
        tokio::select! {
            ready = self.wal.wait(), if in_window => Ok(ready?),
            // The other half lives as long as this one, so the channel stays open.
            _ = self.heard.changed() => Ok(()),
            () = sleep_until(keepalive_at) => {
                self.check_silence(heard)?;
                self.unanswered_since.get_or_insert_with(Instant::now);
                self.queue_keepalive(true, writer);
                Ok(())
            }
        }
    }

    /// Writes what is queued. A receiver that takes nothing and says nothing is given up after its limit.
    async fn flush(&mut self, writer: &mut CopyWriter) -> Result<(), SendStop> {
        let began = Instant::now();
        loop {
            let heard = self.heard.borrow().at.max(began);
            tokio::select! {
                flushed = writer.flush() => {
                    self.last_sent = Instant::now();
                    return Ok(flushed?);
                }
                () = sleep_until(heard + self.silence_max()) => {
                    if self.heard.borrow().at <= heard {
                        return Err(self.silent());
                    }
                }
            }
        }
    }

    fn check_silence(&mut self, heard: &ReceiverWord) -> Result<(), SendStop> {
        match self.unanswered_since {
            Some(since) if heard.at >= since => self.unanswered_since = None,
            Some(since) if since.elapsed() >= self.silence_max() => return Err(self.silent()),
            _ => {}
        }
        Ok(())
    }

    fn silent(&self) -> SendStop {
        SendStop::Gone(format!("{} answered nothing for {:?}", self.outlet.stream.peer, self.silence_max()))
    }

    fn silence_max(&self) -> Duration {
        if self.outlet.stream.kind == StreamKind::Push { PUSH_SILENCE_MAX } else { PULL_SILENCE_MAX }
    }

    /// Whether the receiver's window has room.
    fn in_window(&self, heard: &ReceiverWord) -> bool {
        let window = self.outlet.window;
        window == 0 || self.wal.position().bytes_since(heard.received.unwrap_or(self.start)) < window
    }

    fn queue_keepalive(&self, reply_requested: bool, writer: &mut CopyWriter) {
        let message = SenderMessage::Keepalive { wal_end: self.wal.available(), ts: pg_now(), reply_requested };
        writer.queue(&message.encode(), Bytes::new());
    }
}

fn queue_wal(chunk: WalChunk, writer: &mut CopyWriter) {
    let (start, wal_end) = (chunk.start, Some(chunk.available));
    // The head alone: the WAL follows it as the slices that it was read in.
    let head = SenderMessage::XLogData { start, wal_end, ts: pg_now(), wal: Bytes::new() };
    writer.queue_slices(&head.encode(), chunk.bytes);
}

/// The reading half: the receiver's reports, until it ends the stream.
async fn hear<T>(outlet: &Outlet<'_>, reader: &mut CopyReader, told: &watch::Sender<ReceiverWord>) -> SendEnd<T> {
    let standby = outlet.handle.standby_reader();
    loop {
        let event = match reader.next().await {
            Ok(event) => event,
            Err(e) => return end_of(e),
        };
        let message = match event {
            CopyEvent::Data(bytes) => ReceiverMessage::decode(bytes),
            CopyEvent::Done => return SendEnd::PeerDone,
            CopyEvent::Fail(text) => return SendEnd::PeerError(Box::new(SqlError::from_copy_fail(&text))),
            CopyEvent::Error(e) => return SendEnd::PeerError(e),
            CopyEvent::Closed => return SendEnd::Gone("the receiver closed the connection".to_owned()),
        };
        match message {
            Ok(message) => take(outlet, &standby, message, told),
            Err(e) => return SendEnd::Failed(SqlError::protocol_violation(e.to_string())),
        }
    }
}

fn end_of<T>(e: NetError) -> SendEnd<T> {
    match e {
        NetError::Protocol { problem, .. } => SendEnd::Failed(SqlError::protocol_violation(problem)),
        other => SendEnd::Gone(other.to_string()),
    }
}

fn take(outlet: &Outlet<'_>, standby: &StandbyReader, message: ReceiverMessage, told: &watch::Sender<ReceiverWord>) {
    let (mut received, mut reply) = (None, false);
    match message {
        ReceiverMessage::StatusUpdate(status) => {
            outlet.stream.note_status(&status);
            (received, reply) = (status.write, status.reply_requested);
        }
        ReceiverMessage::Feedback(feedback) => {
            outlet.stream.note_feedback(&feedback);
            received = feedback.last_received_lsn;
            if let Some(pageserver) = outlet.stream.pageserver {
                outlet.handle.record_feedback(pageserver, feedback);
            }
        }
        ReceiverMessage::HotStandby { ts, xmin, catalog_xmin } if outlet.stream.kind == StreamKind::Reader => {
            standby.note(HotStandbyFeedback::of_standby(ts, xmin, catalog_xmin));
        }
        // Nobody else is a standby, and a start frame comes once, before the stream.
        ReceiverMessage::HotStandby { .. } | ReceiverMessage::PushStart(_) => {}
    }
    told.send_modify(|heard| {
        heard.at = Instant::now();
        heard.received = received.or(heard.received);
        heard.replies_wanted += u64::from(reply);
    });
}
