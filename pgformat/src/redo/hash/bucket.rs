//! Bucket and overflow pages of a hash index: their tuples and chains.
//!
//! Source: PostgreSQL 14-18, `src/backend/access/hash/hash_xlog.c`; `_hash_initbuf` in `hashpage.c`.

use super::page::{HAS_DEAD_TUPLES, HashSpecial, NEEDS_SPLIT_CLEANUP, NONE, OVERFLOW};
use crate::PgMajor;
use crate::page::Page;
use crate::page::items::Place;
use crate::read::Take;
use crate::redo::itup::{all_read, take_tuple};
use crate::redo::{Change, RedoError};
use crate::rel::BlockNumber;

/// The first major whose `VACUUM_ONE_PAGE` has a 16-bit count.
const SHORT_COUNT_SINCE: u32 = 16;

/// INSERT: main is where, data is the tuple.
pub(super) fn insert(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    HashSpecial::of(page)?;
    let off = Take::new(change.main).u16()?;
    Ok(page.add_item_at(change.data, off, Place::Shift)?)
}

/// ADD_OVFL_PAGE, the new page, last of its bucket: data is the bucket.
pub(super) fn init_overflow(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let (prev, bucket) = (change.required(1)?, Take::new(change.data).u32()?);
    HashSpecial { prev, next: NONE, bucket, flags: OVERFLOW }.init(page)
}

/// ADD_OVFL_PAGE, the page that was the last of its bucket.
pub(super) fn link_overflow(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let next = change.required(0)?;
    HashSpecial::update(page, |special| special.next = next)
}

/// Main data of SPLIT_ALLOCATE_PAGE, as far as buckets need them.
struct Allocate {
    new_bucket: u32,
    old_flags: u16,
    new_flags: u16,
}

impl Allocate {
    fn read(main: &[u8]) -> Result<Allocate, RedoError> {
        let mut take = Take::new(main);
        Ok(Allocate { new_bucket: take.u32()?, old_flags: take.u16()?, new_flags: take.u16()? })
    }
}

/// SPLIT_ALLOCATE_PAGE, the bucket that is split.
pub(super) fn begin_split(page: &mut Page, main: &[u8]) -> Result<(), RedoError> {
    let main = Allocate::read(main)?;
    HashSpecial::update(page, |special| {
        special.flags = main.old_flags;
        special.prev = main.new_bucket;
    })
}

/// SPLIT_ALLOCATE_PAGE, the new bucket.
pub(super) fn init_bucket(page: &mut Page, main: &[u8]) -> Result<(), RedoError> {
    let main = Allocate::read(main)?;
    HashSpecial { prev: main.new_bucket, next: NONE, bucket: main.new_bucket, flags: main.new_flags }.init(page)
}

/// SPLIT_COMPLETE, the old or the new bucket: main are their flags, in that order.
pub(super) fn end_split(page: &mut Page, main: &[u8], new: bool) -> Result<(), RedoError> {
    let mut main = Take::new(main);
    let (old_flags, new_flags) = (main.u16()?, main.u16()?);
    HashSpecial::update(page, |special| special.flags = if new { new_flags } else { old_flags })
}

/// SPLIT_CLEANUP: the tuples that a split has moved away are gone.
pub(super) fn split_cleaned(page: &mut Page) -> Result<(), RedoError> {
    HashSpecial::update(page, |special| special.flags &= !NEEDS_SPLIT_CLEANUP)
}

/// MOVE_PAGE_CONTENTS, the page that tuples are moved to. Main begins with their number.
pub(super) fn move_in(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    add_tuples(page, Take::new(change.main).u16()?, change.data)
}

/// MOVE_PAGE_CONTENTS, the page that tuples are moved from. Data are their line pointers.
pub(super) fn remove(page: &mut Page, data: &[u8]) -> Result<(), RedoError> {
    HashSpecial::of(page)?;
    let mut data = Take::new(data);
    let offs: Vec<u16> = data.u16s(data.left() / 2)?.collect();
    all_read(&data)?;
    Ok(page.index_multi_delete(&offs)?)
}

