//! Merging of equal tuples into posting lists (`btree_xlog_dedup`).

use super::page::{BtreeSpecial, HAS_GARBAGE, HIGH_KEY};
use super::posting::{self, parts};
use crate::page::Page;
use crate::read::Take;
use crate::redo::itup::{all_read, tuple_of};
use crate::redo::{Change, RedoError};

/// Block 0: the page made anew. Main is how many intervals, data is each one's first line pointer and length.
pub(super) fn dedup(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let count = Take::new(change.main).u16()?;
    let mut data = Take::new(change.data);
    let old = page.clone();
    let special = BtreeSpecial::of(&old)?;
    BtreeSpecial { flags: special.flags & !HAS_GARBAGE, ..special }.init(page)?;
    let mut off = special.first_data_key();
    if off > HIGH_KEY {
        page.add_item(old.item(HIGH_KEY)?)?;
    }
    for _ in 0..count {
        let (base, len) = (data.u16()?, data.u16()?);
        let end = base.checked_add(len).filter(|_| base >= off && len > 1);
        let end = end.ok_or(RedoError::Precondition("an interval to merge is too short or out of order"))?;
        copy(&old, page, off..base)?;
        merge(&old, page, base..end)?;
        off = end;
    }
    all_read(&data)?;
    copy(&old, page, off..old.max_offset() + 1)
}

fn copy(old: &Page, page: &mut Page, offs: std::ops::Range<u16>) -> Result<(), RedoError> {
    for off in offs {
        page.add_item(tuple_of(old.item(off)?)?)?;
    }
    Ok(())
}

fn merge(old: &Page, page: &mut Page, offs: std::ops::Range<u16>) -> Result<(), RedoError> {
    let key = parts(old.item(offs.start)?)?.key;
    let mut tids = Vec::new();
    for off in offs {
        tids.extend_from_slice(parts(old.item(off)?)?.tids);
    }
    page.add_item(&posting::form(key, &tids)?)?;
    Ok(())
}
