//! Taking WAL in: every record is decoded and checked, the bytes go to this pageserver's own disk.
//!
//! An [`Ingest`] is the only writer of its timeline. It travels by value: a stream takes it out of the timeline's
//! [`lease::Slot`], feeds it, and gives it back, so two streams can never write at once (I7).
//!
//! Invariants:
//! 1. bytes enter without gap and without overlap, and only after the decoder accepted them;
//! 2. `disk_consistent_lsn` is a record boundary and moves only after the fdatasync of everything below it; nobody
//!    waits for that, so it runs beside the writes, seldom (`docs/adr/0006-lazy-sync.md`);
//! 3. after a failed write or sync nothing is written, synced or reported any more until a restart reads the disk
//!    again.

pub(crate) mod control;
pub(crate) mod disk;
#[cfg(test)]
pub(crate) mod faulty;
pub(crate) mod lease;
pub(crate) mod recover;
pub(crate) mod spool;
mod worker;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pgformat::Lsn;
use pgformat::wal::{StreamConfig, WalDecoder, WalError};
use proto::api::AttachRequest;
use tokio::task::JoinHandle;

use crate::metrics::Metrics;
use control::Control;
use spool::{Piece, Spool};
use worker::{Job, Save, Sync, Write, Written};

/// WAL received and not yet written, per timeline. Two of these may exist, one being written and one filling up:
/// enough to keep a disk of 1 GB/s busy through a 10 ms sync, small enough for hundreds of timelines.
pub(crate) const PENDING_BYTES_MAX: usize = 8 << 20;
/// So much written WAL makes a sync due: enough that its cost does not show, little to receive again after a power cut.
const SYNC_BYTES: u64 = 8 << 20;
/// Less is synced this long after its first byte was written: what reads the durable position has seconds.
const SYNC_AGE: Duration = Duration::from_millis(500);
/// Beyond this much unsynced WAL nothing is written until a sync has ended: a slow disk slows the sender.
const UNSYNCED_BYTES_MAX: u64 = 64 << 20;
/// The control file is saved when its position is this old ...
const SAVE_INTERVAL: Duration = Duration::from_secs(10);
/// ... and a failed allocation is tried again this often.
const SPACE_RETRY: Duration = Duration::from_secs(1);

/// What the decoder must expect of a timeline.
pub(crate) fn stream_config(attach: &AttachRequest) -> Option<StreamConfig> {
    Some(StreamConfig {
        version: pgformat::PgMajor::from_version_num(attach.pg_version_num)?,
        seg_size: attach.wal_seg_size,
        system_id: (attach.system_id.0 != 0).then_some(attach.system_id.0),
        tlis: attach.pg_history.iter().map(|e| (e.tli, e.start_lsn)).collect(),
    })
}

/// How far a timeline is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Position {
    /// End of the last record decoded.
    pub(crate) last_record_lsn: Lsn,
    /// Its start; none before the first.
    pub(crate) last_record_start: Option<Lsn>,
    /// Durable on this disk: a record boundary.
    pub(crate) disk_consistent_lsn: Lsn,
}

/// End of a record, and where that record starts; no start before the first one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Boundary {
    end: Lsn,
    start: Option<Lsn>,
}

/// What came of blocking work.
#[derive(Debug)]
pub(crate) enum Event {
    /// Bytes went into the files: there is space.
    Written,
    /// `disk_consistent_lsn` may have moved.
    Synced,
    /// Nothing that the outside sees.
    Quiet,
    /// The disk is full: nothing was written, it is tried again.
    Full(String),
    /// Nothing more will be written: see the text.
    Stopped(String),
}

/// The writer of one timeline.
pub(crate) struct Ingest {
    cfg: StreamConfig,
    control: Control,
    saved: Control,
    saved_at: Instant,
    decoder: WalDecoder,
    position: Position,
    pending: Vec<Piece>,
    pending_bytes: usize,
    /// End of the bytes handed to the writing thread, whole records or not.
    handed_out: Lsn,
    /// Up to here the records are in the files.
    written: Boundary,
    /// Bytes in the files that no sync covers yet, and since when there are any.
    unsynced: u64,
    unsynced_since: Option<tokio::time::Instant>,
    write: Job<Write>,
    sync: Job<Sync>,
    save: Job<Save>,
    prepare: Option<JoinHandle<()>>,
    retry_at: Option<tokio::time::Instant>,
    stopped: Option<String>,
    metrics: Arc<Metrics>,
}

