//! Pages of GIN: the places of their special space, their flags and a posting tree's items.
//!
//! Source: PostgreSQL 14-18 (the same in all), `src/include/access/ginblock.h`, `GinInitPage` in `ginutil.c`.

use super::super::index::{expect_init, expect_special};
use super::super::{Change, RedoError};
use crate::page::{PAGE_HEADER_LEN, PAGE_SIZE, Page};
use crate::rel::NO_BLOCK;

pub(super) const SPECIAL_LEN: usize = 8;
pub(super) const SPECIAL: usize = PAGE_SIZE - SPECIAL_LEN;
pub(super) const RIGHTLINK: usize = SPECIAL;
/// How many posting items, or on the pending list: how many heap tuples.
pub(super) const MAXOFF: usize = SPECIAL + 4;
pub(super) const FLAGS: usize = SPECIAL + 6;

pub(super) const DATA: u16 = 1;
pub(super) const LEAF: u16 = 2;
pub(super) const DELETED: u16 = 4;
pub(super) const META: u16 = 8;
pub(super) const LIST: u16 = 0x10;
pub(super) const LIST_FULLROW: u16 = 0x20;
pub(super) const INCOMPLETE_SPLIT: u16 = 0x40;
pub(super) const COMPRESSED: u16 = 0x80;

/// Where a posting tree's items begin, behind the page's right bound.
pub(super) const ITEMS: usize = PAGE_HEADER_LEN + 8;

pub(super) fn init(page: &mut Page, change: &Change<'_>, flags: u16) -> Result<(), RedoError> {
    expect_init(change, true)?;
    page.init(SPECIAL_LEN);
    page.put_u32(RIGHTLINK, NO_BLOCK)?;
    Ok(page.put_u16(FLAGS, flags)?)
}

pub(super) fn expect_old_page(page: &Page, change: &Change<'_>) -> Result<(), RedoError> {
    expect_init(change, false)?;
    expect_special(page, SPECIAL_LEN)
}

/// Checks that the page has content, and which kind of tree it belongs to.
pub(super) fn expect_old(page: &Page, change: &Change<'_>, is_data: bool) -> Result<(), RedoError> {
    expect_old_page(page, change)?;
    if (flags(page)? & DATA != 0) == is_data {
        return Ok(());
    }
    Err(RedoError::Precondition("entry tree and posting tree are mixed up"))
}

pub(super) fn flags(page: &Page) -> Result<u16, RedoError> {
    Ok(page.u16_at(FLAGS)?)
}

pub(super) fn change_flags(page: &mut Page, clear: u16, set: u16) -> Result<(), RedoError> {
    let flags = flags(page)? & !clear | set;
    Ok(page.put_u16(FLAGS, flags)?)
}

/// Replaces what a posting tree's page holds, and sets where it ends (`GinDataPageSetDataSize`).
pub(super) fn set_items(page: &mut Page, items: &[u8]) -> Result<(), RedoError> {
    if ITEMS + items.len() > SPECIAL {
        return Err(RedoError::Precondition("a posting tree's page overflows"));
    }
    page.put(ITEMS, items)?;
    page.set_lower(ITEMS + items.len());
    Ok(())
}
