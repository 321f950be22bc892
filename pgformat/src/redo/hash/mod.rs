//! Redo of hash indexes.
//!
//! | module | content |
//! |---|---|
//! | `page` | the special space, bitmaps of overflow pages |
//! | `meta` | the metadata page |
//! | `bucket` | tuples and chains of bucket and overflow pages |
//!
//! Some records name a page only to lock it during redo ([`is_lock_only`]); the page does not change. Redo of a block
//! never needs the data of another block.
//!
//! Source: PostgreSQL 14-18, `src/backend/access/hash/hash_xlog.c`, `src/include/access/hash_xlog.h`.

mod bucket;
mod meta;
mod page;
#[cfg(test)]
mod tests;

use super::index::expect_init;
use super::{Change, Context, RedoError};
use crate::PgMajor;
use crate::page::Page;

/// `xl_info` of the types of record.
mod op {
    pub(super) const INIT_META_PAGE: u8 = 0x00;
    pub(super) const INIT_BITMAP_PAGE: u8 = 0x10;
    pub(super) const INSERT: u8 = 0x20;
    pub(super) const ADD_OVFL_PAGE: u8 = 0x30;
    pub(super) const SPLIT_ALLOCATE_PAGE: u8 = 0x40;
    pub(super) const SPLIT_PAGE: u8 = 0x50;
    pub(super) const SPLIT_COMPLETE: u8 = 0x60;
    pub(super) const MOVE_PAGE_CONTENTS: u8 = 0x70;
    pub(super) const SQUEEZE_PAGE: u8 = 0x80;
    pub(super) const DELETE: u8 = 0x90;
    pub(super) const SPLIT_CLEANUP: u8 = 0xA0;
    pub(super) const UPDATE_META_PAGE: u8 = 0xB0;
    pub(super) const VACUUM_ONE_PAGE: u8 = 0xC0;
}

/// The first major that leaves a page alone, its LSN included, to which a squeeze adds nothing.
const SQUEEZE_MAY_DO_NOTHING_SINCE: u32 = 17;

/// Whether redo makes this block from nothing (`XLogInitBufferForRedo`).
fn makes_page(info: u8, block: u8) -> bool {
    match info {
        op::INIT_META_PAGE | op::INIT_BITMAP_PAGE => block == 0,
        op::ADD_OVFL_PAGE => matches!(block, 0 | 3),
        op::SPLIT_ALLOCATE_PAGE => block == 1,
        _ => false,
    }
}

/// Applies one change (`hash_redo`). A page that is only locked stays as it is.
///
/// # Errors
/// See [`RedoError`].
pub fn redo(page: &mut Page, change: &Change<'_>, ctx: &Context) -> Result<(), RedoError> {
    if is_lock_only(change.info, change.block, change.main, ctx.version) {
        return Ok(());
    }
    expect_init(change, makes_page(change.info, change.block))?;
    match (change.info, change.block) {
        (op::INIT_META_PAGE, 0) => meta::init(page, change.main),
        (op::INIT_BITMAP_PAGE, 0) | (op::ADD_OVFL_PAGE, 3) => page::init_bitmap(page, change.main),
        (op::INIT_BITMAP_PAGE, 1) => meta::first_bitmap(page),
        (op::INSERT, 0) => bucket::insert(page, change),
        (op::INSERT, 1) => meta::inserted(page),
        (op::ADD_OVFL_PAGE, 0) => bucket::init_overflow(page, change),
        (op::ADD_OVFL_PAGE, 1) => bucket::link_overflow(page, change),
        (op::ADD_OVFL_PAGE, 2) => page::set_bit(page, change.data, true),
        (op::ADD_OVFL_PAGE, 4) => meta::overflow_added(page, change),
        (op::SPLIT_ALLOCATE_PAGE, 0) => bucket::begin_split(page, change.main),
        (op::SPLIT_ALLOCATE_PAGE, 1) => bucket::init_bucket(page, change.main),
        (op::SPLIT_ALLOCATE_PAGE, 2) => meta::bucket_added(page, change),
        (op::SPLIT_PAGE, 0) => Err(RedoError::Precondition("a page of a split that comes without its image")),
        (op::SPLIT_COMPLETE, 0) => bucket::end_split(page, change.main, false),
        (op::SPLIT_COMPLETE, 1) => bucket::end_split(page, change.main, true),
        (op::MOVE_PAGE_CONTENTS, 1) => bucket::move_in(page, change),
        (op::MOVE_PAGE_CONTENTS, 2) => bucket::remove(page, change.data),
        (op::SQUEEZE_PAGE, 1) => bucket::squeeze_in(page, change),
        (op::SQUEEZE_PAGE, 2) => bucket::free_overflow(page),
        (op::SQUEEZE_PAGE, 3) => bucket::unlink_from_prev(page, change.main),
        (op::SQUEEZE_PAGE, 4) => bucket::unlink_from_next(page, change.main),
        (op::SQUEEZE_PAGE, 5) => page::set_bit(page, change.data, false),
        (op::SQUEEZE_PAGE, 6) => meta::first_free(page, change.data),
        (op::DELETE, 1) => bucket::delete(page, change),
        (op::SPLIT_CLEANUP, 0) => bucket::split_cleaned(page),
        (op::UPDATE_META_PAGE, 0) => meta::set_tuples(page, change.main),
        (op::VACUUM_ONE_PAGE, 0) => bucket::vacuum(page, change.main, ctx.version),
        (op::VACUUM_ONE_PAGE, 1) => meta::vacuumed(page, change.main, ctx.version),
        (0..=op::VACUUM_ONE_PAGE, block) if change.info & 0x0F == 0 => Err(RedoError::Block(block)),
        _ => Err(change.unknown()),
    }?;
    page.set_lsn(ctx.end);
    Ok(())
}

/// What a record does to a page that it has restored from an image: splits set the buckets' flags all the same.
///
/// # Errors
/// See [`RedoError`].
pub fn after_image(page: &mut Page, change: &Change<'_>, ctx: &Context) -> Result<(), RedoError> {
    if changes_after_image(change.info, change.block) { redo(page, change, ctx) } else { Ok(()) }
}

/// Whether [`after_image`] does something.
pub fn changes_after_image(info: u8, block: u8) -> bool {
    matches!((info, block), (op::SPLIT_ALLOCATE_PAGE, 0) | (op::SPLIT_COMPLETE, 0 | 1))
}

/// Whether redo only locks this block and leaves it as it is, LSN included.
///
/// An image that is to be restored is the page's new content even then: squeezes of 17 and later can carry one.
/// Of main data that are too short, false: redo then says so.
pub fn is_lock_only(info: u8, block: u8, main: &[u8], version: PgMajor) -> bool {
    match (info, block) {
        (op::MOVE_PAGE_CONTENTS | op::SQUEEZE_PAGE | op::DELETE, 0) => true,
        (op::SQUEEZE_PAGE, 1) if version.get() >= SQUEEZE_MAY_DO_NOTHING_SINCE => {
            bucket::Squeeze::read(main).is_ok_and(|squeeze| squeeze.tuples == 0 && !squeeze.writes_prev)
        }
        _ => false,
    }
}
