//! Page operations of SP-GiST's records: tuples that die but keep their place, chains, links.
//!
//! The first two bits of every tuple are its state. A tuple that is not alive has 16 bytes: state and length (u32), two
//! bytes of zeros, the target of a redirection (6 bytes), its transaction (u32). The page counts its redirections and
//! placeholders.
//!
//! Source: PostgreSQL 14-18, `src/include/access/spgist_private.h`, `src/backend/access/spgist/spgutils.c`
//! (`spgFormDeadTuple`, `SpGistInitPage`), `spgdoinsert.c` (`spgPageIndexMultiDelete`, `spgUpdateNodeLink`),
//! `spgxlog.c` (`addOrReplaceTuple`).

use std::ops::Range;

use super::super::index::{NO_TID, TID_LEN, expect_init, expect_special};
use super::super::itup::tuple_len;
use super::super::{Change, RedoError};
use crate::page::items::Place;
use crate::page::{PAGE_SIZE, Page};
use crate::read::Take;

const SPECIAL_LEN: usize = 8;
const SPECIAL: usize = PAGE_SIZE - SPECIAL_LEN;
/// Where a page counts its redirections.
const REDIRECTIONS: usize = SPECIAL + 2;
/// Where a page counts its placeholders.
const PLACEHOLDERS: usize = SPECIAL + 4;
const PAGE_ID: usize = SPECIAL + 6;
const SPGIST_PAGE_ID: u16 = 0xFF82;

/// Flag of pages: leaf tuples.
pub(super) const LEAF: u16 = 4;
/// Flag of pages: they belong to the tree of nulls.
pub(super) const NULLS: u16 = 8;

const STATE_MASK: u32 = 3;
/// Of the field with a leaf tuple's next in its chain: the bits that are something else.
const NEXT_OTHER_BITS: u16 = 0xC000;
const DEAD_LEN: usize = 16;
/// Where a dead tuple says where it leads.
const TARGET: Range<usize> = 6..12;
const INNER_HEADER_LEN: usize = 8;

/// The flags of a leaf page.
pub(super) const fn leaf_flags(nulls: bool) -> u16 {
    if nulls { LEAF | NULLS } else { LEAF }
}

/// The offsets of `count` tuples.
pub(super) fn take_offs(main: &mut Take<'_>, count: u16) -> Result<Vec<u16>, RedoError> {
    Ok(main.u16s(usize::from(count))?.collect())
}

/// State of a tuple.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum TupleState {
    /// Moved: holds where the tuple went.
    Redirect = 1,
    /// Dead head of a chain.
    Dead = 2,
    /// Only holds the place.
    Placeholder = 3,
}

/// A tuple that is not alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Dead {
    state: TupleState,
    target: [u8; TID_LEN],
    xid: u32,
}

impl Dead {
    pub(super) const DEAD: Dead = Dead { state: TupleState::Dead, target: NO_TID, xid: 0 };
    pub(super) const PLACEHOLDER: Dead = Dead { state: TupleState::Placeholder, target: NO_TID, xid: 0 };

    fn bytes(self) -> [u8; DEAD_LEN] {
        let mut bytes = [0; DEAD_LEN];
        bytes[0..4].copy_from_slice(&((DEAD_LEN as u32) << 2 | self.state as u32).to_le_bytes());
        bytes[TARGET].copy_from_slice(&self.target);
        bytes[12..16].copy_from_slice(&self.xid.to_le_bytes());
        bytes
    }

    /// Where a page counts tuples like this one.
    const fn counter(self) -> Option<usize> {
        match self.state {
            TupleState::Redirect => Some(REDIRECTIONS),
            TupleState::Placeholder => Some(PLACEHOLDERS),
            TupleState::Dead => None,
        }
    }
}

/// Under which circumstances a record was written (`spgxlogState`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SpgistOrigin {
    xid: u32,
    is_build: bool,
}

impl SpgistOrigin {
    pub(super) fn take(main: &mut Take<'_>) -> Result<SpgistOrigin, RedoError> {
        let origin = SpgistOrigin { xid: main.u32()?, is_build: main.bool()? };
        main.skip(3)?;
        Ok(origin)
    }

    /// What a tuple leaves behind that has moved to `target`. During a build there is nobody to redirect.
    pub(super) const fn leaves(self, target: [u8; TID_LEN]) -> Dead {
        if self.is_build {
            return Dead::PLACEHOLDER;
        }
        Dead { state: TupleState::Redirect, target, xid: self.xid }
    }
}

/// A downlink: in node `node` of the inner tuple at `off`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Downlink {
    pub(super) off: u16,
    pub(super) node: u16,
}

impl Downlink {
    /// Makes it lead to `target` (`spgUpdateNodeLink`).
    pub(super) fn lead(self, page: &mut Page, target: [u8; TID_LEN]) -> Result<(), RedoError> {
        let tuple = page.item_mut(self.off)?;
        let mut take = Take::new(tuple);
        let header = take.u32()?;
        let (nodes, prefix_len) = (header >> 3 & 0x1FFF, (header >> 16) as usize);
        if u32::from(self.node) >= nodes {
            return Err(RedoError::Precondition("an inner tuple has no such node"));
        }
        let mut at = INNER_HEADER_LEN + prefix_len;
        for _ in 0..self.node {
            at += tuple_len(tuple.get(at..).ok_or(RedoError::Short)?)?;
        }
        tuple.get_mut(at..at + TID_LEN).ok_or(RedoError::Short)?.copy_from_slice(&target);
        Ok(())
    }
}

