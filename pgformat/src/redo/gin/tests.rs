//! Redo of GIN on pages made by hand.
//!
//! Source: PostgreSQL 15, `src/include/access/ginblock.h`, `ginxlog.h`.

use super::super::index::testing::{apply, bytes, change, items, tuple};
use super::super::rmid;
use super::page::{FLAGS, SPECIAL, SPECIAL_LEN};
use super::posting::{Item, encode};
use super::*;

fn page(flags: u16) -> Box<Page> {
    let mut page = Page::zeroed();
    page.init(SPECIAL_LEN);
    page.put_u32(RIGHTLINK, NO_BLOCK).expect("inside");
    page.put_u16(FLAGS, flags).expect("inside");
    page
}

/// A segment with the first items of block `blk`.
fn segment(blk: u32, offs: &[u16]) -> Vec<u8> {
    let tids: Vec<u8> = offs.iter().flat_map(|off| tid(blk, *off)).collect();
    let items = Item::take_all(&mut Take::new(&tids), offs.len()).expect("valid items");
    encode(&items).expect("in order")
}

fn leaf(segments: &[Vec<u8>]) -> Box<Page> {
    let mut page = page(DATA | LEAF | COMPRESSED);
    set_items(&mut page, &segments.concat()).expect("fits");
    page
}

fn content(page: &Page) -> &[u8] {
    &page.0[ITEMS..page.lower()]
}

#[test]
fn a_posting_tree_begins_as_one_leaf() {
    let segments = segment(7, &[1, 2, 9]);
    let main = [bytes![segments.len() as u32], segments.clone()].concat();
    let create = Change { init: true, main: &main, ..change(rmid::GIN, CREATE_PTREE, 0, &[5]) };
    let mut page = Page::zeroed();
    apply(&mut page, &create, 14).expect("applies");
    assert_eq!(content(&page), segments);
    assert_eq!(page.0[24..32], [0; 8], "no right bound");
    assert_eq!(page.0[SPECIAL..], bytes![NO_BLOCK, 0_u16, DATA | LEAF | COMPRESSED]);
    assert_eq!(page.lower(), 32 + segments.len());

    let too_long = [bytes![8153_u32], vec![0; 8153]].concat();
    assert!(apply(&mut page, &Change { main: &too_long, ..create.clone() }, 14).is_err());
    assert_eq!(apply(&mut page, &Change { main: &main[..main.len() - 1], ..create }, 14), Err(RedoError::Short));
}

#[test]
fn entries_are_added_replaced_and_linked() {
    let mut entries = page(LEAF);
    let leaf_main = bytes![INSERT_ISLEAF];
    let insert = |page: &mut Page, main: &[u8], off: u16, replaces: u8, tuple: &[u8]| {
        let data = [bytes![off, replaces, 0_u8], tuple.to_vec()].concat();
        apply(page, &Change { main, data: &data, ..change(rmid::GIN, INSERT, 0, &[1, 2]) }, 15)
    };
    insert(&mut entries, &leaf_main, 1, 0, &tuple(16, 1)).expect("applies");
    insert(&mut entries, &leaf_main, 1, 0, &tuple(24, 2)).expect("applies");
    insert(&mut entries, &leaf_main, 2, 1, &tuple(40, 3)).expect("applies");
    assert_eq!(items(&entries), [tuple(24, 2), tuple(40, 3)]);

    let mut inner = page(0);
    inner.add_item(&tuple(16, 4)).expect("fits");
    // Not a leaf: left child 0x10002, right child 0x30004.
    let main = bytes![0_u16, 1_u16, 2_u16, 3_u16, 4_u16];
    insert(&mut inner, &main, 1, 0, &tuple(24, 5)).expect("applies");
    let mut linked = tuple(16, 4);
    linked[..6].copy_from_slice(&[3, 0, 4, 0, 0, 0]);
    assert_eq!(items(&inner), [tuple(24, 5), linked]);

    let mixed_up = insert(&mut page(DATA | LEAF), &leaf_main, 1, 0, &tuple(16, 1));
    assert!(matches!(mixed_up, Err(RedoError::Precondition(_))));
    assert!(matches!(insert(&mut entries, &leaf_main, 4, 0, &tuple(16, 1)), Err(RedoError::Page(_))));
    assert_eq!(insert(&mut entries, &leaf_main, 1, 0, &tuple(16, 1)[..15]), Err(RedoError::Short));
}

