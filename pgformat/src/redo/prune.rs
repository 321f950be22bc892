//! Redo of pruning, vacuuming and freezing a heap page, in the three encodings of 14-15, 16, and 17-18.
//!
//! Line pointers become redirects, dead or unused. Under a cleanup lock, when nobody can look at the page, the space
//! of removed tuples is compacted. Tuples are frozen by replacing their flags.
//!
//! Source: PostgreSQL 15 and 16 `heapam.c`, `heap_xlog_prune`, `heap_xlog_vacuum`, `heap_xlog_freeze_page`; 18
//! `heap_xlog_prune_freeze`, `heap_xlog_deserialize_prune_and_freeze`, `heap_page_prune_execute`.

use super::opcode::{FREEZE, OPCODE, PRUNE, VACUUM};
use super::tuple::tuple_mut;
use super::{Change, Context, RedoError};
use crate::page::Page;
use crate::page::items::ItemId;
use crate::read::{Short, Take};

// Flags of 17 and later.
const CLEANUP_LOCK: u8 = 0x04;
const HAS_FREEZE_PLANS: u8 = 0x10;
const HAS_REDIRECTIONS: u8 = 0x20;
const HAS_DEAD: u8 = 0x40;
const HAS_UNUSED: u8 = 0x80;

const FREEZE_XVAC: u8 = 0x02;
const INVALID_XVAC: u8 = 0x04;
const FROZEN_XID: u32 = 2;
/// Length of a plan since 16, and of a frozen tuple's entry before.
const PLAN_LEN: usize = 12;

const TOO_LONG: RedoError = RedoError::Precondition("the record has more bytes than its lists");

/// Applies a prune, vacuum or freeze record to its only block.
pub(super) fn redo(page: &mut Page, change: &Change<'_>, ctx: &Context) -> Result<(), RedoError> {
    match (ctx.version.get(), change.info & OPCODE) {
        (17.., _) => prune_and_freeze(page, change),
        (major, PRUNE) => prune(page, change, major >= 15),
        (_, VACUUM) => vacuum(page, change),
        (16, FREEZE) => freeze_by_plans(page, change),
        (_, FREEZE) => freeze_each(page, change),
        _ => Err(change.unknown()),
    }
}

/// Numbers of line pointers, little-endian.
#[derive(Clone, Copy, Default)]
struct Lists<'a> {
    /// Pairs: from, to.
    redirected: Offsets<'a>,
    dead: Offsets<'a>,
    unused: Offsets<'a>,
}

#[derive(Clone, Copy, Default)]
struct Offsets<'a>(&'a [u8]);

impl<'a> Offsets<'a> {
    fn take(take: &mut Take<'a>, n: usize) -> Result<Offsets<'a>, Short> {
        Ok(Offsets(take.bytes(n * 2)?))
    }

    /// A list with its length before it; `width` numbers are one entry.
    fn counted(take: &mut Take<'a>, present: bool, width: usize) -> Result<Offsets<'a>, Short> {
        if !present {
            return Ok(Offsets::default());
        }
        let n = usize::from(take.u16()?);
        Offsets::take(take, n * width)
    }

    fn iter(self) -> impl Iterator<Item = u16> + 'a {
        self.0.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]))
    }
}

impl Lists<'_> {
    fn is_empty(&self) -> bool {
        self.redirected.0.is_empty() && self.dead.0.is_empty() && self.unused.0.is_empty()
    }

    fn mark(&self, page: &mut Page) -> Result<(), RedoError> {
        for pair in self.redirected.0.chunks_exact(4) {
            let (from, to) = (u16::from_le_bytes([pair[0], pair[1]]), u16::from_le_bytes([pair[2], pair[3]]));
            page.set_item_id(from, ItemId::redirect(to))?;
        }
        for off in self.dead.iter() {
            page.set_item_id(off, ItemId::DEAD)?;
        }
        for off in self.unused.iter() {
            page.set_item_id(off, ItemId::UNUSED)?;
        }
        Ok(())
    }
}

/// Until 16; `truncate` since 15: unused line pointers at the end are cut off.
fn prune(page: &mut Page, change: &Change<'_>, truncate: bool) -> Result<(), RedoError> {
    let mut main = Take::new(change.main);
    main.skip(4)?;
    let (redirected, dead) = (usize::from(main.u16()?), usize::from(main.u16()?));
    let mut data = Take::new(change.data);
    let lists = Lists {
        redirected: Offsets::take(&mut data, redirected * 2)?,
        dead: Offsets::take(&mut data, dead)?,
        unused: Offsets(data.rest()),
    };
    if !lists.unused.0.len().is_multiple_of(2) {
        return Err(TOO_LONG);
    }
    lists.mark(page)?;
    Ok(page.repair_fragmentation(truncate)?)
}

