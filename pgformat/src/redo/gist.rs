//! Redo of GiST.
//!
//! A page that was split carries the mark `F_FOLLOW_RIGHT` until its parent has the downlink. The record that adds the
//! downlink clears the mark and sets the page's NSN to the record's own end. This also applies on top of an image of
//! the page: the image was taken before that end was known.
//!
//! `F_TUPLES_DELETED` is set as 15.18 sets it. Other minor releases differ, and nothing reads it.
//!
//! Source: PostgreSQL 14-18, `src/backend/access/gist/gistxlog.c`, `gistutil.c` (`gistinitpage`, `gistfillbuffer`),
//! `src/include/access/gist.h`, `gistxlog.h`.

use super::index::{append_tuples, expect_init, expect_special, take_packed_tuple};
use super::itup::all_read;
use super::{Change, Context, RedoError};
use crate::page::{PAGE_HEADER_LEN, PAGE_SIZE, Page};
use crate::read::Take;
use crate::rel::{BlockNumber, NO_BLOCK};

const PAGE_UPDATE: u8 = 0x00;
const DELETE: u8 = 0x10;
/// Without blocks: tells standbys that a page is about to be used again.
const PAGE_REUSE: u8 = 0x20;
const PAGE_SPLIT: u8 = 0x30;
const PAGE_DELETE: u8 = 0x60;
/// Without blocks: moves the log's end on, for NSNs.
const ASSIGN_LSN: u8 = 0x70;

const SPECIAL_LEN: usize = 16;
const NSN: usize = PAGE_SIZE - SPECIAL_LEN;
const RIGHTLINK: usize = NSN + 8;
const FLAGS: usize = NSN + 12;
const PAGE_ID: usize = NSN + 14;
const GIST_PAGE_ID: u16 = 0xFF81;

const F_LEAF: u16 = 1;
const F_DELETED: u16 = 2;
const F_TUPLES_DELETED: u16 = 4;
const F_FOLLOW_RIGHT: u16 = 8;
const F_HAS_GARBAGE: u16 = 16;

const ROOT: BlockNumber = 0;

/// Applies one change.
///
/// # Errors
/// See [`RedoError`].
pub fn redo(page: &mut Page, change: &Change<'_>, ctx: &Context) -> Result<(), RedoError> {
    let mut main = Take::new(change.main);
    match (change.info, change.block) {
        (PAGE_UPDATE, 1) | (PAGE_SPLIT, 0) => finish_split(page, change, ctx)?,
        (PAGE_UPDATE, 0) => update(page, change, &mut main)?,
        (DELETE, 0) => delete(page, change, &mut main, ctx)?,
        (PAGE_SPLIT, _) => split(page, change, &mut main)?,
        (PAGE_DELETE, 0) => {
            expect_old(page, change)?;
            let xid = main.array::<8>()?;
            change_flags(page, 0, F_DELETED)?;
            page.put(PAGE_HEADER_LEN, &xid)?;
            page.set_lower(PAGE_HEADER_LEN + xid.len());
        }
        (PAGE_DELETE, 1) => {
            expect_old(page, change)?;
            main.skip(8)?;
            page.index_delete(main.u16()?)?;
        }
        (PAGE_UPDATE | DELETE | PAGE_REUSE | PAGE_DELETE | ASSIGN_LSN, block) => return Err(RedoError::Block(block)),
        _ => return Err(change.unknown()),
    }
    page.set_lsn(ctx.end);
    Ok(())
}

/// What a record does to a page that it has restored from an image.
///
/// # Errors
/// See [`RedoError`].
pub fn after_image(page: &mut Page, change: &Change<'_>, ctx: &Context) -> Result<(), RedoError> {
    if changes_after_image(change.info, change.block) {
        finish_split(page, change, ctx)?;
        page.set_lsn(ctx.end);
    }
    Ok(())
}

/// Whether [`after_image`] does something.
pub fn changes_after_image(info: u8, block: u8) -> bool {
    matches!((info, block), (PAGE_UPDATE, 1) | (PAGE_SPLIT, 0))
}

/// The parent has got the downlink of this page's right half (`gistRedoClearFollowRight`).
fn finish_split(page: &mut Page, change: &Change<'_>, ctx: &Context) -> Result<(), RedoError> {
    expect_old(page, change)?;
    set_nsn(page, ctx.end.get())?;
    change_flags(page, F_FOLLOW_RIGHT, 0)
}

