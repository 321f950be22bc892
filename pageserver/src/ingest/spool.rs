//! The pageserver's own copy of the WAL: plain segment files, named and laid out as PostgreSQL's.
//!
//! A [`Spool`] owns the files below one directory and is owned by whoever writes at the moment: it travels by value
//! to a blocking thread and back, so no lock is held around I/O. It knows nothing of records; `ingest` does.
//!
//! Invariants: a segment has all its blocks before its first byte is written, so a full disk shows before the write;
//! after a failed write or sync nothing is written or synced any more; what was never written reads as zeros.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use pgformat::{Lsn, SegSize, Tli};

use super::disk::{Disk, read_up_to};

/// A piece of WAL and where it belongs.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// Position of its first byte.
    pub(crate) at: Lsn,
    /// The bytes.
    pub(crate) wal: Bytes,
}

/// What can go wrong with the spool.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    /// No room for a segment. Nothing was written: may be tried again.
    #[error("no space for WAL segment {path}: {source}", path = .path.display())]
    NoSpace {
        /// The segment's file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Anything else. What was written since the last good sync does not count, and nothing is tried again.
    #[error("{operation} {path}: {source}", path = .path.display())]
    Failed {
        /// write, fdatasync, allocate, read ...
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Where segment files are and how they are named; cheap to clone, shared with readers.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Directory of the segment files.
    pub(crate) dir: PathBuf,
    /// Segment size.
    pub(crate) seg: SegSize,
    /// PostgreSQL's timeline numbers and where each begins.
    pub(crate) tlis: Arc<Vec<(Tli, Lsn)>>,
}

impl Layout {
    /// File of segment `no`, named by the tli of the segment's first byte.
    pub(crate) fn path(&self, no: u64) -> PathBuf {
        let first = self.seg.start_of(no);
        let tli = self.tlis.iter().rev().find(|(_, since)| *since <= first).or(self.tlis.first());
        self.dir.join(self.seg.file_name(tli.map_or(Tli(1), |t| t.0), no))
    }

    /// Reads at most `max` bytes at `at`, not across a segment's end. Empty when there is no such file.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn read(&self, at: Lsn, max: usize) -> io::Result<Bytes> {
        let left = self.seg.bytes() - at.segment_offset(self.seg);
        let len = max.min(usize::try_from(left).unwrap_or(max));
        match File::open(self.path(at.segment_no(self.seg))) {
            Ok(file) => Ok(read_up_to(&file, at.segment_offset(self.seg), len)?.into()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Bytes::new()),
            Err(e) => Err(e),
        }
    }
}

struct OpenSegment {
    no: u64,
    file: Arc<File>,
    /// Written since it was last given away to be synced.
    dirty: bool,
}

/// Files with bytes that are not synced yet.
pub(crate) struct Dirty {
    disk: Arc<dyn Disk>,
    files: Vec<(PathBuf, Arc<File>)>,
}

impl Dirty {
    /// Makes durable what was written to them before they were given away. Returns their number.
    ///
    /// # Errors
    /// See [`SpoolError`].
    pub(crate) fn sync(self) -> Result<u64, SpoolError> {
        for (path, file) in &self.files {
            self.disk.sync_data(file).map_err(|source| SpoolError::Failed {
                operation: "fdatasync",
                path: path.clone(),
                source,
            })?;
        }
        Ok(self.files.len() as u64)
    }
}

/// The writing side.
pub(crate) struct Spool {
    layout: Layout,
    disk: Arc<dyn Disk>,
    /// Few: the one written to, and those before it until the next sync.
    open: Vec<OpenSegment>,
}

impl Spool {
    /// A spool over what is in `layout.dir`.
    pub(crate) fn new(layout: Layout, disk: Arc<dyn Disk>) -> Spool {
        Spool { layout, disk, open: Vec::new() }
    }

    /// Where and how files are named.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Writes `pieces`, which ascend and do not overlap.
    ///
    /// # Errors
    /// See [`SpoolError`]; with [`SpoolError::NoSpace`] nothing was written.
    pub(crate) fn write(&mut self, pieces: &[Piece]) -> Result<(), SpoolError> {
        let seg = self.layout.seg;
        if let (Some(first), Some(last)) = (pieces.first(), pieces.last()) {
            let end = last.at.add(last.wal.len().saturating_sub(1) as u64);
            for no in first.at.segment_no(seg)..=end.segment_no(seg) {
                self.open_segment(no)?;
            }
        }
        // Runs of adjacent bytes within a segment go out with one gather write.
        let mut run: Vec<&[u8]> = Vec::new();
        let (mut run_at, mut run_end) = (None, None);
        for piece in pieces {
            let (mut at, mut rest) = (piece.at, &piece.wal[..]);
            while !rest.is_empty() {
                let room = usize::try_from(seg.bytes() - at.segment_offset(seg)).unwrap_or(usize::MAX);
                let (now, later) = rest.split_at(rest.len().min(room));
                let joins = run_end == Some(at) && at.segment_offset(seg) != 0;
                if !joins && let Some(start) = run_at {
                    self.write_run(start, &run)?;
                    run.clear();
                }
                if !joins {
                    run_at = Some(at);
                }
                run.push(now);
                at = at.add(now.len() as u64);
                run_end = Some(at);
                rest = later;
            }
        }
        match run_at {
            Some(start) => self.write_run(start, &run),
            None => Ok(()),
        }
    }