/// Main data of SQUEEZE_PAGE (`xl_hash_squeeze_page`).
pub(super) struct Squeeze {
    /// The page before the freed one.
    prev: BlockNumber,
    /// The page behind the freed one.
    next: BlockNumber,
    /// How many tuples are moved to the page that is written to.
    pub(super) tuples: u16,
    /// Whether that is the page before the freed one.
    pub(super) writes_prev: bool,
}

impl Squeeze {
    /// Reads the fields from the record's main data.
    pub(super) fn read(main: &[u8]) -> Result<Squeeze, RedoError> {
        let mut take = Take::new(main);
        let (prev, next, tuples) = (take.u32()?, take.u32()?, take.u16()?);
        // Whether the page written to is the bucket's first; it matters only for locks.
        take.skip(1)?;
        Ok(Squeeze { prev, next, tuples, writes_prev: take.bool()? })
    }
}

/// SQUEEZE_PAGE, the page that the freed page's last tuples are moved to.
pub(super) fn squeeze_in(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let main = Squeeze::read(change.main)?;
    add_tuples(page, main.tuples, change.data)?;
    if main.writes_prev { unlink_from_prev(page, change.main) } else { Ok(()) }
}

/// SQUEEZE_PAGE, the freed page: it has no type any more.
pub(super) fn free_overflow(page: &mut Page) -> Result<(), RedoError> {
    HashSpecial::of(page)?;
    HashSpecial::outside_of_buckets(0).init(page)
}

/// SQUEEZE_PAGE, the page before the freed one.
pub(super) fn unlink_from_prev(page: &mut Page, main: &[u8]) -> Result<(), RedoError> {
    let next = Squeeze::read(main)?.next;
    HashSpecial::update(page, |special| special.next = next)
}

/// SQUEEZE_PAGE, the page behind the freed one.
pub(super) fn unlink_from_next(page: &mut Page, main: &[u8]) -> Result<(), RedoError> {
    let prev = Squeeze::read(main)?.prev;
    HashSpecial::update(page, |special| special.prev = prev)
}

/// DELETE: main begins with whether no dead line pointers are left, data are the tuples to remove.
pub(super) fn delete(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let none_dead = Take::new(change.main).bool()?;
    remove(page, change.data)?;
    if none_dead { clear_dead(page) } else { Ok(()) }
}

/// Main data of VACUUM_ONE_PAGE (`xl_hash_vacuum_one_page`).
pub(super) struct VacuumOnePage<'a> {
    /// How many tuples are removed.
    pub(super) count: u16,
    /// Their line pointers follow.
    rest: Take<'a>,
}

impl<'a> VacuumOnePage<'a> {
    /// Reads them. 16 made the count shorter to have room for a flag that redo of pages does not need.
    pub(super) fn read(main: &'a [u8], version: PgMajor) -> Result<VacuumOnePage<'a>, RedoError> {
        let mut rest = Take::new(main);
        // The horizon.
        rest.skip(4)?;
        let count = if version.get() >= SHORT_COUNT_SINCE {
            let count = rest.u16()?;
            rest.skip(2)?;
            count
        } else {
            u16::try_from(rest.i32()?).map_err(|_| RedoError::Precondition("an impossible number of tuples"))?
        };
        Ok(VacuumOnePage { count, rest })
    }
}

/// VACUUM_ONE_PAGE, the page whose dead tuples go.
pub(super) fn vacuum(page: &mut Page, main: &[u8], version: PgMajor) -> Result<(), RedoError> {
    HashSpecial::of(page)?;
    let VacuumOnePage { count, mut rest } = VacuumOnePage::read(main, version)?;
    let offs: Vec<u16> = rest.u16s(usize::from(count))?.collect();
    page.index_multi_delete(&offs)?;
    clear_dead(page)
}

fn clear_dead(page: &mut Page) -> Result<(), RedoError> {
    HashSpecial::update(page, |special| special.flags &= !HAS_DEAD_TUPLES)
}

/// Adds `count` tuples. Data are their line pointers, then the tuples, each padded to a multiple of eight bytes.
fn add_tuples(page: &mut Page, count: u16, data: &[u8]) -> Result<(), RedoError> {
    HashSpecial::of(page)?;
    let mut data = Take::new(data);
    for off in data.u16s(usize::from(count))? {
        page.add_item_at(take_tuple(&mut data)?, off, Place::Shift)?;
    }
    all_read(&data)
}
