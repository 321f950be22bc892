//! The WAL of one timeline in PostgreSQL's segment files (`docs/formats.md`).
//!
//! Owner of the files' content and of the end of what was written; record boundaries are the acceptor's business.
//! Invariants:
//! - a segment has its blocks before the first byte is written: a full disk shows before anything is half written. The
//!   first one holds only what lies before the timeline's start until then, and is as short as that;
//! - behind the end of the log there are zeros, durably, before anything new is written;
//! - after a failed write or sync nothing is written or synced here: the value is poisoned, and opening anew writes
//!   again every byte that no good sync is known to cover, before any of it counts.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use disk::Disk;
use pgformat::wal::synthetic_prehistory;
use pgformat::{Lsn, Tli};

use super::error::StorageError;
use super::scan::{find_log_end, last_record_before, overwrites, stream_config};
use super::segment::{HeldSegments, Segment};
use crate::core::{ControlState, LogEnd};

/// Bytes per step when uncertain WAL is written anew.
const REWRITE_STEP: u64 = 1 << 20;
/// Groups below this size, on average, are worth a segment filled with zeros beforehand; larger ones write so much
/// between two syncs that writing everything twice costs more.
const FILLED_BELOW: u64 = 64 << 10;
/// Granularity at which zeros are left out of it: a WAL page.
const REWRITE_PAGE: usize = 8192;

/// An open log.
#[derive(Debug)]
pub struct WalStorage {
    segments: Arc<HeldSegments>,
    current: Option<Segment>,
    /// Written since the last sync, ascending.
    dirty: Vec<Segment>,
    /// End of the bytes written; `None` = no log yet.
    write_lsn: Option<Lsn>,
    /// tli of the newest segment, for the next one's name.
    tli: Tli,
    poisoned: bool,
    /// Whether bytes were written for which no record will vouch; see [`WalStorage::unvouched`].
    unvouched: bool,
    /// Bytes per group lately: a running mean over about 16 groups.
    mean_group: u64,
}

/// Prepares the next segment; run beside the writer.
#[derive(Clone, Debug)]
pub struct SpareJob {
    segments: Arc<HeldSegments>,
    segno: u64,
    tli: Tli,
    filled: bool,
}

impl SpareJob {
    /// Number of the segment.
    pub fn segno(&self) -> u64 {
        self.segno
    }

    /// Allocates it. Failure is silent: the writer meets it when it needs the segment.
    pub fn run(&self) {
        self.segments.prepare(self.segno, self.tli, self.filled);
    }
}

