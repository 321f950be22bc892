//! WAL page headers: parsing, checking against the expected stream, and writing.
//!
//! Pure. Source: PostgreSQL 15, `src/include/access/xlog_internal.h` (`XLogPageHeaderData`,
//! `XLogLongPageHeaderData`) and `XLogReaderValidatePageHeader` in `src/backend/access/transam/xlogreader.c`; the
//! layout is the same in 14-18.

use super::{StreamConfig, WalError};
use crate::{Lsn, SegSize, Tli, WAL_PAGE_SIZE};

/// Length of a page header that is not the first of its segment.
pub const SHORT_HEADER_LEN: u64 = 24;
/// Length of the header of a segment's first page.
pub const LONG_HEADER_LEN: u64 = 40;

/// The page's first data is the rest of a record that began before (`XLP_FIRST_IS_CONTRECORD`).
pub const FIRST_IS_CONTRECORD: u16 = 0x0001;
/// The page has a long header (`XLP_LONG_HEADER`).
pub const LONG_HEADER: u16 = 0x0002;
/// A hint for archive compressors that nobody checks (`XLP_BKP_REMOVABLE`).
pub const BKP_REMOVABLE: u16 = 0x0004;
/// The rest of an unfinished record was lost; OVERWRITE_CONTRECORD comes first (`XLP_FIRST_IS_OVERWRITE_CONTRECORD`).
pub const FIRST_IS_OVERWRITE: u16 = 0x0008;
const ALL_FLAGS: u16 = 0x000F;

/// Length of the header of the page that starts at `page`.
pub const fn header_len(page: Lsn, seg: SegSize) -> u64 {
    if page.segment_offset(seg) == 0 { LONG_HEADER_LEN } else { SHORT_HEADER_LEN }
}

/// Where the next record starts after boundary `b`: behind the page header when `b` is the start of a page.
pub fn next_record_start(b: Lsn, seg: SegSize) -> Lsn {
    if b.page_offset() == 0 { b.add(header_len(b, seg)) } else { b }
}

impl StreamConfig {
    /// Checks that a stream can begin at `start`: a plausible position, aligned, and not inside of a page header.
    pub(super) fn check_start(&self, start: Lsn) -> Result<(), WalError> {
        if !start.is_plausible() {
            return Err(WalError::TooFar { at: start });
        }
        let inside_header =
            start.page_offset() != 0 && start.page_offset() < header_len(start.page_start(), self.seg_size);
        if start.is_aligned8() && !inside_header { Ok(()) } else { Err(WalError::BadStart { at: start }) }
    }
}

/// A parsed page header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// `xlp_magic`: tells the major.
    pub magic: u16,
    /// `xlp_info`: whether a record continues here, whether the header is long, and others.
    pub info: u16,
    /// `xlp_tli`: the tli current when the page was begun.
    pub tli: Tli,
    /// `xlp_pageaddr`: position of the page's first byte.
    pub pageaddr: Lsn,
    /// `xlp_rem_len`: bytes left of the record that continues on this page, zero when none does.
    pub rem_len: u32,
    /// What a segment's first page adds.
    pub long: Option<LongHeader>,
}

/// What the header of a segment's first page adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongHeader {
    /// `xlp_sysid`: system identifier of the cluster.
    pub system_id: u64,
    /// `xlp_seg_size` in bytes.
    pub seg_size: u32,
    /// `xlp_xlog_blcksz` in bytes.
    pub block_size: u32,
}

fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(b.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(b.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn u64_at(b: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(b.get(at..at + 8)?.try_into().ok()?))
}

impl PageHeader {
    /// Parses a header, long when the flags say so and the bytes suffice. `None` when they do not even hold a short
    /// one.
    pub fn parse(bytes: &[u8]) -> Option<PageHeader> {
        let info = u16_at(bytes, 2)?;
        let long = if info & LONG_HEADER != 0 { LongHeader::parse(bytes) } else { None };
        Some(PageHeader {
            magic: u16_at(bytes, 0)?,
            info,
            tli: Tli(u32_at(bytes, 4)?),
            pageaddr: Lsn::new(u64_at(bytes, 8)?),
            rem_len: u32_at(bytes, 16)?,
            long,
        })
    }

    /// Parses and checks the header of the page at `page`: everything but the continuation of records.
    /// `bytes` holds at least [`header_len`] bytes.
    pub fn check(bytes: &[u8], page: Lsn, cfg: &StreamConfig) -> Result<PageHeader, WalError> {
        let at = page;
        let magic = u16_at(bytes, 0).unwrap_or(0);
        let expected = cfg.version.xlog_page_magic();
        if magic != expected {
            return Err(WalError::PageMagic { at, expected, found: magic });
        }
        let info = u16_at(bytes, 2).unwrap_or(0);
        if info & !ALL_FLAGS != 0 {
            return Err(WalError::PageFlags { at, found: info });
        }
        let Some(header) = PageHeader::parse(bytes) else {
            return Err(WalError::PageFlags { at, found: info });
        };
        // The first page of every segment has a long header, and no other page does.
        let want_long = page.segment_offset(cfg.seg_size) == 0;
        if want_long && let Some(long) = header.long {
            long.check(at, cfg)?;
        }
        if header.pageaddr != page {
            return Err(WalError::PageAddr { at, found: header.pageaddr });
        }
        if want_long != (info & LONG_HEADER != 0) {
            return Err(WalError::SegmentBorder { at, expected: cfg.seg_size.to_u32(), found: !want_long });
        }
        cfg.check_tli(page, header.tli)?;
        Ok(header)
    }

    /// Appends the header as PostgreSQL lays it out.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.magic.to_le_bytes());
        out.extend_from_slice(&self.info.to_le_bytes());
        out.extend_from_slice(&self.tli.0.to_le_bytes());
        out.extend_from_slice(&self.pageaddr.get().to_le_bytes());
        out.extend_from_slice(&self.rem_len.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        if let Some(long) = self.long {
            out.extend_from_slice(&long.system_id.to_le_bytes());
            out.extend_from_slice(&long.seg_size.to_le_bytes());
            out.extend_from_slice(&long.block_size.to_le_bytes());
        }
    }

    /// The header that the page at `page` has in the stream `cfg`, with `flags` beside the long one, and `rem_len`.
    /// An unknown system identifier is written as zero, an unchecked tli as 1.
    pub fn for_page(page: Lsn, cfg: &StreamConfig, flags: u16, rem_len: u32) -> PageHeader {
        let long = (page.segment_offset(cfg.seg_size) == 0).then(|| LongHeader {
            system_id: cfg.system_id.unwrap_or(0),
            seg_size: cfg.seg_size.to_u32(),
            block_size: WAL_PAGE_SIZE as u32,
        });
        PageHeader {
            magic: cfg.version.xlog_page_magic(),
            info: flags | if long.is_some() { LONG_HEADER } else { 0 },
            tli: cfg.tli_at(page).unwrap_or(Tli(1)),
            pageaddr: page,
            rem_len,
            long,
        }
    }
}

impl LongHeader {
    fn parse(bytes: &[u8]) -> Option<LongHeader> {
        Some(LongHeader { system_id: u64_at(bytes, 24)?, seg_size: u32_at(bytes, 32)?, block_size: u32_at(bytes, 36)? })
    }

    fn check(&self, at: Lsn, cfg: &StreamConfig) -> Result<(), WalError> {
        if let Some(expected) = cfg.system_id
            && self.system_id != expected
        {
            return Err(WalError::SystemId { at, expected, found: self.system_id });
        }
        if self.seg_size != cfg.seg_size.to_u32() {
            return Err(WalError::SegSize { at, expected: cfg.seg_size.to_u32(), found: self.seg_size });
        }
        if u64::from(self.block_size) != WAL_PAGE_SIZE {
            return Err(WalError::BlockSize { at, found: self.block_size });
        }
        Ok(())
    }
}
