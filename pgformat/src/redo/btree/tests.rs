//! Tests of B-tree redo: pages built by hand, one test for each type of record.

use super::page::BtreeSpecial;
use super::*;
use crate::page::PAGE_SIZE;
use crate::page::items::{ItemId, ItemState};
use crate::redo::index::testing::{self, END, halves, items, keyed_tuple, words};
use crate::redo::index::tid;
use crate::redo::rmid;

const LEAF: u16 = 1;

fn page_with(special: BtreeSpecial, tuples: &[Vec<u8>]) -> Box<Page> {
    let mut page = Page::zeroed();
    special.init(&mut page).expect("an empty page");
    for tuple in tuples {
        page.add_item(tuple).expect("space for the tuple");
    }
    page
}

/// The rightmost leaf.
fn leaf(tuples: &[Vec<u8>]) -> Box<Page> {
    page_with(BtreeSpecial { prev: 9, next: 0, level: 0, flags: LEAF, cycle: 3 }, tuples)
}

/// The record's references are 100, 101, and so on.
fn change<'a>(info: u8, block: u8, main: &'a [u8], data: &'a [u8]) -> Change<'a> {
    let blks: Vec<u32> = (100..108).collect();
    let init = makes_page(info, block);
    Change { init, main, data, ..testing::change(rmid::BTREE, info, block, &blks) }
}

fn apply(page: &mut Page, info: u8, block: u8, main: &[u8], data: &[u8]) -> Result<(), RedoError> {
    testing::apply(page, &change(info, block, main, data), 15)
}

fn applied(mut page: Box<Page>, info: u8, block: u8, main: &[u8], data: &[u8]) -> Box<Page> {
    apply(&mut page, info, block, main, data).expect("redo");
    page
}

fn key(key: u8) -> Vec<u8> {
    keyed_tuple(tid(1, u16::from(key)), &[key; 8])
}

/// A posting list: key, tids of block 1.
fn posting(key: u8, offs: &[u16]) -> Vec<u8> {
    let mut list = tid(16, offs.len() as u16 | 0x2000).to_vec();
    let len = (16 + offs.len() * 6).next_multiple_of(8);
    list.extend_from_slice(&(len as u16 | 0x2000).to_le_bytes());
    list.extend_from_slice(&[key; 8]);
    list.extend(offs.iter().flat_map(|off| tid(1, *off)));
    list.resize(len, 0);
    list
}

fn special(page: &Page) -> BtreeSpecial {
    BtreeSpecial::of(page).expect("a B-tree's page")
}

/// What lies between upper and special: what PostgreSQL logs of a whole page.
fn upper_part(page: &Page) -> Vec<u8> {
    page.0[page.upper()..page.special()].to_vec()
}

#[test]
fn a_tuple_is_inserted_between_others() {
    for info in [op::INSERT_LEAF, op::INSERT_UPPER, op::INSERT_META] {
        let page = applied(leaf(&[key(1), key(3)]), info, 0, &halves(&[2]), &key(2));
        assert_eq!(items(&page), [key(1), key(2), key(3)]);
        assert_eq!(page.bytes(page.upper(), 16), Ok(key(2).as_slice()), "the newest tuple lies lowest");
        assert_eq!((page.lower(), page.upper()), (24 + 12, PAGE_SIZE - 16 - 48));
    }
    assert!(matches!(apply(&mut leaf(&[key(1)]), op::INSERT_LEAF, 0, &halves(&[3]), &key(2)), Err(RedoError::Page(_))));
}

#[test]
fn a_split_is_complete_when_the_parent_knows_of_it() {
    let of = |info, block| {
        let child = page_with(BtreeSpecial { flags: 0x81, ..BtreeSpecial::default() }, &[]);
        special(&applied(child, info, block, &words(&[1, 1, 1]), &[])).flags
    };
    let records = [(op::INSERT_UPPER, 1), (op::INSERT_META, 1), (op::NEWROOT, 1), (op::SPLIT_L, 3), (op::SPLIT_R, 3)];
    assert_eq!(records.map(|(info, block)| of(info, block)), [LEAF; 5]);
}

