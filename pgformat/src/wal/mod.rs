//! Write-ahead log: pages, records, and a decoder that follows record boundaries in a stream.
//!
//! Pure and sans-IO: the caller feeds bytes and asks for positions. Every decoder owns its own state and nothing else;
//! the caller owns the bytes. Layouts are those of PostgreSQL 14-18, which differ in the page magic and in the set of
//! resource managers only.
//!
//! | module | what |
//! |---|---|
//! | [`page`] | page headers |
//! | [`record`] | record headers, the records that change how the stream is read |
//! | [`body`] | block references and data of a record |
//! | [`image`] | full-page images |
//! | [`decoder`] | [`WalDecoder`]: checks a stream and finds its record boundaries |
//! | [`scan`] | the end of a written log |
//! | [`prehistory`] | the first segment's bytes before the log's start |
//! | [`build`] | [`WalBuilder`]: valid WAL by hand, for simulators and tests |
//! | [`error`] | what can be wrong |
//!
//! **Boundary** means: the 8-aligned end of a record, before any page header that follows; after a SWITCH record the
//! start of the next segment.

pub mod body;
pub mod build;
pub mod decoder;
pub mod error;
pub mod image;
pub mod page;
pub mod prehistory;
pub mod record;
pub mod scan;

pub use build::{Built, WalBuilder};
pub use decoder::{Unfinished, WalDecoder};
pub use error::{ErrorKind, WalError};
pub use prehistory::{check_prehistory, synthetic_prehistory};
pub use record::{Record, RecordHeader, RecordRef};
pub use scan::{EndOfWal, EndReason, find_end_of_wal};

use crate::{Lsn, PgMajor, SegSize, Tli};

/// What a stream of WAL must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamConfig {
    /// PostgreSQL's major: page magic, resource managers.
    pub version: PgMajor,
    /// Segment size.
    pub seg_size: SegSize,
    /// The cluster's system identifier; `None` is not checked.
    pub system_id: Option<u64>,
    /// PostgreSQL's timeline numbers with the position at which each began, ascending; empty is not checked.
    /// A page carries the one current at the page's first byte.
    pub tlis: Vec<(Tli, Lsn)>,
}

impl StreamConfig {
    /// The tli current at `page`; before the first listed one, that one. `None` when none is listed.
    pub fn tli_at(&self, page: Lsn) -> Option<Tli> {
        self.tlis.iter().rev().find(|(_, since)| *since <= page).or(self.tlis.first()).map(|(tli, _)| *tli)
    }

    fn check_tli(&self, page: Lsn, found: Tli) -> Result<(), WalError> {
        let Some(expected) = self.tli_at(page) else { return Ok(()) };
        // What lies before the listed history was written by an unknown, earlier tli.
        let before = self.tlis.first().is_some_and(|(_, since)| page < *since);
        if found == expected || (before && found < expected) {
            Ok(())
        } else {
            Err(WalError::PageTli { at: page, expected, found })
        }
    }

    fn check_start(&self, start: Lsn) -> Result<(), WalError> {
        if !start.is_plausible() {
            return Err(WalError::TooFar { at: start });
        }
        let inside_header =
            start.page_offset() != 0 && start.page_offset() < page::header_len(start.page_start(), self.seg_size);
        if start.is_aligned8() && !inside_header { Ok(()) } else { Err(WalError::BadStart { at: start }) }
    }
}

/// Where the next record starts after boundary `b`: behind the page header when `b` is the start of a page.
pub fn next_record_start(b: Lsn, seg: SegSize) -> Lsn {
    if b.page_offset() == 0 { b.add(page::header_len(b, seg)) } else { b }
}

#[cfg(test)]
mod tests;
