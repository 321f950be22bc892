//! Bits of the map, changed by records and by our own changes.

use smallvec::smallvec;

use super::super::testing::{change, context};
use super::super::{Ref, redo as redo_any};
use super::*;
use crate::Lsn;
use crate::rel::{BlockTag, RelFork};
use crate::wal::body::BlockRef;

const REL: RelFileLocator = RelFileLocator { spc: 1663, db: 5, rel: 16384 };
/// The first heap block of the map's second page.
const FIRST: u32 = HEAP_BLOCKS_PER_PAGE;

/// A page of the map with every bit set.
fn full() -> Box<Page> {
    let mut page = Page::zeroed();
    page.init(0);
    page.0[PAGE_HEADER_LEN..].fill(0xFF);
    page
}

/// A change by reference `block` to block 1 of the map, of a record whose heap blocks are `heap`.
fn by_record<'a>(rmid: u8, info: u8, block: u8, heap: &[u32], main: &'a [u8]) -> Change<'a> {
    let mut refs: SmallVec<[Ref; 4]> = smallvec![];
    refs.extend(heap.iter().zip(0..).map(|(blk, id)| Ref { id, fork: Fork::Main, blk: *blk }));
    refs.push(Ref { id: block, fork: Fork::Vm, blk: 1 });
    Change { block, fork: Fork::Vm, blk: 1, refs, main, ..change(rmid, info) }
}

/// The map's first two bytes afterwards, and whether the LSN was stamped. Nothing else may have changed.
fn outcome(change: &Change<'_>) -> ([u8; 2], bool) {
    let mut page = full();
    redo_any(&mut page, change, &context(18)).expect("redone");
    let stamped = page.lsn() == context(18).end;
    let bytes = [page.0[24], page.0[25]];
    page.set_lsn(Lsn::new(0));
    page.0[24..26].fill(0xFF);
    assert_eq!(page, full());
    (bytes, stamped)
}

const INSERTED: &[u8] = &[1, 0, 1];
const DELETED: &[u8] = &[5, 0, 0, 0, 1, 0, 0, 1];
const MULTI_INSERTED: &[u8] = &[1, 0, 1, 0, 1, 0];

fn updated(flags: u8) -> [u8; 14] {
    [5, 0, 0, 0, 1, 0, 0, flags, 6, 0, 0, 0, 3, 0]
}

#[test]
fn the_map_has_four_blocks_a_byte() {
    assert_eq!(HEAP_BLOCKS_PER_PAGE, 32672);
    assert_eq!((map_block(0), map_block(FIRST - 1), map_block(FIRST), map_block(u32::MAX)), (0, 0, 1, 131_457));
    assert_eq!((place(FIRST), place(FIRST + 3), place(FIRST + 4)), ((24, 0), (24, 6), (25, 0)));
    assert_eq!(place(FIRST - 1), (8191, 6));
}

#[test]
fn records_clear_bits_of_their_heap_block() {
    for (rmid, info, main, expected) in [
        (rmid::HEAP, INSERT, INSERTED, 0xF3),
        (rmid::HEAP, 0x80 | INSERT, INSERTED, 0xF3),
        (rmid::HEAP, DELETE, DELETED, 0xF3),
        // A lock clears only the frozen bit.
        (rmid::HEAP, LOCK, DELETED, 0xF7),
        (rmid::HEAP2, LOCK_UPDATED, DELETED, 0xF7),
        (rmid::HEAP2, MULTI_INSERT, MULTI_INSERTED, 0xF3),
    ] {
        let change = by_record(rmid, info, 1, &[FIRST + 1], main);
        assert_eq!(outcome(&change), ([expected, 0xFF], true), "{rmid}/{info:#x}");
        // A second time no bit changes, and so the LSN stays.
        let mut page = full();
        page.0[24] = expected;
        redo_any(&mut page, &change, &context(18)).expect("redone");
        assert_eq!((page.0[24], page.lsn()), (expected, Lsn::new(0)));
        // Without the flag nothing happens.
        assert_eq!(outcome(&Change { main: &[0; 14], ..change.clone() }), ([0xFF, 0xFF], false));
        // Nor on a page that was never initialised: PostgreSQL skips it.
        let mut page = Page::zeroed();
        redo_any(&mut page, &change, &context(18)).expect("redone");
        assert!(page.is_zero());
        let elsewhere = by_record(rmid, info, 1, &[FIRST - 1], main);
        assert!(matches!(redo_any(&mut full(), &elsewhere, &context(18)), Err(RedoError::Precondition(_))));
        let other = by_record(rmid, info, 2, &[FIRST + 1], main);
        assert_eq!(redo_any(&mut full(), &other, &context(18)), Err(RedoError::Block(2)));
        let cut = Change { main: &[], ..change };
        assert_eq!(redo_any(&mut full(), &cut, &context(18)), Err(RedoError::Short));
    }
    for (rmid, info) in [(rmid::HEAP, 0x50), (rmid::HEAP, 0x70), (rmid::HEAP2, 0x10), (rmid::HEAP2, 0x70)] {
        let change = by_record(rmid, info, 1, &[FIRST], DELETED);
        assert_eq!(redo_any(&mut full(), &change, &context(18)), Err(RedoError::Block(1)));
    }
}

