//! Pages of a B-tree: the special space, pages restored from a record, the metadata page.
//!
//! Invariant: nothing here touches a page whose special space is not at a B-tree's place.
//!
//! Source: PostgreSQL 15, `src/include/access/nbtree.h`; `_bt_restore_page`, `_bt_restore_meta` and
//! `_bt_clear_incomplete_split` in `nbtxlog.c`.

use crate::page::{PAGE_HEADER_LEN, PAGE_SIZE, Page};
use crate::read::Take;
use crate::redo::RedoError;
use crate::redo::index::{TID_LEN, expect_special, tid};
use crate::redo::itup::{TUPLE_HEADER_LEN, take_tuple};
use crate::rel::BlockNumber;

/// `btpo_flags`: a leaf.
pub(super) const LEAF: u16 = 1;
/// `btpo_flags`: the root.
pub(super) const ROOT: u16 = 2;
/// `btpo_flags`: deleted from the tree.
pub(super) const DELETED: u16 = 4;
/// `btpo_flags`: the metadata page.
pub(super) const META: u16 = 8;
/// `btpo_flags`: empty, but still between its siblings.
pub(super) const HALF_DEAD: u16 = 0x10;
/// `btpo_flags`: has dead line pointers, a hint.
pub(super) const HAS_GARBAGE: u16 = 0x40;
/// `btpo_flags`: the parent has no downlink to the right sibling yet.
pub(super) const INCOMPLETE_SPLIT: u16 = 0x80;
/// `btpo_flags`: a deleted page that says since when.
pub(super) const HAS_FULLXID: u16 = 0x100;

/// No sibling (`P_NONE`).
pub(super) const NONE: BlockNumber = 0;
/// The line pointer of the high key, on pages that have one (`P_HIKEY`).
pub(super) const HIGH_KEY: u16 = 1;

/// `t_info`: the tid is not a heap tuple's (`INDEX_ALT_TID_MASK`).
pub(super) const ALT_TID: u16 = 0x2000;

const SPECIAL_LEN: usize = 16;
const SPECIAL_AT: usize = PAGE_SIZE - SPECIAL_LEN;

/// `BTREE_MAGIC` of `nbtree.h`, the first field of the metapage.
const META_MAGIC: u32 = 0x05_3162;
/// Fields of `BTMetaPageData`, from the page's start.
const META_HEAP_TUPLES_AT: usize = 56;
const META_ALLEQUALIMAGE_AT: usize = 64;
const META_END: usize = 72;

/// The special space (`BTPageOpaqueData`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct BtreeSpecial {
    /// Left sibling, or [`NONE`].
    pub(super) prev: BlockNumber,
    /// Right sibling, or [`NONE`].
    pub(super) next: BlockNumber,
    /// Height above the leaves.
    pub(super) level: u32,
    /// `btpo_flags`: leaf, root, deleted and the other `BTP_*` of `nbtree.h`.
    pub(super) flags: u16,
    /// Which vacuum the page was last split during.
    pub(super) cycle: u16,
}

impl BtreeSpecial {
    /// Reads that of `page`.
    ///
    /// # Errors
    /// When it cannot be a B-tree's page.
    pub(super) fn of(page: &Page) -> Result<BtreeSpecial, RedoError> {
        expect_special(page, SPECIAL_LEN)?;
        let mut take = Take::new(page.bytes(SPECIAL_AT, SPECIAL_LEN)?);
        let (prev, next, level) = (take.u32()?, take.u32()?, take.u32()?);
        Ok(BtreeSpecial { prev, next, level, flags: take.u16()?, cycle: take.u16()? })
    }

    /// Writes it to a page that has one.
    ///
    /// # Errors
    /// None in practice: the place lies within every page.
    pub(super) fn put(self, page: &mut Page) -> Result<(), RedoError> {
        page.put_u32(SPECIAL_AT, self.prev)?;
        page.put_u32(SPECIAL_AT + 4, self.next)?;
        page.put_u32(SPECIAL_AT + 8, self.level)?;
        page.put_u16(SPECIAL_AT + 12, self.flags)?;
        Ok(page.put_u16(SPECIAL_AT + 14, self.cycle)?)
    }

