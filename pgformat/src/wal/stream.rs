//! The required properties of a stream of WAL, which every check of it uses.

use super::WalError;
use crate::{Lsn, PgMajor, SegSize, Tli};

/// What a stream of WAL must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamConfig {
    /// PostgreSQL's major: page magic, resource managers.
    pub version: PgMajor,
    /// Size of a segment: each begins with a long page header.
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

    /// Checks the tli that the header of the page at `page` has.
    pub(super) fn check_tli(&self, page: Lsn, found: Tli) -> Result<(), WalError> {
        let Some(expected) = self.tli_at(page) else { return Ok(()) };
        // WAL before the listed history was written by an unknown, earlier tli.
        let before = self.tlis.first().is_some_and(|(_, since)| page < *since);
        if found == expected || (before && found < expected) {
            Ok(())
        } else {
            Err(WalError::PageTli { at: page, expected, found })
        }
    }
}
