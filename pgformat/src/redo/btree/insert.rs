//! Insertions (`btree_xlog_insert`).

use super::page::BtreeSpecial;
use super::posting;
use crate::page::Page;
use crate::page::items::Place;
use crate::read::Take;
use crate::redo::itup::tuple_of;
use crate::redo::{Change, RedoError};

/// Block 0 of INSERT_LEAF, INSERT_UPPER and INSERT_META: main is where, data is the tuple.
pub(super) fn insert(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    BtreeSpecial::of(page)?;
    let off = Take::new(change.main).u16()?;
    Ok(page.add_item_at(change.data, off, Place::Shift)?)
}

/// Block 0 of INSERT_POST: the new tuple lies within the range of the posting list before it.
///
/// The list takes its tid in, and gives its own last one to the new tuple. Data is where the list is split, and the
/// tuple before that.
pub(super) fn insert_splitting_posting(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    BtreeSpecial::of(page)?;
    let off = Take::new(change.main).u16()?;
    let mut data = Take::new(change.data);
    let at = data.u16()?;
    let mut new = data.rest().to_vec();
    if tuple_of(&new)?.len() != new.len() {
        return Err(RedoError::Precondition("a new tuple of another length than its data"));
    }
    let list = off.checked_sub(1).ok_or(RedoError::Precondition("there is nothing before line pointer 0"))?;
    posting::swap(&mut new, page.item_mut(list)?, at)?;
    Ok(page.add_item_at(&new, off, Place::Shift)?)
}