impl WalStorage {
    /// Writes the first segment of a new timeline up to `state`'s start, and no further, durably but for its name;
    /// `prehistory` is the WAL of `[segment start, start)`.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn create(
        disk: Arc<dyn Disk>,
        dir: &Path,
        state: &ControlState,
        prehistory: Bytes,
    ) -> Result<(), StorageError> {
        let Some(start) = state.timeline_start_lsn else { return Ok(()) };
        let first = start.segment_start(state.seg_size);
        if prehistory.is_empty() && first == start {
            return Ok(());
        }
        let segments = HeldSegments::open(disk, dir, state.seg_size)?;
        let tli = tli_in_page(&prehistory).or(state.tli_at(first)).unwrap_or(Tli(1));
        let segment = segments.create_short(first.segment_no(state.seg_size), tli)?;
        segment.file.write_at(0, &[prehistory]).map_err(StorageError::io("writing", &segment.path))?;
        segment.file.fsync().map_err(StorageError::io("fsync of", &segment.path))
    }

    /// Opens the log: makes durable what is there, finds its end, and clears what lies behind. `durable` as in
    /// [`TimelineControlFile::durable_lsn`](super::control::TimelineControlFile::durable_lsn). `names_durable`: the
    /// directory was synced since the last process changed it, and need not be when nothing is removed from it.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        state: &ControlState,
        durable: Option<Lsn>,
        names_durable: bool,
    ) -> Result<(WalStorage, Option<LogEnd>), StorageError> {
        let mut wal = Self::listed(disk, dir, state)?;
        let nothing_there = names_durable && wal.segments.numbers().is_empty();
        let Some(from) = state.commit_lsn.or(state.timeline_start_lsn) else {
            // No log was begun, or its beginning was not recorded and so never counted.
            if !nothing_there {
                wal.segments.remove_from(0)?;
            }
            return Ok((wal, None));
        };
        wal.tli = state.tli_at(from).unwrap_or(Tli(1));
        wal.write_anew(from.page_start(), state.timeline_start_lsn)?;
        let end = find_log_end(&wal.segments, state, from, durable)?;
        if nothing_there && end.flush_lsn.segment_offset(state.seg_size) == 0 {
            wal.write_lsn = Some(end.flush_lsn);
        } else if wal.segments.numbers().iter().all(|n| *n > end.flush_lsn.segment_no(state.seg_size)) {
            // Nothing is left of the log.
            wal.segments.remove_from(0)?;
            wal.begin(end.flush_lsn, state)?;
        } else {
            wal.cut(end.flush_lsn)?;
        }
        Ok((wal, Some(end)))
    }

    /// Opens a log that [`WalStorage::create`] made and this process synced just now: it ends where it starts, and
    /// what is behind it is zeros.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn open_fresh(
        disk: Arc<dyn Disk>,
        dir: &Path,
        state: &ControlState,
    ) -> Result<(WalStorage, Option<LogEnd>), StorageError> {
        let mut wal = Self::listed(disk, dir, state)?;
        let Some(start) = state.timeline_start_lsn else { return Ok((wal, None)) };
        let held = wal.segments.tli_of(start.segment_no(state.seg_size));
        wal.tli = held.or(state.tli_at(start)).unwrap_or(Tli(1));
        wal.write_lsn = Some(start);
        let end = find_log_end(&wal.segments, state, start, None)?;
        Ok((wal, Some(end)))
    }

    fn listed(disk: Arc<dyn Disk>, dir: &Path, state: &ControlState) -> Result<WalStorage, StorageError> {
        let segments = Arc::new(HeldSegments::open(disk, dir, state.seg_size)?);
        Ok(WalStorage {
            segments,
            current: None,
            dirty: Vec::new(),
            write_lsn: None,
            tli: Tli(1),
            poisoned: false,
            unvouched: false,
            mean_group: 0,
        })
    }

    /// The segments, for readers.
    pub fn segments(&self) -> &Arc<HeldSegments> {
        &self.segments
    }

    /// End of the bytes written.
    pub fn write_lsn(&self) -> Option<Lsn> {
        self.write_lsn
    }

    /// Writes `bufs` at `begin`, one behind the other. All segments are there before the first byte is written.
    ///
    /// # Errors
    /// [`StorageError::NoSpace`]: nothing was written, repeat it later. Otherwise the log must be opened anew.
    pub fn write(&mut self, begin: Lsn, bufs: &[Bytes]) -> Result<(), StorageError> {
        self.check_begin(begin)?;
        let len: u64 = bufs.iter().map(|b| b.len() as u64).sum();
        let Some(end) = begin.checked_add(len) else {
            return Err(StorageError::Misuse(format!("{len} bytes at {begin} are beyond the end of all logs")));
        };
        if len == 0 {
            return Ok(());
        }
        let pieces = split_at_segments(begin, bufs, self.segments.seg_size());
        self.guard(|wal| {
            let mut files = Vec::with_capacity(pieces.len());
            for (at, slices) in &pieces {
                files.push(wal.segment_for(*at, slices.first().map_or(&[][..], |b| b))?);
            }
            for ((at, slices), segment) in pieces.iter().zip(files) {
                let offset = at.segment_offset(wal.segments.seg_size());
                segment.file.write_at(offset, slices).map_err(StorageError::io("writing", &segment.path))?;
                if wal.dirty.last().is_none_or(|d| d.segno != segment.segno) {
                    wal.dirty.push(segment.clone());
                }
                wal.current = Some(segment);
            }
            wal.write_lsn = Some(end);
            wal.mean_group = if wal.mean_group == 0 { len } else { (wal.mean_group * 15 + len) / 16 };
            wal.unvouched |= replaces_a_record(begin, bufs);
            Ok(())
        })
    }

    /// Makes everything written durable.
    ///
    /// # Errors
    /// After an error the log must be opened anew; nothing written since the last good flush counts.
    pub fn flush(&mut self) -> Result<(), StorageError> {
        self.guard(|wal| {
            for segment in &wal.dirty {
                segment.file.fdatasync().map_err(StorageError::io("fdatasync of", &segment.path))?;
            }
            wal.dirty.clear();
            Ok(())
        })
    }

    /// Cuts the log at `to`, or begins an empty one there, durably. A crash on the way leaves a log that ends at or
    /// behind `to`; repeating the call finishes it.
    ///
    /// # Errors
    /// As for [`WalStorage::write`].
    pub fn truncate(&mut self, to: Lsn, state: &ControlState) -> Result<LogEnd, StorageError> {
        self.guard(|wal| {
            if wal.write_lsn.is_none() {
                wal.begin(to, state)?;
                return Ok(LogEnd { flush_lsn: to, last_record_start: None });
            }
            wal.flush_kept(to)?;
            wal.cut(to)?;
            let last_record_start = last_record_before(&wal.segments, state, to)?;
            Ok(LogEnd { flush_lsn: to, last_record_start })
        })
    }

    /// Whether an unfinished record was replaced in what was written since the last [`WalStorage::vouched`]. Its bytes
    /// have no checksum, so a restart cannot tell whether all of them got to the disk: it must be noted that they did.
    pub fn unvouched(&self) -> bool {
        self.unvouched
    }

    /// It was noted.
    pub fn vouched(&mut self) {
        self.unvouched = false;
    }

    /// The next segment to be prepared, when the log is being written and it is not there.
    pub fn spare_job(&self) -> Option<SpareJob> {
        let current = self.current.as_ref()?;
        let filled = self.mean_group < FILLED_BELOW;
        Some(SpareJob { segments: Arc::clone(&self.segments), segno: current.segno + 1, tli: current.tli, filled })
    }

    /// Gives back what only an active timeline needs: the prepared segment and open files.
    ///
    /// # Errors
    /// Whatever the disk says; harmless.
    pub fn rest(&mut self) -> Result<(), StorageError> {
        if self.dirty.is_empty() {
            self.current = None;
        }
        self.segments.drop_spare()
    }

    /// Runs a change; any failure but a full disk poisons.
    fn guard<T>(&mut self, change: impl FnOnce(&mut Self) -> Result<T, StorageError>) -> Result<T, StorageError> {
        if self.poisoned {
            return Err(StorageError::Poisoned);
        }
        let result = change(self);
        if let Err(e) = &result {
            self.poisoned = !e.is_no_space();
        }
        result
    }

    fn check_begin(&self, begin: Lsn) -> Result<(), StorageError> {
        let Some(end) = self.write_lsn else {
            return Err(StorageError::Misuse(format!("write at {begin} into a log that was not begun")));
        };
        // Behind a switch record the log may go on at the next segment: the bytes between are zeros already.
        let seg = self.segments.seg_size();
        let next = if end.segment_offset(seg) == 0 { end } else { seg.start_of(end.segment_no(seg) + 1) };
        if begin == end || begin == next {
            return Ok(());
        }
        Err(StorageError::Misuse(format!("write at {begin} does not continue the log, which ends at {end}")))
    }

    fn segment_for(&mut self, at: Lsn, first_bytes: &[u8]) -> Result<Segment, StorageError> {
        let seg = self.segments.seg_size();
        let segno = at.segment_no(seg);
        if let Some(s) = self.current.as_ref().filter(|s| s.segno == segno) {
            return Ok(s.clone());
        }
        if let Some(s) = self.segments.open_for_writing(segno)? {
            self.segments.complete(&s)?;
            return Ok(s);
        }
        // A segment's first page names its tli; a first piece too small to tell takes the one before.
        let stated = if at.segment_offset(seg) == 0 { tli_in_page(first_bytes) } else { None };
        let tli = stated.unwrap_or(self.tli);
        let segment = self.segments.create(segno, tli)?;
        self.tli = tli;
        Ok(segment)
    }

    fn begin(&mut self, to: Lsn, state: &ControlState) -> Result<(), StorageError> {
        let seg = self.segments.seg_size();
        self.tli = state.tli_at(to).unwrap_or(Tli(1));
        if to.segment_offset(seg) != 0 {
            let cfg = stream_config(state)
                .ok_or_else(|| StorageError::Misuse("a log begins only when its PostgreSQL version is known".into()))?;
            let bytes = synthetic_prehistory(&cfg, to).map_err(|e| StorageError::Misuse(e.to_string()))?;
            let segment = self.segments.create(to.segment_no(seg), self.tli)?;
            segment.file.write_at(0, &[Bytes::from(bytes)]).map_err(StorageError::io("writing", &segment.path))?;
            segment.file.fsync().map_err(StorageError::io("fsync of", &segment.path))?;
        }
        self.write_lsn = Some(to);
        Ok(())
    }

    /// Syncs what a truncation keeps: its completion says that everything below is durable.
    fn flush_kept(&mut self, to: Lsn) -> Result<(), StorageError> {
        let seg = self.segments.seg_size();
        for segment in self.dirty.iter().filter(|s| seg.start_of(s.segno) < to) {
            segment.file.fdatasync().map_err(StorageError::io("fdatasync of", &segment.path))?;
        }
        self.dirty.clear();
        Ok(())
    }

    /// Positions first, then later segments from the highest down, then the tail, each step durable.
    fn cut(&mut self, to: Lsn) -> Result<(), StorageError> {
        let seg = self.segments.seg_size();
        self.write_lsn = Some(to);
        self.current = None;
        let (segno, offset) = (to.segment_no(seg), to.segment_offset(seg));
        self.segments.remove_from(if offset == 0 { segno } else { segno + 1 })?;
        if offset == 0 {
            return Ok(());
        }
        let Some(segment) = self.segments.open_for_writing(segno)? else {
            return Err(StorageError::Corrupt {
                path: self.segments.dir().to_owned(),
                problem: format!("the log ends at {to}, but its segment is missing"),
            });
        };
        self.tli = segment.tli;
        // Not beyond the file's end: a timeline without WAL needs no room for an election.
        let len = segment.file.len().map_err(StorageError::io("measuring", &segment.path))?;
        if len > offset {
            segment.file.zero_range(offset, len - offset).map_err(StorageError::io("zeroing", &segment.path))?;
        }
        segment.file.fsync().map_err(StorageError::io("fsync of", &segment.path))
    }

    /// Writes what is held from `from` on once more, and syncs it: a sync that failed before this process, or before
    /// this opening, leaves pages in the page cache that look clean and are not on disk. Pages of zeros are left out:
    /// they were zeros, durably, before anything was written there. `start` is the timeline's.
    fn write_anew(&mut self, from: Lsn, start: Option<Lsn>) -> Result<(), StorageError> {
        let seg = self.segments.seg_size();
        let mut next = from.segment_no(seg);
        for segno in self.segments.numbers().into_iter().filter(|n| *n >= from.segment_no(seg)) {
            let Some(segment) = self.segments.open_for_writing(segno)? else { continue };
            let len = segment.file.len().map_err(StorageError::io("measuring", &segment.path))?;
            // Without WAL the first one is short, and whole.
            let whole = start.filter(|s| s.segment_no(seg) == segno).map_or(seg.bytes(), |s| s.segment_offset(seg));
            // A gap, or a file whose creation did not finish: the log ends before it.
            if segno != next || len < whole {
                return self.segments.remove_from(segno);
            }
            let end = len.min(seg.bytes());
            let mut offset = if segno == from.segment_no(seg) { from.segment_offset(seg) } else { 0 };
            while offset < end {
                let step = REWRITE_STEP.min(end - offset);
                rewrite(&segment, offset, step)?;
                offset += step;
            }
            segment.file.fsync().map_err(StorageError::io("fsync of", &segment.path))?;
            next = segno + 1;
        }
        Ok(())
    }
}

