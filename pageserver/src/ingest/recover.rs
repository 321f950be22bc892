//! Opening a timeline's directory: create it at attach, find the end of its WAL at start.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use pgformat::Lsn;
use pgformat::wal::{EndReason, ErrorKind, StreamConfig, find_end_of_wal, synthetic_prehistory};
use proto::runtime::datadir::{create_dir_durably, sync_dir};

use super::control::{Control, ControlError, ControlFile};
use super::disk::Disk;
use super::spool::{Layout, Piece, Spool, SpoolError};
use super::stream_config;

/// Directory of the segments inside a timeline's directory.
pub(crate) const WAL_DIR: &str = "wal";
/// Ending of the name of a directory whose attach was not finished.
pub(crate) const UNFINISHED: &str = ".attaching";
/// Bytes per read while scanning.
const SCAN_CHUNK: usize = 1 << 20;

/// Why a timeline cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Its control file.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Its WAL files.
    #[error(transparent)]
    Spool(#[from] SpoolError),
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

/// An opened timeline.
pub(crate) struct Recovered {
    pub(crate) cfg: StreamConfig,
    /// With the end of the WAL that was found.
    pub(crate) control: Control,
    pub(crate) file: ControlFile,
    pub(crate) spool: Spool,
}

fn layout(dir: &Path, cfg: &StreamConfig) -> Layout {
    Layout { dir: dir.join(WAL_DIR), seg: cfg.seg_size, tlis: Arc::new(cfg.tlis.clone()) }
}

fn config(control: &Control) -> Result<StreamConfig, OpenError> {
    stream_config(&control.attach)
        .ok_or_else(|| OpenError::Invalid(format!("PostgreSQL {} is not supported", control.attach.pg_version_num)))
}

/// Creates the directory of a timeline: all of it or nothing, also across a crash.
pub(crate) fn create(dir: &Path, control: &Control, disk: &Arc<dyn Disk>) -> Result<(), OpenError> {
    let cfg = config(control)?;
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
    create_dir_durably(&tmp.join(WAL_DIR)).map_err(io_error("create"))?;
    ControlFile::create(tmp, disk.clone(), control)?;
    // Page headers below the start: PostgreSQL's tools read a segment from its first page. No position counts there.
    let start = control.attach.start_lsn;
    let before = synthetic_prehistory(&cfg, start).map_err(|e| OpenError::Invalid(e.to_string()))?;
    if !before.is_empty() {
        let mut spool = Spool::new(layout(tmp, &cfg), disk.clone());
        spool.write(&[Piece { at: start.segment_start(cfg.seg_size), wal: before.into() }])?;
        spool.sync()?;
    }
    sync_dir(&tmp.join(WAL_DIR)).and_then(|()| sync_dir(tmp)).map_err(io_error("sync"))?;
    fs::rename(tmp, dir).and_then(|()| sync_dir(parent)).map_err(io_error("rename into"))
}

/// Opens a timeline: reads the WAL from the saved position to its end, zeroes what lies behind, syncs, and only then
/// reports.
pub(crate) fn open(dir: &Path, disk: &Arc<dyn Disk>) -> Result<Recovered, OpenError> {
    let (mut file, mut control) = ControlFile::open(dir, disk.clone())?;
    let cfg = config(&control)?;
    let layout = layout(dir, &cfg);
    let saved = control.disk_consistent_lsn;
    if saved.segment_offset(cfg.seg_size) != 0 && !layout.path(saved.segment_no(cfg.seg_size)).exists() {
        let path = layout.path(saved.segment_no(cfg.seg_size));
        return Err(OpenError::Invalid(format!("WAL segment {} is missing", path.display())));
    }
    let end = find_end_of_wal(cfg.clone(), saved, control.last_record_start, |at| layout.read(at, SCAN_CHUNK));
    let end = end.map_err(|source| OpenError::Io { what: format!("read WAL of {}", dir.display()), source })?;
    if let EndReason::Invalid(e) = &end.reason
        && e.kind() != ErrorKind::EndOfLog
    {
        // Nothing acknowledged by object storage is lost: the safekeepers hold this WAL and it is received anew.
        let (ttid, sound) = (control.ttid, end.boundary);
        tracing::warn!(timeline = %ttid, "WAL after {sound} is damaged and will be received anew: {e}");
    }
    let mut spool = Spool::new(layout, disk.clone());
    if let EndReason::Invalid(e) = &end.reason
        && e.lsn() < end.boundary
    {
        // In the fill after a SWITCH record, which is zeros by definition.
        spool.zero(e.lsn(), end.boundary)?;
    }
    clear_tail(&mut spool, &cfg, end.boundary)?;
    // Written anew and synced first, reported after.
    spool.rewrite(saved, end.boundary)?;
    spool.sync()?;
    control.disk_consistent_lsn = end.boundary;
    control.last_record_start = end.last_record_start;
    if end.boundary != saved {
        file.save(&control)?;
    }
    Ok(Recovered { cfg, control, file, spool })
}

/// Whatever follows the last whole record in its segment becomes zero, later segments go.
fn clear_tail(spool: &mut Spool, cfg: &StreamConfig, end: Lsn) -> Result<(), OpenError> {
    spool.remove_after(end)?;
    let segment_end = end.segment_start(cfg.seg_size).add(cfg.seg_size.bytes());
    let mut at = end;
    while at < segment_end {
        let tail = spool.layout().read(at, SCAN_CHUNK);
        let tail = tail.map_err(|source| OpenError::Io { what: format!("read WAL at {at}"), source })?;
        if tail.is_empty() {
            break;
        }
        let next = at.add(tail.len() as u64);
        // Mostly zeros already: reading is cheaper than writing them again.
        if tail.iter().any(|b| *b != 0) {
            spool.zero(at, next)?;
        }
        at = next;
    }
    Ok(())
}
