//! One chunk of WAL on its way into the page store: decoded, mapped, appended.
//!
//! Owner of the decoder and of the mapper, which are ahead of the store while a chunk is under way. The records of a
//! chunk become visible together. Everything here may block: storage can be far away.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use pgformat::effect;
use pgformat::redo::rmid;
use pgformat::wal::{RecordRef, StreamConfig, Unfinished, WalDecoder, WalError};
use pgformat::{Lsn, PgMajor};
use proto::api::AttachRequest;
use tokio::sync::OwnedSemaphorePermit;

use super::blank;
use super::config::stream_config;
use super::map::{MapError, MapProgress, Mapper};
use super::worker::{BlockingTask, is_final};
use crate::cluster::error::LookError;
use crate::cluster::records::RecordSpan;
use crate::cluster::state::ClusterState;
use crate::metrics::Metrics;
use crate::store::state::StateAt;
use crate::store::{AppendError, Batch, Intake, Position, Store};

/// So much is taken on the spot: it takes less time than waking another thread for it.
const ON_THE_SPOT_BYTES: usize = 32 << 10;
/// A batch of so much memory goes into the store before its chunk ends: versions take more than WAL, where a record
/// says much with few bytes.
const BATCH_BYTES: usize = 32 << 20;
/// While storage takes nothing, the rest of a chunk may come to so much; then it is thrown away and received again.
const BLOCKED_BYTES_MAX: usize = 512 << 20;
/// A record that is longer than this is held, until it is whole, only as far as the node has memory for such records:
/// shorter ones cost no more than WAL that is queued.
const LONG_RECORD_BYTES: u32 = 1 << 20;
/// `XLOG_DBASE_CREATE_FILE_COPY`; in 14 `XLOG_DBASE_CREATE`.
const DBASE_CREATE_FILE_COPY: u8 = 0x00;

/// WAL as it came, whole records or not.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// Position of its first byte.
    pub(crate) at: Lsn,
    /// WAL bytes from there on.
    pub(crate) wal: Bytes,
}

/// Why the records of a timeline are not taken in any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Halt {
    /// A record that this program does not understand, or a store that does not answer: until a restart.
    Stopped(String),
    /// A record that an import cannot go on from: it begins anew.
    ImportAgain(String),
    /// What was there before a record could not be read, for a reason that may pass: its WAL is wanted again.
    ReadAgain(String),
}

impl std::fmt::Display for Halt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Halt::Stopped(why) => f.write_str(why),
            Halt::ImportAgain(why) => write!(f, "the import begins anew: {why}"),
            Halt::ReadAgain(why) => write!(f, "its WAL is wanted again: {why}"),
        }
    }
}

/// What is worked on.
pub(crate) struct Engine {
    decoder: WalDecoder,
    mapper: Mapper,
    store: Arc<Store>,
    batch: Batch,
    /// End of the base backup, while the records below it are replayed over pages that were copied meanwhile.
    import_end: Option<Lsn>,
    /// A part of a record is in the store, behind what is published.
    is_ahead: bool,
    halted: Option<Halt>,
    /// Memory of the long record that is not whole yet, and where that begins.
    held: Option<(Lsn, OwnedSemaphorePermit)>,
    /// What came behind the beginning of such a record while the node had no memory for it.
    waiting: Vec<Piece>,
}

/// Why there is no engine behind what a store has.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// The timeline is of a major that this program does not know, as PG_VERSION_NUM.
    #[error("PostgreSQL {0} is not supported")]
    Version(u32),
    /// The control state cannot be read.
    #[error(transparent)]
    Look(#[from] LookError),
}

impl EngineError {
    /// Whether trying again may help.
    pub(crate) const fn may_pass(&self) -> bool {
        matches!(self, EngineError::Look(LookError::Away(_)))
    }
}

