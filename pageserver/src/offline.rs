//! Pages without a fabric: a stopped cluster and its WAL files become a timeline in a local directory.
//!
//! For measuring what pages cost without a network: import of the data directory, replay of WAL into layers, where
//! others read WAL and write layers as in the pageserver, rebuilding of pages, compaction. The result is an ordinary
//! timeline in storage.

mod read;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex};

use blobs::{BlobError, Blobs, Storage};
use bytes::Bytes;
use disk::FsDisk;
use pgformat::control::{ControlError, ControlFile, DbState};
use pgformat::page::Page;
use pgformat::rel::RelFork;
use pgformat::{Lsn, PgMajor, SegSize, Tli};
use proto::api::{AttachRequest, PgHistoryEntry};
use proto::id::{SystemId, TenantTimelineId};

use crate::cluster::error::RedoFailure;
use crate::cluster::extent::Extent;
use crate::cluster::key::{Key, KeyKind};
use crate::import::directory::{self, LoadError};
use crate::ingest::engine::{Piece, Taken};
use crate::ingest::{Engine, EngineError};
use crate::store::layer::Through;
use crate::store::manifest::{Importing, Manifest, VersionLease};
use crate::store::merge::merge;
use crate::store::redo::materialise_into;
use crate::store::{BlockCache, History, Snapshot, Store, StoreConfig, StoreError, StoreShared, WriteError};

/// Memory for decoded blocks.
const CACHE_BYTES: u64 = 64 << 20;
/// Of WAL, taken in at once.
const PIECE_BYTES: u64 = 256 << 10;
/// Pieces that are read before they are wanted.
const PIECES_AHEAD: usize = 4;
/// Parts that the pages are divided into, to be rebuilt side by side: some for each thread, since they are not equal.
const REBUILD_PARTS: usize = 16;

/// Why it does not work.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct OfflineError(#[from] Cause);

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("global/pg_control: {0}")]
    Control(#[from] ControlError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Storage(#[from] BlobError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Redo(#[from] RedoFailure),
    #[error(transparent)]
    Problem(#[from] crate::read::Problem),
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    #[error("{0}")]
    Refused(String),
}

/// What a replay did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replayed {
    /// Number of records that were taken in.
    pub records: u64,
    /// Where it began.
    pub from: Lsn,
    /// End of the last record: durable.
    pub to: Lsn,
}

/// A timeline that nobody else has open.
pub struct Offline {
    store: Arc<Store>,
    engine: Engine,
    version: PgMajor,
    seg: SegSize,
    tli: Tli,
}

impl Offline {
    /// Makes a timeline in the directory `storage` of the data directory of a cluster that was shut down: its pages
    /// as of its last checkpoint. Returns when that is durable.
    ///
    /// # Errors
    /// A cluster that was not shut down, a timeline that exists, damaged files, and those of storage.
    pub fn load(data_dir: &Path, storage: &Path, id: TenantTimelineId) -> Result<Offline, OfflineError> {
        Ok(Offline::import(data_dir, storage, id)?)
    }

    /// Opens a timeline of the directory `storage` at the position up to which it is durable.
    ///
    /// # Errors
    /// When it does not exist or is damaged, and those of storage.
    pub fn open(storage: &Path, id: TenantTimelineId) -> Result<Offline, OfflineError> {
        Ok(Offline::reopen(storage, id)?)
    }

    /// Takes in the WAL of the directory `wal_dir` up to `to`, which becomes durable as far as it is whole records. WAL
    /// is of one timeline of PostgreSQL.
    ///
    /// # Errors
    /// A file that is missing, a record that is damaged or is not understood; what came before may be durable.
    pub fn replay(&mut self, wal_dir: &Path, to: Lsn) -> Result<Replayed, OfflineError> {
        Ok(self.take(wal_dir, to)?)
    }

    /// Rebuilds every page that has a version after `after`, as it is now, by as many threads as there are processors;
    /// gives their number.
    ///
    /// # Errors
    /// A page that cannot be rebuilt, a damaged file.
    pub fn materialise(&self, after: Lsn) -> Result<u64, OfflineError> {
        Ok(self.rebuild(after)?)
    }

    /// Compacts until there is nothing left to compact; gives the number of images that were made.
    ///
    /// # Errors
    /// Those of storage.
    pub fn compact(&self) -> Result<u64, OfflineError> {
        let mut images = 0;
        while let Some(done) = self.store.compact_one().map_err(Cause::from)? {
            images += done.images;
        }
        Ok(images)
    }

    /// Gives up what is older than `horizon`, but for what is leased: later compactions remove it, and nothing below
    /// can be read again. False, and nothing changes, when the timeline has not come as far.
    ///
    /// # Errors
    /// Those of storage.
    pub fn set_horizon(&self, horizon: Lsn) -> Result<bool, OfflineError> {
        Ok(self.store.set_horizon(horizon).map_err(WriteError::from).map_err(Cause::from)?)
    }