fn update(page: &mut Page, change: &Change<'_>, main: &mut Take<'_>) -> Result<(), RedoError> {
    expect_old(page, change)?;
    let (deleted, inserted) = (main.u16()?, main.u16()?);
    all_read(main)?;
    let mut data = Take::new(change.data);
    let mut count = 0;
    if (deleted, inserted) == (1, 1) {
        // In place, as the primary did it: deleting and appending would give another layout.
        let off = data.u16()?;
        page.index_overwrite(off, take_packed_tuple(&mut data)?)?;
        count = 1;
    } else if deleted > 0 {
        let offs: Vec<u16> = data.u16s(usize::from(deleted))?.collect();
        page.index_multi_delete(&offs)?;
        if flags(page)? & F_LEAF != 0 {
            change_flags(page, 0, F_TUPLES_DELETED)?;
        }
    }
    count += append_tuples(page, &mut data)?;
    if count != usize::from(inserted) {
        return Err(RedoError::Precondition("a GiST record has another number of tuples than it says"));
    }
    Ok(())
}

/// Tuples known to be dead are removed to make room.
fn delete(page: &mut Page, change: &Change<'_>, main: &mut Take<'_>, ctx: &Context) -> Result<(), RedoError> {
    expect_old(page, change)?;
    // The horizon for standbys.
    main.skip(4)?;
    let count = usize::from(main.u16()?);
    if ctx.version.get() >= 16 {
        // Whether the table is a catalog, padded.
        main.skip(2)?;
    }
    let offs: Vec<u16> = main.u16s(count)?.collect();
    all_read(main)?;
    page.index_multi_delete(&offs)?;
    change_flags(page, F_HAS_GARBAGE, F_TUPLES_DELETED)
}

/// One of the pages that a page was split into: references 1, 2, and so on, in the order of their links.
fn split(page: &mut Page, change: &Change<'_>, main: &mut Take<'_>) -> Result<(), RedoError> {
    let old_rightlink = main.u32()?;
    main.skip(4)?;
    let (old_nsn, was_leaf) = (main.u64()?, main.bool()?);
    main.skip(1)?;
    let (pages, mark_follow_right) = (main.u16()?, main.bool()?);
    if u16::from(change.block) > pages {
        return Err(RedoError::Block(change.block));
    }
    let (is_root, is_last) = (change.blk == ROOT, u16::from(change.block) == pages);

    expect_init(change, true)?;
    page.init(SPECIAL_LEN);
    page.put_u16(PAGE_ID, GIST_PAGE_ID)?;
    let mut data = Take::new(change.data);
    let count = data.i32()?;
    if usize::try_from(count) != Ok(append_tuples(page, &mut data)?) {
        return Err(RedoError::Precondition("a GiST record has another number of tuples than it says"));
    }
    let rightlink = match (is_root, is_last) {
        (true, _) => NO_BLOCK,
        (false, true) => old_rightlink,
        (false, false) => change.required(change.block.saturating_add(1))?,
    };
    page.put_u32(RIGHTLINK, rightlink)?;
    set_nsn(page, old_nsn)?;
    // For a split of the root, the record itself has the downlinks.
    let root_split = change.required(1)? == ROOT;
    let follow_right = !is_root && !is_last && !root_split && mark_follow_right;
    let leaf = was_leaf && !is_root;
    change_flags(page, 0, if leaf { F_LEAF } else { 0 } | if follow_right { F_FOLLOW_RIGHT } else { 0 })
}

fn expect_old(page: &Page, change: &Change<'_>) -> Result<(), RedoError> {
    expect_init(change, false)?;
    expect_special(page, SPECIAL_LEN)
}

fn flags(page: &Page) -> Result<u16, RedoError> {
    Ok(page.u16_at(FLAGS)?)
}

fn change_flags(page: &mut Page, clear: u16, set: u16) -> Result<(), RedoError> {
    let flags = flags(page)? & !clear | set;
    Ok(page.put_u16(FLAGS, flags)?)
}

fn set_nsn(page: &mut Page, nsn: u64) -> Result<(), RedoError> {
    // Upper half first, as `pd_lsn`.
    page.put_u32(NSN, (nsn >> 32) as u32)?;
    Ok(page.put_u32(NSN + 4, (nsn & 0xFFFF_FFFF) as u32)?)
}

#[cfg(test)]
mod tests {
    use super::super::index::testing::{END, apply, bytes, change, items, tuple};
    use super::super::{after_image as any_after_image, rmid};
    use super::*;
    use crate::PgMajor;

