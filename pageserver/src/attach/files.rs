//! Opening a timeline: its directory on this machine, and its store.
//!
//! The directory says which timelines this pageserver has attached; pages and positions are in storage, and only there.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use blobs::{BlobError, BlobErrorKind, Storage};
use node::datadir::{create_dir_durably, sync_dir};
use pgformat::wal::{StreamConfig, synthetic_prehistory};

use super::control::{Control, ControlError, ControlFile};
use super::disk::RealDisk;
use crate::ingest::{EngineError, stream_config};
use crate::store::manifest::{Importing, Manifest, ManifestError};
use crate::store::{Shared, Store, WriteError, storage};

/// Where an earlier version kept WAL, inside a timeline's directory.
const SPOOL_DIR: &str = "wal";
/// Ending of the name of a directory whose attach was not finished.
pub(crate) const UNFINISHED: &str = ".attaching";

/// Why a timeline cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Its local control file.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Storage.
    #[error(transparent)]
    Storage(#[from] BlobError),
    /// Its store.
    #[error(transparent)]
    Store(#[from] WriteError),
    /// What the store has cannot be gone on from.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The operating system.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What it said.
        source: io::Error,
    },
    /// What the control file says cannot be.
    #[error("{0}")]
    Invalid(String),
}

impl OpenError {
    /// Whether trying again may help.
    pub(crate) fn may_pass(&self) -> bool {
        let passes = |kind| matches!(kind, BlobErrorKind::Full | BlobErrorKind::Retryable);
        match self {
            OpenError::Storage(e) => passes(e.kind),
            OpenError::Store(e) => passes(e.kind()),
            OpenError::Engine(e) => e.may_pass(),
            _ => false,
        }
    }
}

/// The files of a timeline, opened: nothing runs yet.
pub(crate) struct OpenedFiles {
    pub(crate) control: Control,
    pub(crate) store: Arc<Store>,
}

fn config(control: &Control) -> Result<StreamConfig, OpenError> {
    stream_config(&control.attach)
        .ok_or_else(|| OpenError::Invalid(format!("PostgreSQL {} is not supported", control.attach.pg_version_num)))
}

/// Creates the directory of a timeline: all of it or nothing, also across a crash.
pub(crate) fn create(dir: &Path, control: &Control) -> Result<(), OpenError> {
    let cfg = config(control)?;
    synthetic_prehistory(&cfg, control.attach.start_lsn).map_err(|e| OpenError::Invalid(e.to_string()))?;
    let parent = dir.parent().unwrap_or(Path::new("."));
    let mut unfinished = dir.as_os_str().to_owned();
    unfinished.push(UNFINISHED);
    let tmp = Path::new(&unfinished);
    let io_error = |what: &str| {
        let what = format!("{what} {}", dir.display());
        move |source| OpenError::Io { what, source }
    };
    create_dir_durably(parent).map_err(io_error("create parent of"))?;
    if tmp.exists() {
        fs::remove_dir_all(tmp).map_err(io_error("remove an unfinished attach of"))?;
    }
    create_dir_durably(tmp).map_err(io_error("create"))?;
    ControlFile::create(tmp, Arc::new(RealDisk), control)?;
    sync_dir(tmp).map_err(io_error("sync"))?;
    fs::rename(tmp, dir).and_then(|()| sync_dir(parent)).map_err(io_error("rename into"))
}

/// Opens a timeline; in storage it begins as an empty one when it is not there.
pub(crate) fn open(dir: &Path, storage: &Storage, shared: &Shared) -> Result<OpenedFiles, OpenError> {
    let (_, control) = ControlFile::open(dir, Arc::new(RealDisk))?;
    config(&control)?;
    let blobs = storage::timeline(storage, control.ttid)?;
    let store = match Store::open(shared.clone(), blobs.clone()) {
        Err(WriteError::Manifest(ManifestError::Missing)) => {
            let start = control.attach.start_lsn;
            // No pages yet: see `Manifest::importing`.
            let importing = Some(Importing { pages_at: start, end: None, rest: Default::default() });
            Store::create(
                shared.clone(),
                blobs,
                Manifest { importing, ..Manifest::new(control.ttid, &control.attach) },
            )?
        }
        opened => opened?,
    };
    forget_spool(dir, &control);
    let there = store.manifest().attach();
    if there != control.attach {
        return Err(OpenError::Invalid(format!(
            "storage has this timeline with other parameters: {there:?} instead of {:?}",
            control.attach
        )));
    }
    Ok(OpenedFiles { control, store: Arc::new(store) })
}

/// A version before this one kept WAL beside the control file and reported nothing as stored elsewhere, so that the
/// safekeepers have it all.
fn forget_spool(dir: &Path, control: &Control) {
    let spool = dir.join(SPOOL_DIR);
    if !spool.exists() {
        return;
    }
    let ttid = control.ttid;
    tracing::warn!(
        timeline = %ttid,
        "{} holds WAL that an earlier version received; this one keeps pages instead and receives the WAL again from \
         the safekeepers: the directory is removed. To serve pages, import the cluster (walfabric timeline import)",
        spool.display()
    );
    if let Err(e) = fs::remove_dir_all(&spool) {
        tracing::warn!(timeline = %ttid, "{} cannot be removed: {e}", spool.display());
    }
}
