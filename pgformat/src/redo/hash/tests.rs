//! Tests of hash redo: pages built by hand, one test for each type of record.

use super::page::HashSpecial;
use super::*;
use crate::Lsn;
use crate::page::PAGE_SIZE;
use crate::redo::index::testing::{self, END, halves, items, keyed_tuple, words};
use crate::redo::index::tid;
use crate::redo::rmid;

fn page_with(special: HashSpecial, tuples: &[Vec<u8>]) -> Box<Page> {
    let mut page = Page::zeroed();
    special.init(&mut page).expect("an empty page");
    for tuple in tuples {
        page.add_item(tuple).expect("space for the tuple");
    }
    page
}

const BUCKET: HashSpecial = HashSpecial { prev: 3, next: 20, bucket: 1, flags: 0xC2 };

fn bucket(tuples: &[Vec<u8>]) -> Box<Page> {
    page_with(BUCKET, tuples)
}

fn context(major: u32) -> Context {
    Context { version: PgMajor::new(major).expect("a supported major"), end: END }
}

/// The record's references are 100, 101, and so on.
fn change<'a>(info: u8, block: u8, main: &'a [u8], data: &'a [u8]) -> Change<'a> {
    let blks: Vec<u32> = (100..108).collect();
    let init = makes_page(info, block);
    Change { init, main, data, ..testing::change(rmid::HASH, info, block, &blks) }
}

fn apply(page: &mut Page, info: u8, block: u8, main: &[u8], data: &[u8]) -> Result<(), RedoError> {
    testing::apply(page, &change(info, block, main, data), 15)
}

fn applied(mut page: Box<Page>, info: u8, block: u8, main: &[u8], data: &[u8]) -> Box<Page> {
    apply(&mut page, info, block, main, data).expect("redo");
    page
}

fn key(key: u8) -> Vec<u8> {
    keyed_tuple(tid(1, u16::from(key)), &[key; 4])
}

fn special(page: &Page) -> HashSpecial {
    HashSpecial::of(page).expect("a hash index's page")
}

fn meta_main(tuples: f64, fill_factor: u16) -> Vec<u8> {
    [tuples.to_le_bytes().as_slice(), &words(&[450]), &halves(&[fill_factor])].concat()
}

fn meta() -> Box<Page> {
    applied(Page::zeroed(), op::INIT_META_PAGE, 0, &meta_main(0.0, 307), &[])
}

fn tuples_of(page: &Page) -> f64 {
    f64::from_le_bytes(page.0[32..40].try_into().expect("eight bytes"))
}

fn word(page: &Page, at: usize) -> u32 {
    page.u32_at(at).expect("within the page")
}

#[test]
fn a_new_index_has_a_metadata_page() {
    let mut expected = Page::zeroed();
    expected.init(16);
    expected.set_lsn(END);
    expected.set_lower(4568);
    expected.0[24..32].copy_from_slice(&words(&[0x0644_0640, 4]));
    expected.0[40..48].copy_from_slice(&halves(&[307, 8152, 4096, 15]));
    // Two buckets: the highest, high mask, low mask, split point, first free, no bitmaps, function.
    expected.0[48..76].copy_from_slice(&words(&[1, 3, 1, 1, 0, 0, 450]));
    expected.0[80] = 1;
    expected.0[PAGE_SIZE - 16..].copy_from_slice(&[[0xFF; 12].as_slice(), &[8, 0, 0x80, 0xFF]].concat());
    assert!(meta() == expected);

    // 1 000 000 / 307 is 3257 buckets: 3584 is the end of the third step from 2048 to 4096.
    let page = applied(Page::zeroed(), op::INIT_META_PAGE, 0, &meta_main(1e6, 307), &[]);
    let point = 10 + 2 * 4 + 2;
    assert_eq!([48, 52, 56, 60].map(|at| word(&page, at)), [3583, 4095, 2047, point]);
    assert_eq!(word(&page, 76 + 4 * point as usize), 1);
    let page = applied(Page::zeroed(), op::INIT_META_PAGE, 0, &meta_main(1e300, 10), &[]);
    assert_eq!([48, 52, 56].map(|at| word(&page, at)), [0x3FFF_FFFF, 0x7FFF_FFFF, 0x3FFF_FFFF]);
    for main in [meta_main(f64::NAN, 10), meta_main(0.0, 0)] {
        assert!(matches!(
            apply(&mut Page::zeroed(), op::INIT_META_PAGE, 0, &main, &[]),
            Err(RedoError::Precondition(_))
        ));
    }
}

