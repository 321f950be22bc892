//! The visibility map: two bits for each heap block, and the records that change them.
//!
//! Since 17.11 and 18.6, a record that clears a bit references the map's page as one of its blocks, if the bit was set.
//! Before, and in all of 14-16, only its flags say that the bits are now clear. A server can be upgraded in the middle
//! of a log, so the record's references decide, never the version. For records without the reference, ingest makes
//! changes of its own ([`implied_clears`], [`CLEAR`]); they do not set the page's LSN, and neither does PostgreSQL.
//!
//! Source: PostgreSQL 15 `src/backend/access/heap/visibilitymap.c`; 18 `heap_xlog_vm_clear`, `heap_xlog_update` and
//! `heap_xlog_visible` in `heapam_xlog.c`.

use smallvec::SmallVec;

use super::opcode::{DELETE, HOT_UPDATE, INSERT, LOCK, LOCK_UPDATED, MULTI_INSERT, OPCODE, UPDATE};
use super::{Change, Context, RedoError, rmid};
use crate::page::{PAGE_HEADER_LEN, PAGE_SIZE, Page, PageError};
use crate::read::Take;
use crate::rel::{BlockNumber, Fork, RelFileLocator};
use crate::wal::RecordHeader;
use crate::wal::body::RecordBody;

/// All tuples of the block are visible to everyone (`VISIBILITYMAP_ALL_VISIBLE`).
pub const ALL_VISIBLE: u8 = 1;
/// All tuples of the block are frozen (`VISIBILITYMAP_ALL_FROZEN`).
pub const ALL_FROZEN: u8 = 2;
/// Both bits of a block (`VISIBILITYMAP_VALID_BITS`).
pub const VALID_BITS: u8 = ALL_VISIBLE | ALL_FROZEN;
/// Heap blocks that one page of the map covers (`HEAPBLOCKS_PER_PAGE`).
pub const HEAP_BLOCKS_PER_PAGE: u32 = (MAP_LEN * 4) as u32;

/// `info` of our change that clears bits of heap blocks: data [`clear`], once or more.
pub const CLEAR: u8 = 0x10;
/// `info` of our change that clears the bits of blocks that were cut off: data [`truncate`].
pub const TRUNCATE: u8 = 0x20;

const MAP_LEN: usize = PAGE_SIZE - PAGE_HEADER_LEN;

/// The map's block that has the bits of `heap_blk`.
pub const fn map_block(heap_blk: BlockNumber) -> BlockNumber {
    heap_blk / HEAP_BLOCKS_PER_PAGE
}

/// Data of a [`CLEAR`] change: bits `mask` of heap block `heap_blk`.
pub const fn clear(heap_blk: BlockNumber, mask: u8) -> [u8; 5] {
    let blk = heap_blk.to_le_bytes();
    [mask, blk[0], blk[1], blk[2], blk[3]]
}

/// Data of a [`TRUNCATE`] change: heap block `first_gone` and all behind it are gone.
pub const fn truncate(first_gone: BlockNumber) -> [u8; 4] {
    first_gone.to_le_bytes()
}

/// Whether the change is to a block of a visibility map.
pub fn is_map_block(change: &Change<'_>) -> bool {
    change.fork == Fork::Vm
}

/// A heap block whose bits a record clears: relation, heap block, which bits.
pub type Cleared = (RelFileLocator, BlockNumber, u8);

/// The bits that a record clears without naming the map's page: each becomes a [`CLEAR`] change of
/// [`map_block`], unless the map has no such page.
///
/// # Errors
/// When the record is too short for its type.
pub fn implied_clears(header: &RecordHeader, body: &RecordBody<'_>) -> Result<SmallVec<[Cleared; 2]>, RedoError> {
    let mut cleared = SmallVec::new();
    let Some(masks) = Masks::of(header.rmid, header.info, body.main)? else { return Ok(cleared) };
    // A reference may be missing because the bit was clear already. So one reference shows that the server writes
    // references, and that nothing else is cleared.
    if masks.is_empty() || body.blocks.iter().any(|b| b.tag.fork.fork == Fork::Vm) {
        return Ok(cleared);
    }
    let new = body.block(0).ok_or(RedoError::NoRef(0))?.tag;
    let old = body.block(1).map_or(new, |b| b.tag);
    for (tag, mask) in [(old, masks.old), (new, masks.new)] {
        if mask != 0 {
            cleared.push((tag.fork.rel, tag.blk, mask));
        }
    }
    Ok(cleared)
}

/// Which bits a record clears: of the heap block in reference 0, and of the one that an update's old tuple is in.
struct Masks {
    new: u8,
    old: u8,
}

impl Masks {
    /// `None` for types of records that clear none.
    fn of(rmid: u8, info: u8, main: &[u8]) -> Result<Option<Masks>, RedoError> {
        let flag = |at: usize, bit: u8, mask: u8| {
            let flags = *main.get(at).ok_or(RedoError::Short)?;
            Ok::<u8, RedoError>(if flags & bit != 0 { mask } else { 0 })
        };
        let (new, old) = match (rmid, info & OPCODE) {
            (rmid::HEAP, INSERT) => (flag(2, 1, VALID_BITS)?, 0),
            (rmid::HEAP, DELETE) => (flag(7, 1, VALID_BITS)?, 0),
            (rmid::HEAP, UPDATE | HOT_UPDATE) => (flag(7, 2, VALID_BITS)?, flag(7, 1, VALID_BITS)?),
            (rmid::HEAP, LOCK) | (rmid::HEAP2, LOCK_UPDATED) => (flag(7, 1, ALL_FROZEN)?, 0),
            (rmid::HEAP2, MULTI_INSERT) => (flag(0, 1, VALID_BITS)?, 0),
            _ => return Ok(None),
        };
        Ok(Some(Masks { new, old }))
    }