#[test]
fn an_insertion_into_a_posting_list_shifts_its_tids() {
    let page = leaf(&[key(1), posting(2, &[10, 30, 50])]);
    let mut data = halves(&[1]);
    data.extend(keyed_tuple(tid(1, 20), &[2; 8]));
    let page = applied(page, op::INSERT_POST, 0, &halves(&[3]), &data);
    assert_eq!(items(&page), [key(1), posting(2, &[10, 20, 30]), keyed_tuple(tid(1, 50), &[2; 8])]);

    for (at, off) in [(0, 3), (3, 3), (1, 2), (1, 0)] {
        let mut data = halves(&[at]);
        data.extend(keyed_tuple(tid(1, 20), &[2; 8]));
        let mut page = leaf(&[key(1), posting(2, &[10, 30, 50])]);
        assert!(matches!(
            apply(&mut page, op::INSERT_POST, 0, &halves(&[off]), &data),
            Err(RedoError::Precondition(_))
        ));
    }
}

#[test]
fn the_metadata_page_is_made_from_the_record() {
    let mut data = words(&[4, 11, 2, 12, 1, 5]);
    data.extend([1, 0, 0, 0]);
    let records = [(op::INSERT_META, 2), (op::NEWROOT, 2), (op::UNLINK_PAGE_META, 4), (op::META_CLEANUP, 0)];
    for (info, block) in records {
        let page = applied(Page::zeroed(), info, block, &[], &data);
        let mut expected = Page::zeroed();
        expected.init(16);
        expected.set_lsn(END);
        expected.set_lower(72);
        expected.0[24..52].copy_from_slice(&words(&[0x53162, 4, 11, 2, 12, 1, 5]));
        expected.0[56..64].copy_from_slice(&(-1_f64).to_le_bytes());
        expected.0[64] = 1;
        expected.0[PAGE_SIZE - 4] = 8;
        assert!(page == expected, "{info:#x}");
        assert_eq!(apply(&mut Page::zeroed(), info, block, &[], &data[..24]), Err(RedoError::Short));
    }
}

fn split_main(level: u32, numbers: [u16; 3]) -> Vec<u8> {
    [words(&[level]), halves(&numbers)].concat()
}

#[test]
fn the_right_page_of_a_split_is_made_from_the_record() {
    let tuples = [key(3), key(4), key(5)];
    let source = leaf(&tuples);
    for (level, flags) in [(0, LEAF), (2, 0)] {
        let main = split_main(level, [3, 3, 0]);
        let page = applied(Page::zeroed(), op::SPLIT_R, 1, &main, &upper_part(&source));
        assert_eq!(special(&page), BtreeSpecial { prev: 100, next: 102, level, flags, cycle: 0 });
        assert_eq!(items(&page), tuples);
        assert_eq!(upper_part(&page), upper_part(&source));
    }
    let data = upper_part(&source);
    let main = split_main(0, [3, 3, 0]);
    let mut change = change(op::SPLIT_L, 1, &main, &data);
    change.refs.truncate(2);
    let mut page = Page::zeroed();
    testing::apply(&mut page, &change, 18).expect("redo");
    assert_eq!(special(&page).next, 0, "the rightmost page of its level");
    change.refs.clear();
    assert_eq!(testing::apply(&mut page, &change, 18), Err(RedoError::NoRef(0)));
    let old_right = applied(leaf(&[]), op::SPLIT_L, 2, &main, &[]);
    assert_eq!(special(&old_right), BtreeSpecial { prev: 101, ..special(&leaf(&[])) });
}