#[test]
fn the_first_bitmap_page_lies_behind_the_buckets() {
    for (info, block) in [(op::INIT_BITMAP_PAGE, 0), (op::ADD_OVFL_PAGE, 3)] {
        let page = applied(Page::zeroed(), info, block, &halves(&[4096, 0]), &[]);
        let mut expected = Page::zeroed();
        expected.init(16);
        expected.set_lsn(END);
        expected.set_lower(24 + 4096);
        expected.0[24..24 + 4096].fill(0xFF);
        expected.0[PAGE_SIZE - 16..].copy_from_slice(&[[0xFF; 12].as_slice(), &[4, 0, 0x80, 0xFF]].concat());
        assert!(page == expected);
        assert!(apply(&mut Page::zeroed(), info, block, &halves(&[8153]), &[]).is_err());
    }
    let page = applied(meta(), op::INIT_BITMAP_PAGE, 1, &halves(&[4096]), &[]);
    assert_eq!((word(&page, 68), word(&page, 468)), (1, 3));
    let mut full = meta();
    full.put_u32(68, 1024).expect("within the page");
    assert!(apply(&mut full, op::INIT_BITMAP_PAGE, 1, &halves(&[4096]), &[]).is_err());
}

#[test]
fn a_tuple_is_inserted_and_counted() {
    let page = applied(bucket(&[key(1), key(3)]), op::INSERT, 0, &halves(&[2]), &key(2));
    assert_eq!(items(&page), [key(1), key(2), key(3)]);
    let page = applied(meta(), op::INSERT, 1, &halves(&[2]), &[]);
    assert_eq!(tuples_of(&page), 1.0);
    assert!(apply(&mut bucket(&[]), op::INSERT, 0, &halves(&[2]), &key(2)).is_err());
}

#[test]
fn an_overflow_page_is_added() {
    let info = op::ADD_OVFL_PAGE;
    let (found, none_found) = ([0, 0x10, 1], [0, 0x10, 0]);
    let page = applied(Page::zeroed(), info, 0, &found, &words(&[6]));
    assert_eq!(special(&page), HashSpecial { prev: 101, next: u32::MAX, bucket: 6, flags: 1 });
    let page = applied(bucket(&[key(1)]), info, 1, &found, &[]);
    assert_eq!(special(&page), HashSpecial { next: 100, ..BUCKET });

    let page = applied(meta(), info, 4, &found, &words(&[9]));
    assert_eq!([64, 68, 80].map(|at| word(&page, at)), [9, 0, 1]);
    let page = applied(meta(), info, 4, &none_found, &words(&[9]));
    assert_eq!([64, 68, 80, 468].map(|at| word(&page, at)), [9, 1, 3, 103], "with a new bitmap page, block 3");
    let data = words(&[9]);
    let mut without_bitmap = change(info, 4, &none_found, &data);
    without_bitmap.refs.retain(|r| r.id != 3);
    let mut page = meta();
    testing::apply(&mut page, &without_bitmap, 15).expect("redo");
    assert_eq!([64, 68, 80].map(|at| word(&page, at)), [9, 0, 2]);
    let mut damaged = meta();
    damaged.put_u32(60, 98).expect("within the page");
    assert!(apply(&mut damaged, info, 4, &none_found, &words(&[9])).is_err());
}

#[test]
fn bits_of_a_bitmap_are_set_and_cleared() {
    let bitmap = || applied(Page::zeroed(), op::INIT_BITMAP_PAGE, 0, &halves(&[4096]), &[]);
    let squeeze_main = words(&[1, 2, 0]);
    // The word that holds bit 45 is the second one.
    let page = applied(bitmap(), op::SQUEEZE_PAGE, 5, &squeeze_main, &words(&[45]));
    assert_eq!([24, 28, 32].map(|at| word(&page, at)), [u32::MAX, !(1 << 13), u32::MAX]);
    let page = applied(page, op::ADD_OVFL_PAGE, 2, &[0, 0x10, 1], &words(&[45]));
    assert_eq!(word(&page, 28), u32::MAX);
    let page = applied(bitmap(), op::SQUEEZE_PAGE, 5, &squeeze_main, &words(&[32767]));
    assert_eq!(word(&page, 24 + 4092), u32::MAX >> 1);
    for bit in [32768, u32::MAX] {
        assert!(apply(&mut bitmap(), op::SQUEEZE_PAGE, 5, &squeeze_main, &words(&[bit])).is_err());
    }
}