#[test]
fn posting_items_are_inserted_and_deleted() {
    let item = |child: u32, off: u16| [tid(child, 0)[..4].to_vec(), tid(9, off).to_vec()].concat();
    let mut inner = page(DATA);
    set_posting_items(&mut inner, &[item(2, 10), item(3, 20)].concat()).expect("fits");
    let main = bytes![INSERT_ISDATA, 0_u16, 3_u16, 0_u16, 8_u16];
    let data = [bytes![2_u16], item(3, 15)].concat();
    let insert = Change { main: &main, data: &data, ..change(rmid::GIN, INSERT, 0, &[1, 3]) };
    apply(&mut inner, &insert, 16).expect("applies");
    assert_eq!(content(&inner), [item(2, 10), item(3, 15), item(8, 20)].concat());
    assert_eq!(inner.u16_at(MAXOFF), Ok(3));

    // Item 2 of the parent, right link 4, transaction 99.
    let main = bytes![2_u16, 0_u16, 4_u32, 99_u32];
    let delete = |block| Change { main: &main, ..change(rmid::GIN, DELETE_PAGE, block, &[3, 1, 2]) };
    apply(&mut inner, &delete(1), 16).expect("applies");
    assert_eq!(content(&inner), [item(2, 10), item(8, 20)].concat());
    assert_eq!(inner.u16_at(MAXOFF), Ok(2));
    let mut deleted = leaf(&[]);
    apply(&mut deleted, &delete(0), 16).expect("applies");
    assert_eq!((deleted.u16_at(FLAGS), deleted.prune_xid()), (Ok(DATA | LEAF | COMPRESSED | DELETED), 99));
    let mut left = leaf(&[]);
    apply(&mut left, &delete(2), 16).expect("applies");
    assert_eq!(left.u32_at(RIGHTLINK), Ok(4));

    set_posting_items(&mut inner, &item(2, 10)).expect("fits");
    assert!(matches!(apply(&mut inner, &delete(1), 16), Err(RedoError::Precondition(_))), "no second item");
    set_posting_items(&mut inner, &item(2, 10).repeat(815)).expect("fits");
    assert!(matches!(apply(&mut inner, &insert, 16), Err(RedoError::Precondition(_))), "full");
}

#[test]
fn a_child_forgets_that_its_split_was_incomplete() {
    let (insert, split) = (bytes![0_u16], [vec![0; 24], bytes![INSERT_ISDATA]].concat());
    for (info, block, main) in [(INSERT, 1, &insert), (SPLIT, 3, &split)] {
        let mut child = page(LEAF | INCOMPLETE_SPLIT);
        apply(&mut child, &Change { main, ..change(rmid::GIN, info, block, &[1, 2, 3, 4]) }, 17).expect("applies");
        assert_eq!(child.u16_at(FLAGS), Ok(LEAF));
    }
    let leaf = bytes![INSERT_ISLEAF];
    let of_leaf = Change { main: &leaf, ..change(rmid::GIN, INSERT, 1, &[1, 2]) };
    assert_eq!(apply(&mut page(LEAF), &of_leaf, 17), Err(RedoError::Block(1)), "a leaf has no children");
}