    /// Makes `page` an empty one with this special space (`_bt_pageinit`).
    ///
    /// # Errors
    /// As [`BtreeSpecial::put`].
    pub(super) fn init(self, page: &mut Page) -> Result<(), RedoError> {
        page.init(SPECIAL_LEN);
        self.put(page)
    }

    /// Changes that of `page`.
    ///
    /// # Errors
    /// As [`BtreeSpecial::of`].
    pub(super) fn update(page: &mut Page, change: impl FnOnce(&mut BtreeSpecial)) -> Result<(), RedoError> {
        let mut special = BtreeSpecial::of(page)?;
        change(&mut special);
        special.put(page)
    }

    /// The first line pointer that is not the high key (`P_FIRSTDATAKEY`).
    pub(super) fn first_data_key(&self) -> u16 {
        if self.next == NONE { HIGH_KEY } else { HIGH_KEY + 1 }
    }
}

/// [`LEAF`] on level 0.
pub(super) const fn leaf_flag(level: u32) -> u16 {
    if level == 0 { LEAF } else { 0 }
}

/// Clears the mark of an incomplete split (`_bt_clear_incomplete_split`).
pub(super) fn end_split(page: &mut Page) -> Result<(), RedoError> {
    BtreeSpecial::update(page, |special| special.flags &= !INCOMPLETE_SPLIT)
}

/// Puts the tuples of a whole page onto an empty one (`_bt_restore_page`).
///
/// `data` is what lay between upper and special, so the last line pointer's tuple comes first. They are added from
/// the first line pointer on, which gives each one its old place.
pub(super) fn restore_items(page: &mut Page, data: &[u8]) -> Result<(), RedoError> {
    let (mut take, mut tuples) = (Take::new(data), Vec::new());
    while take.left() > 0 {
        tuples.push(take_tuple(&mut take)?);
    }
    for tuple in tuples.into_iter().rev() {
        page.add_item(tuple)?;
    }
    Ok(())
}

/// Makes the metadata page (`_bt_restore_meta`).
pub(super) fn restore_meta(page: &mut Page, data: &[u8]) -> Result<(), RedoError> {
    let mut take = Take::new(data);
    // Version, root, level, fast root, fast level, deleted pages at the last cleanup: the same order on the page.
    let fields = take.bytes(24)?;
    let allequalimage = take.bool()?;
    BtreeSpecial { flags: META, ..BtreeSpecial::default() }.init(page)?;
    page.put_u32(PAGE_HEADER_LEN, META_MAGIC)?;
    page.put(PAGE_HEADER_LEN + 4, fields)?;
    page.put(META_HEAP_TUPLES_AT, &(-1.0_f64).to_le_bytes())?;
    page.put(META_ALLEQUALIMAGE_AT, &[u8::from(allequalimage)])?;
    page.set_lower(META_END);
    Ok(())
}

/// Makes a half-dead leaf, whose only tuple leads to the top of the branch that is being deleted.
pub(super) fn init_half_dead(
    page: &mut Page,
    prev: BlockNumber,
    next: BlockNumber,
    top_parent: BlockNumber,
) -> Result<(), RedoError> {
    BtreeSpecial { prev, next, level: 0, flags: HALF_DEAD | LEAF, cycle: 0 }.init(page)?;
    let mut high_key = [0; TUPLE_HEADER_LEN];
    high_key[..TID_LEN].copy_from_slice(&tid(top_parent, 0));
    high_key[TID_LEN..].copy_from_slice(&(TUPLE_HEADER_LEN as u16 | ALT_TID).to_le_bytes());
    page.add_item(&high_key)?;
    Ok(())
}
