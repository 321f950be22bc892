//! Redo of BRIN: the metapage, pages of the range map (`revmap`), pages with summaries.
//!
//! The range map's entries lie between `pd_lower` and `pd_upper`, which is unused space on other pages.
//!
//! Source: PostgreSQL 14-18 (the same in all), `src/backend/access/brin/brin_xlog.c`, `brin_pageops.c`
//! (`brin_page_init`, `brin_metapage_init`), `brin_revmap.c` (`brinSetHeapBlockItemptr`),
//! `src/include/access/brin_page.h`, `brin_xlog.h`.

use super::index::{NO_TID, TID_LEN, expect_init, expect_special, tid};
use super::itup::all_read;
use super::{Change, Context, RedoError};
use crate::page::items::Place;
use crate::page::{PAGE_HEADER_LEN, PAGE_SIZE, Page};
use crate::read::Take;

const CREATE_INDEX: u8 = 0x00;
const INSERT: u8 = 0x10;
const UPDATE: u8 = 0x20;
const SAMEPAGE_UPDATE: u8 = 0x30;
const REVMAP_EXTEND: u8 = 0x40;
const DESUMMARIZE: u8 = 0x50;
const OP_MASK: u8 = 0x70;
/// The page of the new tuple is made from nothing.
const INIT_PAGE: u8 = 0x80;

const SPECIAL_LEN: usize = 8;
/// Where a page's type is: its last two bytes.
const TYPE: usize = PAGE_SIZE - 2;
const META: u16 = 0xF091;
const REVMAP: u16 = 0xF092;
const REGULAR: u16 = 0xF093;

const META_MAGIC: u32 = 0xA810_9CFA;
/// Where the metapage names the last page of the range map.
const META_LAST_REVMAP: usize = PAGE_HEADER_LEN + 12;
const META_END: usize = PAGE_HEADER_LEN + 16;
/// How many entries a page of the range map has (`REVMAP_PAGE_MAXITEMS`).
const REVMAP_ENTRIES: u32 = ((PAGE_SIZE - PAGE_HEADER_LEN - SPECIAL_LEN) / TID_LEN) as u32;

/// Applies one change.
///
/// # Errors
/// See [`RedoError`].
pub fn redo(page: &mut Page, change: &Change<'_>, ctx: &Context) -> Result<(), RedoError> {
    let mut main = Take::new(change.main);
    match (change.info & OP_MASK, change.block) {
        (CREATE_INDEX, 0) => create_index(page, change, &mut main)?,
        (INSERT, 0..=1) => insert(page, change, &mut main)?,
        (UPDATE, 0..=2) => {
            let old = main.u16()?;
            main.skip(2)?;
            if change.block == 2 {
                expect_old(page, change, REGULAR)?;
                page.index_delete_no_compact(old)?;
            } else {
                insert(page, change, &mut main)?;
            }
        }
        (SAMEPAGE_UPDATE, 0) => {
            expect_old(page, change, REGULAR)?;
            page.index_overwrite(main.u16()?, change.data)?;
        }
        (REVMAP_EXTEND, 0..=1) => extend_revmap(page, change, &mut main)?,
        (DESUMMARIZE, 0..=1) => desummarize(page, change, &mut main)?,
        (CREATE_INDEX | INSERT | UPDATE | SAMEPAGE_UPDATE | REVMAP_EXTEND | DESUMMARIZE, block) => {
            return Err(RedoError::Block(block));
        }
        _ => return Err(change.unknown()),
    }
    page.set_lsn(ctx.end);
    Ok(())
}

fn create_index(page: &mut Page, change: &Change<'_>, main: &mut Take<'_>) -> Result<(), RedoError> {
    let (pages_per_range, version) = (main.u32()?, main.u16()?);
    all_read(main)?;
    init(page, change, META)?;
    page.put_u32(PAGE_HEADER_LEN, META_MAGIC)?;
    page.put_u32(PAGE_HEADER_LEN + 4, u32::from(version))?;
    page.put_u32(PAGE_HEADER_LEN + 8, pages_per_range)?;
    page.put_u32(META_LAST_REVMAP, 0)?;
    page.set_lower(META_END);
    Ok(())
}

/// A new summary and its entry in the range map (`brin_xlog_insert_update`).
fn insert(page: &mut Page, change: &Change<'_>, main: &mut Take<'_>) -> Result<(), RedoError> {
    let (heap_blk, pages_per_range, off) = (main.u32()?, main.u32()?, main.u16()?);
    all_read(main)?;
    if change.block == 1 {
        return set_entry(page, change, pages_per_range, heap_blk, tid(change.required(0)?, off));
    }
    if change.info & INIT_PAGE != 0 {
        init(page, change, REGULAR)?;
    } else {
        expect_old(page, change, REGULAR)?;
    }
    Ok(page.add_item_at(change.data, off, Place::Overwrite)?)
}

