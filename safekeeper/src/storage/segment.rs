//! Segment files of one timeline: names, creation, which ones are there.
//!
//! Owner of the index (segment number -> tli in the name), shared with readers. Invariant: a segment enters the index
//! only after its blocks, its length and its name are durable, and leaves it before its file is removed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use disk::{Disk, DiskFile, OpenMode};
use pgformat::wal::page::PageHeader;
use pgformat::{Lsn, SegSize, Tli, WAL_PAGE_SIZE};

use super::control::no_space_or;
use super::error::StorageError;

/// The segments of a timeline's directory.
#[derive(Debug)]
pub struct HeldSegments {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    seg_size: SegSize,
    index: RwLock<BTreeMap<u64, Tli>>,
    spare: Mutex<Option<Segment>>,
    spare_bytes: AtomicU64,
    /// The writer waits for a segment: whoever prepares one comes to an end.
    hurry: AtomicBool,
}

/// Zeros written at a time, and synced, when a segment is filled beforehand: small, so that the syncs of commits are
/// not held up behind them.
const FILL_STEP: usize = 256 << 10;
static ZEROS: [u8; FILL_STEP] = [0; FILL_STEP];

/// An open segment.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) segno: u64,
    pub(super) tli: Tli,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
}

impl HeldSegments {
    /// Lists what is there. Of several files with one number the one that its first page vouches for is kept.
    pub(super) fn open(disk: Arc<dyn Disk>, dir: &Path, seg_size: SegSize) -> Result<HeldSegments, StorageError> {
        let mut named: BTreeMap<u64, Vec<Tli>> = BTreeMap::new();
        for entry in disk.list(dir).map_err(StorageError::io("listing", dir))? {
            if let Some((tli, segno)) = seg_size.parse_file_name(&entry.name) {
                named.entry(segno).or_default().push(tli);
            }
        }
        let segments = HeldSegments {
            disk,
            dir: dir.to_owned(),
            seg_size,
            index: RwLock::default(),
            spare: Mutex::default(),
            spare_bytes: AtomicU64::new(0),
            hurry: AtomicBool::new(false),
        };
        for (segno, tlis) in named {
            let kept = segments.choose(segno, tlis)?;
            segments.write_index().insert(segno, kept);
        }
        Ok(segments)
    }

    /// The directory that the segment files lie in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes in one segment file.
    pub fn seg_size(&self) -> SegSize {
        self.seg_size
    }

    /// Bytes of WAL files held, the one prepared for later included. The first one counts in full before it has its
    /// length.
    pub fn bytes(&self) -> u64 {
        let held = self.index.read().unwrap_or_else(PoisonError::into_inner).len() as u64;
        held * self.seg_size.bytes() + self.spare_bytes.load(Ordering::Relaxed)
    }

