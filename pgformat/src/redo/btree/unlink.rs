//! Deletion of pages in its two steps, and new roots (`btree_xlog_mark_page_halfdead`, `btree_xlog_unlink_page`,
//! `btree_xlog_newroot`).

use super::page::{BtreeSpecial, DELETED, HAS_FULLXID, NONE, ROOT, init_half_dead, leaf_flag, restore_items};
use crate::page::{PAGE_HEADER_LEN, Page};
use crate::read::Take;
use crate::redo::{Change, RedoError};
use crate::rel::BlockNumber;

/// Main data of the first step (`xl_btree_mark_page_halfdead`).
struct HalfDead {
    /// The downlink that goes, in the parent.
    parent_off: u16,
    left: BlockNumber,
    right: BlockNumber,
    top_parent: BlockNumber,
}

impl HalfDead {
    fn read(main: &[u8]) -> Result<HalfDead, RedoError> {
        let mut take = Take::new(main);
        let parent_off = take.u16()?;
        // Padding, and the leaf's own number.
        take.skip(2 + 4)?;
        Ok(HalfDead { parent_off, left: take.u32()?, right: take.u32()?, top_parent: take.u32()? })
    }
}

/// Block 0 of MARK_PAGE_HALFDEAD: the leaf.
pub(super) fn half_dead(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let main = HalfDead::read(change.main)?;
    init_half_dead(page, main.left, main.right, main.top_parent)
}

/// Block 1 of MARK_PAGE_HALFDEAD: the parent. The downlink takes over its right neighbour's target, and that goes.
pub(super) fn parent(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    BtreeSpecial::of(page)?;
    let off = HalfDead::read(change.main)?.parent_off;
    let next = off.checked_add(1).ok_or(RedoError::Precondition("there is no line pointer 65536"))?;
    let target = Take::new(page.item(next)?).array::<4>()?;
    let downlink = page.item_mut(off)?;
    downlink.get_mut(..target.len()).ok_or(RedoError::Short)?.copy_from_slice(&target);
    Ok(page.index_delete(next)?)
}

/// Main data of the second step (`xl_btree_unlink_page`).
struct Unlink {
    left: BlockNumber,
    right: BlockNumber,
    level: u32,
    /// The page may be reused when no transaction before this one runs any more; a full transaction id.
    safe_xid: u64,
    leaf_left: BlockNumber,
    leaf_right: BlockNumber,
    leaf_top_parent: BlockNumber,
}

impl Unlink {
    fn read(main: &[u8]) -> Result<Unlink, RedoError> {
        let mut take = Take::new(main);
        let (left, right, level) = (take.u32()?, take.u32()?, take.u32()?);
        take.skip(4)?;
        let safe_xid = take.u64()?;
        let (leaf_left, leaf_right, leaf_top_parent) = (take.u32()?, take.u32()?, take.u32()?);
        Ok(Unlink { left, right, level, safe_xid, leaf_left, leaf_right, leaf_top_parent })
    }
}

/// Block 0 of UNLINK_PAGE: the page that goes. It says since when, and keeps its links for scans that are on it.
pub(super) fn target(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let main = Unlink::read(change.main)?;
    let flags = DELETED | HAS_FULLXID | leaf_flag(main.level);
    BtreeSpecial { prev: main.left, next: main.right, level: main.level, flags, cycle: 0 }.init(page)?;
    let safe_xid = main.safe_xid.to_le_bytes();
    page.put(PAGE_HEADER_LEN, &safe_xid)?;
    page.set_lower(PAGE_HEADER_LEN + safe_xid.len());
    Ok(())
}

/// Block 1 of UNLINK_PAGE.
pub(super) fn left_sibling(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let right = Unlink::read(change.main)?.right;
    BtreeSpecial::update(page, |special| special.next = right)
}

/// Block 2 of UNLINK_PAGE.
pub(super) fn right_sibling(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let left = Unlink::read(change.main)?.left;
    BtreeSpecial::update(page, |special| special.prev = left)
}

/// Block 3 of UNLINK_PAGE: the leaf below the page that goes, which now leads to the next one of the branch.
pub(super) fn leaf(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let main = Unlink::read(change.main)?;
    init_half_dead(page, main.leaf_left, main.leaf_right, main.leaf_top_parent)
}

/// Block 0 of NEWROOT. Main is its number and level; data are its tuples, if it is not a leaf.
pub(super) fn new_root(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let mut main = Take::new(change.main);
    main.skip(4)?;
    let level = main.u32()?;
    BtreeSpecial { prev: NONE, next: NONE, level, flags: ROOT | leaf_flag(level), cycle: 0 }.init(page)?;
    if level > 0 { restore_items(page, change.data) } else { Ok(()) }
}
