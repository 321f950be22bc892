//! Errors of a stream of WAL: a typed reason for each, with the position and both sides of the comparison.
//!
//! Pure data. A [`WalError`] does not decide what to do; [`WalError::kind`] classifies the reasons so that a caller
//! can: a scan at start-up stops quietly at [`ErrorKind::EndOfLog`], and a proposer that sends [`ErrorKind::Foreign`]
//! WAL is refused.

use crate::{Lsn, Tli};

/// Why bytes are not the continuation of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    /// The caller fed bytes of another position than the one that comes next.
    #[error("WAL at {at} was fed while {expected} comes next")]
    NotContiguous {
        /// Position of the bytes that were fed.
        at: Lsn,
        /// Position of the byte that comes next.
        expected: Lsn,
    },
    /// A start position at which no record can end or begin.
    #[error("{at} is not a record boundary: it is unaligned or inside a page header")]
    BadStart {
        /// The start position.
        at: Lsn,
    },
    /// A start position that no server reaches.
    #[error("{at} lies beyond {}, the last position that is taken from outside", Lsn::LIMIT)]
    TooFar {
        /// The start position.
        at: Lsn,
    },
    /// A page does not begin with this major's magic number.
    #[error("WAL page {at} has magic number {found:04X} instead of {expected:04X}")]
    PageMagic {
        /// Start of the page.
        at: Lsn,
        /// The stream's magic number.
        expected: u16,
        /// What the page holds.
        found: u16,
    },
    /// Flag bits that no supported major sets.
    #[error("WAL page {at} has impossible flags {found:04X}")]
    PageFlags {
        /// Start of the page.
        at: Lsn,
        /// The page's `xlp_info`.
        found: u16,
    },
    /// A page of another place: a recycled segment, or bytes sent to the wrong position.
    #[error("WAL page {at} says that it is page {found}")]
    PageAddr {
        /// Start of the page.
        at: Lsn,
        /// The page's `xlp_pageaddr`.
        found: Lsn,
    },
    /// A page of another PostgreSQL timeline number than the one current at its start.
    #[error("WAL page {at} belongs to tli {found} instead of {expected}")]
    PageTli {
        /// Start of the page.
        at: Lsn,
        /// The tli current at the page's start.
        expected: Tli,
        /// The page's `xlp_tli`.
        found: Tli,
    },
    /// WAL of another cluster.
    #[error("WAL segment {at} belongs to system {found} instead of {expected}")]
    SystemId {
        /// Start of the segment.
        at: Lsn,
        /// The stream's system identifier.
        expected: u64,
        /// The page's `xlp_sysid`.
        found: u64,
    },
    /// WAL cut in segments of another size.
    #[error("WAL segment {at} has size {found} instead of {expected}")]
    SegSize {
        /// Start of the segment.
        at: Lsn,
        /// The stream's segment size in bytes.
        expected: u32,
        /// The page's `xlp_seg_size`.
        found: u32,
    },
    /// A segment begins where none should, or none where one should: WAL cut in segments of another size.
    #[error("WAL page {at} {} a segment, which does not fit segments of {expected} bytes", begins(.found))]
    SegmentBorder {
        /// Start of the page.
        at: Lsn,
        /// The stream's segment size in bytes.
        expected: u32,
        /// Whether the page is the first of a segment.
        found: bool,
    },
    /// WAL cut in pages of another size than 8192.
    #[error("WAL segment {at} has pages of {found} bytes instead of 8192")]
    BlockSize {
        /// Start of the segment.
        at: Lsn,
        /// The page's `xlp_xlog_blcksz`.
        found: u32,
    },
    /// The rest of a record is missing and the page does not say that it was overwritten.
    #[error("WAL page {at} does not continue record {record}")]
    ContrecordMissing {
        /// Start of the page.
        at: Lsn,
        /// Start of the unfinished record.
        record: Lsn,
    },
    /// A page continues a record where none is open.
    #[error("WAL page {at} continues a record where none is unfinished")]
    ContrecordUnexpected {
        /// Start of the page.
        at: Lsn,
    },
    /// The page and the record disagree about how much of the record is left.
    #[error("WAL page {at} leaves {found} bytes to its first record instead of {expected}")]
    RemLen {
        /// Start of the page.
        at: Lsn,
        /// Bytes left by the record's own length.
        expected: u32,
        /// The page's `xlp_rem_len`.
        found: u32,
    },
    /// Zeros where a record begins: nothing has been written here.
    #[error("no WAL record at {at}: its length is zero")]
    ZeroLength {
        /// Where the record should begin.
        at: Lsn,
    },
    /// A length that no record has.
    #[error("WAL record {at} has impossible length {found}")]
    RecordLength {
        /// Start of the record.
        at: Lsn,
        /// The record's `xl_tot_len`.
        found: u32,
    },
    /// A resource manager that the major does not have.
    #[error("WAL record {at} names unknown resource manager {found}")]
    Rmgr {
        /// Start of the record.
        at: Lsn,
        /// The record's `xl_rmid`.
        found: u8,
    },
    /// The record does not follow the record before it. Without a known predecessor `expected` is none, and `found` is
    /// not below `at`.
    #[error("WAL record {at} has prev link {found}, expected {}", PrevText(.expected, .at))]
    PrevLink {
        /// Start of the record.
        at: Lsn,
        /// Start of the record before, when known.
        expected: Option<Lsn>,
        /// The record's `xl_prev`.
        found: Lsn,
    },
    /// The checksum does not fit the record's bytes.
    #[error("WAL record {at} has checksum {found:08X} but its bytes give {expected:08X}")]
    Crc {
        /// Start of the record.
        at: Lsn,
        /// Computed over the bytes.
        expected: u32,
        /// The record's `xl_crc`.
        found: u32,
    },
    /// The page says that an unfinished record was overwritten, but its first record is another one.
    #[error("WAL record {at} should be OVERWRITE_CONTRECORD, as its page says")]
    OverwriteMissing {
        /// Start of the record.
        at: Lsn,
    },
    /// OVERWRITE_CONTRECORD, or its page flag, where no record was unfinished.
    #[error("WAL at {at} overwrites an unfinished record where there is none")]
    OverwriteUnexpected {
        /// Start of the page or record.
        at: Lsn,
    },
    /// OVERWRITE_CONTRECORD names another record than the unfinished one.
    #[error("WAL record {at} overwrites record {found}, but the unfinished one is {expected}")]
    OverwrittenLsn {
        /// Start of the OVERWRITE_CONTRECORD record.
        at: Lsn,
        /// Start of the unfinished record.
        expected: Lsn,
        /// The record's `overwritten_lsn`.
        found: Lsn,
    },
    /// Something other than zeros between a SWITCH record and the end of its segment.
    #[error("byte {at} in the fill after a SWITCH record is not zero")]
    SwitchFill {
        /// Position of the first such byte.
        at: Lsn,
    },
}