#[test]
fn an_update_clears_both_blocks_where_the_page_covers_both() {
    let (new, old) = (FIRST + 1, FIRST + 5);
    let case = |block, heap: &[u32], flags| outcome(&by_record(rmid::HEAP, UPDATE, block, heap, &updated(flags)));
    assert_eq!(case(2, &[new, old], 3), ([0xF3, 0xF3], true));
    assert_eq!(case(2, &[new, old], 2), ([0xF3, 0xFF], true));
    // The old block is on another page of the map.
    assert_eq!(case(2, &[new, FIRST - 1], 3), ([0xF3, 0xFF], true));
    assert_eq!(case(3, &[FIRST - 1, old], 3), ([0xFF, 0xF3], true));
    // Both tuples on one page.
    assert_eq!(case(3, &[old], 1), ([0xFF, 0xF3], true));
    let wrong = by_record(rmid::HEAP, UPDATE, 1, &[new], DELETED);
    assert_eq!(redo_any(&mut full(), &wrong, &context(18)), Err(RedoError::Block(1)));
}

#[test]
fn visible_sets_bits_and_makes_the_page() {
    let flags = |flags: u8| [9, 9, 9, 9, flags];
    let visible = |main| {
        let refs = smallvec![Ref { id: 0, fork: Fork::Vm, blk: 1 }, Ref { id: 1, fork: Fork::Main, blk: FIRST + 2 }];
        Change { fork: Fork::Vm, blk: 1, refs, main, ..change(rmid::HEAP2, 0x40) }
    };
    let mut page = Page::zeroed();
    let visible_only = flags(0x05);
    redo_any(&mut page, &visible(&visible_only), &context(16)).expect("redone");
    assert_eq!((page.lower(), page.upper(), page.0[24], page.lsn()), (24, 8192, 0x10, context(16).end));
    // The bits are set already: the page stays as it is.
    page.set_lsn(Lsn::new(0));
    redo_any(&mut page, &visible(&visible_only), &context(16)).expect("redone");
    assert_eq!(page.lsn(), Lsn::new(0));
    let frozen = flags(3);
    redo_any(&mut page, &visible(&frozen), &context(16)).expect("redone");
    assert_eq!((page.0[24], page.lsn()), (0x30, context(16).end));
    // A record with fewer bits than the map clears none, but stamps the page.
    page.set_lsn(Lsn::new(0));
    redo_any(&mut page, &visible(&visible_only), &context(16)).expect("redone");
    assert_eq!((page.0[24], page.lsn()), (0x30, context(16).end));

    let mut elsewhere = visible(&frozen);
    elsewhere.blk = 0;
    assert!(matches!(redo_any(&mut full(), &elsewhere, &context(16)), Err(RedoError::Precondition(_))));
    assert_eq!(redo_any(&mut full(), &visible(&frozen[..4]), &context(16)), Err(RedoError::Short));
    let alone = Change { refs: smallvec![], ..visible(&frozen) };
    assert_eq!(redo_any(&mut full(), &alone, &context(16)), Err(RedoError::NoRef(1)));
}

fn ours<'a>(info: u8, data: &'a [u8]) -> Change<'a> {
    Change { fork: Fork::Vm, blk: 1, data, ..change(rmid::OUR_VM, info) }
}

#[test]
fn our_clear_leaves_the_lsn() {
    assert_eq!(outcome(&ours(CLEAR, &clear(FIRST + 3, VALID_BITS))), ([0x3F, 0xFF], false));
    assert_eq!(outcome(&ours(CLEAR, &clear(FIRST + 4, ALL_FROZEN))), ([0xFF, 0xFD], false));
    let both = [clear(FIRST + 3, VALID_BITS), clear(FIRST + 4, ALL_FROZEN)].concat();
    assert_eq!(outcome(&ours(CLEAR, &both)), ([0x3F, 0xFD], false));
    let mut page = Page::zeroed();
    redo_any(&mut page, &ours(CLEAR, &clear(FIRST, VALID_BITS)), &context(15)).expect("redone");
    assert!(page.is_zero());
    let elsewhere = clear(FIRST - 1, VALID_BITS);
    assert!(matches!(redo_any(&mut full(), &ours(CLEAR, &elsewhere), &context(15)), Err(RedoError::Precondition(_))));
    assert_eq!(redo_any(&mut full(), &ours(CLEAR, &elsewhere[..4]), &context(15)), Err(RedoError::Short));
    assert!(matches!(redo_any(&mut full(), &ours(0x30, &elsewhere), &context(15)), Err(RedoError::Unknown { .. })));
}