fn rewrite(segment: &Segment, offset: u64, len: u64) -> Result<(), StorageError> {
    let mut buf = vec![0; usize::try_from(len).expect("bounded by the step")];
    segment.file.read_at(offset, &mut buf).map_err(StorageError::io("reading", &segment.path))?;
    let bytes = Bytes::from(buf);
    let mut at = 0;
    while at < bytes.len() {
        let page = |from: usize| &bytes[from..(from + REWRITE_PAGE).min(bytes.len())];
        let mut end = at;
        while end < bytes.len() && page(end).iter().any(|b| *b != 0) {
            end = (end + REWRITE_PAGE).min(bytes.len());
        }
        if end > at {
            let run = bytes.slice(at..end);
            segment.file.write_at(offset + at as u64, &[run]).map_err(StorageError::io("writing", &segment.path))?;
        }
        at = end + REWRITE_PAGE;
    }
    Ok(())
}

/// Whether a page in the written bytes begins by replacing an unfinished record. In doubt it does.
fn replaces_a_record(begin: Lsn, bufs: &[Bytes]) -> bool {
    let mut at = begin;
    let mut found = false;
    for buf in bufs {
        // A header split between two slices shows as one whose flags are missing, or as a slice that begins inside it.
        found |= overwrites(at, buf).next().is_some() || (1..4).contains(&at.page_offset());
        at = at.add(buf.len() as u64);
    }
    found
}

/// tli in the header of a page, when `bytes` begins with one.
fn tli_in_page(bytes: &[u8]) -> Option<Tli> {
    let tli = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?);
    (tli != 0).then_some(Tli(tli))
}

/// The pieces of a write that lie in one segment each, without copying.
fn split_at_segments(begin: Lsn, bufs: &[Bytes], seg: pgformat::SegSize) -> Vec<(Lsn, Vec<Bytes>)> {
    let mut pieces: Vec<(Lsn, Vec<Bytes>)> = Vec::new();
    let mut at = begin;
    for buf in bufs {
        let mut rest = buf.clone();
        while !rest.is_empty() {
            let room = usize::try_from(seg.bytes() - at.segment_offset(seg)).unwrap_or(usize::MAX);
            let part = rest.split_to(rest.len().min(room));
            let len = part.len() as u64;
            match pieces.last_mut() {
                Some((start, slices)) if start.segment_no(seg) == at.segment_no(seg) => slices.push(part),
                _ => pieces.push((at, vec![part])),
            }
            at = at.add(len);
        }
    }
    pieces
}
