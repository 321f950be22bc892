//! Several tuples at once, in the encodings of every major; expected bytes are written out.

use smallvec::smallvec;

use super::super::testing::{BLK, change, context, heap_page, tuple};
use super::super::{Ref, redo, rmid};
use super::*;
use crate::Lsn;
use crate::page::items::{ItemId, ItemState};
use crate::page::{PD_HAS_FREE_LINES, PageError};
use crate::rel::Fork;

/// Five tuples; the second and the last are dead line pointers without one.
fn page_of_five() -> Box<Page> {
    let mut page = heap_page(&[1, 2, 3, 4, 5].map(|n| tuple(3, 0xFFFF, &[n; 8])));
    for off in [2, 5] {
        page.set_item_id(off, ItemId::DEAD).expect("a line pointer");
    }
    page
}

fn applied(page: &Page, change: &Change<'_>, major: u32) -> Page {
    let mut page = page.clone();
    redo(&mut page, change, &context(major)).expect("redone");
    assert_eq!(page.lsn(), context(major).end);
    page
}

fn refused(change: &Change<'_>, major: u32) -> RedoError {
    redo(&mut page_of_five(), change, &context(major)).expect_err("refused")
}

fn states(page: &Page) -> Vec<(ItemState, u16)> {
    (1..=page.max_offset()).map(|off| page.item_id(off).expect("a line pointer")).map(|id| (id.state, id.off)).collect()
}