/// VACUUM until 16: the second pass of vacuum, which frees line pointers of dead tuples.
fn vacuum(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let n = usize::from(Take::new(change.main).u16()?);
    let mut data = Take::new(change.data);
    let lists = Lists { unused: Offsets::take(&mut data, n)?, ..Lists::default() };
    if data.left() != 0 {
        return Err(TOO_LONG);
    }
    lists.mark(page)?;
    Ok(page.truncate_line_pointers()?)
}

/// PRUNE_* since 17: pruning, freezing and vacuum's second pass in one record.
fn prune_and_freeze(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let mut main = Take::new(change.main);
    main.skip(1)?;
    let flags = main.u8()?;
    let mut data = Take::new(change.data);
    let mut plans: &[u8] = &[];
    if flags & HAS_FREEZE_PLANS != 0 {
        let n = usize::from(data.u16()?);
        data.skip(2)?;
        plans = data.bytes(n * PLAN_LEN)?;
    }
    let lists = Lists {
        redirected: Offsets::counted(&mut data, flags & HAS_REDIRECTIONS != 0, 2)?,
        dead: Offsets::counted(&mut data, flags & HAS_DEAD != 0, 1)?,
        unused: Offsets::counted(&mut data, flags & HAS_UNUSED != 0, 1)?,
    };
    if !lists.is_empty() {
        lists.mark(page)?;
        if flags & CLEANUP_LOCK != 0 {
            page.repair_fragmentation(true)?;
        } else {
            page.truncate_line_pointers()?;
        }
    }
    follow_plans(page, plans, data)
}

/// FREEZE_PAGE in 16: each plan freezes many tuples.
fn freeze_by_plans(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let mut main = Take::new(change.main);
    main.skip(4)?;
    let n = usize::from(main.u16()?);
    let mut data = Take::new(change.data);
    let plans = data.bytes(n * PLAN_LEN)?;
    follow_plans(page, plans, data)
}

/// Each plan freezes as many tuples as it says, whose numbers come after all plans.
fn follow_plans(page: &mut Page, plans: &[u8], mut offs: Take<'_>) -> Result<(), RedoError> {
    for plan in plans.chunks_exact(PLAN_LEN) {
        let mut take = Take::new(plan);
        let frozen =
            FrozenHeader { xmax: take.u32()?, infomask2: take.u16()?, infomask: take.u16()?, flags: take.u8()? };
        take.skip(1)?;
        for _ in 0..take.u16()? {
            frozen.apply(page, offs.u16()?)?;
        }
    }
    if offs.left() == 0 { Ok(()) } else { Err(TOO_LONG) }
}

/// FREEZE_PAGE until 15: each tuple has a plan of its own.
fn freeze_each(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let mut main = Take::new(change.main);
    main.skip(4)?;
    let mut data = Take::new(change.data);
    for _ in 0..main.u16()? {
        let mut entry = Take::new(data.bytes(PLAN_LEN)?);
        let (xmax, off) = (entry.u32()?, entry.u16()?);
        let frozen = FrozenHeader { xmax, infomask2: entry.u16()?, infomask: entry.u16()?, flags: entry.u8()? };
        frozen.apply(page, off)?;
    }
    if data.left() == 0 { Ok(()) } else { Err(TOO_LONG) }
}

/// What becomes of a tuple's header when it is frozen (`heap_execute_freeze_tuple`).
struct FrozenHeader {
    xmax: u32,
    infomask2: u16,
    infomask: u16,
    flags: u8,
}

impl FrozenHeader {
    fn apply(&self, page: &mut Page, off: u16) -> Result<(), RedoError> {
        let (mut tuple, _) = tuple_mut(page, off)?;
        tuple.set_xmax(self.xmax);
        if self.flags & FREEZE_XVAC != 0 {
            tuple.set_xvac(FROZEN_XID);
        }
        if self.flags & INVALID_XVAC != 0 {
            tuple.set_xvac(0);
        }
        tuple.set_infomask(self.infomask);
        tuple.set_infomask2(self.infomask2);
        Ok(())
    }
}
