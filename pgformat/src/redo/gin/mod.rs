//! Redo of GIN: the entry tree, posting trees, the list of pending entries.
//!
//! A page of the entry tree holds index tuples. From byte 32 on, an inner page of a posting tree holds posting items,
//! and a leaf holds compressed segments ([`recompress`]); `pd_lower` is their end. Splits, and vacuum of an entry page,
//! are logged as images.
//!
//! Source: PostgreSQL 14-18 (the same in all), `src/backend/access/gin/ginxlog.c`, `ginutil.c` (`GinInitPage`,
//! `GinInitMetabuffer`), `gindatapage.c`, `src/include/access/ginblock.h`, `ginxlog.h`.

mod page;
mod posting;
mod recompress;
#[cfg(test)]
mod tests;

use super::index::{TID_LEN, append_tuples, take_block_id, take_packed_tuple, tid};
use super::itup::{all_read, tuple_len};
use super::{Change, Context, RedoError};
use crate::page::items::Place;
use crate::page::{PAGE_HEADER_LEN, Page};
use crate::read::Take;
use crate::rel::{BlockNumber, NO_BLOCK};
use page::{
    COMPRESSED, DATA, DELETED, INCOMPLETE_SPLIT, ITEMS, LEAF, LIST, LIST_FULLROW, MAXOFF, META, RIGHTLINK,
    change_flags, expect_old, expect_old_page, flags, init, set_items,
};

const CREATE_PTREE: u8 = 0x10;
const INSERT: u8 = 0x20;
const SPLIT: u8 = 0x30;
const VACUUM_PAGE: u8 = 0x40;
const DELETE_PAGE: u8 = 0x50;
const UPDATE_META_PAGE: u8 = 0x60;
const INSERT_LISTPAGE: u8 = 0x70;
const DELETE_LISTPAGE: u8 = 0x80;
const VACUUM_DATA_LEAF_PAGE: u8 = 0x90;

/// Flags of inserts and splits: it is about a posting tree, a leaf.
const INSERT_ISDATA: u16 = 1;
const INSERT_ISLEAF: u16 = 2;

/// Length of a posting item: child block, then the highest key below it.
const POSTING_ITEM_LEN: usize = 10;
const BLOCK_ID_LEN: usize = 4;
/// Length of the metapage's content, as it is on the page and in records.
const META_LEN: usize = 56;

/// Applies one change.
///
/// # Errors
/// See [`RedoError`].
pub fn redo(page: &mut Page, change: &Change<'_>, ctx: &Context) -> Result<(), RedoError> {
    let mut main = Take::new(change.main);
    match (change.info, change.block) {
        (CREATE_PTREE, 0) => create_posting_tree(page, change, &mut main)?,
        (INSERT, 0) => insert(page, change, &mut main)?,
        (INSERT, 1) => clear_incomplete_split(page, change, &mut main)?,
        (SPLIT, 3) => {
            // Relation, right link, left and right child.
            main.skip(12 + 12)?;
            clear_incomplete_split(page, change, &mut main)?;
        }
        (SPLIT, 0..=2) | (VACUUM_PAGE, 0) => {
            return Err(RedoError::Precondition("this change is always logged as an image, which is missing"));
        }
        (DELETE_PAGE, 0..=2) => delete_page(page, change, &mut main)?,
        (UPDATE_META_PAGE, 0) => {
            // The relation, padded.
            main.skip(16)?;
            write_meta(page, change, &mut main)?;
        }
        (UPDATE_META_PAGE, 1) => update_list_tail(page, change, &mut main)?,
        (INSERT_LISTPAGE, 0) => insert_list_page(page, change, &mut main)?,
        (DELETE_LISTPAGE, 0) => write_meta(page, change, &mut main)?,
        (DELETE_LISTPAGE, _) => delete_list_page(page, change, &mut main)?,
        (VACUUM_DATA_LEAF_PAGE, 0) => {
            expect_old(page, change, true)?;
            recompress::redo(page, change.data)?;
        }
        (CREATE_PTREE..=VACUUM_DATA_LEAF_PAGE, block) => return Err(RedoError::Block(block)),
        _ => return Err(change.unknown()),
    }
    page.set_lsn(ctx.end);
    Ok(())
}

fn create_posting_tree(page: &mut Page, change: &Change<'_>, main: &mut Take<'_>) -> Result<(), RedoError> {
    init(page, change, DATA | LEAF | COMPRESSED)?;
    let len = main.u32()?;
    let segments = main.bytes(len as usize)?;
    all_read(main)?;
    set_items(page, segments)
}

fn insert(page: &mut Page, change: &Change<'_>, main: &mut Take<'_>) -> Result<(), RedoError> {
    let flags = main.u16()?;
    let right = if flags & INSERT_ISLEAF == 0 {
        main.skip(BLOCK_ID_LEN)?;
        Some(take_block_id(main)?)
    } else {
        None
    };
    let is_data = flags & INSERT_ISDATA != 0;
    expect_old(page, change, is_data)?;
    match (is_data, right) {
        (false, right) => insert_entry(page, change.data, right),
        (true, Some(right)) => insert_posting_item(page, change.data, right),
        (true, None) => recompress::redo(page, change.data),
    }
}

/// Into a page of the entry tree. `right`: the right half of the child whose split this finishes.
fn insert_entry(page: &mut Page, data: &[u8], right: Option<BlockNumber>) -> Result<(), RedoError> {
    let mut data = Take::new(data);
    let (off, replaces) = (data.u16()?, data.bool()?);
    data.skip(1)?;
    let tuple = take_packed_tuple(&mut data)?;
    all_read(&data)?;
    if let Some(right) = right.filter(|right| *right != NO_BLOCK) {
        let old = page.item_mut(off)?;
        tuple_len(old)?;
        old[..TID_LEN].copy_from_slice(&tid(right, 0));
    }
    if replaces {
        page.index_delete(off)?;
    }
    Ok(page.add_item_at(tuple, off, Place::Shift)?)
}