    fn page(flags: u16, tuples: &[Vec<u8>]) -> Box<Page> {
        let mut page = Page::zeroed();
        page.init(SPECIAL_LEN);
        page.put_u16(PAGE_ID, GIST_PAGE_ID).expect("inside");
        page.put_u16(FLAGS, flags).expect("inside");
        for tuple in tuples {
            page.add_item(tuple).expect("fits");
        }
        page
    }

    fn numbered(count: u8) -> Vec<Vec<u8>> {
        (1..=count).map(|n| tuple(24, n)).collect()
    }

    #[test]
    fn tuples_are_replaced_deleted_and_added() {
        let old = numbered(5);
        let mut leaf = page(F_LEAF, &old);
        let (main, data) = (bytes![1_u16, 1_u16], [bytes![2_u16], tuple(16, 9)].concat());
        let one = Change { main: &main, data: &data, ..change(rmid::GIST, PAGE_UPDATE, 0, &[4]) };
        apply(&mut leaf, &one, 14).expect("applies");
        let expected = [old[0].clone(), tuple(16, 9), old[2].clone(), old[3].clone(), old[4].clone()];
        assert_eq!(items(&leaf), expected);
        assert_eq!(leaf.u16_at(FLAGS), Ok(F_LEAF), "an exchange deletes nothing");

        let main = bytes![3_u16, 2_u16];
        let data = [bytes![1_u16, 2_u16, 5_u16], tuple(8, 7), tuple(40, 8)].concat();
        let many = Change { main: &main, data: &data, ..one.clone() };
        apply(&mut leaf, &many, 14).expect("applies");
        assert_eq!(items(&leaf), [old[2].clone(), old[3].clone(), tuple(8, 7), tuple(40, 8)]);
        assert_eq!(leaf.u16_at(FLAGS), Ok(F_LEAF | F_TUPLES_DELETED));

        let wrong = bytes![0_u16, 3_u16];
        let refused = apply(&mut leaf, &Change { main: &wrong, data: &tuple(8, 7), ..one.clone() }, 14);
        assert!(matches!(refused, Err(RedoError::Precondition(_))), "three tuples announced, one there");
        assert_eq!(apply(&mut leaf, &Change { main: &main[..3], ..one }, 14), Err(RedoError::Short));
    }

    #[test]
    fn a_finished_split_numbers_the_page_even_after_an_image() {
        for (info, block) in [(PAGE_UPDATE, 1), (PAGE_SPLIT, 0)] {
            let finish = change(rmid::GIST, info, block, &[8, 9]);
            let ctx = Context { version: PgMajor::new(17).expect("17"), end: END };
            for after in [false, true] {
                let mut child = page(F_LEAF | F_FOLLOW_RIGHT, &numbered(1));
                if after {
                    any_after_image(&mut child, &finish, &ctx).expect("applies");
                } else {
                    apply(&mut child, &finish, 17).expect("applies");
                }
                assert_eq!(child.0[NSN..NSN + 8], bytes![1_u32, 0x2345_6788_u32]);
                assert_eq!((child.u16_at(FLAGS), child.lsn()), (Ok(F_LEAF), END));
            }
            assert!(super::super::changes_after_image(rmid::GIST, info, block));
            assert!(!super::super::changes_after_image(rmid::GIST, info, 1 - block));
        }
        let mut target = page(F_LEAF, &[]);
        let before = target.clone();
        let ctx = Context { version: PgMajor::new(17).expect("17"), end: END };
        any_after_image(&mut target, &change(rmid::GIST, PAGE_UPDATE, 0, &[8, 9]), &ctx).expect("nothing to do");
        assert!(target == before);
    }

    #[test]
    fn dead_tuples_are_deleted_in_the_layout_of_each_major() {
        for major in 14..=18 {
            let mut leaf = page(F_LEAF | F_HAS_GARBAGE, &numbered(4));
            let mut main = bytes![700_u32, 3_u16];
            if major >= 16 {
                main.extend_from_slice(&[1, 0]);
            }
            main.extend_from_slice(&bytes![1_u16, 3_u16, 4_u16]);
            let delete = Change { main: &main, ..change(rmid::GIST, DELETE, 0, &[4]) };
            apply(&mut leaf, &delete, major).expect("applies");
            assert_eq!(items(&leaf), [tuple(24, 2)]);
            assert_eq!(leaf.u16_at(FLAGS), Ok(F_LEAF | F_TUPLES_DELETED));
            let other = if major >= 16 { 15 } else { 16 };
            assert!(apply(&mut page(F_LEAF, &numbered(4)), &delete, other).is_err(), "read as {other}");
        }
    }