impl Engine {
    /// Goes on behind what the store has published: after an opening, what its manifest says.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub(crate) fn open(store: &Arc<Store>, attach: &AttachRequest) -> Result<Engine, EngineError> {
        let cfg = stream_config(attach).ok_or(EngineError::Version(attach.pg_version_num))?;
        let version = cfg.version;
        let manifest = store.manifest();
        let published = store.published();
        let last = RecordSpan { start: published.start, end: published.end };
        let snapshot = store.snapshot();
        let look = StateAt { snapshot: &snapshot, lsn: Lsn::MAX, version };
        let state = match &manifest.importing {
            // Nothing was imported: only what WAL says from the start on is known, and no page can be read.
            Some(importing) if importing.end.is_none() => blank::state(attach, version),
            _ => ClusterState::load(&look, &look, last.end)?,
        };
        let import_end = manifest.importing.as_ref().and_then(|importing| importing.end);
        Ok(Engine::new(cfg, Mapper::new(state, last), store.clone(), import_end))
    }

    /// Goes on behind the mapper's last record.
    fn new(cfg: StreamConfig, mapper: Mapper, store: Arc<Store>, import_end: Option<Lsn>) -> Engine {
        let last = mapper.last();
        let decoder = WalDecoder::new(cfg, last.end, last.start).leaving_out(effect::is_idle);
        Engine {
            decoder,
            mapper,
            store,
            batch: Batch::default(),
            import_end,
            is_ahead: false,
            halted: None,
            held: None,
            waiting: Vec::new(),
        }
    }

    /// Begins a new stream behind the last whole record: what came of an unfinished one is dropped.
    pub(crate) fn rewind(&mut self) {
        let last = self.mapper.last();
        let config = self.decoder.config().clone();
        self.decoder = WalDecoder::new(config, last.end, last.start).leaving_out(effect::is_idle);
        (self.held, self.waiting) = (None, Vec::new());
    }

    /// End of the last record that was mapped.
    pub(crate) fn position(&self) -> Position {
        let last = self.mapper.last();
        Position { end: last.end, start: last.start }
    }

    /// Takes in a chunk, as far as storage lets it. Without pieces: what storage did not take before; or, after
    /// [`Halt::ReadAgain`], nothing but a new beginning.
    pub(crate) fn take(&mut self, pieces: &[Piece]) -> Taken {
        if let Some(Halt::ReadAgain(_)) = &self.halted {
            self.begin_anew();
        }
        let end = self.store.published();
        let mut taken = Taken { records: 0, end, refused: None, halted: None, blocked: None, waits: None };
        if self.halted.is_some() {
            taken.halted = self.halted.clone();
            return taken;
        }
        self.feed_all(pieces, &mut taken);
        if let Some(Halt::ReadAgain(why)) = &self.halted {
            // Batch and mapper hold a part of a record: both are of no use. What is published is as it was.
            if self.is_ahead {
                self.halted = Some(Halt::Stopped(format!("in the midst of the copy of a database: {why}")));
            }
            self.batch = Batch::default();
            return Taken { records: 0, refused: None, halted: self.halted.clone(), ..taken };
        }
        match self.hand_over() {
            Ok(()) => taken.end = self.position(),
            Err(Blocked::Full(why)) => taken.blocked = Some(why),
            Err(Blocked::Stopped(why)) => self.halted = Some(Halt::Stopped(why)),
        }
        taken.halted = self.halted.clone();
        taken
    }

    /// Goes back to what is published, as an opening does.
    fn begin_anew(&mut self) {
        match Engine::open(&self.store, &self.store.manifest().attach()) {
            Ok(engine) => *self = engine,
            Err(EngineError::Look(e)) => self.halted = Some(look_halt(e)),
            Err(e) => self.halted = Some(Halt::Stopped(e.to_string())),
        }
    }

    /// Takes in what waited for memory, then `pieces`, up to a record for which there is none.
    fn feed_all(&mut self, pieces: &[Piece], taken: &mut Taken) {
        let mut queue: VecDeque<Piece> = std::mem::take(&mut self.waiting).into();
        queue.extend(pieces.iter().cloned());
        while taken.refused.is_none() && self.halted.is_none() {
            taken.waits = self.reserve().err();
            if taken.waits.is_some() {
                self.waiting = queue.into();
                return;
            }
            let Some(piece) = queue.pop_front() else { return };
            taken.refused = self.feed(&piece, &mut taken.records).err();
        }
    }

    /// Sees to memory for the record that is not whole yet, if it is a long one. It is given back when what the record
    /// does was mapped.
    fn reserve(&mut self) -> Result<(), String> {
        let long = self.decoder.unfinished().filter(|u| u.len > LONG_RECORD_BYTES);
        self.held.take_if(|(start, _)| long.is_none_or(|u| u.start != *start));
        let Some(Unfinished { start, len }) = long.filter(|_| self.held.is_none()) else { return Ok(()) };
        let permit = self.store.reserve_record(len);
        let permit = permit.ok_or_else(|| {
            format!("the record at {start} has {len} bytes, and other timelines use the memory for long records")
        })?;
        self.held = Some((start, permit));
        Ok(())
    }

    /// Takes in a piece; counts its records.
    fn feed(&mut self, piece: &Piece, records: &mut u64) -> Result<(), WalError> {
        let Engine { decoder, mapper, store, batch, import_end, is_ahead, halted, .. } = self;
        let (version, import_end) = (decoder.config().version, *import_end);
        let mut pen = RecordPen { version, mapper, store, batch, import_end, is_ahead };
        let mut snapshot = pen.latest();
        decoder.feed_records(piece.at, &piece.wal, &mut |record| {
            if halted.is_some() {
                return;
            }
            match pen.write(&record, &mut snapshot) {
                Ok(()) => *records += 1,
                Err(halt) => *halted = Some(halt),
            }
        })
    }

    /// Hands over what was mapped; the position moves with it.
    fn hand_over(&mut self) -> Result<(), Blocked> {
        let Engine { decoder, mapper, store, batch, import_end, is_ahead, .. } = self;
        let (version, import_end) = (decoder.config().version, *import_end);
        RecordPen { version, mapper, store, batch, import_end, is_ahead }.hand_over()
    }
}