impl Ingest {
    /// Continues where `recovered` left off.
    pub(crate) fn new(recovered: recover::Recovered, metrics: Arc<Metrics>) -> Ingest {
        let recover::Recovered { cfg, control, file, spool } = recovered;
        let position = Position {
            last_record_lsn: control.disk_consistent_lsn,
            last_record_start: control.last_record_start,
            disk_consistent_lsn: control.disk_consistent_lsn,
        };
        Ingest {
            decoder: WalDecoder::new(cfg.clone(), position.last_record_lsn, position.last_record_start),
            cfg,
            saved: control.clone(),
            control,
            saved_at: Instant::now(),
            position,
            pending: Vec::new(),
            pending_bytes: 0,
            handed_out: position.last_record_lsn,
            written: Boundary { end: position.last_record_lsn, start: position.last_record_start },
            unsynced: 0,
            unsynced_since: None,
            write: Job::new(spool),
            sync: Job::new(()),
            save: Job::new(file),
            prepare: None,
            retry_at: None,
            stopped: None,
            metrics,
        }
    }

    /// How far it is.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// Why nothing is written any more.
    pub(crate) fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// Remembers the number of the last choice with the next save.
    pub(crate) fn note_choice_seq(&mut self, seq: u64) {
        self.control.choice_seq = self.control.choice_seq.max(seq);
    }

    /// Prepares for a new stream and says where it must start: the end of the last record. What arrived of an
    /// unfinished record is dropped and zeroed, so that every stream begins alike.
    ///
    /// # Errors
    /// Why nothing can be written.
    pub(crate) async fn begin(&mut self) -> Result<Lsn, String> {
        self.write_out().await;
        if let Some(why) = &self.stopped {
            return Err(why.clone());
        }
        let start = self.position.last_record_lsn;
        if self.handed_out > start {
            let to = self.handed_out;
            self.write.start(Write::Zero { from: start, to }, &self.metrics);
            self.write_out().await;
        }
        if let Some(why) = &self.stopped {
            return Err(why.clone());
        }
        self.pending.clear();
        self.pending_bytes = 0;
        self.handed_out = start;
        self.decoder = WalDecoder::new(self.cfg.clone(), start, self.position.last_record_start);
        Ok(start)
    }

    /// Takes WAL that starts at `at`; returns the number of records it completed.
    ///
    /// # Errors
    /// When it does not continue the log; nothing of `wal` is kept then, and the stream must end.
    pub(crate) fn take(&mut self, at: Lsn, wal: Bytes) -> Result<u64, WalError> {
        let mut records = 0;
        self.decoder.feed_records(at, &wal, &mut |_| records += 1)?;
        self.position.last_record_lsn = self.decoder.boundary();
        self.position.last_record_start = self.decoder.last_record_start();
        self.pending_bytes += wal.len();
        self.pending.push(Piece { at, wal });
        Ok(records)
    }

    /// Whether more WAL may be taken before something was written.
    pub(crate) fn has_room(&self) -> bool {
        self.pending_bytes < PENDING_BYTES_MAX && self.stopped.is_none()
    }

    /// Hands what is pending to the writing thread, unless that one is busy: then it goes with the next batch.
    pub(crate) fn start_write(&mut self) {
        let waits = self.retry_at.is_some() || (self.unsynced >= UNSYNCED_BYTES_MAX && !self.sync.is_idle());
        if self.pending.is_empty() || waits || self.stopped.is_some() || !self.write.is_idle() {
            return;
        }
        let pieces = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        if let Some(last) = pieces.last() {
            self.handed_out = last.at.add(last.wal.len() as u64);
        }
        let end = Boundary { end: self.position.last_record_lsn, start: self.position.last_record_start };
        self.write.start(Write::Append { pieces, end }, &self.metrics);
    }

    /// Waits until blocking work is done and takes its result. Never ends when none is under way. Cancel safe.
    pub(crate) async fn event(&mut self) -> Event {
        let wake_at = self.wake_at();
        tokio::select! {
            done = self.write.done() => self.on_written(done),
            done = self.sync.done() => self.on_synced(done),
            done = self.save.done() => self.on_saved(done),
            () = sleep_until(wake_at) => {
                if self.retry_at.is_some_and(|at| at <= tokio::time::Instant::now()) {
                    self.retry_at = None;
                    self.start_write();
                }
                self.start_due_sync();
                Event::Quiet
            }
        }
    }

    /// Writes all that is pending, as far as the disk lets it: the next stream may begin. Syncs nothing.
    pub(crate) async fn write_out(&mut self) {
        loop {
            if self.retry_at.take().is_some() {
                // What could not be written is given back to the senders: they hold it, see `begin`.
                self.forget_unwritten();
            }
            self.start_write();
            if self.write.is_idle() && (self.pending.is_empty() || self.stopped.is_some()) {
                return;
            }
            self.event().await;
        }
    }

    /// Writes and syncs all that is pending, as far as the disk lets it: for the end of a stream that nobody follows.
    pub(crate) async fn settle(&mut self) {
        loop {
            self.write_out().await;
            self.start_sync();
            if self.sync.is_idle() && self.save.is_idle() {
                return;
            }
            self.event().await;
        }
    }

    /// Saves the position now, for an orderly stop.
    pub(crate) async fn close(&mut self) {
        self.settle().await;
        self.start_save(Duration::ZERO);
        self.settle().await;
    }

