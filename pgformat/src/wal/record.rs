//! WAL record headers, and the few records that change how to read the stream.
//!
//! Pure. Source: PostgreSQL 15, `src/include/access/xlogrecord.h`, `src/include/access/rmgrlist.h`,
//! `src/include/catalog/pg_control.h` and `ValidXLogRecordHeader` in `xlogreader.c`.

use bytes::Bytes;

use super::page::{u32_at, u64_at};
use crate::{Lsn, PgMajor};

/// Length of the fixed record header.
pub const RECORD_HEADER_LEN: usize = 24;
/// Bytes of the header that the checksum covers, after the body: all before `xl_crc`.
pub(super) const RECORD_CRC_OFFSET: usize = 20;
/// The longest record that a PostgreSQL can read back (`MaxAllocSize`; 16 and later stop at 1020 MiB).
pub const RECORD_LEN_MAX: u32 = 0x3FFF_FFFF;

/// Resource manager of the log itself (`RM_XLOG_ID`).
pub const RM_XLOG: u8 = 0;
/// A shutdown checkpoint (`XLOG_CHECKPOINT_SHUTDOWN`).
pub const XLOG_CHECKPOINT_SHUTDOWN: u8 = 0x00;
/// An online checkpoint (`XLOG_CHECKPOINT_ONLINE`).
pub const XLOG_CHECKPOINT_ONLINE: u8 = 0x10;
/// A record without effect (`XLOG_NOOP`).
pub const XLOG_NOOP: u8 = 0x20;
/// The rest of the segment is fill (`XLOG_SWITCH`).
pub const XLOG_SWITCH: u8 = 0x40;
/// An unfinished record before this page was lost (`XLOG_OVERWRITE_CONTRECORD`).
pub const XLOG_OVERWRITE_CONTRECORD: u8 = 0xD0;
/// The bits of `xl_info` that belong to the resource manager; the others are the log's own.
pub const RMGR_INFO_MASK: u8 = 0xF0;

const RMGR_NAMES: [&str; 22] = [
    "XLOG",
    "Transaction",
    "Storage",
    "CLOG",
    "Database",
    "Tablespace",
    "MultiXact",
    "RelMap",
    "Standby",
    "Heap2",
    "Heap",
    "Btree",
    "Hash",
    "Gin",
    "Gist",
    "Sequence",
    "SPGist",
    "BRIN",
    "CommitTs",
    "ReplicationOrigin",
    "Generic",
    "LogicalMessage",
];
const RMGR_CUSTOM_MIN: u8 = 128;

/// Whether `version` can write records of resource manager `rmid`. Custom ones (128-255) exist since 15.
pub const fn rmgr_exists(version: PgMajor, rmid: u8) -> bool {
    (rmid as usize) < RMGR_NAMES.len() || (rmid >= RMGR_CUSTOM_MIN && version.get() >= 15)
}

/// Name of a built-in resource manager, as `pg_waldump` prints it.
pub fn rmgr_name(rmid: u8) -> Option<&'static str> {
    RMGR_NAMES.get(usize::from(rmid)).copied()
}

/// The fixed header of a record (`XLogRecord`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// Length of the whole record, this header included.
    pub total_len: u32,
    /// Transaction that wrote it, zero for none.
    pub xid: u32,
    /// Start of the record before it.
    pub prev: Lsn,
    /// The resource manager's opcode ([`RMGR_INFO_MASK`]) and the log's flags.
    pub info: u8,
    /// Number of the resource manager ([`crate::redo::rmid`]).
    pub rmid: u8,
    /// CRC-32C of the body, then of this header up to here.
    pub crc: u32,
}

impl RecordHeader {
    /// Parses a header; `None` when `bytes` is shorter than one.
    pub fn parse(bytes: &[u8]) -> Option<RecordHeader> {
        Some(RecordHeader {
            total_len: u32_at(bytes, 0)?,
            xid: u32_at(bytes, 4)?,
            prev: Lsn::new(u64_at(bytes, 8)?),
            info: *bytes.get(16)?,
            rmid: *bytes.get(17)?,
            crc: u32_at(bytes, RECORD_CRC_OFFSET)?,
        })
    }

    /// The header's bytes.
    pub fn to_bytes(&self) -> [u8; RECORD_HEADER_LEN] {
        let mut b = [0; RECORD_HEADER_LEN];
        b[0..4].copy_from_slice(&self.total_len.to_le_bytes());
        b[4..8].copy_from_slice(&self.xid.to_le_bytes());
        b[8..16].copy_from_slice(&self.prev.get().to_le_bytes());
        b[16] = self.info;
        b[17] = self.rmid;
        b[20..24].copy_from_slice(&self.crc.to_le_bytes());
        b
    }

    /// Whether this is an XLOG record with opcode `op`.
    pub const fn is_xlog(&self, op: u8) -> bool {
        self.rmid == RM_XLOG && self.info & RMGR_INFO_MASK == op
    }

    /// Whether the rest of the segment is fill.
    pub const fn is_switch(&self) -> bool {
        self.is_xlog(XLOG_SWITCH)
    }

    /// Whether this replaces an unfinished record.
    pub const fn is_overwrite_contrecord(&self) -> bool {
        self.is_xlog(XLOG_OVERWRITE_CONTRECORD)
    }

    /// Whether this is a checkpoint, online or at shutdown.
    pub const fn is_checkpoint(&self) -> bool {
        self.is_xlog(XLOG_CHECKPOINT_ONLINE) || self.is_xlog(XLOG_CHECKPOINT_SHUTDOWN)
    }
}

/// A whole, checked record where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// As in [`Record`].
    pub start: Lsn,
    /// As in [`Record`].
    pub end: Lsn,
    /// As in [`Record`].
    pub header: RecordHeader,
    /// As in [`Record`]; of a record that is left out, its header alone.
    pub data: &'a [u8],
}

impl RecordRef<'_> {
    /// Whether the decoder's owner did not want its body.
    pub fn is_left_out(&self) -> bool {
        self.data.len() as u64 != u64::from(self.header.total_len)
    }

    /// A copy of its own.
    pub fn to_record(&self) -> Record {
        let RecordRef { start, end, header, data } = *self;
        Record { start, end, header, data: Bytes::copy_from_slice(data) }
    }
}

impl Record {
    /// Without owning it.
    pub fn by_ref(&self) -> RecordRef<'_> {
        RecordRef { start: self.start, end: self.end, header: self.header, data: &self.data }
    }
}

/// A whole, checked record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Position of its first byte.
    pub start: Lsn,
    /// Boundary after it, in the form of [`WalDecoder::boundary`](super::WalDecoder::boundary).
    pub end: Lsn,
    /// Its parsed header.
    pub header: RecordHeader,
    /// The whole record without page headers, its own header included.
    pub data: Bytes,
}

/// CRC-32C of a record given whole: body first, then the header without its checksum field.
pub fn record_crc(record: &[u8]) -> u32 {
    let (header, body) = record.split_at(RECORD_HEADER_LEN.min(record.len()));
    crc32c::crc32c_append(crc32c::crc32c(body), &header[..RECORD_CRC_OFFSET.min(header.len())])
}