/// The next leaf tuple, which says its length itself.
pub(super) fn take_leaf<'a>(main: &mut Take<'a>) -> Result<&'a [u8], RedoError> {
    let mut header = *main;
    let len = header.u32()? >> 2;
    take_tuple(main, len as usize)
}

/// The next inner tuple.
pub(super) fn take_inner<'a>(main: &mut Take<'a>) -> Result<&'a [u8], RedoError> {
    let mut header = *main;
    header.skip(4)?;
    let len = header.u16()?;
    take_tuple(main, usize::from(len))
}

fn take_tuple<'a>(main: &mut Take<'a>, len: usize) -> Result<&'a [u8], RedoError> {
    // A dead tuple could not take the place of a shorter one.
    if len < INNER_HEADER_LEN {
        return Err(RedoError::Precondition("an SP-GiST tuple is shorter than its header"));
    }
    Ok(main.bytes(len)?)
}

/// Makes an empty page.
pub(super) fn init(page: &mut Page, change: &Change<'_>, flags: u16) -> Result<(), RedoError> {
    expect_init(change, true)?;
    page.init(SPECIAL_LEN);
    page.put_u16(SPECIAL, flags)?;
    Ok(page.put_u16(PAGE_ID, SPGIST_PAGE_ID)?)
}

/// Checks that the page has content.
pub(super) fn expect_old(page: &Page, change: &Change<'_>) -> Result<(), RedoError> {
    expect_init(change, false)?;
    expect_special(page, SPECIAL_LEN)?;
    if page.u16_at(PAGE_ID)? == SPGIST_PAGE_ID {
        return Ok(());
    }
    Err(RedoError::Precondition("the page is none of an SP-GiST index"))
}

/// Adds a tuple at `off`, in place of a placeholder if there is one (`addOrReplaceTuple`).
pub(super) fn add_or_replace(page: &mut Page, tuple: &[u8], off: u16) -> Result<(), RedoError> {
    if off <= page.max_offset() {
        expect_state(page.item(off)?, TupleState::Placeholder)?;
        change_count(page, PLACEHOLDERS, -1)?;
        page.index_delete(off)?;
    }
    Ok(page.add_item_at(tuple, off, Place::Shift)?)
}

/// Replaces the tuple at `off`, whatever it is, by one that is not alive.
pub(super) fn kill(page: &mut Page, off: u16, dead: Dead) -> Result<(), RedoError> {
    page.index_delete(off)?;
    put_dead(page, off, dead)
}

/// Replaces tuples by ones that are not alive: the first of `offs` by `first`, all others by `rest`
/// (`spgPageIndexMultiDelete`).
pub(super) fn kill_many(page: &mut Page, offs: &[u16], first: Dead, rest: Dead) -> Result<(), RedoError> {
    let mut sorted = offs.to_vec();
    sorted.sort_unstable();
    page.index_multi_delete(&sorted)?;
    // Ascending, so that each gets its old number back.
    sorted.iter().try_for_each(|off| put_dead(page, *off, if offs.first() == Some(off) { first } else { rest }))
}

fn put_dead(page: &mut Page, off: u16, dead: Dead) -> Result<(), RedoError> {
    page.add_item_at(&dead.bytes(), off, Place::Shift)?;
    dead.counter().map_or(Ok(()), |counter| change_count(page, counter, 1))
}

/// Removes placeholders, `offs` ascending, at the end of the page.
pub(super) fn delete_many(page: &mut Page, offs: &[u16]) -> Result<(), RedoError> {
    for off in offs {
        expect_state(page.item(*off)?, TupleState::Placeholder)?;
    }
    change_count(page, PLACEHOLDERS, -(offs.len() as i32))?;
    Ok(page.index_multi_delete(offs)?)
}

/// Turns the redirection at `off` into a placeholder. Its transaction stays.
pub(super) fn end_redirection(page: &mut Page, off: u16) -> Result<(), RedoError> {
    let tuple = page.item_mut(off)?;
    expect_state(tuple, TupleState::Redirect)?;
    tuple.get_mut(TARGET).ok_or(RedoError::Short)?.copy_from_slice(&NO_TID);
    tuple[0] |= TupleState::Placeholder as u8;
    change_count(page, REDIRECTIONS, -1)?;
    change_count(page, PLACEHOLDERS, 1)
}

fn expect_state(tuple: &[u8], state: TupleState) -> Result<(), RedoError> {
    if Take::new(tuple).u32()? & STATE_MASK == state as u32 {
        return Ok(());
    }
    Err(RedoError::Precondition("an SP-GiST tuple is not in the state that the record expects"))
}

/// Links leaf tuple `off` to the next of its chain.
pub(super) fn set_next(page: &mut Page, off: u16, next: u16) -> Result<(), RedoError> {
    let field = page.item_mut(off)?.get_mut(4..6).ok_or(RedoError::Short)?;
    let old = u16::from_le_bytes([field[0], field[1]]);
    field.copy_from_slice(&(old & NEXT_OTHER_BITS | next & !NEXT_OTHER_BITS).to_le_bytes());
    Ok(())
}

/// Changes one of the page's two counts.
fn change_count(page: &mut Page, at: usize, by: i32) -> Result<(), RedoError> {
    let count = u16::try_from(i32::from(page.u16_at(at)?) + by);
    let count = count.map_err(|_| RedoError::Precondition("an SP-GiST page's count of dead tuples is wrong"))?;
    Ok(page.put_u16(at, count)?)
}
