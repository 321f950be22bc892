//! Page splits (`btree_xlog_split`).

use super::page::{BtreeSpecial, INCOMPLETE_SPLIT, NONE, leaf_flag, restore_items};
use super::posting;
use crate::page::Page;
use crate::read::Take;
use crate::redo::itup::{all_read, take_tuple};
use crate::redo::{Change, RedoError};

/// Main data (`xl_btree_split`). Line pointers are those of the page before the split.
struct Split {
    level: u32,
    /// The first one that goes to the right page.
    first_right: u16,
    /// Where the new tuple comes.
    new_off: u16,
    /// Where the posting list before the new tuple is split; 0 if it is not, or is on the right page.
    posting_off: u16,
}

impl Split {
    fn read(main: &[u8]) -> Result<Split, RedoError> {
        let mut take = Take::new(main);
        Ok(Split { level: take.u32()?, first_right: take.u16()?, new_off: take.u16()?, posting_off: take.u16()? })
    }
}

/// Block 1: the new page, all of whose tuples are in the record.
pub(super) fn right(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let level = Split::read(change.main)?.level;
    let (prev, next) = (change.required(0)?, change.reference(2).unwrap_or(NONE));
    BtreeSpecial { prev, next, level, flags: leaf_flag(level), cycle: 0 }.init(page)?;
    restore_items(page, change.data)
}

/// Block 2: the page that was the left one's sibling.
pub(super) fn old_right_sibling(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let right = change.required(1)?;
    BtreeSpecial::update(page, |special| special.prev = right)
}

/// Block 0: the page that was split, made anew from its own tuples in their order, the new tuple and a new high key.
pub(super) fn left(page: &mut Page, change: &Change<'_>, new_is_left: bool) -> Result<(), RedoError> {
    let split = Split::read(change.main)?;
    let old = page.clone();
    let special = BtreeSpecial::of(&old)?;
    let mut data = Take::new(change.data);
    let mut new = Vec::new();
    if new_is_left || split.posting_off != 0 {
        new = take_tuple(&mut data)?.to_vec();
    }
    let high_key = take_tuple(&mut data)?;
    all_read(&data)?;
    let list_off = split.new_off.wrapping_sub(1);
    let mut list = None;
    if split.posting_off != 0 {
        let mut tuple = old.item(list_off)?.to_vec();
        posting::swap(&mut new, &mut tuple, split.posting_off)?;
        list = Some(tuple);
    }

    let next = change.required(1)?;
    let flags = INCOMPLETE_SPLIT | leaf_flag(split.level);
    BtreeSpecial { next, flags, cycle: 0, ..special }.init(page)?;
    page.add_item(high_key)?;
    // When the new tuple comes after all others, the loop over the old tuples does not place it.
    let mut to_come = new_is_left;
    for off in special.first_data_key()..split.first_right {
        if to_come && off == split.new_off {
            page.add_item(&new)?;
            to_come = false;
        }
        match list.take_if(|_| off == list_off) {
            Some(list) => page.add_item(&list)?,
            None => page.add_item(old.item(off)?)?,
        };
    }
    if to_come && split.first_right == split.new_off {
        page.add_item(&new)?;
        to_come = false;
    }
    if to_come || list.is_some() {
        return Err(RedoError::Precondition("a tuple for the left page of a split does not belong there"));
    }
    Ok(())
}
