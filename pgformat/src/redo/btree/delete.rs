//! Deletions of tuples (`btree_xlog_delete`, `btree_xlog_vacuum`).

use super::page::{BtreeSpecial, HAS_GARBAGE};
use super::posting;
use crate::PgMajor;
use crate::page::Page;
use crate::read::Take;
use crate::redo::itup::all_read;
use crate::redo::{Change, RedoError};

/// The first major whose vacuum forgets the cycle that the page was split in, in redo as well.
const CLEARS_CYCLE_SINCE: u32 = 18;

/// Block 0 of DELETE. Main is a horizon that redo of pages does not need, then the two numbers.
pub(super) fn delete(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let mut main = Take::new(change.main);
    main.skip(4)?;
    remove(page, main, change.data)?;
    BtreeSpecial::update(page, |special| special.flags &= !HAS_GARBAGE)
}

/// Block 0 of VACUUM.
pub(super) fn vacuum(page: &mut Page, change: &Change<'_>, version: PgMajor) -> Result<(), RedoError> {
    remove(page, Take::new(change.main), change.data)?;
    BtreeSpecial::update(page, |special| {
        special.flags &= !HAS_GARBAGE;
        if version.get() >= CLEARS_CYCLE_SINCE {
            special.cycle = 0;
        }
    })
}

/// Shortens posting lists, then removes whole tuples.
///
/// `numbers`: how many of either. `data`: line pointers to remove; those of posting lists; for each of these how many
/// tids go, and their numbers.
fn remove(page: &mut Page, mut numbers: Take<'_>, data: &[u8]) -> Result<(), RedoError> {
    BtreeSpecial::of(page)?;
    let (removed, shortened) = (numbers.u16()?, numbers.u16()?);
    let mut data = Take::new(data);
    let removed: Vec<u16> = data.u16s(usize::from(removed))?.collect();
    for off in data.u16s(usize::from(shortened))? {
        let count = data.u16()?;
        let tids = data.u16s(usize::from(count))?;
        let list = posting::without(page.item(off)?, tids)?;
        page.index_overwrite(off, &list)?;
    }
    all_read(&data)?;
    Ok(page.index_multi_delete(&removed)?)
}