    /// Keeps the state at `lsn` below the horizon too, under a name that is used once. False when it can be gone
    /// already.
    ///
    /// # Errors
    /// Those of storage.
    pub fn put_lease(&self, name: &str, lsn: Lsn) -> Result<bool, OfflineError> {
        let lease = VersionLease { name: name.to_owned(), lsn, until: None, rest: Default::default() };
        Ok(self.store.put_lease(lease).map_err(WriteError::from).map_err(Cause::from)?)
    }

    /// Gives up what only the lease of this name keeps; none is no error.
    ///
    /// # Errors
    /// Those of storage.
    pub fn drop_lease(&self, name: &str) -> Result<(), OfflineError> {
        Ok(self.store.drop_lease(name).map_err(WriteError::from).map_err(Cause::from)?)
    }

    /// Up to where it is.
    pub fn position(&self) -> Lsn {
        self.engine.position().end
    }

    /// Bytes of all its layers in storage.
    pub fn stored_bytes(&self) -> u64 {
        self.store.manifest().layers.iter().map(|layer| layer.bytes).sum()
    }

    fn import(data_dir: &Path, storage: &Path, id: TenantTimelineId) -> Result<Offline, Cause> {
        let path = data_dir.join("global/pg_control");
        let control = std::fs::read(&path).map_err(|e| Cause::Io(path, e))?;
        let control = ControlFile::parse(&control)?;
        if control.state != DbState::Shutdown {
            return Err(Cause::Refused(format!("the cluster was not shut down: it is {:?}", control.state)));
        }
        let (start, tli) = (control.checkpoint_copy.redo, control.checkpoint_copy.tli);
        let attach = AttachRequest {
            start_lsn: start,
            pg_version_num: control.version.get() * 10_000,
            system_id: SystemId(control.system_id),
            wal_seg_size: control.seg_size,
            pg_history: vec![PgHistoryEntry { tli, start_lsn: start }],
        };
        let importing = Some(Importing { pages_at: start, end: None, rest: Default::default() });
        let first = Manifest { importing, ..Manifest::new(id, &attach) };
        let store = Arc::new(Store::create(shared(), blobs(storage, id)?, first)?);
        directory::load(data_dir, store.clone(), control.version, start)?;
        // Nobody wrote the pages while they were read: they are consistent at once.
        store.pages_copied(start)?;
        Offline::begin(store)
    }

    fn reopen(storage: &Path, id: TenantTimelineId) -> Result<Offline, Cause> {
        Offline::begin(Arc::new(Store::open(shared(), blobs(storage, id)?)?))
    }

    fn begin(store: Arc<Store>) -> Result<Offline, Cause> {
        let attach = store.manifest().attach();
        let engine = Engine::open(&store, &attach)?;
        let version = PgMajor::from_version_num(attach.pg_version_num)
            .ok_or_else(|| Cause::Refused(format!("PostgreSQL {} is not supported", attach.pg_version_num)))?;
        let tli = attach.pg_history.last().map_or(Tli(1), |entry| entry.tli);
        Ok(Offline { store, engine, version, seg: attach.wal_seg_size, tli })
    }

    fn take(&mut self, wal_dir: &Path, to: Lsn) -> Result<Replayed, Cause> {
        let (from, store, seg, tli) = (self.position(), self.store.clone(), self.seg, self.tli);
        let (read, pieces) = mpsc::sync_channel(PIECES_AHEAD);
        let (full, fulls) = mpsc::channel();
        // As in the pageserver, others receive WAL and write layers.
        let (taken, written) = std::thread::scope(|scope| {
            scope.spawn(move || {
                if let Err(e) = read_wal(wal_dir, seg, tli, from..to, &read) {
                    let _ = read.send(Err(e));
                }
            });
            let writer = scope.spawn(move || {
                fulls.iter().try_for_each(|()| {
                    while store.flush_one()? {}
                    Ok::<(), WriteError>(())
                })
            });
            let taken = self.take_pieces(&pieces, &full);
            drop((pieces, full));
            (taken, writer.join())
        });
        written.map_err(|_| Cause::Refused("the thread that writes layers panicked".to_owned()))??;
        let records = taken?;
        self.store.flush()?;
        Ok(Replayed { records, from, to: self.position() })
    }

    /// Takes in what `pieces` gives, and says so whenever there may be a layer to write. Gives the number of records.
    fn take_pieces(&mut self, pieces: &Receiver<Result<Piece, Cause>>, full: &Sender<()>) -> Result<u64, Cause> {
        let mut records = 0;
        for piece in pieces {
            records += self.piece(piece?)?;
            // Nobody listens any more after an error, which is told at the end.
            let _ = full.send(());
        }
        Ok(records)
    }

