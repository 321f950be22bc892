//! Redo of heap2: several tuples of a page at once, and visibility.
//!
//! Source: PostgreSQL 15 `src/backend/access/heap/heapam.c`, 18 `heapam_xlog.c`, `heap2_redo`.

use super::heap::{ALL_VISIBLE_CLEARED, ChainLink, lock, prepare};
use super::opcode::{FREEZE, LOCK_UPDATED, MULTI_INSERT, OPCODE, PRUNE, VACUUM, VISIBLE};
use super::tuple::{Logged, Tid};
use super::{Change, Context, RedoError, prune, vm};
use crate::page::items::Place;
use crate::page::{PD_ALL_VISIBLE, Page};
use crate::read::Take;

/// Flag of inserts: all tuples of the page are frozen, and so visible.
const ALL_FROZEN_SET: u8 = 0x20;

/// Applies one change.
///
/// # Errors
/// See [`RedoError`].
pub fn redo(page: &mut Page, change: &Change<'_>, ctx: &Context) -> Result<(), RedoError> {
    match (change.info & OPCODE, change.block, vm::is_map_block(change)) {
        (VISIBLE, 0, true) => return vm::redo_visible(page, change, ctx),
        (VISIBLE, 1, false) => {
            page.change_flags(0, PD_ALL_VISIBLE);
            if change.hint_lsn {
                page.set_lsn(ctx.end);
            }
            return Ok(());
        }
        (_, _, true) => return vm::redo_cleared(page, change, ctx),
        (PRUNE | VACUUM | FREEZE, 0, false) => prune::redo(page, change, ctx)?,
        (MULTI_INSERT, 0, false) => multi_insert(page, change)?,
        (LOCK_UPDATED, 0, false) => lock(page, change, ChainLink::Kept)?,
        // Command ids and rewrites are for logical decoding; their records have no blocks.
        _ => return Err(RedoError::Block(change.block)),
    }
    page.set_lsn(ctx.end);
    Ok(())
}

fn multi_insert(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let mut main = Take::new(change.main);
    let flags = main.u8()?;
    main.skip(1)?;
    let n = main.u16()?;
    prepare(page, change)?;
    let mut data = Take::new(change.data);
    for i in 0..n {
        // On a page made from nothing the tuples get the first numbers, so the record omits them.
        let off = if change.init { i.saturating_add(1) } else { main.u16()? };
        // Each tuple starts at an even byte.
        data.skip((change.data.len() - data.left()) % 2)?;
        let len = usize::from(data.u16()?);
        let logged = Logged::read(&mut data)?;
        let tuple = logged.build(change.xid, 0, Tid { blk: change.blk, off }, &[data.bytes(len)?]);
        page.add_item_at(&tuple, off, Place::Heap)?;
    }
    if data.left() != 0 {
        return Err(RedoError::Precondition("the record has more bytes than its tuples"));
    }
    if flags & ALL_VISIBLE_CLEARED != 0 {
        page.change_flags(PD_ALL_VISIBLE, 0);
    }
    if flags & ALL_FROZEN_SET != 0 {
        page.change_flags(0, PD_ALL_VISIBLE);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
