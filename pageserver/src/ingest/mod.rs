//! Taking WAL in: every record is decoded, checked and mapped to versions in the page store.
//!
//! An [`Ingest`] is the only writer of its timeline. It travels by value: a stream takes it out of the timeline's
//! [`lease::IngestSlot`], feeds it, and gives it back, so two streams can never write at once (I7).
//!
//! Invariants:
//! 1. records enter without gap and without overlap, and only after the decoder accepted them;
//! 2. `last_record_lsn` moves when the records up to it can be read; `disk_consistent_lsn` is a record boundary, and
//!    moves only when a valid manifest lists the layers with everything below it. Nobody waits for that, so layers are
//!    written rarely and in the background;
//! 3. a record that cannot be mapped is not taken, nor any behind it, until a restart: what came before can be read,
//!    and the safekeepers keep the WAL. One that could not be mapped because storage could not be read is tried again:
//!    the stream ends, and the next one begins behind what is published.

mod blank;
mod config;
pub(crate) mod engine;
pub(crate) mod lease;
mod map;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pgformat::Lsn;
use pgformat::wal::WalError;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::store::{Durable, Store};
pub(crate) use config::stream_config;
pub(crate) use engine::{Engine, EngineError, Halt};
use engine::{Piece, TakeChunk, Taken};
use worker::{BlockingJob, Flush, Flushed};

/// WAL received and not yet taken in, per timeline. Two of these may exist, one being taken in and one filling up.
pub(crate) const PENDING_BYTES_MAX: usize = 8 << 20;
/// What did not go to storage is tried again this often.
const RETRY: Duration = Duration::from_secs(1);
/// After a failed read a stream begins no sooner than this, twice as long after each further one ...
const READ_AGAIN: Duration = Duration::from_millis(100);
/// ... up to this: well within the time that a dial may take.
const READ_AGAIN_MAX: Duration = Duration::from_secs(4);
/// Whether the open layer is old is looked at this often.
const UPKEEP: Duration = Duration::from_millis(100);

/// How far a timeline is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct IngestPosition {
    /// End of the last record that can be read.
    pub(crate) last_record_lsn: Lsn,
    /// Its start; none before the first.
    pub(crate) last_record_start: Option<Lsn>,
    /// In storage: a record boundary.
    pub(crate) disk_consistent_lsn: Lsn,
}

/// What came of blocking work.
#[derive(Debug)]
pub(crate) enum IngestEvent {
    /// So many records can be read now.
    Taken { records: u64 },
    /// WAL that does not continue the log; what came before it was taken.
    Refused(WalError),
    /// `disk_consistent_lsn` may have moved: storage takes what it is given.
    Synced,
    /// Nothing that the outside sees.
    Quiet,
    /// Storage is full or away: it is tried again, and reads go on.
    Full(String),
    /// A long record waits for memory that other timelines use now: it is tried again.
    Waits(String),
    /// Nothing more will be taken in.
    Halted(Halt),
}

/// The writer of one timeline.
pub(crate) struct Ingest {
    store: Arc<Store>,
    position: IngestPosition,
    pending: Vec<Piece>,
    pending_bytes: usize,
    durable: watch::Receiver<(Durable, Option<Lsn>)>,
    take: BlockingJob<TakeChunk>,
    flush: BlockingJob<Flush>,
    /// Whether a chunk waits in the engine for storage to take it.
    blocked: bool,
    retry_at: Option<Instant>,
    look_at: Instant,
    halted: Option<Halt>,
    /// Pause before the next stream after a failed read.
    pause: Duration,
    choice_seq: u64,
    is_remote: bool,
    metrics: Arc<Metrics>,
}

