//! Redo of heap: single tuples.
//!
//! The new tuple of an update may take its beginning and its end from the old one; both are then on one page.
//!
//! Source: PostgreSQL 15 `src/backend/access/heap/heapam.c`, 18 `heapam_xlog.c`, `heap_redo`.

use super::opcode::{CONFIRM, DELETE, HOT_UPDATE, INPLACE, INSERT, LOCK, OPCODE, UPDATE};
use super::tuple::{Logged, Tid, tuple_mut};
use super::{Change, Context, RedoError, vm};
use crate::page::items::Place;
use crate::page::{PD_ALL_VISIBLE, Page};
use crate::read::{Short, Take};

/// Bit of `info`: the page is made anew (`XLOG_HEAP_INIT_PAGE`).
const INIT_PAGE: u8 = 0x80;

/// Flag of inserts and deletes: the page is no longer all-visible. Of an update: the old tuple's page.
pub(super) const ALL_VISIBLE_CLEARED: u8 = 0x01;
const UPDATE_NEW_ALL_VISIBLE_CLEARED: u8 = 0x02;
const UPDATE_PREFIX_FROM_OLD: u8 = 0x20;
const UPDATE_SUFFIX_FROM_OLD: u8 = 0x40;
const DELETE_IS_SUPER: u8 = 0x08;
const DELETE_IS_PARTITION_MOVE: u8 = 0x10;

/// Applies one change.
///
/// # Errors
/// See [`RedoError`].
pub fn redo(page: &mut Page, change: &Change<'_>, ctx: &Context) -> Result<(), RedoError> {
    if vm::is_map_block(change) {
        return vm::redo_cleared(page, change, ctx);
    }
    match (change.info & OPCODE, change.block) {
        (INSERT, 0) => insert(page, change)?,
        (DELETE, 0) => delete(page, change)?,
        (op @ (UPDATE | HOT_UPDATE), 0 | 1) => update(page, change, op == HOT_UPDATE)?,
        (CONFIRM, 0) => confirm(page, change)?,
        (LOCK, 0) => lock(page, change, ChainLink::Ended)?,
        (INPLACE, 0) => inplace(page, change)?,
        // The remaining opcode is a truncation, which is for logical decoding and has no blocks.
        _ => return Err(RedoError::Block(change.block)),
    }
    page.set_lsn(ctx.end);
    Ok(())
}

/// Empties the page when the record says so; both places that can say it must agree.
pub(super) fn prepare(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    match (change.info & INIT_PAGE != 0, change.init) {
        (true, true) => page.init(0),
        (false, false) => {}
        _ => return Err(RedoError::Precondition("the record contradicts itself on whether the page is made anew")),
    }
    Ok(())
}

fn insert(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let mut main = Take::new(change.main);
    let (off, flags) = (main.u16()?, main.u8()?);
    prepare(page, change)?;
    let mut data = Take::new(change.data);
    let logged = Logged::read(&mut data)?;
    let tuple = logged.build(change.xid, 0, Tid { blk: change.blk, off }, &[data.rest()]);
    page.add_item_at(&tuple, off, Place::Heap)?;
    if flags & ALL_VISIBLE_CLEARED != 0 {
        page.change_flags(PD_ALL_VISIBLE, 0);
    }
    Ok(())
}

fn delete(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let mut main = Take::new(change.main);
    let (xmax, off, infobits, flags) = (main.u32()?, main.u16()?, main.u8()?, main.u8()?);
    let (mut tuple, _) = tuple_mut(page, off)?;
    tuple.set_infobits(infobits);
    tuple.set_hot_updated(false);
    if flags & DELETE_IS_SUPER != 0 {
        // A speculative insertion that lost: nobody may ever see it.
        tuple.set_xmin(0);
    } else {
        tuple.set_xmax(xmax);
    }
    tuple.clear_cid();
    let moved = flags & DELETE_IS_PARTITION_MOVE != 0;
    tuple.set_ctid(if moved { Tid::MOVED_PARTITIONS } else { Tid { blk: change.blk, off } });
    mark_prunable(page, change.xid);
    if flags & ALL_VISIBLE_CLEARED != 0 {
        page.change_flags(PD_ALL_VISIBLE, 0);
    }
    Ok(())
}

/// Main data of an update (`xl_heap_update`).
struct Update {
    old_xmax: u32,
    old_off: u16,
    old_infobits: u8,
    flags: u8,
    new_xmax: u32,
    new_off: u16,
}

impl Update {
    fn read(main: &[u8]) -> Result<Update, Short> {
        let mut main = Take::new(main);
        Ok(Update {
            old_xmax: main.u32()?,
            old_off: main.u16()?,
            old_infobits: main.u8()?,
            flags: main.u8()?,
            new_xmax: main.u32()?,
            new_off: main.u16()?,
        })
    }
}