#[test]
fn a_bucket_is_split_even_when_its_page_comes_as_an_image() {
    let main = [words(&[5]), halves(&[0x22, 0x12]), vec![3]].concat();
    let info = op::SPLIT_ALLOCATE_PAGE;
    let old = HashSpecial { prev: 5, flags: 0x22, ..BUCKET };
    assert_eq!(special(&applied(bucket(&[key(1)]), info, 0, &main, &[])), old);
    let page = applied(Page::zeroed(), info, 1, &main, &[]);
    assert_eq!(special(&page), HashSpecial { prev: 5, next: u32::MAX, bucket: 5, flags: 0x12 });
    let page = applied(meta(), info, 2, &main, &words(&[3, 7, 4, 66]));
    assert_eq!([48, 52, 56, 60, 76 + 16].map(|at| word(&page, at)), [5, 7, 3, 4, 66]);
    let mut plain = main.clone();
    plain[8] = 0;
    let page = applied(meta(), info, 2, &plain, &[]);
    assert_eq!([48, 52, 56, 60].map(|at| word(&page, at)), [5, 3, 1, 1]);
    assert_eq!(apply(&mut meta(), info, 2, &main, &words(&[3, 7, 4])), Err(RedoError::Short));
    assert!(apply(&mut meta(), info, 2, &main, &words(&[3, 7, 98, 1])).is_err());

    let complete = halves(&[0x42, 0x02]);
    assert_eq!(special(&applied(bucket(&[]), op::SPLIT_COMPLETE, 0, &complete, &[])).flags, 0x42);
    assert_eq!(special(&applied(bucket(&[]), op::SPLIT_COMPLETE, 1, &complete, &[])).flags, 0x02);
    assert!(apply(&mut bucket(&[]), op::SPLIT_PAGE, 0, &[], &[]).is_err());
    let page = applied(bucket(&[]), op::SPLIT_CLEANUP, 0, &[], &[]);
    assert_eq!(special(&page), HashSpecial { flags: 0x82, ..BUCKET });

    for (info, block, main, flags) in [
        (op::SPLIT_ALLOCATE_PAGE, 0, &main, Some(0x22)),
        (op::SPLIT_ALLOCATE_PAGE, 1, &main, None),
        (op::SPLIT_COMPLETE, 0, &complete, Some(0x42)),
        (op::SPLIT_COMPLETE, 1, &complete, Some(0x02)),
        (op::SPLIT_PAGE, 0, &main, None),
    ] {
        assert_eq!(changes_after_image(info, block), flags.is_some());
        let mut page = bucket(&[key(1)]);
        after_image(&mut page, &change(info, block, main, &[]), &context(15)).expect("redo");
        let (lsn, flags) = flags.map_or((Lsn::new(0), BUCKET.flags), |flags| (END, flags));
        assert_eq!((page.lsn(), special(&page).flags), (lsn, flags));
        assert_eq!(items(&page), [key(1)]);
    }
}

#[test]
fn tuples_move_to_another_page() {
    let info = op::MOVE_PAGE_CONTENTS;
    let main = [2, 0, 1];
    let data = [halves(&[1, 3]), key(1), key(3)].concat();
    let page = applied(bucket(&[key(2)]), info, 1, &main, &data);
    assert_eq!(items(&page), [key(1), key(2), key(3)]);
    assert_eq!(special(&page), BUCKET);
    let page = applied(bucket(&[key(1), key(2), key(3), key(4)]), info, 2, &main, &halves(&[1, 3, 4]));
    assert_eq!(items(&page), [key(2)]);
    assert_eq!(page.upper(), PAGE_SIZE - 16 - 16);
    for data in [&data[..20], &data[..30], &[data.as_slice(), &key(4)].concat()] {
        assert!(apply(&mut bucket(&[key(2)]), info, 1, &main, data).is_err());
    }
    assert!(apply(&mut bucket(&[key(1)]), info, 2, &main, &halves(&[2])).is_err());
    assert!(apply(&mut bucket(&[key(1)]), info, 2, &main, &[1, 0, 2]).is_err());
}

/// Main data of a squeeze: the pages around the freed one are 70 and 71.
fn squeeze(tuples: u16, writes_prev: bool) -> Vec<u8> {
    [words(&[70, 71]), halves(&[tuples]), vec![1, u8::from(writes_prev)]].concat()
}

#[test]
fn an_overflow_page_is_squeezed_out() {
    let info = op::SQUEEZE_PAGE;
    let data = [halves(&[1]), key(1)].concat();
    for (writes_prev, next) in [(false, 20), (true, 71)] {
        let page = applied(bucket(&[key(2)]), info, 1, &squeeze(1, writes_prev), &data);
        assert_eq!(items(&page), [key(1), key(2)]);
        assert_eq!(special(&page), HashSpecial { next, ..BUCKET });
    }
    let page = applied(bucket(&[key(2)]), info, 2, &squeeze(0, false), &[]);
    let mut expected = Page::zeroed();
    expected.init(16);
    expected.set_lsn(END);
    expected.0[PAGE_SIZE - 16..].copy_from_slice(&[[0xFF; 12].as_slice(), &[0, 0, 0x80, 0xFF]].concat());
    assert!(page == expected);
    let page = applied(bucket(&[]), info, 3, &squeeze(0, false), &[]);
    assert_eq!(special(&page), HashSpecial { next: 71, ..BUCKET });
    let page = applied(bucket(&[]), info, 4, &squeeze(0, false), &[]);
    assert_eq!(special(&page), HashSpecial { prev: 70, ..BUCKET });
    let page = applied(meta(), info, 6, &squeeze(0, false), &words(&[12]));
    assert_eq!(word(&page, 64), 12);
}