impl Ingest {
    /// Goes on behind what `engine` has.
    /// `is_remote`: looking into storage takes long, so that nothing is done on the spot.
    pub(crate) fn new(engine: Engine, store: Arc<Store>, is_remote: bool, metrics: Arc<Metrics>) -> Ingest {
        let end = engine.position();
        let durable = store.durable();
        let position = IngestPosition {
            last_record_lsn: end.end,
            last_record_start: end.start,
            disk_consistent_lsn: durable.borrow().0.lsn(),
        };
        Ingest {
            position,
            pending: Vec::new(),
            pending_bytes: 0,
            durable,
            take: BlockingJob::new(engine),
            flush: BlockingJob::new(store.clone()),
            blocked: false,
            // Storage was full or away at the opening.
            retry_at: (!store.is_claimed()).then(|| Instant::now() + RETRY),
            look_at: Instant::now() + UPKEEP,
            halted: None,
            pause: READ_AGAIN,
            choice_seq: 0,
            is_remote,
            store,
            metrics,
        }
    }

    /// How far it is.
    pub(crate) fn position(&self) -> IngestPosition {
        self.position
    }

    /// Why nothing is taken in any more.
    pub(crate) fn halted(&self) -> Option<&Halt> {
        self.halted.as_ref()
    }

    /// Remembers the number of the last choice with the next layer.
    pub(crate) fn note_choice_seq(&mut self, seq: u64) {
        self.choice_seq = self.choice_seq.max(seq);
    }

    /// Prepares for a new stream and says where it must start: the end of the last record. What arrived of an
    /// unfinished record is dropped, so that every stream begins alike.
    ///
    /// # Errors
    /// Why nothing can be taken in.
    pub(crate) async fn begin(&mut self) -> Result<Lsn, Halt> {
        self.take_all().await;
        if let Some(Halt::ReadAgain(_)) = &self.halted {
            tokio::time::sleep(self.pause).await;
            self.pause = READ_AGAIN_MAX.min(self.pause * 2);
            self.halted = None;
            self.take.start(TakeChunk { pieces: Vec::new(), is_remote: true }, &self.metrics);
            self.take_all().await;
        }
        match (&self.halted, self.take.idle_mut()) {
            (Some(halt), _) => Err(halt.clone()),
            (None, Some(engine)) => {
                engine.rewind();
                Ok(engine.position().end)
            }
            (None, None) => Err(Halt::Stopped("the mapping of WAL ended abnormally".to_owned())),
        }
    }

    /// Queues WAL that starts at `at`; [`Ingest::event`] tells what becomes of it.
    pub(crate) fn push(&mut self, at: Lsn, wal: Bytes) {
        self.pending_bytes += wal.len();
        self.pending.push(Piece { at, wal });
    }

    /// Whether more WAL may be queued before some was taken in.
    pub(crate) fn has_room(&self) -> bool {
        self.pending_bytes < PENDING_BYTES_MAX && self.halted.is_none() && !self.blocked
    }

    /// Takes in what is queued, unless that is under way: then it goes with the next chunk.
    pub(crate) fn start_take(&mut self) {
        let waits = self.pending.is_empty() || self.blocked;
        if waits || self.halted.is_some() || !self.take.is_idle() {
            return;
        }
        let pieces = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        self.take.start(TakeChunk { pieces, is_remote: self.is_remote }, &self.metrics);
    }

    /// Waits until blocking work is done and takes its result. Never ends when none is under way. Cancel safe.
    pub(crate) async fn event(&mut self) -> IngestEvent {
        // A timeline that has everything in storage wakes nobody.
        let unwritten = self.position.disk_consistent_lsn < self.position.last_record_lsn;
        let wake_at = self.retry_at.or(unwritten.then_some(self.look_at));
        tokio::select! {
            done = self.take.done() => self.on_taken(done),
            done = self.flush.done() => self.on_flushed(done),
            Ok(()) = self.durable.changed() => self.on_durable(),
            () = self.store.wait_work() => {
                self.start_flush();
                IngestEvent::Quiet
            }
            () = sleep_until(wake_at) => {
                self.on_time();
                IngestEvent::Quiet
            }
        }
    }

