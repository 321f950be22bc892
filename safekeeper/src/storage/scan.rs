//! Where the log on disk ends, and which record is its last.
//!
//! Owner of nothing; reads segment files. Every position given out is a record boundary that the decoder confirmed.

use std::sync::Arc;

use bytes::Bytes;
use disk::DiskFile;
use pgformat::wal::page::{FIRST_IS_OVERWRITE, PageHeader, header_len};
use pgformat::wal::{EndReason, StreamConfig, WalDecoder, WalError, find_end_of_wal};
use pgformat::{Lsn, PgMajor, WAL_PAGE_SIZE};

use super::error::StorageError;
use super::segment::HeldSegments;
use crate::core::{ControlState, LogEnd};

/// Bytes per read.
pub(super) const READ_SIZE: u64 = 128 << 10;

/// What this timeline's WAL must look like; `None` while its PostgreSQL version is unknown.
pub fn stream_config(state: &ControlState) -> Option<StreamConfig> {
    Some(StreamConfig {
        version: PgMajor::from_version_num(state.pg_version_num)?,
        seg_size: state.seg_size,
        system_id: (state.system_id.0 != 0).then_some(state.system_id.0),
        tlis: state.pg_history.iter().map(|e| (e.tli, e.start_lsn)).collect(),
    })
}

/// Reads segment files front to back with one open file.
pub(super) struct LogFiles<'a> {
    segments: &'a HeldSegments,
    open: Option<(u64, Arc<dyn DiskFile>)>,
}