/// Into an inner page of a posting tree (`ginRedoInsertData`, `GinDataPageAddPostingItem`).
fn insert_posting_item(page: &mut Page, data: &[u8], right: BlockNumber) -> Result<(), RedoError> {
    let mut data = Take::new(data);
    let (off, new) = (data.u16()?, data.array::<POSTING_ITEM_LEN>()?);
    all_read(&data)?;
    let (mut items, at) = posting_items(page, off)?;
    items[at..at + BLOCK_ID_LEN].copy_from_slice(&tid(right, 0)[..BLOCK_ID_LEN]);
    items.splice(at..at, new);
    set_posting_items(page, &items)
}

/// The posting items of an inner page, and where number `off` is among their bytes.
fn posting_items(page: &Page, off: u16) -> Result<(Vec<u8>, usize), RedoError> {
    if flags(page)? & LEAF != 0 {
        return Err(RedoError::Precondition("a leaf of a posting tree where an inner page should be"));
    }
    // Not `pd_lower`, which PostgreSQL did not set before 9.4.
    let max = page.u16_at(MAXOFF)?;
    if off == 0 || off > max {
        return Err(RedoError::Precondition("there is no such posting item"));
    }
    let items = page.bytes(ITEMS, usize::from(max) * POSTING_ITEM_LEN)?.to_vec();
    Ok((items, usize::from(off - 1) * POSTING_ITEM_LEN))
}

fn set_posting_items(page: &mut Page, items: &[u8]) -> Result<(), RedoError> {
    set_items(page, items)?;
    // At most 815 fit into a page.
    Ok(page.put_u16(MAXOFF, (items.len() / POSTING_ITEM_LEN) as u16)?)
}

/// The parent has got the downlink of this page's right half (`ginRedoClearIncompleteSplit`).
fn clear_incomplete_split(page: &mut Page, change: &Change<'_>, main: &mut Take<'_>) -> Result<(), RedoError> {
    if main.u16()? & INSERT_ISLEAF != 0 {
        return Err(RedoError::Block(change.block));
    }
    expect_old_page(page, change)?;
    change_flags(page, INCOMPLETE_SPLIT, 0)
}

/// A page of a posting tree goes: itself, its parent, its left neighbour.
fn delete_page(page: &mut Page, change: &Change<'_>, main: &mut Take<'_>) -> Result<(), RedoError> {
    expect_old(page, change, true)?;
    let parent_off = main.u16()?;
    main.skip(2)?;
    let (rightlink, delete_xid) = (main.u32()?, main.u32()?);
    match change.block {
        0 => {
            change_flags(page, 0, DELETED)?;
            // The transaction that might still reach this page, in the field that is a heap page's pruning hint.
            page.set_prune_xid(delete_xid);
        }
        1 => {
            let (mut items, at) = posting_items(page, parent_off)?;
            items.drain(at..at + POSTING_ITEM_LEN);
            set_posting_items(page, &items)?;
        }
        _ => page.put_u32(RIGHTLINK, rightlink)?,
    }
    Ok(())
}

fn write_meta(page: &mut Page, change: &Change<'_>, main: &mut Take<'_>) -> Result<(), RedoError> {
    init(page, change, META)?;
    page.put(PAGE_HEADER_LEN, main.bytes(META_LEN)?)?;
    page.set_lower(PAGE_HEADER_LEN + META_LEN);
    Ok(())
}

/// The last page of the pending list gets more entries, or a right neighbour.
fn update_list_tail(page: &mut Page, change: &Change<'_>, main: &mut Take<'_>) -> Result<(), RedoError> {
    expect_old_page(page, change)?;
    main.skip(16 + META_LEN)?;
    let (old_tail, new_rightlink, count) = (main.u32()?, main.u32()?, main.i32()?);
    if count > 0 {
        append_counted(page, change.data, count)?;
        let rows = page.u16_at(MAXOFF)?.checked_add(1);
        page.put_u16(MAXOFF, rows.ok_or(RedoError::Precondition("a pending list's page counts too many rows"))?)?;
    } else if old_tail != NO_BLOCK {
        page.put_u32(RIGHTLINK, new_rightlink)?;
    } else {
        return Err(RedoError::Block(change.block));
    }
    Ok(())
}

fn insert_list_page(page: &mut Page, change: &Change<'_>, main: &mut Take<'_>) -> Result<(), RedoError> {
    let (rightlink, count) = (main.u32()?, main.i32()?);
    all_read(main)?;
    let is_tail = rightlink == NO_BLOCK;
    init(page, change, if is_tail { LIST | LIST_FULLROW } else { LIST })?;
    page.put_u32(RIGHTLINK, rightlink)?;
    page.put_u16(MAXOFF, u16::from(is_tail))?;
    append_counted(page, change.data, count)
}

fn delete_list_page(page: &mut Page, change: &Change<'_>, main: &mut Take<'_>) -> Result<(), RedoError> {
    main.skip(META_LEN)?;
    if i32::from(change.block) > main.i32()? {
        return Err(RedoError::Block(change.block));
    }
    init(page, change, DELETED)
}

fn append_counted(page: &mut Page, data: &[u8], count: i32) -> Result<(), RedoError> {
    let appended = append_tuples(page, &mut Take::new(data))?;
    if usize::try_from(count) == Ok(appended) {
        return Ok(());
    }
    Err(RedoError::Precondition("a GIN record has another number of tuples than it says"))
}