    /// Takes in all that is queued, as far as storage lets it: the next stream may begin.
    pub(crate) async fn take_all(&mut self) {
        loop {
            self.start_take();
            let nothing_to_do = self.pending.is_empty() || self.halted.is_some() || self.blocked;
            if self.take.is_idle() && nothing_to_do {
                // What was not taken is given back to the senders: they hold it.
                self.pending.clear();
                self.pending_bytes = 0;
                if let Some(engine) = self.take.idle_mut() {
                    // Nor is memory held for a record whose rest does not come.
                    engine.rewind();
                }
                return;
            }
            self.event().await;
        }
    }

    /// Takes in all that is queued and brings it to storage, if that answers: for the end of a stream that nobody
    /// follows.
    pub(crate) async fn settle(&mut self) {
        self.take_all().await;
        self.store.freeze(true);
        self.start_flush();
        while !self.flush.is_idle() {
            self.event().await;
        }
    }

    fn on_taken(&mut self, done: Result<Taken, String>) -> IngestEvent {
        let taken = match done {
            Ok(taken) => taken,
            Err(why) => return self.halt(Halt::Stopped(why)),
        };
        if taken.end.end > self.position.last_record_lsn {
            self.position.last_record_lsn = taken.end.end;
            self.position.last_record_start = taken.end.start;
        }
        self.blocked = taken.blocked.is_some() || taken.waits.is_some();
        if let Some(halt) = taken.halted {
            return self.halt(halt);
        }
        if let Some(refused) = taken.refused {
            self.pending.clear();
            self.pending_bytes = 0;
            return IngestEvent::Refused(refused);
        }
        if self.blocked {
            self.retry_at = Some(Instant::now() + RETRY);
        }
        match (taken.blocked, taken.waits) {
            (Some(why), _) => return IngestEvent::Full(why),
            (None, Some(why)) => return IngestEvent::Waits(why),
            (None, None) => {}
        }
        if taken.records > 0 {
            self.pause = READ_AGAIN;
        }
        self.start_take();
        IngestEvent::Taken { records: taken.records }
    }

    fn on_flushed(&mut self, done: Result<Flushed, String>) -> IngestEvent {
        match done {
            Ok(Flushed::Done) => {
                self.on_durable();
                IngestEvent::Synced
            }
            Ok(Flushed::Later(why)) => {
                self.retry_at = Some(Instant::now() + RETRY);
                IngestEvent::Full(why)
            }
            Ok(Flushed::Never(why)) | Err(why) => self.halt(Halt::Stopped(why)),
        }
    }

    fn on_durable(&mut self) -> IngestEvent {
        let durable = self.durable.borrow_and_update().0.lsn();
        assert!(durable >= self.position.disk_consistent_lsn, "invariant 2: it never goes back");
        self.position.disk_consistent_lsn = durable;
        IngestEvent::Synced
    }

    fn on_time(&mut self) {
        if self.retry_at.take_if(|at| *at <= Instant::now()).is_some() {
            self.start_flush();
            if self.blocked && self.take.is_idle() {
                self.take.start(TakeChunk { pieces: Vec::new(), is_remote: true }, &self.metrics);
            }
        }
        if self.look_at <= Instant::now() {
            self.look_at = Instant::now() + UPKEEP;
            self.store.freeze(false);
        }
    }

    fn start_flush(&mut self) {
        // Reads that fail do not keep what is published from storage.
        let goes_on = matches!(self.halted, None | Some(Halt::ReadAgain(_)));
        if self.flush.is_idle() && goes_on {
            self.flush.start(Flush { choice_seq: self.choice_seq }, &self.metrics);
        }
    }

    fn halt(&mut self, halt: Halt) -> IngestEvent {
        self.pending.clear();
        self.pending_bytes = 0;
        self.halted = Some(halt.clone());
        IngestEvent::Halted(halt)
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