impl<'a> LogFiles<'a> {
    pub(super) fn new(segments: &'a HeldSegments) -> LogFiles<'a> {
        LogFiles { segments, open: None }
    }

    /// At most `max` bytes at `at`, within one segment; none when the segment is not there.
    pub(super) fn read(&mut self, at: Lsn, max: u64) -> Result<Bytes, StorageError> {
        let seg = self.segments.seg_size();
        let segno = at.segment_no(seg);
        if self.open.as_ref().is_none_or(|(n, _)| *n != segno) {
            self.open = self.segments.open_for_reading(at)?.map(|f| (segno, f));
        }
        let Some((_, file)) = &self.open else { return Ok(Bytes::new()) };
        let offset = at.segment_offset(seg);
        let len = max.min(seg.bytes() - offset);
        let mut buf = vec![0; usize::try_from(len).expect("bounded by the read size")];
        let n = file.read_at(offset, &mut buf).map_err(StorageError::io("reading", self.segments.dir()))?;
        buf.truncate(n);
        Ok(Bytes::from(buf))
    }
}

/// Finds the end of the log by decoding from `from`, a record boundary that is known to be good.
///
/// Up to `durable` the bytes are known to have been synced. Behind it they count only where a record's checksum
/// vouches for them: nothing does for a record that was left unfinished and overwritten, so the log ends before such a
/// one.
pub(super) fn find_log_end(
    segments: &HeldSegments,
    state: &ControlState,
    from: Lsn,
    durable: Option<Lsn>,
) -> Result<LogEnd, StorageError> {
    let Some(cfg) = stream_config(state) else {
        return Ok(LogEnd { flush_lsn: from, last_record_start: None });
    };
    let prev = last_record_before(segments, state, from)?;
    if let Some(floor) = state.local_start_lsn.or(state.timeline_start_lsn).filter(|f| prev.is_none() && *f < from) {
        return end_below(segments, &cfg, floor, from);
    }
    let mut files = LogFiles::new(segments);
    let found = find_end_of_wal(cfg, from, prev, |at| {
        // Ends at a page's end, so that no page header is split.
        let bytes = files.read(at, READ_SIZE - at.page_offset())?;
        let checked = at.max(durable.unwrap_or(at));
        let trusted = overwrites(at, &bytes)
            .find(|page| *page >= checked)
            .map_or(bytes.len(), |page| usize::try_from(page.bytes_since(at)).expect("inside what was read"));
        Ok::<_, StorageError>(bytes.slice(..trusted))
    })?;
    if let EndReason::Invalid(e) = &found.reason
        && !e.is_end_of_log()
    {
        tracing::warn!(end = %found.boundary, reason = %e, "the log ends at bytes that are no torn write");
    }
    Ok(LogEnd { flush_lsn: found.boundary, last_record_start: found.last_record_start })
}

/// The log must reach `committed` and does not: where what is left of it ends. All of it is read.
fn end_below(segments: &HeldSegments, cfg: &StreamConfig, floor: Lsn, committed: Lsn) -> Result<LogEnd, StorageError> {
    let mut files = LogFiles::new(segments);
    let found = find_end_of_wal(cfg.clone(), floor, None, |at| {
        files.read(at, (READ_SIZE - at.page_offset()).min(committed.bytes_since(at)))
    })?;
    let end = found.boundary.min(committed);
    tracing::error!(%end, %committed, reason = ?found.reason, "the log ends below what was committed");
    Ok(LogEnd { flush_lsn: end, last_record_start: found.last_record_start })
}

/// Pages among `bytes`, which begin at `at`, whose first record replaces an unfinished one. A header that is split
/// counts.
pub(super) fn overwrites(at: Lsn, bytes: &[u8]) -> impl Iterator<Item = Lsn> {
    let first = (WAL_PAGE_SIZE - at.page_offset()) % WAL_PAGE_SIZE;
    let flagged = |offset: &u64| {
        let flags = usize::try_from(*offset).ok().and_then(|o| bytes.get(o + 2..o + 4));
        flags.is_none_or(|f| u16::from_le_bytes([f[0], f[1]]) & FIRST_IS_OVERWRITE != 0)
    };
    let pages = (first..bytes.len() as u64).step_by(WAL_PAGE_SIZE as usize);
    pages.filter(flagged).map(move |offset| at.add(offset))
}

/// Start of the record that ends at boundary `end`, when the log held has one.
pub(super) fn last_record_before(
    segments: &HeldSegments,
    state: &ControlState,
    end: Lsn,
) -> Result<Option<Lsn>, StorageError> {
    let (Some(cfg), Some(floor)) = (stream_config(state), state.local_start_lsn.or(state.timeline_start_lsn)) else {
        return Ok(None);
    };
    let mut files = LogFiles::new(segments);
    let mut before = end;
    while let Some(start) = record_start_before(&mut files, &cfg, floor, before)? {
        match decode_last(&mut files, &cfg, start, end)? {
            Ok(found) => return Ok(found),
            // A start just behind an unfinished record that was overwritten is none: the decoder must have seen what
            // it overwrote. Further back.
            Err(reason) => {
                tracing::debug!(%start, %end, %reason, "reading back to the last record begins further back");
                before = start;
            }
        }
    }
    if end > floor {
        tracing::warn!(%end, "the record before the end of the log cannot be read back");
    }
    Ok(None)
}

/// Start of the record that ends at `end`, decoding from `start`; the inner error says why `start` is no place to
/// begin.
fn decode_last(
    files: &mut LogFiles<'_>,
    cfg: &StreamConfig,
    start: Lsn,
    end: Lsn,
) -> Result<Result<Option<Lsn>, WalError>, StorageError> {
    let mut decoder = WalDecoder::new(cfg.clone(), start, None);
    while decoder.position() < end {
        let at = decoder.position();
        let bytes = files.read(at, READ_SIZE.min(end.bytes_since(at)))?;
        if bytes.is_empty() {
            return Ok(Ok(None));
        }
        if let Err(reason) = decoder.feed(at, &bytes) {
            return Ok(Err(reason));
        }
    }
    Ok(Ok(if decoder.boundary() == end { decoder.last_record_start() } else { None }))
}

/// Some record start before `end`, near it: page headers tell where the first record of a page begins.
pub(super) fn record_start_before(
    files: &mut LogFiles<'_>,
    cfg: &StreamConfig,
    floor: Lsn,
    end: Lsn,
) -> Result<Option<Lsn>, StorageError> {
    if end <= floor {
        return Ok(None);
    }
    let mut page = Lsn::new(end.get() - 1).page_start();
    loop {
        if page <= floor {
            return Ok(Some(floor));
        }
        let bytes = files.read(page, 64)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        // A page of zeros is the fill behind a switch record: further back.
        if let Ok(header) = PageHeader::check(&bytes, page, cfg) {
            let data = page.add(header_len(page, cfg.seg_size));
            let first = data.add(u64::from(header.rem_len)).align8();
            if first < end && first < page.add(WAL_PAGE_SIZE) {
                return Ok(Some(first));
            }
        }
        page = Lsn::new(page.get() - WAL_PAGE_SIZE);
    }
}