fn extend_revmap(page: &mut Page, change: &Change<'_>, main: &mut Take<'_>) -> Result<(), RedoError> {
    let target = main.u32()?;
    all_read(main)?;
    if change.required(1)? != target {
        return Err(RedoError::Precondition("the range map is extended by another block than the record's"));
    }
    if change.block == 1 {
        return init(page, change, REVMAP);
    }
    expect_old(page, change, META)?;
    if page.u32_at(META_LAST_REVMAP)?.checked_add(1) != Some(target) {
        return Err(RedoError::Precondition("the range map is not extended by its next block"));
    }
    page.put_u32(META_LAST_REVMAP, target)?;
    // Indexes from before PostgreSQL 11 may have it at the wrong place.
    page.set_lower(META_END);
    Ok(())
}

fn desummarize(page: &mut Page, change: &Change<'_>, main: &mut Take<'_>) -> Result<(), RedoError> {
    let (pages_per_range, heap_blk, off) = (main.u32()?, main.u32()?, main.u16()?);
    all_read(main)?;
    if change.block == 0 {
        return set_entry(page, change, pages_per_range, heap_blk, NO_TID);
    }
    expect_old(page, change, REGULAR)?;
    Ok(page.index_delete_no_compact(off)?)
}

/// Sets the entry of the range that `heap_blk` is in (`brinSetHeapBlockItemptr`).
fn set_entry(
    page: &mut Page,
    change: &Change<'_>,
    pages_per_range: u32,
    heap_blk: u32,
    entry: [u8; TID_LEN],
) -> Result<(), RedoError> {
    expect_old(page, change, REVMAP)?;
    let range = heap_blk.checked_div(pages_per_range).ok_or(RedoError::Precondition("a range of no pages"))?;
    Ok(page.put(PAGE_HEADER_LEN + (range % REVMAP_ENTRIES) as usize * TID_LEN, &entry)?)
}

fn init(page: &mut Page, change: &Change<'_>, kind: u16) -> Result<(), RedoError> {
    expect_init(change, true)?;
    page.init(SPECIAL_LEN);
    Ok(page.put_u16(TYPE, kind)?)
}

/// Checks that the page has content, of the kind that the change is for.
fn expect_old(page: &Page, change: &Change<'_>, kind: u16) -> Result<(), RedoError> {
    expect_init(change, false)?;
    expect_special(page, SPECIAL_LEN)?;
    if page.u16_at(TYPE)? == kind { Ok(()) } else { Err(RedoError::Precondition("a BRIN page of another kind")) }
}

#[cfg(test)]
mod tests {
    use super::super::index::testing::{apply, bytes, change};
    use super::super::rmid;
    use super::*;

    fn page(kind: u16) -> Box<Page> {
        let mut page = Page::zeroed();
        page.init(SPECIAL_LEN);
        page.put_u16(TYPE, kind).expect("inside");
        page
    }

    fn entry(page: &Page, range: usize) -> &[u8] {
        page.bytes(PAGE_HEADER_LEN + range * TID_LEN, TID_LEN).expect("inside")
    }

    #[test]
    fn an_index_begins_with_its_metapage() {
        let mut meta = Page::zeroed();
        let main = bytes![128_u32, 1_u16];
        let create = Change { init: true, main: &main, ..change(rmid::BRIN, CREATE_INDEX, 0, &[0]) };
        apply(&mut meta, &create, 14).expect("applies");
        assert_eq!(meta.0[24..40], bytes![0xA810_9CFA_u32, 1_u32, 128_u32, 0_u32]);
        assert_eq!((meta.lower(), meta.upper(), meta.special()), (40, 8184, 8184));
        assert_eq!(meta.0[8184..], [0, 0, 0, 0, 0, 0, 0x91, 0xF0]);

        let main = bytes![1_u32];
        let extend =
            |block| Change { main: &main, init: block == 1, ..change(rmid::BRIN, REVMAP_EXTEND, block, &[0, 1]) };
        apply(&mut meta, &extend(0), 14).expect("applies");
        assert_eq!(meta.u32_at(META_LAST_REVMAP), Ok(1));
        assert!(apply(&mut meta, &extend(0), 14).is_err(), "the same block again");
        let mut revmap = Page::zeroed();
        apply(&mut revmap, &extend(1), 14).expect("applies");
        assert_eq!((revmap.lower(), revmap.upper()), (24, 8184));
        assert_eq!(revmap.0[8184..], [0, 0, 0, 0, 0, 0, 0x92, 0xF0]);
    }