fn begins(yes: &bool) -> &'static str {
    if *yes { "begins" } else { "does not begin" }
}

struct PrevText<'a>(&'a Option<Lsn>, &'a Lsn);

impl std::fmt::Display for PrevText<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(prev) => write!(f, "{prev}"),
            None => write!(f, "one below {}", self.1),
        }
    }
}

/// What a [`WalError`] means to who meets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// What the end of a written log looks like on disk: zeros, an older page, a torn last record.
    /// In a stream, which never runs past the end, it is as bad as [`ErrorKind::Broken`].
    EndOfLog,
    /// Sound WAL of something else: another cluster, major, segment size or tli. Retrying cannot help.
    Foreign,
    /// Damaged bytes, or bytes that do not continue this log.
    Broken,
    /// The caller's own mistake; says nothing about the bytes.
    Misuse,
}

impl WalError {
    /// Position of the page, record or byte that is wrong.
    pub fn lsn(&self) -> Lsn {
        use WalError::*;
        match *self {
            NotContiguous { at, .. }
            | BadStart { at }
            | TooFar { at }
            | PageMagic { at, .. }
            | PageFlags { at, .. }
            | PageAddr { at, .. }
            | PageTli { at, .. }
            | SystemId { at, .. }
            | SegSize { at, .. }
            | SegmentBorder { at, .. }
            | BlockSize { at, .. }
            | ContrecordMissing { at, .. }
            | ContrecordUnexpected { at }
            | RemLen { at, .. }
            | ZeroLength { at }
            | RecordLength { at, .. }
            | Rmgr { at, .. }
            | PrevLink { at, .. }
            | Crc { at, .. }
            | OverwriteMissing { at }
            | OverwriteUnexpected { at }
            | OverwrittenLsn { at, .. }
            | SwitchFill { at } => at,
        }
    }

    /// What this means to who meets it.
    pub fn kind(&self) -> ErrorKind {
        use WalError::*;
        match *self {
            NotContiguous { .. } | BadStart { .. } => ErrorKind::Misuse,
            PageMagic { found, .. } if crate::PgMajor::from_page_magic(found).is_some() => ErrorKind::Foreign,
            PageTli { .. } | SystemId { .. } => ErrorKind::Foreign,
            SegSize { .. } | SegmentBorder { .. } | BlockSize { .. } => ErrorKind::Foreign,
            PageMagic { found: 0, .. } | ZeroLength { .. } | Crc { .. } => ErrorKind::EndOfLog,
            PageAddr { at, found } if found < at => ErrorKind::EndOfLog,
            PrevLink { at, expected, found } if found < expected.unwrap_or(at) => ErrorKind::EndOfLog,
            _ => ErrorKind::Broken,
        }
    }

    /// Whether a scan of written segments may take this as the end of the log (see [`ErrorKind::EndOfLog`]).
    pub fn is_end_of_log(&self) -> bool {
        self.kind() == ErrorKind::EndOfLog
    }
}
