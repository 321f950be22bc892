//! Opening a timeline: its directory on this machine, and its store.
//!
//! The directory says which timelines this pageserver has attached; pages and positions are in storage, and only there.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use blobs::{BlobError, BlobErrorKind, Storage};
use node::datadir::{create_dir_durably, sync_dir};
use pgformat::checkpoint::CheckPoint;
use pgformat::control::{ControlFile, DbState};
use pgformat::effect::Parameters;
use pgformat::wal::{StreamConfig, synthetic_prehistory};
use pgformat::{Lsn, PgMajor, Tli};
use proto::api::AttachRequest;

use super::control::{Control, ControlError, ControlFile as LocalControl};
use super::disk::Disk;
use super::engine::Engine;
use super::map::Mapper;
use super::stream_config;
use crate::cluster::error::LookError;
use crate::cluster::records::RecordSpan;
use crate::cluster::state::ClusterState;
use crate::store::manifest::{Importing, Manifest, ManifestError};
use crate::store::state::StateAt;
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
    /// What the store says was there.
    #[error(transparent)]
    Look(#[from] LookError),
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
            OpenError::Look(e) => matches!(e, LookError::Away(_)),
            _ => false,
        }
    }
}

/// An opened timeline.
pub(crate) struct Recovered {
    pub(crate) control: Control,
    pub(crate) store: Arc<Store>,
}

fn config(control: &Control) -> Result<StreamConfig, OpenError> {
    stream_config(&control.attach)
        .ok_or_else(|| OpenError::Invalid(format!("PostgreSQL {} is not supported", control.attach.pg_version_num)))
}

/// Creates the directory of a timeline: all of it or nothing, also across a crash.
pub(crate) fn create(dir: &Path, control: &Control, disk: &Arc<dyn Disk>) -> Result<(), OpenError> {
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
    LocalControl::create(tmp, disk.clone(), control)?;
    sync_dir(tmp).map_err(io_error("sync"))?;
    fs::rename(tmp, dir).and_then(|()| sync_dir(parent)).map_err(io_error("rename into"))
}

/// Opens a timeline; in storage it begins as an empty one when it is not there.
pub(crate) fn open(
    dir: &Path,
    disk: &Arc<dyn Disk>,
    storage: &Storage,
    shared: &Shared,
) -> Result<Recovered, OpenError> {
    let (_, control) = LocalControl::open(dir, disk.clone())?;
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
    Ok(Recovered { control, store: Arc::new(store) })
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

/// The writer's engine, behind what the store has published: after an opening, what its manifest says.
pub(crate) fn engine(store: &Arc<Store>, attach: &AttachRequest) -> Result<Engine, OpenError> {
    let cfg = stream_config(attach)
        .ok_or_else(|| OpenError::Invalid(format!("PostgreSQL {} is not supported", attach.pg_version_num)))?;
    let version = cfg.version;
    let manifest = store.manifest();
    let published = store.published();
    let last = RecordSpan { start: published.start, end: published.end };
    let snapshot = store.snapshot();
    let look = StateAt { snapshot: &snapshot, lsn: Lsn::MAX, version };
    let state = match &manifest.importing {
        // Nothing was imported: only what WAL says from the start on is known, and no page can be read.
        Some(importing) if importing.end.is_none() => blank(attach, version),
        _ => ClusterState::load(&look, &look, last.end)?,
    };
    let import_end = manifest.importing.as_ref().and_then(|importing| importing.end);
    Ok(Engine::new(cfg, Mapper::new(state, last), store.clone(), import_end))
}

/// The state of a cluster of which nothing is known.
fn blank(attach: &AttachRequest, version: PgMajor) -> ClusterState {
    let start = attach.start_lsn;
    let tli = attach.pg_history.last().map_or(Tli(1), |e| e.tli);
    let checkpoint_copy = CheckPoint {
        redo: start,
        tli,
        prev_tli: tli,
        full_page_writes: true,
        wal_level: 1,
        next_xid: 3,
        next_oid: 0,
        next_multi: 1,
        next_multi_offset: 0,
        oldest_xid: 3,
        oldest_xid_db: 0,
        oldest_multi: 1,
        oldest_multi_db: 0,
        time: 0,
        oldest_commit_ts_xid: 0,
        newest_commit_ts_xid: 0,
        oldest_active_xid: 0,
    };
    let file = ControlFile {
        version,
        system_id: attach.system_id.0,
        state: DbState::Production,
        time: 0,
        checkpoint: start,
        checkpoint_copy,
        unlogged_lsn: Lsn::new(0),
        min_recovery_point: Lsn::new(0),
        min_recovery_point_tli: Tli(0),
        backup_start: Lsn::new(0),
        backup_end: Lsn::new(0),
        backup_end_required: false,
        parameters: Parameters {
            max_connections: 100,
            max_worker_processes: 8,
            max_wal_senders: 10,
            max_prepared_xacts: 0,
            max_locks_per_xact: 64,
            wal_level: 1,
            wal_log_hints: false,
            track_commit_timestamp: false,
        },
        seg_size: attach.wal_seg_size,
        float8_by_val: true,
        data_checksum_version: 0,
        char_signed: true,
        mock_nonce: [0; 32],
    };
    ClusterState::of_file(file, false)
}