    const fn is_empty(&self) -> bool {
        self.new | self.old == 0
    }
}

/// Clears the bits that a heap record clears and names the map's page for.
pub(super) fn redo_cleared(page: &mut Page, change: &Change<'_>, ctx: &Context) -> Result<(), RedoError> {
    let wrong = RedoError::Block(change.block);
    let Some(masks) = Masks::of(change.rmid, change.info, change.main)? else { return Err(wrong) };
    let is_update = change.rmid == rmid::HEAP && matches!(change.info & OPCODE, UPDATE | HOT_UPDATE);
    let new = change.required(0)?;
    let mut doomed: SmallVec<[(BlockNumber, u8); 2]> = SmallVec::new();
    match (is_update, change.block) {
        (false, 1) => doomed.push((new, masks.new)),
        (true, 2) => {
            // One page of the map may cover both heap blocks; the record then references it once, as the new tuple's.
            let old = change.reference(1).unwrap_or(new);
            if map_block(old) == change.blk {
                doomed.push((old, masks.old));
            }
            doomed.push((new, masks.new));
        }
        (true, 3) => doomed.push((change.reference(1).unwrap_or(new), masks.old)),
        _ => return Err(wrong),
    }
    if page.is_new() {
        return Ok(());
    }
    for (heap_blk, mask) in doomed {
        if map_block(heap_blk) != change.blk {
            return Err(RedoError::Precondition("the visibility map's page does not cover the heap block"));
        }
        if clear_bits(page, heap_blk, mask)? {
            page.set_lsn(ctx.end);
        }
    }
    Ok(())
}

/// Sets the bits of the heap block in reference 1.
pub(super) fn redo_visible(page: &mut Page, change: &Change<'_>, ctx: &Context) -> Result<(), RedoError> {
    let mut main = Take::new(change.main);
    main.skip(4)?;
    let bits = main.u8()? & VALID_BITS;
    let heap_blk = change.required(1)?;
    if map_block(heap_blk) != change.blk {
        return Err(RedoError::Precondition("the visibility map's page does not cover the heap block"));
    }
    if page.is_new() {
        page.init(0);
    }
    let (at, shift) = place(heap_blk);
    let byte = &mut page.bytes_mut(at, 1)?[0];
    if *byte >> shift & VALID_BITS != bits {
        *byte |= bits << shift;
        page.set_lsn(ctx.end);
    }
    Ok(())
}

/// Applies one of our own changes; a page that was never initialised has no bits to clear.
///
/// # Errors
/// See [`RedoError`].
pub fn redo(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let mut data = Take::new(change.data);
    match change.info {
        CLEAR => loop {
            let (mask, heap_blk) = (data.u8()?, data.u32()?);
            if map_block(heap_blk) != change.blk {
                return Err(RedoError::Precondition("the visibility map's page does not cover the heap block"));
            }
            if !page.is_new() {
                clear_bits(page, heap_blk, mask & VALID_BITS)?;
            }
            if data.left() == 0 {
                return Ok(());
            }
        },
        TRUNCATE => {
            let first_gone = data.u32()?;
            if !page.is_new() {
                clear_tail(page, change.blk, first_gone)?;
            }
            Ok(())
        }
        _ => Err(change.unknown()),
    }
}

/// Where the bits of a heap block are: which byte of its page of the map, and how far up in it.
const fn place(heap_blk: BlockNumber) -> (usize, u32) {
    (PAGE_HEADER_LEN + (heap_blk % HEAP_BLOCKS_PER_PAGE / 4) as usize, heap_blk % 4 * 2)
}

/// Whether one of the bits was set (`visibilitymap_clear_locked`).
fn clear_bits(page: &mut Page, heap_blk: BlockNumber, mask: u8) -> Result<bool, PageError> {
    let (at, shift) = place(heap_blk);
    let byte = &mut page.bytes_mut(at, 1)?[0];
    let changes = *byte & mask << shift != 0;
    *byte &= !(mask << shift);
    Ok(changes)
}

/// Clears the bits of `first_gone` and all behind it in block `blk` of the map (`visibilitymap_prepare_truncate`).
fn clear_tail(page: &mut Page, blk: BlockNumber, first_gone: BlockNumber) -> Result<(), PageError> {
    let kept = map_block(first_gone);
    if kept > blk {
        return Ok(());
    }
    let (at, shift) = if kept == blk { place(first_gone) } else { (PAGE_HEADER_LEN, 0) };
    let tail = page.bytes_mut(at, PAGE_SIZE - at)?;
    tail[0] &= (1 << shift) - 1;
    tail[1..].fill(0);
    Ok(())
}

#[cfg(test)]
mod tests;