#[test]
fn our_truncate_clears_the_tail() {
    for first_gone in [0, FIRST - 1, FIRST, FIRST + 1, FIRST + 4, FIRST + 4001, 2 * FIRST - 1, 2 * FIRST, u32::MAX] {
        let mut page = full();
        redo_any(&mut page, &ours(TRUNCATE, &truncate(first_gone)), &context(15)).expect("redone");
        assert_eq!(page.0[..24], full().0[..24]);
        for heap_blk in FIRST..2 * FIRST {
            let (at, shift) = place(heap_blk);
            let expected = if heap_blk < first_gone { VALID_BITS } else { 0 };
            assert_eq!(page.0[at] >> shift & VALID_BITS, expected, "{heap_blk} of {first_gone}");
        }
    }
    let mut page = Page::zeroed();
    redo_any(&mut page, &ours(TRUNCATE, &truncate(FIRST)), &context(15)).expect("redone");
    assert!(page.is_zero());
    assert_eq!(redo_any(&mut page, &ours(TRUNCATE, &[0; 3]), &context(15)), Err(RedoError::Short));
}

/// A record with these blocks, of the main fork but for those given as `true`.
fn implied(rmid: u8, info: u8, main: &[u8], blocks: &[(u8, bool, u32)]) -> Result<Vec<Cleared>, RedoError> {
    let header = RecordHeader { total_len: 0, xid: 1, prev: Lsn::new(0), info, rmid, crc: 0 };
    let block = |&(id, vm, blk): &(u8, bool, u32)| {
        let fork = RelFork { rel: REL, fork: if vm { Fork::Vm } else { Fork::Main } };
        BlockRef { id, tag: BlockTag { fork, blk }, will_init: false, image: None, data: &[] }
    };
    let body = RecordBody { blocks: blocks.iter().map(block).collect(), main, ..RecordBody::default() };
    implied_clears(&header, &body).map(|cleared| cleared.into_vec())
}

#[test]
fn flags_without_a_reference_imply_clears() {
    let heap = &[(0, false, 70)];
    for (rmid, info, main, mask) in [
        (rmid::HEAP, INSERT, INSERTED, VALID_BITS),
        // The log's own bits of info do not matter.
        (rmid::HEAP, 0x82, INSERTED, VALID_BITS),
        (rmid::HEAP, DELETE, DELETED, VALID_BITS),
        (rmid::HEAP, LOCK, DELETED, ALL_FROZEN),
        (rmid::HEAP2, LOCK_UPDATED, DELETED, ALL_FROZEN),
        (rmid::HEAP2, MULTI_INSERT, MULTI_INSERTED, VALID_BITS),
    ] {
        assert_eq!(implied(rmid, info, main, heap), Ok(vec![(REL, 70, mask)]), "{rmid}/{info:#x}");
        assert_eq!(implied(rmid, info, main, &[(0, false, 70), (1, true, 0)]), Ok(vec![]));
        assert_eq!(implied(rmid, info, &[0; 14], heap), Ok(vec![]));
        assert_eq!(implied(rmid, info, &[], heap), Err(RedoError::Short));
        assert_eq!(implied(rmid, info, main, &[]), Err(RedoError::NoRef(0)));
    }
    for (rmid, info) in [(rmid::HEAP, 0x30), (rmid::HEAP, 0x70), (rmid::HEAP2, 0x40), (rmid::BTREE, 0)] {
        assert_eq!(implied(rmid, info, DELETED, heap), Ok(vec![]));
    }
}

#[test]
fn an_update_implies_clears_of_each_block() {
    let two = &[(0, false, 70), (1, false, 60)];
    assert_eq!(implied(rmid::HEAP, UPDATE, &updated(1), two), Ok(vec![(REL, 60, VALID_BITS)]));
    assert_eq!(implied(rmid::HEAP, UPDATE, &updated(2), two), Ok(vec![(REL, 70, VALID_BITS)]));
    let both = vec![(REL, 60, VALID_BITS), (REL, 70, VALID_BITS)];
    assert_eq!(implied(rmid::HEAP, UPDATE, &updated(3), two), Ok(both));
    assert_eq!(implied(rmid::HEAP, HOT_UPDATE, &updated(1), &two[..1]), Ok(vec![(REL, 70, VALID_BITS)]));
    // One reference shows that this server writes them: the other bit was clear already.
    for id in [2, 3] {
        let blocks = [two[0], two[1], (id, true, 0)];
        assert_eq!(implied(rmid::HEAP, UPDATE, &updated(3), &blocks), Ok(vec![]));
    }
}