#[test]
fn the_left_page_of_a_split_keeps_the_order_of_its_tuples() {
    let old = || {
        let mut page = page_with(
            BtreeSpecial { prev: 9, next: 8, level: 0, flags: 0x61, cycle: 3 },
            &[key(9), key(1), key(3), key(5)],
        );
        page.change_flags(0, 7);
        // A dead tuple is copied like any other.
        let id = page.item_id(2).expect("an item");
        page.set_item_id(2, ItemId { state: ItemState::Dead, ..id }).expect("an item");
        page
    };
    let cases = [
        (op::SPLIT_L, [4, 3, 0], vec![key(2), key(4)], vec![key(4), key(1), key(2), key(3)]),
        (op::SPLIT_L, [4, 4, 0], vec![key(4), key(6)], vec![key(6), key(1), key(3), key(4)]),
        (op::SPLIT_R, [3, 3, 0], vec![key(2)], vec![key(2), key(1)]),
    ];
    for (info, numbers, data, expected) in cases {
        let page = applied(old(), info, 0, &split_main(0, numbers), &data.concat());
        assert_eq!(items(&page), expected);
        assert_eq!(special(&page), BtreeSpecial { prev: 9, next: 101, level: 0, flags: 0x81, cycle: 0 });
        assert_eq!(page.flags(), 0);
        let reversed: Vec<u8> = expected.into_iter().rev().flatten().collect();
        assert_eq!(upper_part(&page), reversed);
        assert!((1..=page.max_offset()).all(|off| page.item_id(off).is_ok_and(|id| id.state == ItemState::Normal)));
    }
    let refused = [
        (op::SPLIT_L, [3, 4, 0], vec![key(2), key(4)]),
        (op::SPLIT_L, [4, 3, 0], vec![key(2)]),
        (op::SPLIT_R, [3, 3, 0], vec![key(2), key(2)]),
        (op::SPLIT_R, [9, 3, 0], vec![key(2)]),
    ];
    for (info, numbers, data) in refused {
        assert!(apply(&mut old(), info, 0, &split_main(0, numbers), &data.concat()).is_err());
    }
}

#[test]
fn a_split_can_split_a_posting_list_too() {
    let old = || leaf(&[key(1), posting(2, &[10, 30, 50]), key(7)]);
    let new = keyed_tuple(tid(1, 20), &[2; 8]);
    // The new tuple, which gets the list's last tid, goes left or right of the split; the list is on the left.
    let main = split_main(0, [3, 3, 1]);
    let data = [new.clone(), key(6)].concat();
    let page = applied(old(), op::SPLIT_L, 0, &main, &data);
    let list = posting(2, &[10, 20, 30]);
    assert_eq!(items(&page), [key(6), key(1), list.clone(), keyed_tuple(tid(1, 50), &[2; 8])]);
    let page = applied(old(), op::SPLIT_R, 0, &main, &data);
    assert_eq!(items(&page), [key(6), key(1), list]);
    // A list right of the split is already in the right page's data: the record then has 0.
    let main = split_main(0, [2, 3, 1]);
    assert!(matches!(apply(&mut old(), op::SPLIT_R, 0, &main, &data), Err(RedoError::Precondition(_))));
}

#[test]
fn equal_tuples_are_merged() {
    let plain = |off| keyed_tuple(tid(1, off), &[5; 8]);
    let tuples = [key(9), key(1), plain(10), posting(5, &[20, 30]), plain(40), key(6), key(7), key(7)];
    let page = page_with(BtreeSpecial { prev: 0, next: 4, level: 0, flags: LEAF | 0x40, cycle: 3 }, &tuples);
    let data = halves(&[3, 3, 7, 2]);
    let page = applied(page, op::DEDUP, 0, &halves(&[2]), &data);
    let merged = posting(5, &[10, 20, 30, 40]);
    assert_eq!(items(&page), [key(9), key(1), merged, key(6), posting(7, &[7, 7])]);
    assert_eq!(special(&page), BtreeSpecial { prev: 0, next: 4, level: 0, flags: LEAF, cycle: 3 });

    let page = applied(leaf(&tuples), op::DEDUP, 0, &halves(&[0]), &[]);
    assert_eq!(items(&page), tuples, "the rightmost page has no high key");
    for intervals in [[1, 1, 2, 2], [3, 2, 4, 2], [7, 2, 3, 2], [8, 2, 9, 2], [1, 65535, 2, 2]] {
        assert!(apply(&mut leaf(&tuples), op::DEDUP, 0, &halves(&[2]), &halves(&intervals)).is_err());
    }
    assert_eq!(apply(&mut leaf(&tuples), op::DEDUP, 0, &halves(&[2]), &halves(&[1, 2])), Err(RedoError::Short));
}