    fn piece(&mut self, piece: Piece) -> Result<u64, Cause> {
        let Taken { records, refused, halted, blocked, .. } = self.engine.take(&[piece]);
        let why = refused.map(|e| e.to_string()).or(halted.map(|h| h.to_string())).or(blocked);
        if let Some(why) = why {
            return Err(Cause::Refused(why));
        }
        Ok(records)
    }

    fn rebuild(&self, after: Lsn) -> Result<u64, Cause> {
        let snapshot = self.store.snapshot();
        let ranges = Mutex::new(snapshot.divide(Key::all_of(KeyKind::Block), REBUILD_PARTS));
        let next = || ranges.lock().ok()?.pop();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            let work = || -> Result<u64, Cause> {
                std::iter::from_fn(next).map(|range| self.rebuild_range(&snapshot, range, after)).sum()
            };
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let panicked = || Cause::Refused("a thread that rebuilds pages panicked".to_owned());
            threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(panicked()))).sum()
        })
    }

    fn rebuild_range(&self, snapshot: &Snapshot, range: Range<Key>, after: Lsn) -> Result<u64, Cause> {
        let mut work = Rebuild { page: Page::zeroed(), version: self.version, after, snapshot, fork: None, pages: 0 };
        let mut history = History { key: range.start, lsn: Lsn::MAX, versions: Vec::new() };
        for next in merge(snapshot.iters(range, Through::Bulk)) {
            let (key, version) = next?;
            if key != history.key {
                work.end(&mut history)?;
                history.key = key;
            }
            if version.kind.is_base() {
                history.versions.clear();
            }
            history.versions.push(version);
        }
        work.end(&mut history)?;
        Ok(work.pages)
    }
}

/// Reads WAL files piece by piece, until nobody wants them any more.
fn read_wal(
    dir: &Path,
    seg: SegSize,
    tli: Tli,
    range: Range<Lsn>,
    out: &SyncSender<Result<Piece, Cause>>,
) -> Result<(), Cause> {
    let Range { start: mut at, end: to } = range;
    while at < to {
        let segment = at.segment_no(seg);
        let path = dir.join(seg.file_name(tli, segment));
        let failed = |e| Cause::Io(path.clone(), e);
        let end = seg.start_of(segment + 1).min(to);
        let mut file = File::open(&path).map_err(failed)?;
        file.seek(SeekFrom::Start(at.bytes_since(seg.start_of(segment)))).map_err(failed)?;
        while at < end {
            let len = end.bytes_since(at).min(PIECE_BYTES);
            let mut wal = Vec::with_capacity(len as usize);
            let read = file.by_ref().take(len).read_to_end(&mut wal).map_err(failed)?;
            if (read as u64) < len {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            }
            if out.send(Ok(Piece { at, wal: Bytes::from(wal) })).is_err() {
                return Ok(());
            }
            at = at.add(len);
        }
    }
    Ok(())
}

/// Pages being rebuilt one after the other.
struct Rebuild<'a> {
    page: Box<Page>,
    version: PgMajor,
    after: Lsn,
    snapshot: &'a Snapshot,
    /// The fork of the last page, and how long it is.
    fork: Option<(RelFork, Extent)>,
    pages: u64,
}

impl Rebuild<'_> {
    /// The history is complete: makes its page, and empties it.
    fn end(&mut self, history: &mut History) -> Result<(), Cause> {
        if let Some(since) = self.since(history.key)? {
            history.versions.retain(|v| v.lsn >= since);
        }
        if history.exists() && history.newest().is_some_and(|v| v.lsn > self.after) {
            materialise_into(history, self.version, &mut self.page)?;
            std::hint::black_box(&self.page);
            self.pages += 1;
        }
        history.versions.clear();
        Ok(())
    }

    /// Since when versions of a page count.
    fn since(&mut self, key: Key) -> Result<Option<Lsn>, Cause> {
        let Some(tag) = key.tag() else { return Ok(None) };
        if self.fork.as_ref().is_none_or(|(fork, _)| *fork != tag.fork) {
            let stored = self.snapshot.blob(Key::rel_size(tag.fork), Lsn::MAX)?;
            let extent = stored.and_then(|bytes| Extent::decode(&bytes).ok()).unwrap_or_default();
            self.fork = Some((tag.fork, extent));
        }
        Ok(self.fork.as_ref().and_then(|(_, extent)| extent.since(tag.blk)))
    }
}

fn shared() -> StoreShared {
    StoreShared::new(StoreConfig::default(), BlockCache::new(CACHE_BYTES))
}

fn blobs(storage: &Path, id: TenantTimelineId) -> Result<Arc<dyn Blobs>, Cause> {
    disk::create_dir_durably(&FsDisk, storage).map_err(|e| Cause::Io(storage.to_owned(), e))?;
    Ok(crate::store::storage::timeline(&Storage::local(storage.to_owned(), Arc::new(FsDisk)), id)?)
}