#[test]
fn images_cannot_be_missing() {
    for (info, block) in [(SPLIT, 0), (SPLIT, 1), (SPLIT, 2), (VACUUM_PAGE, 0)] {
        let without = change(rmid::GIN, info, block, &[1, 2, 3, 4]);
        assert!(matches!(apply(&mut page(LEAF), &without, 18), Err(RedoError::Precondition(_))));
    }
    assert_eq!(apply(&mut page(LEAF), &change(rmid::GIN, SPLIT, 4, &[0; 5]), 18), Err(RedoError::Block(4)));
    let unknown = change(rmid::GIN, 0xA0, 0, &[1]);
    assert_eq!(apply(&mut page(LEAF), &unknown, 18), Err(RedoError::Unknown { rmid: rmid::GIN, info: 0xA0 }));
}

#[test]
fn the_pending_list_grows_and_shrinks() {
    let meta: Vec<u8> = (1..=56).collect();
    // Relation, padding, metapage, old tail, new right link, tuples, padding.
    let main = |count: i32| [vec![0; 16], meta.clone(), bytes![6_u32, 7_u32, count, 0_u32]].concat();
    let (with, without) = (main(2), main(0));
    let mut page_0 = Page::zeroed();
    let update = Change { init: true, main: &with, ..change(rmid::GIN, UPDATE_META_PAGE, 0, &[0, 6]) };
    apply(&mut page_0, &update, 14).expect("applies");
    assert_eq!((&page_0.0[24..80], page_0.lower(), page_0.u16_at(FLAGS)), (&meta[..], 80, Ok(META)));

    let mut tail = page(LIST | LIST_FULLROW);
    tail.add_item(&tuple(16, 1)).expect("fits");
    tail.put_u16(MAXOFF, 4).expect("inside");
    let data = [tuple(24, 2), tuple(8, 3)].concat();
    let update = |main| Change { main, data: &data, ..change(rmid::GIN, UPDATE_META_PAGE, 1, &[0, 6]) };
    apply(&mut tail, &update(&with), 14).expect("applies");
    assert_eq!(items(&tail), [tuple(16, 1), tuple(24, 2), tuple(8, 3)]);
    assert_eq!((tail.u16_at(MAXOFF), tail.u32_at(RIGHTLINK)), (Ok(5), Ok(NO_BLOCK)));
    let mut old_tail = page(LIST);
    apply(&mut old_tail, &update(&without), 14).expect("applies");
    assert_eq!((items(&old_tail).len(), old_tail.u32_at(RIGHTLINK)), (0, Ok(7)));
    let three = main(3);
    assert!(matches!(apply(&mut tail, &update(&three), 14), Err(RedoError::Precondition(_))));

    for (rightlink, flags, rows) in [(NO_BLOCK, LIST | LIST_FULLROW, 1_u16), (9, LIST, 0)] {
        let main = bytes![rightlink, 2_i32];
        let mut page = Page::zeroed();
        let insert = Change { init: true, main: &main, data: &data, ..change(rmid::GIN, INSERT_LISTPAGE, 0, &[8]) };
        apply(&mut page, &insert, 14).expect("applies");
        assert_eq!(items(&page), [tuple(24, 2), tuple(8, 3)]);
        assert_eq!(page.0[SPECIAL..], bytes![rightlink, rows, flags]);
    }

    let main = [meta.clone(), bytes![2_i32, 0_u32]].concat();
    let delete =
        |block| Change { init: true, main: &main, ..change(rmid::GIN, DELETE_LISTPAGE, block, &[0, 8, 9, 10]) };
    apply(&mut page_0, &delete(0), 14).expect("applies");
    assert_eq!((&page_0.0[24..80], page_0.lower()), (&meta[..], 80));
    for block in 1..=2 {
        apply(&mut tail, &delete(block), 14).expect("applies");
        assert_eq!((tail.0[SPECIAL..].to_vec(), tail.lower()), (bytes![NO_BLOCK, 0_u16, DELETED], 24));
    }
    assert_eq!(apply(&mut tail, &delete(3), 14), Err(RedoError::Block(3)));
}

