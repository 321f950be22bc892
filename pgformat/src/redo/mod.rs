//! Native redo: what a record does to one page.
//!
//! A page's new content depends on its old content, on the record, and on the numbers and presence of the record's
//! other blocks, never on their content. So the unit is one block of one record, a [`Change`], and a chain of changes
//! needs no other page. Redo stamps `pd_lsn` with the record's end and never compares it: the caller applies each
//! change once, in order.
//!
//! A violated precondition is a [`RedoError`]. The page is then in an unspecified state and must be discarded; redo
//! never guesses.
//!
//! | module | resource managers |
//! |---|---|
//! | [`change`] | one block's part of a record, and its encoding |
//! | [`rmid`] | numbers of the resource managers |
//! | [`heap`], [`heap2`], [`vm`] | tables, visibility map |
//! | [`btree`], [`hash`], [`gin`], [`gist`], [`spgist`], [`brin`] | indexes |
//! | `index` | shared by several indexes |
//! | [`seq`], [`generic`], [`xlog`] | sequences, generic records, images |
//! | [`slru`] | pages of clog, multixact and commit timestamps |
//!
//! Source: PostgreSQL 14-18, the `*_redo` function of each resource manager.

pub mod brin;
pub mod btree;
pub mod change;
mod error;
pub mod generic;
pub mod gin;
pub mod gist;
pub mod hash;
pub mod heap;
pub mod heap2;
mod index;
mod itup;
mod opcode;
mod prune;
pub mod rmid;
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
pub use error::{Context, RedoError};

use crate::page::Page;

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
