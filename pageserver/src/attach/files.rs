//! Opening a timeline: its directory on this machine, and its store.
//!
//! The directory says which timelines this pageserver has attached; pages and positions are in storage, and only there.

use std::io;
use std::path::Path;
use std::sync::Arc;

use blobs::{BlobError, BlobErrorKind, Storage};
use disk::{Disk, create_dir_durably};
use pgformat::wal::{StreamConfig, synthetic_prehistory};

use super::control_v1;
use super::record::{AttachRecord, RecordError};
use crate::ingest::{EngineError, stream_config};
use crate::store::manifest::{Importing, Manifest, ManifestError};
use crate::store::{Store, StoreShared, WriteError, storage};

/// Ending of the name of a directory whose attach was not finished.
pub(super) const UNFINISHED: &str = ".attaching";

/// Why a timeline cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum TimelineOpenError {
    /// Its attach record is of no use.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Storage does not answer as it should.
    #[error(transparent)]
    Storage(#[from] BlobError),
    /// Its store cannot be opened or created.
    #[error(transparent)]
    Store(#[from] WriteError),
    /// What the store has cannot be gone on from.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// What the attach record says cannot be.
    #[error("{0}")]
    Invalid(String),
}

impl TimelineOpenError {
    /// Whether trying again may help.
    pub(super) fn may_pass(&self) -> bool {
        let passes = |kind| matches!(kind, BlobErrorKind::Full | BlobErrorKind::Retryable);
        match self {
            TimelineOpenError::Storage(e) => passes(e.kind),
            TimelineOpenError::Store(e) => passes(e.kind()),
            TimelineOpenError::Engine(e) => e.may_pass(),
            TimelineOpenError::Record(e) => e.may_pass(),
            _ => false,
        }
    }
}

/// The files of a timeline, opened: nothing runs yet.
pub(super) struct OpenedFiles {
    /// What it was attached with.
    pub(super) record: AttachRecord,
    /// Its pages, as storage has them.
    pub(super) store: Arc<Store>,
}

fn config(record: &AttachRecord) -> Result<StreamConfig, TimelineOpenError> {
    stream_config(&record.attach).ok_or_else(|| {
        TimelineOpenError::Invalid(format!("PostgreSQL {} is not supported", record.attach.pg_version_num))
    })
}

/// Creates the directory of a timeline: all of it or nothing, also across a crash.
pub(super) fn create(disk: &dyn Disk, dir: &Path, record: &AttachRecord) -> Result<(), TimelineOpenError> {
    let cfg = config(record)?;
    synthetic_prehistory(&cfg, record.attach.start_lsn).map_err(|e| TimelineOpenError::Invalid(e.to_string()))?;
    let parent = dir.parent().unwrap_or(Path::new("."));
    let mut unfinished = dir.as_os_str().to_owned();
    unfinished.push(UNFINISHED);
    let tmp = Path::new(&unfinished);
    let io_error = |what: &str| {
        let what = format!("{what} {}", dir.display());
        move |source| TimelineOpenError::Io { what, source }
    };
    create_dir_durably(disk, parent).map_err(io_error("create parent of"))?;
    disk.remove_dir_all(tmp).map_err(io_error("remove an unfinished attach of"))?;
    create_dir_durably(disk, tmp).map_err(io_error("create"))?;
    record.write(disk, tmp)?;
    disk.rename(tmp, dir).and_then(|()| disk.fsync_dir(parent)).map_err(io_error("rename into"))
}

/// Opens a timeline; in storage it begins as an empty one when it is not there.
pub(super) fn open(
    disk: &dyn Disk,
    dir: &Path,
    storage: &Storage,
    shared: &StoreShared,
) -> Result<OpenedFiles, TimelineOpenError> {
    control_v1::rewrite(disk, dir)?;
    let record = AttachRecord::read(disk, dir)?;
    config(&record)?;
    let blobs = storage::timeline(storage, record.ttid())?;
    let store = match Store::open(shared.clone(), blobs.clone()) {
        Err(WriteError::Manifest(ManifestError::Missing)) => {
            let start = record.attach.start_lsn;
            // No pages yet: see `Manifest::importing`.
            let importing = Some(Importing { pages_at: start, end: None, rest: Default::default() });
            Store::create(
                shared.clone(),
                blobs,
                Manifest { importing, ..Manifest::new(record.ttid(), &record.attach) },
            )?
        }
        opened => opened?,
    };
    let there = store.manifest().attach();
    if there != record.attach {
        return Err(TimelineOpenError::Invalid(format!(
            "storage has this timeline with other parameters: {there:?} instead of {:?}",
            record.attach
        )));
    }
    Ok(OpenedFiles { record, store: Arc::new(store) })
}