    /// Makes all that was written durable.
    ///
    /// # Errors
    /// See [`SpoolError`].
    pub(crate) fn sync(&mut self) -> Result<(), SpoolError> {
        self.take_dirty().sync().map(drop)
    }

    /// Gives away what must be synced to make durable all that was written so far; writes may go on meanwhile. When
    /// that sync fails nothing may be written any more.
    pub(crate) fn take_dirty(&mut self) -> Dirty {
        let mut files = Vec::new();
        for s in self.open.iter_mut().filter(|s| s.dirty) {
            s.dirty = false;
            files.push((self.layout.path(s.no), s.file.clone()));
        }
        // All are given away: only the newest will be written again.
        if let Some(newest) = self.open.iter().map(|s| s.no).max() {
            self.open.retain(|s| s.no == newest);
        }
        Dirty { disk: self.disk.clone(), files }
    }

    /// Makes `[from, to)` read as zeros; not synced. Segments that do not exist are left so.
    ///
    /// # Errors
    /// See [`SpoolError`].
    pub(crate) fn zero(&mut self, from: Lsn, to: Lsn) -> Result<(), SpoolError> {
        const CHUNK: usize = 1 << 20;
        let zeros = Bytes::from(vec![0; CHUNK]);
        let mut at = from;
        while at < to {
            let seg_left = self.layout.seg.bytes() - at.segment_offset(self.layout.seg);
            let len = to.bytes_since(at).min(seg_left).min(CHUNK as u64);
            if self.layout.path(at.segment_no(self.layout.seg)).exists() {
                self.write(&[Piece { at, wal: zeros.slice(..usize::try_from(len).unwrap_or(CHUNK)) }])?;
            }
            at = at.add(len);
        }
        Ok(())
    }

    /// Writes `[from, to)` anew as it reads; not synced. A killed process may have left these bytes in the page cache
    /// only, and after a failed sync the kernel takes them for clean: syncing alone would prove nothing.
    ///
    /// # Errors
    /// See [`SpoolError`].
    pub(crate) fn rewrite(&mut self, from: Lsn, to: Lsn) -> Result<(), SpoolError> {
        const CHUNK: u64 = 1 << 20;
        let mut at = from;
        while at < to {
            let len = usize::try_from(to.bytes_since(at).min(CHUNK)).unwrap_or(0);
            let read = self.layout.read(at, len).map_err(|source| SpoolError::Failed {
                operation: "read",
                path: self.layout.path(at.segment_no(self.layout.seg)),
                source,
            })?;
            if read.is_empty() {
                // The fill after a SWITCH record in a segment's part that was never written.
                break;
            }
            let next = at.add(read.len() as u64);
            self.write(&[Piece { at, wal: read }])?;
            at = next;
        }
        Ok(())
    }

    /// Removes the segments after the one that holds `end`.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn remove_after(&mut self, end: Lsn) -> Result<(), SpoolError> {
        let last = end.segment_no(self.layout.seg);
        self.open.retain(|s| s.no <= last);
        let fail = |path: &Path, source| SpoolError::Failed { operation: "remove", path: path.to_owned(), source };
        let dir = &self.layout.dir;
        for entry in fs::read_dir(dir).map_err(|e| fail(dir, e))? {
            let path = entry.map_err(|e| fail(dir, e))?.path();
            let name = path.file_name().and_then(|n| n.to_str());
            if name.and_then(|n| self.layout.seg.parse_file_name(n)).is_some_and(|(_, no)| no > last) {
                fs::remove_file(&path).map_err(|e| fail(&path, e))?;
            }
        }
        proto::runtime::datadir::sync_dir(dir).map_err(|e| fail(dir, e))
    }

    /// The job of preparing the segment after the one written to, for a thread of its own; `None` when it is there,
    /// or not worth it yet.
    pub(crate) fn prepare_next(&self) -> Option<impl FnOnce() -> io::Result<()> + Send + use<>> {
        let newest = self.open.iter().map(|s| s.no).max()?;
        let path = self.layout.path(newest + 1);
        if path.exists() {
            return None;
        }
        let (disk, len) = (self.disk.clone(), self.layout.seg.bytes());
        Some(move || disk.open_allocated(&path, len).map(drop))
    }

    fn write_run(&mut self, start: Lsn, run: &[&[u8]]) -> Result<(), SpoolError> {
        let seg = self.layout.seg;
        let no = start.segment_no(seg);
        let disk = self.disk.clone();
        let s = self.open_segment(no)?;
        // Before the write: a write that fails half-way has changed the file all the same.
        s.dirty = true;
        let written = disk.write_at(&s.file, start.segment_offset(seg), run);
        written.map_err(|source| SpoolError::Failed { operation: "write", path: self.layout.path(no), source })
    }

    fn open_segment(&mut self, no: u64) -> Result<&mut OpenSegment, SpoolError> {
        let at = match self.open.iter().position(|s| s.no == no) {
            Some(at) => at,
            None => {
                let path = self.layout.path(no);
                let file = match self.disk.open_allocated(&path, self.layout.seg.bytes()) {
                    Ok(file) => Arc::new(file),
                    Err(source) if is_no_space(&source) => return Err(SpoolError::NoSpace { path, source }),
                    Err(source) => return Err(SpoolError::Failed { operation: "allocate", path, source }),
                };
                self.open.push(OpenSegment { no, file, dirty: false });
                self.open.len() - 1
            }
        };
        Ok(&mut self.open[at])
    }
}

/// Whether room may come back: a full disk or an exhausted quota.
pub(crate) fn is_no_space(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