    /// The tli in the name of a segment that is there.
    pub fn tli_of(&self, segno: u64) -> Option<Tli> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).get(&segno).copied()
    }

    /// Opens the segment that holds the byte at `at` for reading.
    ///
    /// # Errors
    /// Whatever the disk says; `None` when the segment is not there.
    pub fn open_for_reading(&self, at: Lsn) -> Result<Option<Arc<dyn DiskFile>>, StorageError> {
        let segno = at.segment_no(self.seg_size);
        let Some(tli) = self.tli_of(segno) else { return Ok(None) };
        let path = self.path(segno, tli);
        self.disk.open(&path, OpenMode::Read).map(Some).map_err(StorageError::io("opening", &path))
    }

    pub(super) fn numbers(&self) -> Vec<u64> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    pub(super) fn open_for_writing(&self, segno: u64) -> Result<Option<Segment>, StorageError> {
        let Some(tli) = self.tli_of(segno) else { return Ok(None) };
        let path = self.path(segno, tli);
        let file = self.disk.open(&path, OpenMode::Write).map_err(StorageError::io("opening", &path))?;
        Ok(Some(Segment { segno, tli, path, file }))
    }

    /// Creates a segment, or takes the one prepared, durably but for its content.
    pub(super) fn create(&self, segno: u64, tli: Tli) -> Result<Segment, StorageError> {
        // Held over I/O on purpose: a preparation under way would create the very same file.
        self.hurry.store(true, Ordering::Relaxed);
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        self.hurry.store(false, Ordering::Relaxed);
        let segment = match spare.take() {
            Some(s) if s.segno == segno && s.tli == tli => s,
            Some(other) => {
                self.disk.remove(&other.path).map_err(StorageError::io("removing", &other.path))?;
                self.create_file(segno, tli)?
            }
            None => self.create_file(segno, tli)?,
        };
        self.spare_bytes.store(0, Ordering::Relaxed);
        self.write_index().insert(segno, tli);
        Ok(segment)
    }

    /// Creates the first segment of a new timeline, without a length: whoever creates timelines and brings no WAL must
    /// not fill the disk. Content and name are the caller's to sync; [`HeldSegments::complete`] does the rest.
    pub(super) fn create_short(&self, segno: u64, tli: Tli) -> Result<Segment, StorageError> {
        let segment = self.new_file(segno, tli)?;
        self.write_index().insert(segno, tli);
        Ok(segment)
    }

    /// Gives a segment that got no WAL yet its length and its blocks, durably. What it holds stays.
    pub(super) fn complete(&self, segment: &Segment) -> Result<(), StorageError> {
        let len = segment.file.len().map_err(StorageError::io("measuring", &segment.path))?;
        if len >= self.seg_size.bytes() {
            return Ok(());
        }
        if let Err(e) = segment.file.allocate(self.seg_size.bytes()) {
            // The blocks that were reserved are given back; when that fails too, the next attempt needs fewer.
            if let Err(e) = segment.file.set_len(len) {
                tracing::debug!(error = %e, path = %segment.path.display(), "half-allocated segment not cut");
            }
            return Err(no_space_or(e, "allocating", &segment.path));
        }
        segment.file.fsync().map_err(StorageError::io("fsync of", &segment.path))
    }

    /// Prepares a segment that will be needed next. No error: when it cannot be, its creation will say so.
    ///
    /// `filled`: with zeros written, not only reserved. A sync behind a small write into reserved blocks has to write
    /// their state as well, a second trip to the disk; into blocks that were written before it has not.
    pub(super) fn prepare(&self, segno: u64, tli: Tli, filled: bool) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.is_some() || self.tli_of(segno).is_some() {
            return;
        }
        let created = self
            .create_file(segno, tli)
            .and_then(|segment| if filled { self.fill(&segment).map(|()| segment) } else { Ok(segment) });
        match created {
            Ok(segment) => {
                *spare = Some(segment);
                self.spare_bytes.store(self.seg_size.bytes(), Ordering::Relaxed);
            }
            Err(e) => tracing::debug!(error = %e, segno, "next segment not prepared"),
        }
    }

    /// Removes the prepared segment.
    pub(super) fn drop_spare(&self) -> Result<(), StorageError> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(s) = spare.take() {
            self.spare_bytes.store(0, Ordering::Relaxed);
            self.disk.remove(&s.path).map_err(StorageError::io("removing", &s.path))?;
        }
        Ok(())
    }

    /// Removes every segment from number `first` on, highest first, and the prepared one, durably.
    pub(super) fn remove_from(&self, first: u64) -> Result<(), StorageError> {
        self.drop_spare()?;
        let gone: Vec<(u64, Tli)> = {
            let mut index = self.write_index();
            index.split_off(&first).into_iter().collect()
        };
        for (segno, tli) in gone.iter().rev() {
            let path = self.path(*segno, *tli);
            self.blank(&path)?;
            self.disk.remove(&path).map_err(StorageError::io("removing", &path))?;
        }
        // Also when nothing was removed: a removal that a killed process made may not be durable yet.
        self.disk.fsync_dir(&self.dir).map_err(StorageError::io("fsync of", &self.dir))
    }

    /// Zeros the first page, durably: should the file's removal be lost with a failed directory sync, the log still
    /// ends before it. Old WAL that came back under a newer term history would count as that term's.
    fn blank(&self, path: &Path) -> Result<(), StorageError> {
        let file = self.disk.open(path, OpenMode::Write).map_err(StorageError::io("opening", path))?;
        let len = file.len().map_err(StorageError::io("measuring", path))?.min(WAL_PAGE_SIZE);
        file.zero_range(0, len).map_err(StorageError::io("zeroing", path))?;
        file.fdatasync().map_err(StorageError::io("fdatasync of", path))
    }

    fn create_file(&self, segno: u64, tli: Tli) -> Result<Segment, StorageError> {
        let segment = self.allocate_file(segno, tli)?;
        segment.file.fsync().map_err(StorageError::io("fsync of", &segment.path))?;
        self.disk.fsync_dir(&self.dir).map_err(StorageError::io("fsync of", &self.dir))?;
        Ok(segment)
    }

    fn new_file(&self, segno: u64, tli: Tli) -> Result<Segment, StorageError> {
        let path = self.path(segno, tli);
        let file = match self.disk.open(&path, OpenMode::CreateNew) {
            // Left behind by an attempt that failed half-way.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                self.disk.remove(&path).map_err(StorageError::io("removing", &path))?;
                self.disk.open(&path, OpenMode::CreateNew)
            }
            other => other,
        };
        let file = file.map_err(|e| no_space_or(e, "creating", &path))?;
        Ok(Segment { segno, tli, path, file })
    }

    fn allocate_file(&self, segno: u64, tli: Tli) -> Result<Segment, StorageError> {
        let segment = self.new_file(segno, tli)?;
        if let Err(e) = segment.file.allocate(self.seg_size.bytes()) {
            // The blocks that were reserved are given back; when that fails too, the next attempt removes the file.
            if let Err(e) = self.disk.remove(&segment.path) {
                tracing::debug!(error = %e, path = %segment.path.display(), "half-allocated segment not removed");
            }
            return Err(no_space_or(e, "allocating", &segment.path));
        }
        Ok(segment)
    }

    /// Writes zeros into a segment that nobody uses yet, until it is wanted.
    fn fill(&self, segment: &Segment) -> Result<(), StorageError> {
        let mut at = 0;
        while at < self.seg_size.bytes() && !self.hurry.load(Ordering::Relaxed) {
            let written = segment.file.write_at(at, &[Bytes::from_static(&ZEROS)]);
            let synced = written.and_then(|()| segment.file.fdatasync());
            if let Err(e) = synced {
                // A file whose sync failed is not trusted with WAL.
                self.disk.remove(&segment.path).map_err(StorageError::io("removing", &segment.path))?;
                return Err(StorageError::io("filling", &segment.path)(e));
            }
            at += FILL_STEP as u64;
        }
        Ok(())
    }

    fn choose(&self, segno: u64, mut tlis: Vec<Tli>) -> Result<Tli, StorageError> {
        tlis.sort_unstable();
        let last = tlis.last().copied().expect("a listed number has a file");
        if tlis.len() == 1 {
            return Ok(last);
        }
        let mut kept = last;
        for tli in &tlis {
            if self.first_page_tli(segno, *tli)? == Some(*tli) {
                kept = *tli;
            }
        }
        for tli in tlis.into_iter().filter(|t| *t != kept) {
            let path = self.path(segno, tli);
            tracing::info!(path = %path.display(), "removing a prepared segment of an earlier tli");
            self.disk.remove(&path).map_err(StorageError::io("removing", &path))?;
        }
        Ok(kept)
    }

    fn first_page_tli(&self, segno: u64, tli: Tli) -> Result<Option<Tli>, StorageError> {
        let path = self.path(segno, tli);
        let file = self.disk.open(&path, OpenMode::Read).map_err(StorageError::io("opening", &path))?;
        let mut page = [0; 64];
        file.read_at(0, &mut page).map_err(StorageError::io("reading", &path))?;
        Ok(PageHeader::parse(&page).map(|h| h.tli))
    }

    fn path(&self, segno: u64, tli: Tli) -> PathBuf {
        self.dir.join(self.seg_size.file_name(tli, segno))
    }

    fn write_index(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<u64, Tli>> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}