/// Applies actions on posting lists, as insert and as vacuum write them.
fn recompress(segments: &[Vec<u8>], actions: &[u8]) -> Result<Vec<u8>, RedoError> {
    let main = bytes![INSERT_ISDATA | INSERT_ISLEAF];
    let (mut inserted, mut vacuumed) = (leaf(segments), leaf(segments));
    let insert = Change { main: &main, data: actions, ..change(rmid::GIN, INSERT, 0, &[3]) };
    let result = apply(&mut inserted, &insert, 15);
    let vacuum = Change { data: actions, ..change(rmid::GIN, VACUUM_DATA_LEAF_PAGE, 0, &[3]) };
    assert_eq!(apply(&mut vacuumed, &vacuum, 15), result);
    result.map(|()| {
        assert!(inserted == vacuumed);
        content(&inserted).to_vec()
    })
}

#[test]
fn segments_are_numbered_as_they_were() {
    let old: Vec<Vec<u8>> = (0..5).map(|blk| segment(blk, &[1, 5, 300])).collect();
    let (new_2, new_3) = (segment(1, &[301, 302]), segment(3, &[2]));
    let actions = [
        bytes![5_u16],
        vec![0, 1], // Delete the first.
        vec![2, 2], // In front of the third.
        new_2.clone(),
        vec![3, 3], // In place of the fourth.
        new_3.clone(),
        vec![4, 4], // Into the fifth.
        bytes![2_u16],
        tid(4, 3).to_vec(),
        tid(4, 301).to_vec(),
        vec![5, 2], // At the end.
        new_2.clone(),
    ];
    let new = [old[1].clone(), new_2.clone(), old[2].clone(), new_3, segment(4, &[1, 3, 5, 300, 301]), new_2.clone()];
    assert_eq!(recompress(&old, &actions.concat()), Ok(new.concat()));
    assert_eq!(recompress(&old, &bytes![0_u16]), Ok(old.concat()));
    assert_eq!(recompress(&[], &[bytes![1_u16], vec![0, 2], new_2.clone()].concat()), Ok(new_2));
}

#[test]
fn impossible_actions_are_refused() {
    let old = [segment(0, &[1, 2])];
    let one = |action: &[u8]| recompress(&old, &[&[1, 0], action].concat());
    assert_eq!(one(&[1, 1]), Err(RedoError::Short), "there is no second segment to delete");
    assert_eq!(one(&[2, 2, 0]), Err(RedoError::Short), "nor a third to insert in front of");
    assert!(matches!(one(&[0, 9]), Err(RedoError::Precondition(_))), "unknown action");
    assert!(matches!(one(&[0, 1, 7]), Err(RedoError::Precondition(_))), "more data than actions");
    assert!(matches!(recompress(&old, &[2, 0, 0, 1, 0]), Err(RedoError::Short)), "the second action is cut off");
    let back = [&[2, 0, 1, 2][..], &segment(1, &[1]), &[0, 1]].concat();
    assert!(matches!(recompress(&old, &back), Err(RedoError::Precondition(_))), "out of order");
    let big = [&[1, 0, 0, 2][..], &[0, 0, 0, 0, 1, 0, 0xD0, 0x1F], &[1; 0x1FD0]].concat();
    assert!(matches!(recompress(&old, &big), Err(RedoError::Precondition(_))), "does not fit");
}

#[test]
fn plain_items_of_old_indexes_get_compressed() {
    let mut old = page(DATA | LEAF);
    let tids: Vec<u8> = [1, 2, 7].iter().flat_map(|off| tid(3, *off)).collect();
    old.put(ITEMS, &tids).expect("inside");
    old.put_u16(MAXOFF, 3).expect("inside");
    let actions = [bytes![1_u16], vec![0, 4], bytes![1_u16], tid(3, 4).to_vec()].concat();
    let vacuum = Change { data: &actions, ..change(rmid::GIN, VACUUM_DATA_LEAF_PAGE, 0, &[3]) };
    apply(&mut old, &vacuum, 14).expect("applies");
    assert_eq!(content(&old), segment(3, &[1, 2, 4, 7]));
    assert_eq!((old.u16_at(MAXOFF), old.u16_at(FLAGS)), (Ok(0), Ok(DATA | LEAF | COMPRESSED)));
}
