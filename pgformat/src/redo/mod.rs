//! Native redo: what a record does to one page.
//!
//! A page's new content depends on its old content, on the record, and on the numbers and presence of the record's
//! other blocks, never on their content. So the unit is one block of one record, a [`Change`]; a chain of them is
//! replayed over the page alone. `pd_lsn` is stamped with the record's end and never compared: the caller applies each
//! change once, in order.
//!
//! A precondition that does not hold is a [`RedoError`]; the page is then in an unspecified state and must be thrown
//! away. Nothing is guessed.
//!
//! | module | resource managers |
//! |---|---|
//! | [`change`] | what is stored of a record for one block, and its encoding |
//! | [`heap`], [`heap2`], [`vm`] | tables, visibility map |
//! | [`btree`], [`hash`], [`gin`], [`gist`], [`spgist`], [`brin`] | indexes |
//! | `index` | what several indexes share |
//! | [`seq`], [`generic`], [`xlog`] | sequences, generic records, images |
//! | [`slru`] | pages of clog, multixact and commit timestamps |
//!
//! Source: PostgreSQL 14-18, the `*_redo` function of each resource manager.

pub mod brin;
pub mod btree;
pub mod change;
pub mod generic;
pub mod gin;
pub mod gist;
pub mod hash;
pub mod heap;
pub mod heap2;
mod index;
mod itup;
mod prune;
pub mod seq;
pub mod slru;
pub mod spgist;
mod tuple;
pub mod vm;
pub mod xlog;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod testing;

pub use change::{Change, Ref};

use crate::page::{Page, PageError};
use crate::read::Short;
use crate::wal::image::ImageError;
use crate::{Lsn, PgMajor};

/// Resource manager numbers (`src/include/access/rmgrlist.h`), and those of changes that we make ourselves.
pub mod rmid {
    /// The log itself.
    pub const XLOG: u8 = 0;
    /// Transactions.
    pub const XACT: u8 = 1;
    /// Files of relations.
    pub const SMGR: u8 = 2;
    /// Commit log.
    pub const CLOG: u8 = 3;
    /// Databases.
    pub const DBASE: u8 = 4;
    /// Tablespaces.
    pub const TBLSPC: u8 = 5;
    /// Multixacts.
    pub const MULTIXACT: u8 = 6;
    /// Relation map files.
    pub const RELMAP: u8 = 7;
    /// Standby.
    pub const STANDBY: u8 = 8;
    /// Heap, second part.
    pub const HEAP2: u8 = 9;
    /// Heap.
    pub const HEAP: u8 = 10;
    /// B-tree.
    pub const BTREE: u8 = 11;
    /// Hash.
    pub const HASH: u8 = 12;
    /// GIN.
    pub const GIN: u8 = 13;
    /// GiST.
    pub const GIST: u8 = 14;
    /// Sequences.
    pub const SEQ: u8 = 15;
    /// SP-GiST.
    pub const SPGIST: u8 = 16;
    /// BRIN.
    pub const BRIN: u8 = 17;
    /// Commit timestamps.
    pub const COMMIT_TS: u8 = 18;
    /// Replication origins.
    pub const REPLORIGIN: u8 = 19;
    /// Generic records.
    pub const GENERIC: u8 = 20;
    /// Logical decoding messages.
    pub const LOGICALMSG: u8 = 21;
    /// Ours: a change of the visibility map that a record implies without naming the page ([`super::vm`]).
    /// PostgreSQL uses 0-21 and 128-255.
    pub const OUR_VM: u8 = 100;
    /// Ours: a change of an SLRU page ([`super::slru`]).
    pub const OUR_SLRU: u8 = 101;
}

/// What redo must know beside the change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    /// The major that wrote the record.
    pub version: PgMajor,
    /// End of the record: what `pd_lsn` becomes.
    pub end: Lsn,
}

/// Why a page cannot be redone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedoError {
    /// A record type that this version does not know.
    #[error("record type {rmid}/{info:#04x} is not known")]
    Unknown {
        /// Resource manager.
        rmid: u8,
        /// Its opcode.
        info: u8,
    },
    /// The record has no such block, or the block cannot be in this role.
    #[error("block reference {0} does not belong to this type of record")]
    Block(u8),
    /// A block reference that this type always has is missing.
    #[error("block reference {0} is missing")]
    NoRef(u8),
    /// The page was never initialised, and the change needs what was on it.
    #[error("the page has no content to apply a change to")]
    NewPage,
    /// The record's data end too early.
    #[error("the record's data is shorter than its type needs")]
    Short,
    /// The page does not allow the change.
    #[error(transparent)]
    Page(#[from] PageError),
    /// The image cannot be restored.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Anything else that does not fit together.
    #[error("{0}")]
    Precondition(&'static str),
}

impl From<Short> for RedoError {
    fn from(_: Short) -> RedoError {
        RedoError::Short
    }
}

/// Applies `change` to `page`. With [`Change::init`] the old content does not matter.
///
/// # Errors
/// See [`RedoError`]; `page` is then spoilt.
pub fn redo(page: &mut Page, change: &Change<'_>, ctx: &Context) -> Result<(), RedoError> {
    // A page beyond what redo touched reads as zeros; only a visibility map grows that way (`visibilitymap_pin`). SLRU
    // pages have no header, and a hint's record without an image does nothing to whatever is there.
    let may_be_new =
        change.init || matches!(change.rmid, rmid::XLOG | rmid::OUR_SLRU | rmid::OUR_VM) || vm::is_map_block(change);
    if !may_be_new && page.is_new() {
        return Err(RedoError::NewPage);
    }
    match change.rmid {
        rmid::XLOG => xlog::redo(page, change, ctx),
        rmid::HEAP2 => heap2::redo(page, change, ctx),
        rmid::HEAP => heap::redo(page, change, ctx),
        rmid::BTREE => btree::redo(page, change, ctx),
        rmid::HASH => hash::redo(page, change, ctx),
        rmid::GIN => gin::redo(page, change, ctx),
        rmid::GIST => gist::redo(page, change, ctx),
        rmid::SEQ => seq::redo(page, change, ctx),
        rmid::SPGIST => spgist::redo(page, change, ctx),
        rmid::BRIN => brin::redo(page, change, ctx),
        rmid::GENERIC => generic::redo(page, change, ctx),
        rmid::OUR_VM => vm::redo(page, change),
        rmid::OUR_SLRU => slru::redo(page, change),
        rmid => Err(RedoError::Unknown { rmid, info: change.info }),
    }
}

/// What a record does to a page that it has just restored from an image: nothing, but for a few types.
///
/// # Errors
/// See [`RedoError`].
pub fn after_image(page: &mut Page, change: &Change<'_>, ctx: &Context) -> Result<(), RedoError> {
    match change.rmid {
        rmid::HASH => hash::after_image(page, change, ctx),
        rmid::GIST => gist::after_image(page, change, ctx),
        _ => Ok(()),
    }
}

/// Whether [`after_image`] can do something: the image alone is then not the page.
pub fn changes_after_image(rmid: u8, info: u8, block: u8) -> bool {
    match rmid {
        rmid::HASH => hash::changes_after_image(info, block),
        rmid::GIST => gist::changes_after_image(info, block),
        _ => false,
    }
}