/// Storage takes nothing now.
#[derive(Debug)]
enum Blocked {
    /// Until space returns.
    Full(String),
    /// For good: until a restart.
    Stopped(String),
}

/// Appends a batch; while memory is full, by writing layers itself.
fn append(store: &Store, batch: &mut Batch) -> Result<(), Blocked> {
    loop {
        match store.append(batch) {
            Ok(()) => return Ok(()),
            Err(AppendError::Store(e)) => return Err(Blocked::Stopped(e.to_string())),
            Err(AppendError::NotNow(Intake::Stopped(why))) => return Err(Blocked::Stopped(why)),
            Err(AppendError::NotNow(_)) => match store.flush_one() {
                Ok(_) => {}
                Err(e) if is_final(&e) => return Err(Blocked::Stopped(e.to_string())),
                Err(e) => return Err(Blocked::Full(e.to_string())),
            },
        }
    }
}

/// Writes records into the batch.
struct RecordPen<'a> {
    version: PgMajor,
    mapper: &'a mut Mapper,
    store: &'a Store,
    batch: &'a mut Batch,
    import_end: Option<Lsn>,
    is_ahead: &'a mut bool,
}

impl RecordPen<'_> {
    fn latest(&self) -> crate::store::Snapshot {
        self.store.snapshot()
    }

    fn write(&mut self, record: &RecordRef<'_>, snapshot: &mut crate::store::Snapshot) -> Result<(), Halt> {
        if self.import_end.is_some_and(|end| record.end <= end) && is_file_copy(record) {
            let why = format!("a database was copied by files at {}, while the cluster was copied", record.start);
            return Err(Halt::ImportAgain(why));
        }
        if self.store.is_stopping() {
            return Err(Halt::ReadAgain("this server stops".to_owned()));
        }
        let version = self.version;
        let mut progress = {
            let look = StateAt { snapshot, lsn: Lsn::MAX, version };
            self.mapper.record(record, self.batch, &look).map_err(halt)?
        };
        while matches!(progress, MapProgress::More) {
            *self.is_ahead = true;
            append(self.store, self.batch).map_err(|blocked| match blocked {
                Blocked::Full(why) | Blocked::Stopped(why) => {
                    Halt::Stopped(format!("storage failed in the midst of the copy of a database: {why}"))
                }
            })?;
            *snapshot = self.latest();
            if self.store.is_stopping() {
                return Err(Halt::ReadAgain("this server stops".to_owned()));
            }
            let look = StateAt { snapshot, lsn: Lsn::MAX, version };
            progress = self.mapper.resume(self.batch, &look).map_err(halt)?;
        }
        if self.batch.memory() < BATCH_BYTES {
            return Ok(());
        }
        match self.hand_over() {
            Ok(()) => *snapshot = self.latest(),
            Err(Blocked::Stopped(why)) => return Err(Halt::Stopped(why)),
            Err(Blocked::Full(why)) if self.batch.memory() > BLOCKED_BYTES_MAX => return Err(Halt::ReadAgain(why)),
            Err(Blocked::Full(_)) => {}
        }
        Ok(())
    }

    /// Hands over what was mapped; the position moves with it.
    fn hand_over(&mut self) -> Result<(), Blocked> {
        let snapshot = self.latest();
        self.mapper.finish(self.batch, &StateAt { snapshot: &snapshot, lsn: Lsn::MAX, version: self.version });
        append(self.store, self.batch)?;
        let last = self.mapper.last();
        self.store.publish(Position { end: last.end, start: last.start });
        self.mapper.stored();
        *self.is_ahead = false;
        Ok(())
    }
}