    fn forget_unwritten(&mut self) {
        self.pending.clear();
        self.pending_bytes = 0;
        self.position.last_record_lsn = self.written.end;
        self.position.last_record_start = self.written.start;
    }

    fn on_written(&mut self, done: Result<Written, String>) -> Event {
        match done {
            Err(why) => self.stop(why),
            // What was under way when something else failed: nothing counts any more.
            Ok(_) if self.stopped.is_some() => Event::Quiet,
            Ok(Written::Zeroed) => {
                self.unsynced_since.get_or_insert_with(tokio::time::Instant::now);
                Event::Quiet
            }
            Ok(Written::Full { mut pieces, why }) => {
                pieces.append(&mut self.pending);
                self.pending_bytes = pieces.iter().map(|p| p.wal.len()).sum();
                self.pending = pieces;
                self.retry_at = Some(tokio::time::Instant::now() + SPACE_RETRY);
                Event::Full(why)
            }
            Ok(Written::Appended { end, bytes }) => {
                self.written = end;
                self.unsynced += bytes;
                self.unsynced_since.get_or_insert_with(tokio::time::Instant::now);
                // Before the next write: it needs the spool for a moment.
                self.start_due_sync();
                self.start_prepare();
                self.start_write();
                Event::Written
            }
        }
    }

    fn on_synced(&mut self, done: Result<Boundary, String>) -> Event {
        match done {
            Err(why) => self.stop(why),
            Ok(_) if self.stopped.is_some() => Event::Quiet,
            Ok(Boundary { end, start }) => {
                assert!(end >= self.position.disk_consistent_lsn, "invariant 2: it never goes back");
                self.position.disk_consistent_lsn = end;
                self.control.disk_consistent_lsn = end;
                self.control.last_record_start = start;
                self.start_save(SAVE_INTERVAL);
                self.start_due_sync();
                self.start_write();
                Event::Synced
            }
        }
    }

    /// When something is to be done that no blocking work tells.
    fn wake_at(&self) -> Option<tokio::time::Instant> {
        // While something is written or synced, its end looks whether a sync is due.
        let idle = self.sync.is_idle() && self.write.is_idle() && self.stopped.is_none();
        let sync_at = self.unsynced_since.filter(|_| idle).map(|since| since + SYNC_AGE);
        self.retry_at.into_iter().chain(sync_at).min()
    }

    fn start_due_sync(&mut self) {
        if self.unsynced >= SYNC_BYTES || self.unsynced_since.is_some_and(|since| since.elapsed() >= SYNC_AGE) {
            self.start_sync();
        }
    }

    /// Syncs what is in the files, beside the writes that follow. Only what was written before counts.
    fn start_sync(&mut self) {
        if self.unsynced_since.is_none() || self.stopped.is_some() || !self.sync.is_idle() {
            return;
        }
        let Some(spool) = self.write.idle_mut() else { return };
        let files = spool.take_dirty();
        (self.unsynced, self.unsynced_since) = (0, None);
        self.sync.start(Sync { files, end: self.written }, &self.metrics);
    }

    fn on_saved(&mut self, done: Result<Control, String>) -> Event {
        match done {
            Ok(saved) => {
                self.saved = saved;
                self.saved_at = Instant::now();
                Event::Quiet
            }
            Err(why) => self.stop(why),
        }
    }

    /// Beside the writes, never between them: a restart scans from the saved position, so a late one costs only time.
    fn start_save(&mut self, interval: Duration) {
        let behind = self.control.disk_consistent_lsn.bytes_since(self.saved.disk_consistent_lsn);
        let due = self.saved_at.elapsed() >= interval
            || behind >= 2 * self.cfg.seg_size.bytes()
            || self.control.choice_seq != self.saved.choice_seq;
        if due && self.save.is_idle() && self.stopped.is_none() && self.control != self.saved {
            self.save.start(Save(self.control.clone()), &self.metrics);
        }
    }

    /// Reserves the next segment ahead of need. A failure shows when the segment is needed.
    fn start_prepare(&mut self) {
        if self.prepare.as_ref().is_some_and(|p| !p.is_finished()) {
            return;
        }
        let seg = self.cfg.seg_size;
        if self.handed_out.segment_offset(seg) < seg.bytes() / 2 {
            return;
        }
        if let Some(job) = self.write.idle().and_then(Spool::prepare_next) {
            self.prepare = Some(tokio::task::spawn_blocking(move || {
                if let Err(e) = job() {
                    tracing::debug!("next WAL segment not reserved yet: {e}");
                }
            }));
        }
    }

    fn stop(&mut self, why: String) -> Event {
        self.pending.clear();
        self.pending_bytes = 0;
        self.stopped = Some(why.clone());
        // Nothing beyond the last good sync counts any more, not even as received.
        self.position.last_record_lsn = self.position.disk_consistent_lsn;
        self.position.last_record_start = self.control.last_record_start;
        Event::Stopped(why)
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