    #[test]
    fn a_page_splits_into_linked_pages() {
        // Right link, padding, NSN, leaf, padding, pages, mark, padding.
        let main =
            |leaf: u8, pages: u16| bytes![77_u32, 0_u32, 0x5_0000_0006_u64, leaf, 0_u8, pages, 1_u8, 0_u8, 0_u16];
        let data = [bytes![2_i32], tuple(16, 1), tuple(32, 2)].concat();
        let split = |blks: &[BlockNumber], block, leaf| {
            let mut page = page(F_DELETED, &numbered(9));
            let main = main(leaf, blks.len() as u16 - 1);
            let change = Change { init: true, main: &main, data: &data, ..change(rmid::GIST, PAGE_SPLIT, block, blks) };
            apply(&mut page, &change, 16).map(|()| {
                assert_eq!(items(&page), [tuple(16, 1), tuple(32, 2)]);
                assert_eq!(page.0[NSN..NSN + 8], bytes![5_u32, 6_u32]);
                assert_eq!(page.u16_at(PAGE_ID), Ok(GIST_PAGE_ID));
                (page.u32_at(RIGHTLINK).expect("inside"), page.u16_at(FLAGS).expect("inside"))
            })
        };
        assert_eq!(split(&[3, 4, 12, 13], 1, 1), Ok((12, F_LEAF | F_FOLLOW_RIGHT)));
        assert_eq!(split(&[3, 4, 12, 13], 2, 1), Ok((13, F_LEAF | F_FOLLOW_RIGHT)));
        assert_eq!(split(&[3, 4, 12, 13], 3, 1), Ok((77, F_LEAF)), "the last one takes over the link");
        assert_eq!(split(&[3, 0, 12, 13], 1, 1), Ok((NO_BLOCK, 0)), "a root is no leaf any more");
        assert_eq!(split(&[3, 0, 12, 13], 2, 0), Ok((13, 0)), "a root has all downlinks at once");
        assert_eq!(split(&[3, 0, 12, 13], 3, 1), Ok((77, F_LEAF)));

        let (main, short) = (main(1, 2), [bytes![3_i32], tuple(16, 1)].concat());
        let refused =
            Change { init: true, main: &main, data: &short, ..change(rmid::GIST, PAGE_SPLIT, 1, &[3, 4, 5, 6]) };
        assert!(apply(&mut page(0, &[]), &refused, 16).is_err(), "three tuples announced, one there");
        let beyond =
            Change { init: true, main: &main, data: &data, ..change(rmid::GIST, PAGE_SPLIT, 3, &[3, 4, 5, 6]) };
        assert_eq!(apply(&mut page(0, &[]), &beyond, 16), Err(RedoError::Block(3)));
    }

    #[test]
    fn a_page_is_deleted_and_its_downlink_with_it() {
        let main = bytes![0x2_0000_0003_u64, 2_u16];
        let delete = |block| Change { main: &main, ..change(rmid::GIST, PAGE_DELETE, block, &[9, 1]) };
        let mut leaf = page(F_LEAF, &[]);
        apply(&mut leaf, &delete(0), 15).expect("applies");
        assert_eq!(leaf.0[24..32], bytes![0x2_0000_0003_u64]);
        assert_eq!((leaf.lower(), leaf.u16_at(FLAGS)), (32, Ok(F_LEAF | F_DELETED)));
        let mut parent = page(0, &numbered(3));
        apply(&mut parent, &delete(1), 15).expect("applies");
        assert_eq!(items(&parent), [tuple(24, 1), tuple(24, 3)]);
        let main = bytes![0_u64, 7_u16];
        let none = Change { main: &main, ..delete(1) };
        assert!(matches!(apply(&mut parent, &none, 15), Err(RedoError::Page(_))));
    }

    #[test]
    fn records_without_blocks_and_unknown_ones_are_refused() {
        for info in [PAGE_REUSE, ASSIGN_LSN] {
            let change = change(rmid::GIST, info, 0, &[1]);
            assert_eq!(apply(&mut page(0, &[]), &change, 18), Err(RedoError::Block(0)));
        }
        let unknown = change(rmid::GIST, 0x40, 0, &[1]);
        assert_eq!(apply(&mut page(0, &[]), &unknown, 18), Err(RedoError::Unknown { rmid: rmid::GIST, info: 0x40 }));
        let mut other = Page::zeroed();
        other.init(8);
        let update = change(rmid::GIST, PAGE_UPDATE, 0, &[1]);
        assert!(matches!(apply(&mut other, &update, 18), Err(RedoError::Precondition(_))), "no GiST page");
    }
}