#[test]
fn deletion_shortens_posting_lists_and_removes_tuples() {
    let page = || {
        let tuples = [key(1), posting(2, &[10, 20, 30]), key(3), posting(4, &[10, 20])];
        page_with(BtreeSpecial { prev: 0, next: 0, level: 0, flags: LEAF | 0x40, cycle: 3 }, &tuples)
    };
    // Two tuples are deleted, and the middle tid of the first list, and the first tid of the second.
    let data = halves(&[1, 3, 2, 4, 1, 1, 1, 0]);
    let left = [posting(2, &[10, 30]), keyed_tuple(tid(1, 20), &[4; 8])];
    for (info, main) in [(op::VACUUM, halves(&[2, 2])), (op::DELETE, halves(&[0xFFFF, 0xFFFF, 2, 2, 1]))] {
        for major in [14, 17, 18] {
            let mut page = page();
            testing::apply(&mut page, &change(info, 0, &main, &data), major).expect("redo");
            assert_eq!(items(&page), left);
            let cycle = if info == op::VACUUM && major == 18 { 0 } else { 3 };
            assert_eq!(special(&page), BtreeSpecial { prev: 0, next: 0, level: 0, flags: LEAF, cycle });
            assert_eq!(page.upper(), PAGE_SIZE - 16 - 16 - 32);
        }
    }
    let refused: [&[u16]; 5] = [
        &[1, 3, 2, 3, 1, 1, 1, 0],
        &[1, 3, 2, 4, 1, 3, 1, 0],
        &[1, 3, 2, 4, 1, 1, 2, 0, 1],
        &[1, 3, 2, 4, 1, 1, 1],
        &[1, 3, 2, 4, 1, 1, 1, 0, 0],
    ];
    for data in refused {
        assert!(apply(&mut page(), op::VACUUM, 0, &halves(&[2, 2]), &halves(data)).is_err(), "{data:?}");
    }
}

/// Main data of the first step: the downlink is line pointer 2.
fn half_dead_main() -> Vec<u8> {
    words(&[0xFFFF_0002, 55, 51, 53, 0x0102_0304])
}

fn expected_half_dead(prev: u32, next: u32, top_parent: [u8; 4]) -> Box<Page> {
    let mut expected = Page::zeroed();
    expected.init(16);
    expected.set_lsn(END);
    expected.add_item(&[top_parent.as_slice(), &[0, 0, 8, 0x20]].concat()).expect("space for a tuple");
    expected.0[PAGE_SIZE - 16..].copy_from_slice(&words(&[prev, next, 0, 0x11]));
    expected
}

#[test]
fn a_leaf_becomes_half_dead() {
    let page = applied(leaf(&[key(1)]), op::MARK_PAGE_HALFDEAD, 0, &half_dead_main(), &[]);
    assert!(page == expected_half_dead(51, 53, [2, 1, 4, 3]));

    let downlink = |blk, key: u8| keyed_tuple(tid(blk, 1), &[key; 8]);
    let parent = || leaf(&[downlink(50, 1), downlink(55, 2), downlink(56, 3)]);
    let page = applied(parent(), op::MARK_PAGE_HALFDEAD, 1, &half_dead_main(), &[]);
    assert_eq!(items(&page), [downlink(50, 1), downlink(56, 2)]);
    let main = words(&[3, 55, 51, 53, u32::MAX]);
    assert!(matches!(apply(&mut parent(), op::MARK_PAGE_HALFDEAD, 1, &main, &[]), Err(RedoError::Page(_))));
    let main = words(&[0xFFFF, 55, 51, 53, u32::MAX]);
    assert!(apply(&mut parent(), op::MARK_PAGE_HALFDEAD, 1, &main, &[]).is_err());
}

