//! Pages without a fabric: a stopped cluster and its WAL files become a timeline in a local directory.
//!
//! Everything runs on the calling thread, so that what it costs can be measured: import of the data directory, replay
//! of WAL into layers, one page at a time, compaction. The result is an ordinary timeline in storage.

mod read;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use pgformat::control::{ControlError, ControlFile, DbState};
use pgformat::page::Page;
use pgformat::{Lsn, PgMajor, SegSize, Tli};
use proto::api::{AttachRequest, PgHistoryEntry};
use proto::id::{SystemId, TenantTimelineId};
use proto::runtime::datadir::create_dir_durably;

use crate::import::directory::{self, LoadError};
use crate::ingest::Engine;
use crate::ingest::engine::{Piece, Taken};
use crate::ingest::recover::{self, OpenError};
use crate::key::{Key, Kind};
use crate::store::blobs::{Blobs, RealDisk, Storage};
use crate::store::layer::Through;
use crate::store::manifest::{Importing, Manifest};
use crate::store::merge::merge;
use crate::store::redo::{RedoFailure, materialise_into};
use crate::store::{BlockCache, History, Shared, Store, StoreConfig, StoreError, WriteError};

/// Memory for decoded blocks.
const CACHE_BYTES: u64 = 64 << 20;
/// Of WAL, taken in at once.
const PIECE_BYTES: u64 = 1 << 20;

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
    Open(#[from] OpenError),
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

impl From<crate::store::blobs::BlobError> for Cause {
    fn from(e: crate::store::blobs::BlobError) -> Cause {
        Cause::Open(e.into())
    }
}

/// What a replay did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replayed {
    /// Records.
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

    /// Rebuilds every page that has a version after `after`, as it is now, in the order of blocks; gives their number.
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
        let engine = recover::engine(&store, &attach)?;
        let version = PgMajor::from_version_num(attach.pg_version_num)
            .ok_or_else(|| Cause::Refused(format!("PostgreSQL {} is not supported", attach.pg_version_num)))?;
        let tli = attach.pg_history.last().map_or(Tli(1), |entry| entry.tli);
        Ok(Offline { store, engine, version, seg: attach.wal_seg_size, tli })
    }

    fn take(&mut self, wal_dir: &Path, to: Lsn) -> Result<Replayed, Cause> {
        let from = self.position();
        let (mut at, mut records) = (from, 0);
        while at < to {
            let segment = at.segment_no(self.seg);
            let path = wal_dir.join(self.seg.file_name(self.tli, segment));
            let end = self.seg.start_of(segment + 1).min(to);
            let mut file = File::open(&path).map_err(|e| Cause::Io(path.clone(), e))?;
            let skip = at.bytes_since(self.seg.start_of(segment));
            io::Seek::seek(&mut file, io::SeekFrom::Start(skip)).map_err(|e| Cause::Io(path.clone(), e))?;
            while at < end {
                let len = end.bytes_since(at).min(PIECE_BYTES);
                let mut wal = vec![0; len as usize];
                file.read_exact(&mut wal).map_err(|e| Cause::Io(path.clone(), e))?;
                records += self.piece(Piece { at, wal: Bytes::from(wal) })?;
                at = at.add(len);
            }
        }
        self.store.flush()?;
        Ok(Replayed { records, from, to: self.position() })
    }

    fn piece(&mut self, piece: Piece) -> Result<u64, Cause> {
        let Taken { records, refused, halted, blocked, .. } = self.engine.take(&[piece]);
        let why = refused.map(|e| e.to_string()).or(halted.map(|h| h.to_string())).or(blocked);
        if let Some(why) = why {
            return Err(Cause::Refused(why));
        }
        while self.store.flush_one()? {}
        Ok(records)
    }

    fn rebuild(&self, after: Lsn) -> Result<u64, Cause> {
        let snapshot = self.store.snapshot();
        let mut work = Rebuild { page: Page::zeroed(), version: self.version, after, pages: 0 };
        let mut history = History { key: Key::first(Kind::Block), lsn: Lsn::MAX, versions: Vec::new() };
        for next in merge(snapshot.iters(Key::all_of(Kind::Block), Through::Bulk)) {
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

/// Pages being rebuilt one after the other.
struct Rebuild {
    page: Box<Page>,
    version: PgMajor,
    after: Lsn,
    pages: u64,
}

impl Rebuild {
    /// The history is complete: makes its page, and empties it.
    fn end(&mut self, history: &mut History) -> Result<(), RedoFailure> {
        if history.exists() && history.newest().is_some_and(|v| v.lsn > self.after) {
            materialise_into(history, self.version, &mut self.page)?;
            std::hint::black_box(&self.page);
            self.pages += 1;
        }
        history.versions.clear();
        Ok(())
    }
}

fn shared() -> Shared {
    Shared::new(StoreConfig::default(), BlockCache::new(CACHE_BYTES))
}

fn blobs(storage: &Path, id: TenantTimelineId) -> Result<Arc<dyn Blobs>, Cause> {
    create_dir_durably(storage).map_err(|e| Cause::Io(storage.to_owned(), e))?;
    Ok(Storage::local(storage.to_owned(), Arc::new(RealDisk)).timeline(id)?)
}
