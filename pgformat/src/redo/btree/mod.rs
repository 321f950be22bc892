//! Redo of B-trees.
//!
//! | module | records |
//! |---|---|
//! | `page` | the special space, pages restored from a record, the metadata page |
//! | `posting` | tuples that stand for several heap tuples |
//! | `insert` | insertions, some of which split a posting list |
//! | `split` | page splits |
//! | `dedup` | merging of equal tuples |
//! | `delete` | deletions by vacuum and by insertions |
//! | `unlink` | deletion of pages, new roots |
//!
//! Source: PostgreSQL 14-18, `src/backend/access/nbtree/nbtxlog.c`, `src/include/access/nbtxlog.h`.

mod dedup;
mod delete;
mod insert;
mod page;
mod posting;
mod split;
#[cfg(test)]
mod tests;
mod unlink;

use super::index::expect_init;
use super::{Change, Context, RedoError};
use crate::page::Page;

/// `xl_info` of the types of record.
mod op {
    pub(super) const INSERT_LEAF: u8 = 0x00;
    pub(super) const INSERT_UPPER: u8 = 0x10;
    pub(super) const INSERT_META: u8 = 0x20;
    pub(super) const SPLIT_L: u8 = 0x30;
    pub(super) const SPLIT_R: u8 = 0x40;
    pub(super) const INSERT_POST: u8 = 0x50;
    pub(super) const DEDUP: u8 = 0x60;
    pub(super) const DELETE: u8 = 0x70;
    pub(super) const UNLINK_PAGE: u8 = 0x80;
    pub(super) const UNLINK_PAGE_META: u8 = 0x90;
    pub(super) const NEWROOT: u8 = 0xA0;
    pub(super) const MARK_PAGE_HALFDEAD: u8 = 0xB0;
    pub(super) const VACUUM: u8 = 0xC0;
    /// `REUSE_PAGE` (0xD0) has no blocks.
    pub(super) const META_CLEANUP: u8 = 0xE0;
}

/// Whether redo makes this block from nothing (`XLogInitBufferForRedo`).
fn makes_page(info: u8, block: u8) -> bool {
    match info {
        op::SPLIT_L | op::SPLIT_R => block == 1,
        op::INSERT_META => block == 2,
        op::UNLINK_PAGE | op::UNLINK_PAGE_META => matches!(block, 0 | 3 | 4),
        op::NEWROOT => matches!(block, 0 | 2),
        op::MARK_PAGE_HALFDEAD | op::META_CLEANUP => block == 0,
        _ => false,
    }
}

/// Applies one change (`btree_redo`).
///
/// # Errors
/// See [`RedoError`].
pub fn redo(page: &mut Page, change: &Change<'_>, ctx: &Context) -> Result<(), RedoError> {
    expect_init(change, makes_page(change.info, change.block))?;
    match (change.info, change.block) {
        (op::INSERT_LEAF | op::INSERT_UPPER | op::INSERT_META, 0) => insert::insert(page, change),
        (op::INSERT_POST, 0) => insert::insert_splitting_posting(page, change),
        // The child whose downlink the record inserts.
        (op::INSERT_UPPER | op::INSERT_META | op::NEWROOT, 1) | (op::SPLIT_L | op::SPLIT_R, 3) => page::end_split(page),
        (op::INSERT_META | op::NEWROOT, 2) | (op::UNLINK_PAGE_META, 4) | (op::META_CLEANUP, 0) => {
            page::restore_meta(page, change.data)
        }
        (op::SPLIT_L, 0) => split::left(page, change, true),
        (op::SPLIT_R, 0) => split::left(page, change, false),
        (op::SPLIT_L | op::SPLIT_R, 1) => split::right(page, change),
        (op::SPLIT_L | op::SPLIT_R, 2) => split::old_right_sibling(page, change),
        (op::DEDUP, 0) => dedup::dedup(page, change),
        (op::DELETE, 0) => delete::delete(page, change),
        (op::VACUUM, 0) => delete::vacuum(page, change, ctx.version),
        (op::UNLINK_PAGE | op::UNLINK_PAGE_META, 0) => unlink::target(page, change),
        (op::UNLINK_PAGE | op::UNLINK_PAGE_META, 1) => unlink::left_sibling(page, change),
        (op::UNLINK_PAGE | op::UNLINK_PAGE_META, 2) => unlink::right_sibling(page, change),
        (op::UNLINK_PAGE | op::UNLINK_PAGE_META, 3) => unlink::leaf(page, change),
        (op::NEWROOT, 0) => unlink::new_root(page, change),
        (op::MARK_PAGE_HALFDEAD, 0) => unlink::half_dead(page, change),
        (op::MARK_PAGE_HALFDEAD, 1) => unlink::parent(page, change),
        (0..=op::META_CLEANUP, block) if change.info & 0x0F == 0 => Err(RedoError::Block(block)),
        _ => Err(change.unknown()),
    }?;
    page.set_lsn(ctx.end);
    Ok(())
}
