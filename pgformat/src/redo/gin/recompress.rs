//! Changes to the segments of a posting tree's leaf.
//!
//! The record lists actions; each names its segment by the number that the segment had before the change.
//!
//! Source: PostgreSQL 14-18 (the same in all), `ginRedoRecompress` in `src/backend/access/gin/ginxlog.c`.

use super::super::RedoError;
use super::super::itup::all_read;
use super::page::{COMPRESSED, ITEMS, LEAF, MAXOFF, change_flags, flags, set_items};
use super::posting::{Item, decode, encode, merge, take_segment};
use crate::page::Page;
use crate::read::Take;

const DELETE: u8 = 1;
const INSERT: u8 = 2;
const REPLACE: u8 = 3;
const ADD_ITEMS: u8 = 4;

/// Applies the actions in `data` to a leaf of a posting tree.
pub(super) fn redo(page: &mut Page, data: &[u8]) -> Result<(), RedoError> {
    if flags(page)? & LEAF == 0 {
        return Err(RedoError::Precondition("an inner page of a posting tree where a leaf should be"));
    }
    let old = if flags(page)? & COMPRESSED == 0 {
        compress(page)?
    } else {
        let len = page.lower().checked_sub(ITEMS);
        page.bytes(ITEMS, len.ok_or(RedoError::Precondition("a posting tree's leaf ends before its items"))?)?.to_vec()
    };
    set_items(page, &apply(&old, data)?)
}

/// Gives a leaf from before PostgreSQL 9.4, which has plain items, the form of today; its segments.
fn compress(page: &mut Page) -> Result<Vec<u8>, RedoError> {
    let count = usize::from(page.u16_at(MAXOFF)?);
    let items = Item::take_all(&mut Take::new(&page.0[ITEMS..]), count)?;
    change_flags(page, 0, COMPRESSED)?;
    page.put_u16(MAXOFF, 0)?;
    if items.is_empty() { Ok(Vec::new()) } else { encode(&items) }
}

/// What the segments become.
fn apply(old: &[u8], data: &[u8]) -> Result<Vec<u8>, RedoError> {
    let (mut old, mut data) = (Take::new(old), Take::new(data));
    let mut new = Vec::new();
    // Number of old segments passed so far.
    let mut at = 0;
    for _ in 0..data.u16()? {
        let (segment_no, action) = (usize::from(data.u8()?), data.u8()?);
        if segment_no < at {
            return Err(RedoError::Precondition("actions on posting lists are out of order"));
        }
        while at < segment_no {
            new.extend_from_slice(take_segment(&mut old)?);
            at += 1;
        }
        match action {
            DELETE => drop(take_segment(&mut old)?),
            INSERT => {
                // Goes in front of the segment with that number, which stays.
                new.extend_from_slice(take_segment(&mut data)?);
                continue;
            }
            REPLACE => {
                take_segment(&mut old)?;
                new.extend_from_slice(take_segment(&mut data)?);
            }
            ADD_ITEMS => {
                let count = usize::from(data.u16()?);
                let added = Item::take_all(&mut data, count)?;
                let items = merge(decode(take_segment(&mut old)?)?, &added);
                new.extend_from_slice(&encode(&items)?);
            }
            _ => return Err(RedoError::Precondition("an unknown action on a posting list")),
        }
        at += 1;
    }
    all_read(&data)?;
    new.extend_from_slice(old.rest());
    Ok(new)
}
