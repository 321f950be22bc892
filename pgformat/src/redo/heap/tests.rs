//! Single tuples, on pages built by hand; expected bytes are written out.

use smallvec::smallvec;

use super::super::testing::{BLK, change, context, heap_page, tuple};
use super::super::{Ref, redo, rmid};
use super::*;
use crate::page::PageError;
use crate::page::items::{HEAP_TUPLES_MAX, ItemId};
use crate::rel::Fork;

/// `t_ctid` of tuple `off` on [`BLK`].
fn ctid(off: u8) -> [u8; 6] {
    [1, 0, 2, 0, off, 0]
}

/// Every flag, so that it shows which ones redo clears.
const ALL: u16 = 0xFFFF;

fn page_of_two() -> Box<Page> {
    let mut page = heap_page(&[tuple(ALL, ALL, b"first"), tuple(2, 0x0900, b"second")]);
    page.change_flags(0, PD_ALL_VISIBLE);
    page
}

fn apply(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    redo(page, change, &context(15))
}

fn applied(mut page: Box<Page>, change: &Change<'_>) -> Box<Page> {
    apply(&mut page, change).expect("redone");
    assert_eq!(page.lsn(), context(15).end);
    page
}

fn refused(change: &Change<'_>) -> RedoError {
    apply(&mut page_of_two(), change).expect_err("refused")
}

fn no_such_item(error: &RedoError) -> bool {
    matches!(error, RedoError::Page(PageError::Item { .. }))
}