    #[test]
    fn a_summary_and_its_entry_come_and_go() {
        let (mut regular, mut revmap) = (Page::zeroed(), page(REVMAP));
        // Heap block 300 with 128 pages a range: range 2.
        let main = bytes![300_u32, 128_u32, 1_u16];
        let refs = [0x0007_0002, 1];
        let insert =
            |block| Change { main: &main, data: b"summary", ..change(rmid::BRIN, INSERT | INIT_PAGE, block, &refs) };
        apply(&mut regular, &Change { init: true, ..insert(0) }, 15).expect("applies");
        assert_eq!(regular.item(1), Ok(&b"summary"[..]));
        assert_eq!(regular.u16_at(TYPE), Ok(REGULAR));
        apply(&mut revmap, &insert(1), 15).expect("applies");
        assert_eq!(entry(&revmap, 2), [7, 0, 2, 0, 1, 0]);
        // One page of entries later, the entry has the same place.
        let far = bytes![(1360_u32 + 2) * 128, 128_u32, 9_u16];
        apply(&mut revmap, &Change { main: &far, ..insert(1) }, 15).expect("applies");
        assert_eq!(entry(&revmap, 2), [7, 0, 2, 0, 9, 0]);

        let second = bytes![0_u32, 128_u32, 2_u16];
        let plain = Change { main: &second, data: b"other", ..change(rmid::BRIN, INSERT, 0, &refs) };
        apply(&mut regular, &plain, 15).expect("applies");
        let desummarize = bytes![128_u32, 300_u32, 1_u16];
        let gone = |block| Change { main: &desummarize, ..change(rmid::BRIN, DESUMMARIZE, block, &[1, 0x0007_0002]) };
        apply(&mut revmap, &gone(0), 15).expect("applies");
        assert_eq!(entry(&revmap, 2), NO_TID);
        apply(&mut regular, &gone(1), 15).expect("applies");
        assert_eq!(regular.max_offset(), 2, "numbers stay");
        assert!(!regular.item_id(1).expect("a line pointer").is_used());
        assert_eq!(regular.item(2), Ok(&b"other"[..]));
        // The free line pointer is reused.
        apply(&mut regular, &Change { init: false, ..insert(0) }, 15).expect_err("announces an empty page");
        let again = Change { main: &main, data: b"again", ..change(rmid::BRIN, INSERT, 0, &refs) };
        apply(&mut regular, &again, 15).expect("applies");
        assert_eq!(regular.item(1), Ok(&b"again"[..]));
        assert!(apply(&mut regular, &again, 15).is_err(), "taken");
    }

    #[test]
    fn a_summary_is_replaced() {
        let mut old = page(REGULAR);
        old.add_item(b"12345678").expect("fits");
        old.add_item(b"last").expect("fits");
        let main = bytes![1_u16];
        let same = Change { main: &main, data: b"longer than before", ..change(rmid::BRIN, SAMEPAGE_UPDATE, 0, &[5]) };
        apply(&mut old, &same, 18).expect("applies");
        assert_eq!((old.item(1), old.item(2)), (Ok(&b"longer than before"[..]), Ok(&b"last"[..])));
        assert_eq!(old.upper(), 8184 - 24 - 8);

        let main = bytes![1_u16, 0_u16, 0_u32, 4_u32, 1_u16];
        let update = |block| Change { main: &main, data: b"moved", ..change(rmid::BRIN, UPDATE, block, &[6, 1, 5]) };
        let (mut new, mut revmap) = (page(REGULAR), page(REVMAP));
        apply(&mut new, &update(0), 18).expect("applies");
        assert_eq!(new.item(1), Ok(&b"moved"[..]));
        apply(&mut revmap, &update(1), 18).expect("applies");
        assert_eq!(entry(&revmap, 0), [0, 0, 6, 0, 1, 0]);
        apply(&mut old, &update(2), 18).expect("applies");
        assert_eq!((old.max_offset(), old.upper()), (2, 8184 - 8));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let main = bytes![0_u32, 0_u32, 1_u16];
        let insert = Change { main: &main, ..change(rmid::BRIN, INSERT, 1, &[2, 1]) };
        assert_eq!(apply(&mut page(REVMAP), &insert, 14), Err(RedoError::Precondition("a range of no pages")));
        assert!(matches!(apply(&mut page(REGULAR), &insert, 14), Err(RedoError::Precondition(_))), "no range map");
        let short = Change { main: &main[..9], ..insert.clone() };
        assert_eq!(apply(&mut page(REVMAP), &short, 14), Err(RedoError::Short));
        let unknown = Change { info: 0x60, ..insert.clone() };
        assert_eq!(apply(&mut page(REVMAP), &unknown, 14), Err(RedoError::Unknown { rmid: rmid::BRIN, info: 0x60 }));
        let misplaced = change(rmid::BRIN, SAMEPAGE_UPDATE, 1, &[2, 1]);
        assert_eq!(apply(&mut page(REVMAP), &misplaced, 14), Err(RedoError::Block(1)));
        assert_eq!(apply(&mut Page::zeroed(), &insert, 14), Err(RedoError::NewPage));
    }
}
