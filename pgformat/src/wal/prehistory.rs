//! The bytes of the first segment before the log's own start, which no record position covers.
//!
//! Pure. Only PostgreSQL's tools need these bytes: they read a segment file from its first page.

use super::page::{FIRST_IS_CONTRECORD, LONG_HEADER_LEN, PageHeader, SHORT_HEADER_LEN, header_len};
use super::{StreamConfig, WalError};
use crate::{Lsn, WAL_PAGE_SIZE};

/// Bytes of `[segment start, start)` when the primary's own are not to be had: page headers and zeros.
///
/// The headers claim that one long record ends at `start`, so that `pg_waldump FILE` finds its first record there.
///
/// # Errors
/// [`WalError::BadStart`] when `start` is unaligned or inside a page header.
pub fn synthetic_prehistory(cfg: &StreamConfig, start: Lsn) -> Result<Vec<u8>, WalError> {
    cfg.check_start(start)?;
    let seg = cfg.seg_size;
    let mut page = start.segment_start(seg);
    let mut out = Vec::new();
    let mut left = record_bytes(start, cfg);
    while page < start {
        let rem_len = u32::try_from(left).expect("less than a segment");
        let flags = if rem_len > 0 { FIRST_IS_CONTRECORD } else { 0 };
        PageHeader::for_page(page, cfg, flags, rem_len).write(&mut out);
        let data = page.add(WAL_PAGE_SIZE).min(start).bytes_since(page.add(header_len(page, seg)));
        out.resize(out.len() + usize::try_from(data).expect("less than a page"), 0);
        left -= data;
        page = page.add(WAL_PAGE_SIZE);
    }
    Ok(out)
}

/// Bytes between the segment's start and `start` that are not page headers.
fn record_bytes(start: Lsn, cfg: &StreamConfig) -> u64 {
    let len = start.segment_offset(cfg.seg_size);
    if len == 0 {
        return 0;
    }
    len - LONG_HEADER_LEN - (len.div_ceil(WAL_PAGE_SIZE) - 1) * SHORT_HEADER_LEN
}

/// Checks real bytes of `[segment start, start)`: their length and every page header, not the records, whose beginning
/// is in an earlier segment.
///
/// # Errors
/// The first header that is not of this stream; [`WalError::NotContiguous`] when the bytes do not end at `start`.
pub fn check_prehistory(cfg: &StreamConfig, start: Lsn, bytes: &[u8]) -> Result<(), WalError> {
    cfg.check_start(start)?;
    let first = start.segment_start(cfg.seg_size);
    let end = first.add(bytes.len() as u64);
    if end != start {
        return Err(WalError::NotContiguous { at: end, expected: start });
    }
    let mut page = first;
    for chunk in bytes.chunks(WAL_PAGE_SIZE as usize) {
        PageHeader::check(chunk, page, cfg)?;
        page = page.add(WAL_PAGE_SIZE);
    }
    Ok(())
}