#[test]
fn a_page_that_is_only_locked_stays_as_it_is() {
    let lock_only = |info, block, main: &[u8], major| {
        let mut page = bucket(&[key(1)]);
        let before = page.clone();
        redo(&mut page, &change(info, block, main, &[]), &context(major)).expect("redo");
        let expected = is_lock_only(info, block, main, context(major).version);
        assert_eq!(page == before, expected);
        expected
    };
    for major in 14..=18 {
        assert!(lock_only(op::MOVE_PAGE_CONTENTS, 0, &[0, 0, 0], major));
        assert!(lock_only(op::SQUEEZE_PAGE, 0, &squeeze(0, false), major));
        assert!(lock_only(op::DELETE, 0, &[1, 0], major));
        assert!(!lock_only(op::DELETE, 1, &[1, 0], major));
        // Up to 16, the LSN is set even if nothing else changes.
        assert_eq!(lock_only(op::SQUEEZE_PAGE, 1, &squeeze(0, false), major), major >= 17);
        assert!(!lock_only(op::SQUEEZE_PAGE, 1, &squeeze(0, true), major));
    }
    let got = apply(&mut bucket(&[]), op::SQUEEZE_PAGE, 1, &[0; 11], &[]);
    assert_eq!(got, Err(RedoError::Short), "too little main data is not a lock");
}

#[test]
fn tuples_are_deleted() {
    for (none_dead, flags) in [(0, BUCKET.flags), (1, 0x42)] {
        let page = applied(bucket(&[key(1), key(2)]), op::DELETE, 1, &[none_dead, 1], &halves(&[2]));
        assert_eq!(items(&page), [key(1)]);
        assert_eq!(special(&page), HashSpecial { flags, ..BUCKET });
    }
    let offs = halves(&[1, 3]);
    for major in 14..=18 {
        let count = if major >= 16 { vec![2, 0, 1, 0] } else { vec![2, 0, 0, 0] };
        let main = [words(&[777]), count, offs.clone()].concat();
        let mut page = bucket(&[key(1), key(2), key(3)]);
        testing::apply(&mut page, &change(op::VACUUM_ONE_PAGE, 0, &main, &[]), major).expect("redo");
        assert_eq!(items(&page), [key(2)]);
        assert_eq!(special(&page), HashSpecial { flags: 0x42, ..BUCKET });
        let mut page = applied(meta(), op::UPDATE_META_PAGE, 0, &5_f64.to_le_bytes(), &[]);
        assert_eq!(tuples_of(&page), 5.0);
        testing::apply(&mut page, &change(op::VACUUM_ONE_PAGE, 1, &main, &[]), major).expect("redo");
        assert_eq!(tuples_of(&page), 3.0);
        let cut = &main[..main.len() - 1];
        let change = change(op::VACUUM_ONE_PAGE, 0, cut, &[]);
        assert_eq!(testing::apply(&mut bucket(&[key(1)]), &change, major), Err(RedoError::Short));
    }
    let main = words(&[777, 0x1_0000]);
    assert!(apply(&mut bucket(&[]), op::VACUUM_ONE_PAGE, 0, &main, &[]).is_err(), "a count of 16 read by 15");
}

#[test]
fn what_is_not_a_hash_indexs_is_refused() {
    let main = [0; 64];
    for info in (0..=0xF0).step_by(16) {
        for block in 0..8 {
            // A heap page has no special space.
            let mut page = Page::zeroed();
            page.init(0);
            let got = redo(&mut page, &change(info, block, &main, &[0; 8]), &context(15));
            let makes_page = matches!((info, block), (0x10, 0) | (0x30, 0 | 3) | (0x40, 1));
            let locked = is_lock_only(info, block, &main, context(15).version);
            assert!(makes_page || locked || got.is_err(), "{info:#x} {block}");
        }
    }
    assert_eq!(apply(&mut bucket(&[]), 0xD0, 0, &main, &[]), Err(RedoError::Unknown { rmid: 12, info: 0xD0 }));
    assert_eq!(apply(&mut bucket(&[]), op::INSERT, 2, &main, &[]), Err(RedoError::Block(2)));
    // Exactly the pages made from nothing are marked so in the record.
    for (info, block) in [(op::ADD_OVFL_PAGE, 0), (op::ADD_OVFL_PAGE, 1)] {
        let wrong = Change { init: !makes_page(info, block), ..change(info, block, &main, &[0; 8]) };
        assert!(matches!(testing::apply(&mut bucket(&[]), &wrong, 15), Err(RedoError::Precondition(_))));
    }
}