/// Reference 0 is the new tuple's page; 1 the old one's, when that is another.
fn update(page: &mut Page, change: &Change<'_>, hot: bool) -> Result<(), RedoError> {
    let update = Update::read(change.main)?;
    let new_tid = Tid { blk: change.required(0)?, off: update.new_off };
    let one_page = change.reference(1).is_none();
    if hot && !one_page {
        return Err(RedoError::Block(1));
    }
    if change.block == 1 || one_page {
        update_old(page, change, &update, hot, new_tid)?;
    }
    if change.block == 0 {
        update_new(page, change, &update, one_page, new_tid)?;
    }
    Ok(())
}

fn update_old(page: &mut Page, change: &Change<'_>, update: &Update, hot: bool, new: Tid) -> Result<(), RedoError> {
    let (mut tuple, _) = tuple_mut(page, update.old_off)?;
    tuple.set_infobits(update.old_infobits);
    tuple.set_hot_updated(hot);
    tuple.set_xmax(update.old_xmax);
    tuple.clear_cid();
    tuple.set_ctid(new);
    mark_prunable(page, change.xid);
    if update.flags & ALL_VISIBLE_CLEARED != 0 {
        page.change_flags(PD_ALL_VISIBLE, 0);
    }
    Ok(())
}

fn update_new(page: &mut Page, change: &Change<'_>, u: &Update, one_page: bool, new: Tid) -> Result<(), RedoError> {
    prepare(page, change)?;
    let mut data = Take::new(change.data);
    let prefix_len = if u.flags & UPDATE_PREFIX_FROM_OLD != 0 { usize::from(data.u16()?) } else { 0 };
    let suffix_len = if u.flags & UPDATE_SUFFIX_FROM_OLD != 0 { usize::from(data.u16()?) } else { 0 };
    let logged = Logged::read(&mut data)?;
    let tuple = if prefix_len == 0 && suffix_len == 0 {
        logged.build(change.xid, u.new_xmax, new, &[data.rest()])
    } else {
        if !one_page {
            return Err(RedoError::Precondition("an update borrows from an old tuple on another page"));
        }
        let too_long = RedoError::Precondition("an update borrows more than the old tuple has");
        let hoff = tuple_mut(page, u.old_off)?.0.hoff();
        let old = page.item(u.old_off)?;
        let (Some(prefix), Some(suffix)) =
            (old.get(hoff..hoff + prefix_len), old.len().checked_sub(suffix_len).and_then(|start| old.get(start..)))
        else {
            return Err(too_long);
        };
        // A borrowed prefix goes between the null bitmap and the record's data.
        let bitmap = data.bytes(logged.bitmap_len()?)?;
        logged.build(change.xid, u.new_xmax, new, &[bitmap, prefix, data.rest(), suffix])
    };
    page.add_item_at(&tuple, u.new_off, Place::Heap)?;
    if u.flags & UPDATE_NEW_ALL_VISIBLE_CLEARED != 0 {
        page.change_flags(PD_ALL_VISIBLE, 0);
    }
    Ok(())
}

/// A speculative insertion won: the tuple points to itself instead of carrying a token.
fn confirm(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let off = Take::new(change.main).u16()?;
    tuple_mut(page, off)?.0.set_ctid(Tid { blk: change.blk, off });
    Ok(())
}

/// What becomes of a locked tuple's link to its next version.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ChainLink {
    /// There is none unless the lock came with an update.
    Ended,
    /// Stays: the tuple was updated, and is now locked as well.
    Kept,
}

/// A lock on a tuple; [`ChainLink::Kept`] for `LOCK_UPDATED` of heap2.
pub(super) fn lock(page: &mut Page, change: &Change<'_>, link: ChainLink) -> Result<(), RedoError> {
    let mut main = Take::new(change.main);
    let (xmax, off, infobits) = (main.u32()?, main.u16()?, main.u8()?);
    let (mut tuple, _) = tuple_mut(page, off)?;
    tuple.set_infobits(infobits);
    tuple.set_xmax(xmax);
    if link == ChainLink::Ended {
        if tuple.is_locked_only() {
            tuple.set_hot_updated(false);
            tuple.set_ctid(Tid { blk: change.blk, off });
        }
        tuple.clear_cid();
    }
    Ok(())
}

/// Overwrites a tuple's data by others of the same length, outside of any transaction.
fn inplace(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let off = Take::new(change.main).u16()?;
    let hoff = tuple_mut(page, off)?.0.hoff();
    match page.item_mut(off)?.get_mut(hoff..) {
        Some(old) if old.len() == change.data.len() => old.copy_from_slice(change.data),
        _ => return Err(RedoError::Precondition("a tuple is overwritten by one of another length")),
    }
    Ok(())
}

/// The oldest transaction whose end can make something on the page prunable (`PageSetPrunable`).
fn mark_prunable(page: &mut Page, xid: u32) {
    let hint = page.prune_xid();
    if hint == 0 || precedes(xid, hint) {
        page.set_prune_xid(xid);
    }
}

/// Whether transaction `a` is older than `b`: they wrap around, but for the first three (`TransactionIdPrecedes`).
fn precedes(a: u32, b: u32) -> bool {
    const FIRST_NORMAL: u32 = 3;
    if a < FIRST_NORMAL || b < FIRST_NORMAL { a < b } else { a.wrapping_sub(b) > i32::MAX as u32 }
}

#[cfg(test)]
mod tests;