/// Lays numbers out as records do.
fn words(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

use ItemState::{Dead, Normal, Redirect, Unused};

#[test]
fn prune_until_16() {
    // 1 redirects to 3, 4 is dead, 2 and 5 are unused.
    let data = words(&[1, 3, 4, 2, 5]);
    for (major, lines, flags) in [(14, 5, PD_HAS_FREE_LINES), (15, 4, PD_HAS_FREE_LINES), (16, 4, PD_HAS_FREE_LINES)] {
        let main = [&[9, 9, 9, 9, 1, 0, 1, 0][..], if major == 16 { &[1] } else { &[] }].concat();
        let prune = Change { data: &data, main: &main, ..change(rmid::HEAP2, PRUNE) };
        let page = applied(&page_of_five(), &prune, major);
        let expected = [(Redirect, 3), (Unused, 0), (Normal, 8160), (Dead, 0), (Unused, 0)];
        assert_eq!(states(&page), expected[..lines], "{major}");
        assert_eq!((page.upper(), page.flags()), (8160, flags));
        assert_eq!(page.item(3).expect("a tuple")[24..], [3; 8]);
    }
    // When no free line pointer is left, the hint is cleared.
    let data = words(&[5]);
    let prune = Change { data: &data, main: &[0; 8], ..change(rmid::HEAP2, PRUNE) };
    assert_eq!(applied(&page_of_five(), &prune, 15).flags(), 0);
}

#[test]
fn vacuum_until_16_moves_no_tuple() {
    let data = words(&[2, 5]);
    let vacuum = Change { data: &data, main: &[2, 0], ..change(rmid::HEAP2, VACUUM) };
    for major in [14, 15, 16] {
        let page = applied(&page_of_five(), &vacuum, major);
        assert_eq!(states(&page), [(Normal, 8160), (Unused, 0), (Normal, 8096), (Normal, 8064)]);
        assert_eq!((page.upper(), page.flags()), (page_of_five().upper(), PD_HAS_FREE_LINES));
    }
    assert_eq!(refused(&Change { main: &[3, 0], ..vacuum.clone() }, 15), RedoError::Short);
    assert!(matches!(refused(&Change { main: &[1, 0], ..vacuum.clone() }, 15), RedoError::Precondition(_)));
    assert!(matches!(refused(&Change { main: &[1], ..vacuum }, 15), RedoError::Short));
}

/// What tuples have in `t_field3` before.
const UNTOUCHED: u32 = 0x1111_1111;

#[test]
fn freeze_until_15_tuple_by_tuple() {
    let one = [&words(&[7, 0, 1, 0x8003, 0x0B00])[..], &[2, 0]].concat();
    let three = [&words(&[0, 0, 3, 1, 0x0900])[..], &[4, 0]].concat();
    let data = [one, three].concat();
    let freeze = Change { data: &data, main: &[9, 9, 9, 9, 2, 0], ..change(rmid::HEAP2, FREEZE) };
    for major in [14, 15] {
        let page = applied(&page_of_five(), &freeze, major);
        let item = page.item(1).expect("a tuple");
        assert_eq!((&item[4..12], &item[18..22]), (&[7, 0, 0, 0, 2, 0, 0, 0][..], &[3, 0x80, 0, 0x0B][..]));
        let item = page.item(3).expect("a tuple");
        assert_eq!((&item[4..12], &item[18..22]), (&[0; 8][..], &[1, 0, 0, 9][..]));
        assert_eq!(page.item(4), page_of_five().item(4));
        assert_eq!(page.flags(), 0);
    }
    assert_eq!(refused(&Change { data: &data[..20], ..freeze.clone() }, 15), RedoError::Short);
    let more = Change { main: &[9, 9, 9, 9, 1, 0], ..freeze.clone() };
    assert!(matches!(refused(&more, 15), RedoError::Precondition(_)));
    let dead = [&words(&[7, 0, 2, 0, 0])[..], &[0, 0]].concat();
    assert!(matches!(refused(&Change { data: &dead, ..more }, 15), RedoError::Precondition(_)));
}

/// Plans of 16 and later: tuples 1 and 4 lose xmax, tuple 3 gets another one.
fn plans() -> Vec<u8> {
    let first = [&words(&[0, 0, 1, 0x0900])[..], &[0, 0xEE], &words(&[2])].concat();
    let second = [&words(&[8, 0, 2, 0x1980])[..], &[4, 0xEE], &words(&[1])].concat();
    [first, second].concat()
}

fn check_planned(page: &Page) {
    for (off, xmax, field3, infomask2, infomask) in
        [(1, 0, UNTOUCHED, 1, 0x0900_u16), (4, 0, UNTOUCHED, 1, 0x0900), (3, 8, 0, 2, 0x1980)]
    {
        let item = page.item(off).expect("a tuple");
        assert_eq!(item[4..8], u32::to_le_bytes(xmax), "{off}");
        assert_eq!(item[8..12], u32::to_le_bytes(field3), "{off}");
        assert_eq!(item[18..20], u16::to_le_bytes(infomask2), "{off}");
        assert_eq!(item[20..22], infomask.to_le_bytes(), "{off}");
    }
}

#[test]
fn freeze_of_16_by_plans() {
    let data = [plans(), words(&[1, 4, 3])].concat();
    let freeze = Change { data: &data, main: &[9, 9, 9, 9, 2, 0, 0], ..change(rmid::HEAP2, FREEZE) };
    check_planned(&applied(&page_of_five(), &freeze, 16));
    assert_eq!(refused(&Change { data: &data[..28], ..freeze.clone() }, 16), RedoError::Short);
    let long = [data.clone(), words(&[1])].concat();
    assert!(matches!(refused(&Change { data: &long, ..freeze }, 16), RedoError::Precondition(_)));
}

#[test]
fn prune_and_freeze_since_17() {
    // Everything at once: 2 becomes unused, 1 redirects to 3, 5 stays dead.
    let mut page = page_of_five();
    page.add_item_at(&tuple(3, 0xFFFF, &[6; 8]), 6, Place::Heap).expect("space");
    let data = [words(&[2, 0xEEEE]), plans(), words(&[1, 6, 3]), words(&[1, 5]), words(&[1, 2]), words(&[1, 4, 3])];
    let data = data.concat();
    for (op, major) in [(PRUNE, 17), (VACUUM, 18), (FREEZE, 18)] {
        let prune = Change { data: &data, main: &[0, 0xFC, 9, 9, 9, 9], ..change(rmid::HEAP2, op) };
        let page = applied(&page, &prune, major);
        check_planned(&page);
        let expected = [(Normal, 8160), (Unused, 0), (Normal, 8128), (Normal, 8096), (Dead, 0), (Redirect, 3)];
        assert_eq!(states(&page), expected);
        assert_eq!((page.upper(), page.flags()), (8096, PD_HAS_FREE_LINES));
        let long = [data.clone(), words(&[1])].concat();
        assert!(matches!(refused(&Change { data: &long, ..prune.clone() }, major), RedoError::Page(_)));
        assert_eq!(refused(&Change { data: &data[..10], ..prune.clone() }, major), RedoError::Short);
        assert_eq!(refused(&Change { main: &[0], ..prune }, major), RedoError::Short);
    }
}

#[test]
fn since_17_tuples_move_only_under_a_cleanup_lock() {
    let data = words(&[2, 2, 5]);
    let with = |flags| {
        let main = [0, flags];
        applied(&page_of_five(), &Change { data: &data, main: &main, ..change(rmid::HEAP2, FREEZE) }, 17)
    };
    let kept = with(0x80);
    assert_eq!(states(&kept), [(Normal, 8160), (Unused, 0), (Normal, 8096), (Normal, 8064)]);
    assert_eq!((kept.upper(), kept.flags()), (page_of_five().upper(), PD_HAS_FREE_LINES));
    let moved = with(0x84);
    assert_eq!(states(&moved), [(Normal, 8160), (Unused, 0), (Normal, 8128), (Normal, 8096)]);
    assert_eq!(moved.upper(), 8096);
    // Freezing alone does not change the layout, whatever the lock.
    let data = [words(&[2, 0]), plans(), words(&[1, 4, 3])].concat();
    let freeze = Change { data: &data, main: &[1, 0x14], ..change(rmid::HEAP2, VACUUM) };
    let frozen = applied(&page_of_five(), &freeze, 18);
    assert_eq!(states(&frozen), states(&page_of_five()));
    check_planned(&frozen);
}

#[test]
fn lists_name_line_pointers_that_exist() {
    for data in [words(&[6]), words(&[0])] {
        let prune = Change { data: &data, main: &[0; 8], ..change(rmid::HEAP2, PRUNE) };
        assert!(matches!(refused(&prune, 15), RedoError::Page(PageError::Item { .. })));
    }
    let odd = Change { data: &[1, 0, 2], main: &[0; 8], ..change(rmid::HEAP2, PRUNE) };
    assert!(matches!(refused(&odd, 15), RedoError::Precondition(_)));
    let short = Change { data: &[1, 0], main: &[9, 9, 9, 9, 1, 0, 0, 0], ..change(rmid::HEAP2, PRUNE) };
    assert_eq!(refused(&short, 15), RedoError::Short);
}

#[test]
fn multi_insert_aligns_each_tuple() {
    let first = [&words(&[2, 3, 0x0922])[..], &[24, 0, b'a']].concat();
    // An odd length: a padding byte precedes the next tuple.
    let second = [&words(&[3, 4, 0x0802])[..], &[24, 0, b'b', b'c']].concat();
    let data = [&first[..], &[0xEE], &second].concat();
    let main = [&[0x20, 0xEE][..], &words(&[2, 6, 7])].concat();
    let mut insert = Change { data: &data, main: &main, ..change(rmid::HEAP2, MULTI_INSERT) };
    let page = applied(&page_of_five(), &insert, 15);
    assert_eq!((page.max_offset(), page.flags()), (7, PD_ALL_VISIBLE));
    let item = page.item(6).expect("a tuple");
    assert_eq!(item[..18], [0xE8, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 6, 0]);
    assert_eq!(item[18..], [3, 0, 0x02, 9, 24, 0, b'a']);
    assert_eq!(page.item(7).expect("a tuple")[18..], [4, 0, 2, 8, 24, 0, b'b', b'c']);

    assert_eq!(refused(&Change { data: &data[..data.len() - 1], ..insert.clone() }, 15), RedoError::Short);
    let long = [&data[..], &[0]].concat();
    assert!(matches!(refused(&Change { data: &long, ..insert.clone() }, 15), RedoError::Precondition(_)));
    assert_eq!(refused(&Change { main: &main[..6], ..insert.clone() }, 15), RedoError::Short);

    let main = [&[0x01, 0][..], &words(&[2])].concat();
    (insert.main, insert.init, insert.info) = (&main, true, 0x80 | MULTI_INSERT);
    let page = applied(&page_of_five(), &insert, 18);
    assert_eq!((page.max_offset(), page.flags(), page.upper()), (2, 0, 8192 - 64));
    assert_eq!(page.item(1).expect("a tuple")[12..18], [1, 0, 2, 0, 1, 0]);
}

#[test]
fn lock_updated_keeps_link_and_command_id() {
    let lock = Change { main: &[5, 0, 0, 0, 1, 0, 0x0A, 1], ..change(rmid::HEAP2, LOCK_UPDATED) };
    let mut before = page_of_five();
    before.item_mut(1).expect("a tuple")[18..20].copy_from_slice(&[0xFF, 0xFF]);
    let page = applied(&before, &lock, 15);
    let item = page.item(1).expect("a tuple");
    assert_eq!((&item[4..8], &item[8..18]), (&[5, 0, 0, 0][..], &[0x11; 10][..]));
    // HOT_UPDATED and COMBOCID stay.
    assert_eq!(item[18..22], [0xFF, 0xDF, 0xBF, 0x23]);
}

#[test]
fn visible_stamps_the_heap_page_only_when_hints_are_logged() {
    let refs = smallvec![Ref { id: 0, fork: Fork::Vm, blk: 2 }, Ref { id: 1, fork: Fork::Main, blk: BLK }];
    let visible = Change { block: 1, refs, main: &[9, 9, 9, 9, 3], ..change(rmid::HEAP2, VISIBLE) };
    let mut page = page_of_five();
    redo(&mut page, &visible, &context(15)).expect("redone");
    assert_eq!((page.flags(), page.lsn()), (PD_ALL_VISIBLE, Lsn::new(0)));
    assert_eq!(applied(&page, &Change { hint_lsn: true, ..visible.clone() }, 15).flags(), PD_ALL_VISIBLE);
    assert_eq!(refused(&Change { block: 0, ..visible }, 15), RedoError::Block(0));
}