fn halt(e: MapError) -> Halt {
    match e {
        MapError::Look(e) => look_halt(e),
        MapError::Stop { .. } | MapError::TooMuch(_) => Halt::Stopped(e.to_string()),
    }
}

/// A file that cannot be read now may be read later; damage stays.
fn look_halt(e: LookError) -> Halt {
    match e {
        LookError::Away(_) => Halt::ReadAgain(e.to_string()),
        _ => Halt::Stopped(e.to_string()),
    }
}

fn is_file_copy(record: &RecordRef<'_>) -> bool {
    record.header.rmid == rmid::DBASE && record.header.info & 0xF0 == DBASE_CREATE_FILE_COPY
}

/// A chunk. Without pieces: what storage did not take before.
pub(crate) struct TakeChunk {
    pub(crate) pieces: Vec<Piece>,
    /// Whether storage is far away: nothing is done on the spot then.
    pub(crate) is_remote: bool,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Taken {
    /// Number of records that were mapped.
    pub(crate) records: u64,
    /// Up to here the records are in the store.
    pub(crate) end: Position,
    /// WAL that does not continue the log: what came before it is in the store.
    pub(crate) refused: Option<WalError>,
    /// Nothing more is taken.
    pub(crate) halted: Option<Halt>,
    /// Storage did not take it: it is offered again.
    pub(crate) blocked: Option<String>,
    /// A long record waits for memory that other timelines use; what came behind its beginning is kept.
    pub(crate) waits: Option<String>,
}

impl BlockingTask for TakeChunk {
    type Resource = Engine;
    type Output = Taken;

    fn is_short(&self) -> bool {
        !self.is_remote && self.pieces.iter().map(|p| p.wal.len()).sum::<usize>() <= ON_THE_SPOT_BYTES
    }

    fn run(self, engine: &mut Engine, _: &Metrics) -> Result<Taken, String> {
        Ok(engine.take(&self.pieces))
    }
}

#[cfg(test)]
mod tests;