#[test]
fn insert_builds_the_tuple() {
    let data = [&[3, 0, 0x22, 0x09, 24, 0][..], b"body"].concat();
    let insert = Change { data: &data, main: &[3, 0, 1], ..change(rmid::HEAP, INSERT) };
    let page = applied(page_of_two(), &insert);
    let mut expected = vec![0xE8, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    expected.extend(ctid(3));
    // The flags are 0x0922; that of a combined command id is cleared.
    expected.extend([3, 0, 0x02, 0x09, 24, 0]);
    expected.extend(b"body");
    assert_eq!(page.item(3).expect("the tuple"), expected);
    assert_eq!(page.flags(), 0);
    let unflagged = applied(page_of_two(), &Change { main: &[3, 0, 0], ..insert });
    assert_eq!(unflagged.flags(), PD_ALL_VISIBLE);
}

#[test]
fn insert_reuses_a_free_line_pointer_and_no_other() {
    let insert = Change { data: &[3, 0, 2, 9, 24, 0], main: &[1, 0, 0], ..change(rmid::HEAP, INSERT) };
    assert!(no_such_item(&refused(&insert)));
    let mut page = page_of_two();
    page.set_item_id(1, ItemId::UNUSED).expect("a line pointer");
    let page = applied(page, &insert);
    assert_eq!((page.max_offset(), page.item(1).expect("the tuple").len()), (2, 24));
    for off in [0, 4, HEAP_TUPLES_MAX + 1] {
        let main = [off as u8, (off >> 8) as u8, 0];
        assert!(no_such_item(&refused(&Change { main: &main, ..insert.clone() })));
    }
}

#[test]
fn insert_makes_the_page_anew() {
    let insert = Change { init: true, data: &[3, 0, 2, 9, 24, 0], main: &[1, 0, 0], ..change(rmid::HEAP, 0x80) };
    let page = applied(page_of_two(), &insert);
    assert_eq!((page.max_offset(), page.flags(), page.upper()), (1, 0, 8192 - 24));
    // This also works on a page that was never initialised.
    assert_eq!(applied(Page::zeroed(), &insert), page);
    assert!(matches!(refused(&Change { init: false, ..insert.clone() }), RedoError::Precondition(_)));
    assert!(matches!(refused(&Change { info: INSERT, ..insert.clone() }), RedoError::Precondition(_)));
    let late = Change { init: false, info: INSERT, ..insert };
    assert_eq!(apply(&mut Page::zeroed(), &late), Err(RedoError::NewPage));
}

#[test]
fn insert_refuses_what_is_cut_off_or_too_long() {
    let insert = Change { data: &[3, 0, 2, 9, 24, 0], main: &[3, 0, 0], ..change(rmid::HEAP, INSERT) };
    assert_eq!(refused(&Change { main: &[3, 0], ..insert.clone() }), RedoError::Short);
    assert_eq!(refused(&Change { data: &[3, 0, 2, 9], ..insert.clone() }), RedoError::Short);
    assert_eq!(refused(&Change { block: 1, ..insert.clone() }), RedoError::Block(1));
    let long = vec![0; 8150];
    assert!(matches!(refused(&Change { data: &long, ..insert }), RedoError::Page(PageError::NoSpace { .. })));
}

#[test]
fn delete_marks_the_tuple() {
    // Keys were updated, the locker is a multixact.
    let delete = Change { main: &[5, 0, 0, 0, 1, 0, 0x11, 1], ..change(rmid::HEAP, DELETE) };
    let page = applied(page_of_two(), &delete);
    let item = page.item(1).expect("the tuple");
    assert_eq!(item[..12], [0x11, 0x11, 0x11, 0x11, 5, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(item[12..18], ctid(1));
    // t_infomask2 without HOT_UPDATED; t_infomask without XMAX_BITS, MOVED, COMBOCID, with IS_MULTI.
    assert_eq!(item[18..24], [0xFF, 0xBF, 0x0F, 0x33, 24, 0]);
    assert_eq!((page.prune_xid(), page.flags()), (1000, 0));
}

#[test]
fn a_lost_speculative_insertion_loses_xmin_and_a_moved_row_its_link() {
    let delete = Change { main: &[5, 0, 0, 0, 1, 0, 0, 0x18], ..change(rmid::HEAP, DELETE) };
    let page = applied(page_of_two(), &delete);
    let item = page.item(1).expect("the tuple");
    assert_eq!(item[..8], [0, 0, 0, 0, 0x11, 0x11, 0x11, 0x11]);
    assert_eq!(item[12..18], [0xFF, 0xFF, 0xFF, 0xFF, 0xFD, 0xFF]);
    assert_eq!(page.flags(), PD_ALL_VISIBLE);
}

#[test]
fn only_tuples_can_be_changed() {
    let changes = [
        Change { main: &[5, 0, 0, 0, 1, 0, 0, 0], ..change(rmid::HEAP, DELETE) },
        Change { main: &[5, 0, 0, 0, 1, 0, 0, 0], ..change(rmid::HEAP, LOCK) },
        Change { main: &[5, 0, 0, 0, 1, 0, 0, 0], ..change(rmid::HEAP2, 0x60) },
        Change { main: &[1, 0], ..change(rmid::HEAP, CONFIRM) },
        Change { main: &[1, 0], ..change(rmid::HEAP, INPLACE) },
        Change { main: &[5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 3, 0], ..change(rmid::HEAP, UPDATE) },
    ];
    for change in &changes {
        for id in [ItemId::UNUSED, ItemId::DEAD, ItemId::redirect(2)] {
            let mut page = page_of_two();
            page.set_item_id(1, id).expect("a line pointer");
            assert!(matches!(apply(&mut page, change), Err(RedoError::Precondition(_))), "{change:?}");
        }
        let empty = apply(&mut heap_page(&[]), change).expect_err("no line pointer");
        assert!(no_such_item(&empty), "{change:?}");
        let stub = apply(&mut heap_page(&[vec![1; 22]]), change);
        assert!(matches!(stub, Err(RedoError::Precondition(_))), "{change:?}");
        let cut = &change.main[..change.main.len() - 2];
        let cut = Change { main: cut, ..change.clone() };
        assert_eq!(refused(&cut), RedoError::Short);
        assert_eq!(refused(&Change { block: 4, ..change.clone() }), RedoError::Block(4));
    }
}

/// An update of line pointer 1 to 3: `old_xmax` 5, `new_xmax` 6.
fn update_main(flags: u8) -> [u8; 14] {
    [5, 0, 0, 0, 1, 0, 0x02, flags, 6, 0, 0, 0, 3, 0]
}

#[test]
fn hot_update_on_one_page() {
    // Prefix of 2 ("fi"), suffix of 1 ("t"); a bitmap of one byte; "xy" between.
    let data = [2, 0, 1, 0, 7, 0, 0x20, 0x28, 24, 0xB0, b'x', b'y'];
    let main = update_main(0x63);
    let update = Change { data: &data, main: &main, ..change(rmid::HEAP, HOT_UPDATE) };
    let page = applied(page_of_two(), &update);
    let old = page.item(1).expect("the old tuple");
    assert_eq!(old[..12], [0x11, 0x11, 0x11, 0x11, 5, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(old[12..18], ctid(3));
    assert_eq!(old[18..24], [0xFF, 0xDF, 0x8F, 0x23, 24, 0]);
    let mut expected = vec![0xE8, 3, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0];
    expected.extend(ctid(3));
    expected.extend([7, 0, 0, 0x28, 24, 0xB0]);
    expected.extend(b"fixyt");
    assert_eq!(page.item(3).expect("the new tuple"), expected);
    assert_eq!((page.prune_xid(), page.flags()), (1000, 0));
}

#[test]
fn a_suffix_alone_leaves_bitmap_and_data_in_one_piece() {
    let data = [4, 0, 7, 0, 0, 8, 24, 0xB0, b'x'];
    let main = update_main(0x40);
    let page = applied(page_of_two(), &Change { data: &data, main: &main, ..change(rmid::HEAP, UPDATE) });
    assert_eq!(page.item(3).expect("the new tuple")[23..], *b"\xB0xirst");
    assert_eq!(page.flags(), PD_ALL_VISIBLE);
    assert_eq!(page.item(1).expect("the old tuple")[19], 0x9F);
}

#[test]
fn an_update_borrows_no_more_than_there_is() {
    for (data, flags) in [([6, 0, 7, 0, 0, 8, 24, 0], 0x20), ([40, 0, 7, 0, 0, 8, 24, 0], 0x40)] {
        let main = update_main(flags);
        let update = Change { data: &data, main: &main, ..change(rmid::HEAP, UPDATE) };
        assert!(matches!(refused(&update), RedoError::Precondition(_)));
    }
    let main = update_main(0x20);
    let inside = Change { data: &[1, 0, 7, 0, 0, 8, 22, 0], main: &main, ..change(rmid::HEAP, UPDATE) };
    assert!(matches!(refused(&inside), RedoError::Precondition(_)));
    assert_eq!(refused(&Change { data: &[1, 0, 7, 0, 0, 8, 30, 0], ..inside }), RedoError::Short);
}

/// An update from block 77 to [`BLK`].
fn two_pages(main: &[u8]) -> Change<'_> {
    let refs = smallvec![Ref { id: 0, fork: Fork::Main, blk: BLK }, Ref { id: 1, fork: Fork::Main, blk: 77 }];
    Change { refs, data: &[7, 0, 0, 8, 24, 0xB0], main, ..change(rmid::HEAP, UPDATE) }
}

#[test]
fn update_of_two_pages_changes_each_by_its_part() {
    let main = update_main(0x02);
    let new = two_pages(&main);
    let page = applied(page_of_two(), &new);
    assert_eq!(page.item(1), page_of_two().item(1));
    assert_eq!(page.item(3).expect("the new tuple")[12..18], ctid(3));
    assert_eq!((page.prune_xid(), page.flags()), (0, 0));

    let old = Change { block: 1, blk: 77, data: &[], ..new.clone() };
    let page = applied(page_of_two(), &old);
    assert_eq!(page.max_offset(), 2);
    assert_eq!(page.item(1).expect("the old tuple")[12..18], ctid(3));
    assert_eq!((page.prune_xid(), page.flags()), (1000, PD_ALL_VISIBLE));

    // The new page may start from nothing, the old one does not.
    let on_first = [5, 0, 0, 0, 1, 0, 0x02, 0, 6, 0, 0, 0, 1, 0];
    let page = applied(Page::zeroed(), &Change { info: 0xA0, init: true, main: &on_first, ..new.clone() });
    assert_eq!(page.max_offset(), 1);
    applied(page_of_two(), &Change { info: 0xA0, ..old });

    let borrowed = update_main(0x20);
    let borrows = Change { main: &borrowed, data: &[1, 0, 7, 0, 0, 8, 24, 0xB0], ..new.clone() };
    assert!(matches!(refused(&borrows), RedoError::Precondition(_)));
    assert_eq!(refused(&Change { info: HOT_UPDATE, ..new.clone() }), RedoError::Block(1));
    assert_eq!(refused(&Change { refs: smallvec![], ..new }), RedoError::NoRef(0));
}

#[test]
fn lock_ends_the_chain_unless_an_update_made_it() {
    // Locked only: by its own bit, and as before 9.3, by the exclusive bit alone.
    for (infobits, masked) in [(0x06, [0xCF, 0x23]), (0x04, [0x4F, 0x23])] {
        let main = [5, 0, 0, 0, 1, 0, infobits, 1];
        let page = applied(page_of_two(), &Change { main: &main, ..change(rmid::HEAP, LOCK) });
        let item = page.item(1).expect("the tuple");
        assert_eq!(item[4..12], [5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(item[12..18], ctid(1));
        assert_eq!((item[19], [item[20], item[21]]), (0x9F, masked));
        // The page stays all-visible: only the map's frozen bit is cleared.
        assert_eq!((page.prune_xid(), page.flags()), (0, PD_ALL_VISIBLE));
    }
    // A multixact that contains an update, without and with a lock as strong.
    for (infobits, masked) in [(0x11, [0x0F, 0x33]), (0x15, [0x4F, 0x33])] {
        let main = [5, 0, 0, 0, 1, 0, infobits, 0];
        let page = applied(page_of_two(), &Change { main: &main, ..change(rmid::HEAP, LOCK) });
        let item = page.item(1).expect("the tuple");
        assert_eq!(item[12..18], [0x11; 6]);
        assert_eq!((item[19], [item[20], item[21]]), (0xFF, masked));
    }
}

#[test]
fn confirm_points_the_tuple_to_itself() {
    let page = applied(page_of_two(), &Change { main: &[2, 0], ..change(rmid::HEAP, CONFIRM) });
    assert_eq!(page.item(2).expect("the tuple")[12..18], ctid(2));
    assert_eq!(page.item(2).expect("the tuple")[18..], page_of_two().item(2).expect("the tuple")[18..]);
}

#[test]
fn inplace_overwrites_data_of_the_same_length() {
    let inplace = Change { data: b"FIRST", main: &[1, 0], ..change(rmid::HEAP, INPLACE) };
    let page = applied(page_of_two(), &inplace);
    let expected = tuple(ALL, ALL, b"FIRST");
    assert_eq!(page.item(1).expect("the tuple"), expected);
    for data in [&b"FIRS"[..], b"FIRST!", b""] {
        assert!(matches!(refused(&Change { data, ..inplace.clone() }), RedoError::Precondition(_)));
    }
}

#[test]
fn unknown_and_blockless_types_are_refused() {
    assert_eq!(refused(&change(rmid::HEAP, 0x30)), RedoError::Block(0));
    assert_eq!(refused(&change(rmid::HEAP2, 0x00)), RedoError::Block(0));
    assert_eq!(refused(&change(rmid::HEAP2, 0x70)), RedoError::Block(0));
}

#[test]
fn the_oldest_transaction_hints_at_pruning() {
    let hint = |before, xid| {
        let mut page = page_of_two();
        page.set_prune_xid(before);
        mark_prunable(&mut page, xid);
        page.prune_xid()
    };
    assert_eq!(hint(0, 9), 9);
    assert_eq!((hint(10, 9), hint(9, 10)), (9, 9));
    // Ids wrap around; 2, a special id, is older than all that do.
    assert_eq!((hint(3, u32::MAX), hint(u32::MAX, 3)), (u32::MAX, u32::MAX));
    assert_eq!(hint(2, u32::MAX), 2);
    assert_eq!((precedes(3, 0x8000_0003), precedes(3, 0x8000_0004)), (true, false));
}