#[test]
fn a_page_is_unlinked() {
    let main = |level| words(&[51, 53, level, 0, 0x7777, 1, 61, 63, u32::MAX]);
    for info in [op::UNLINK_PAGE, op::UNLINK_PAGE_META] {
        for (level, flags) in [(0, 0x105), (1, 0x104)] {
            let page = applied(leaf(&[key(1)]), info, 0, &main(level), &[]);
            let mut expected = Page::zeroed();
            expected.init(16);
            expected.set_lsn(END);
            expected.set_lower(32);
            expected.0[24..32].copy_from_slice(&words(&[0x7777, 1]));
            expected.0[PAGE_SIZE - 16..].copy_from_slice(&words(&[51, 53, level, flags]));
            assert!(page == expected);
        }
        let left = applied(leaf(&[key(1)]), info, 1, &main(0), &[]);
        assert_eq!(special(&left), BtreeSpecial { prev: 9, next: 53, level: 0, flags: LEAF, cycle: 3 });
        let right = applied(leaf(&[key(1)]), info, 2, &main(0), &[]);
        assert_eq!(special(&right), BtreeSpecial { prev: 51, next: 0, level: 0, flags: LEAF, cycle: 3 });
        let page = applied(leaf(&[]), info, 3, &main(1), &[]);
        assert!(page == expected_half_dead(61, 63, [0xFF; 4]));
        assert_eq!(apply(&mut leaf(&[]), info, 0, &main(0)[..35], &[]), Err(RedoError::Short));
    }
}

#[test]
fn a_root_is_new() {
    let page = applied(Page::zeroed(), op::NEWROOT, 0, &words(&[100, 0]), &[]);
    assert_eq!(special(&page), BtreeSpecial { flags: 3, ..BtreeSpecial::default() });
    assert!(page.is_empty());
    let tuples = [keyed_tuple(tid(5, 0), &[]), keyed_tuple(tid(6, 1), &[6; 8])];
    let page = applied(Page::zeroed(), op::NEWROOT, 0, &words(&[100, 1]), &upper_part(&leaf(&tuples)));
    assert_eq!(special(&page), BtreeSpecial { flags: 2, level: 1, ..BtreeSpecial::default() });
    assert_eq!(items(&page), tuples);
    let broken = [0; 8];
    let got = apply(&mut Page::zeroed(), op::NEWROOT, 0, &words(&[100, 1]), &broken);
    assert!(matches!(got, Err(RedoError::Precondition(_))), "a tuple of no length would never end");
}

#[test]
fn what_is_not_a_b_trees_is_refused() {
    let main = [0; 64];
    for info in (0..=0xF0).step_by(16) {
        for block in 0..6 {
            // A heap page has no special space.
            let mut page = Page::zeroed();
            page.init(0);
            let got = apply(&mut page, info, block, &main, &[]);
            let makes_page = matches!(
                (info, block),
                (0x30 | 0x40, 1) | (0x80 | 0x90, 0 | 3) | (0xA0 | 0xB0, 0) | (0x20 | 0xA0, 2) | (0x90, 4) | (0xE0, 0)
            );
            assert!(makes_page || got.is_err(), "{info:#x} {block}");
        }
    }
    let mut page = leaf(&[]);
    assert_eq!(apply(&mut page, 0xF0, 0, &main, &[]), Err(RedoError::Unknown { rmid: 11, info: 0xF0 }));
    assert_eq!(apply(&mut page, 0xD0, 0, &main, &[]), Err(RedoError::Block(0)));
    assert_eq!(apply(&mut page, op::INSERT_LEAF, 1, &main, &[]), Err(RedoError::Block(1)));
    // Exactly the pages made from nothing are marked so in the record.
    for (info, block) in [(op::SPLIT_L, 1), (op::INSERT_LEAF, 0)] {
        let wrong = Change { init: !makes_page(info, block), ..change(info, block, &main, &[0; 8]) };
        assert!(matches!(testing::apply(&mut leaf(&[]), &wrong, 15), Err(RedoError::Precondition(_))));
    }
}
