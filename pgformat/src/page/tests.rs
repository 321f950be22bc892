//! The page primitives against a model, and on damaged pages.
//!
//! Source: PostgreSQL 15, `src/backend/storage/page/bufpage.c`.

use proptest::prelude::*;

use super::items::{HEAP_TUPLES_MAX, ItemId, ItemState, Place};
use super::*;

/// One operation; numbers are taken modulo what there is, so that most of them fit.
#[derive(Clone, Debug)]
enum Op {
    Add(u16, u16, Place),
    Delete(u16),
    MultiDelete(Vec<bool>),
    DeleteNoCompact(u16),
    Overwrite(u16, u16),
    Free(u16),
    Dead(u16),
    Redirect(u16, u16),
    Repair(bool),
    Truncate,
}

fn len() -> impl Strategy<Value = u16> {
    prop_oneof![8 => 1_u16..200, 2 => 1_u16..3000, 1 => Just(8192_u16)]
}

fn index_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (any::<u16>(), len()).prop_map(|(off, len)| Op::Add(off, len, Place::Shift)),
        1 => any::<u16>().prop_map(Op::Delete),
        1 => prop::collection::vec(prop::bool::weighted(0.2), 0..40).prop_map(Op::MultiDelete),
        2 => (any::<u16>(), len()).prop_map(|(off, len)| Op::Overwrite(off, len)),
    ]
}

/// Heap and BRIN: line pointers keep their numbers.
fn numbered_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (any::<u16>(), len(), any::<bool>()).prop_map(|(off, len, heap)| {
            Op::Add(off, len, if heap { Place::Heap } else { Place::Overwrite })
        }),
        1 => any::<u16>().prop_map(Op::DeleteNoCompact),
        1 => (any::<u16>(), len()).prop_map(|(off, len)| Op::Overwrite(off, len)),
        1 => any::<u16>().prop_map(Op::Free),
        1 => any::<u16>().prop_map(Op::Dead),
        1 => any::<(u16, u16)>().prop_map(|(off, to)| Op::Redirect(off, to)),
        2 => any::<bool>().prop_map(Op::Repair),
        1 => Just(Op::Truncate),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![index_op(), numbered_op()]
}

impl Op {
    /// Carries it out; `fill` is every byte of a new item.
    fn apply(&self, page: &mut Page, fill: u8) -> Result<(), PageError> {
        let max = page.max_offset();
        let pick = |off: &u16| off % max.max(1) + 1;
        match self {
            Op::Add(off, len, place) => page.add_item_at(&vec![fill; usize::from(*len)], off % (max + 1) + 1, *place),
            Op::Delete(off) => page.index_delete(pick(off)),
            Op::MultiDelete(doomed) => page.index_multi_delete(&picked(doomed, max)),
            Op::DeleteNoCompact(off) => page.index_delete_no_compact(pick(off)),
            Op::Overwrite(off, len) => page.index_overwrite(pick(off), &vec![fill; usize::from(*len)]),
            Op::Free(off) => page.set_item_id(pick(off), ItemId::UNUSED),
            Op::Dead(off) => page.set_item_id(pick(off), ItemId::DEAD),
            Op::Redirect(off, to) => page.set_item_id(pick(off), ItemId::redirect(pick(to))),
            Op::Repair(truncate) => page.repair_fragmentation(*truncate),
            Op::Truncate => page.truncate_line_pointers(),
        }
    }
}

fn picked(doomed: &[bool], max: u16) -> Vec<u16> {
    (1..=max).zip(doomed).filter(|(_, doomed)| **doomed).map(|(off, _)| off).collect()
}

/// What stands behind a line pointer: its state, and the item's length and filling.
type Slot = (ItemState, Option<(u16, u8)>);

fn slots(page: &Page) -> Vec<Slot> {
    let slot = |off| {
        let id = page.item_id(off).expect("a line pointer");
        let item = id.has_storage().then(|| {
            let item = page.item(off).expect("an item");
            assert!(item.iter().all(|b| *b == item[0]), "item {off} was overwritten in part");
            (id.len, item[0])
        });
        (id.state, item)
    };
    (1..=page.max_offset()).map(slot).collect()
}

fn space_of(slots: &[Slot]) -> usize {
    slots.iter().filter_map(|(_, item)| *item).map(|(len, _)| maxalign(usize::from(len))).sum()
}

/// What `op`, which the page carried out, makes of a list of slots.
fn model(slots: &mut Vec<Slot>, op: &Op, fill: u8) {
    let max = slots.len();
    let pick = |off: &u16| usize::from(*off) % max.max(1);
    let cut = |slots: &mut Vec<Slot>, keep: usize| {
        while slots.len() > keep && slots.last().is_some_and(|(state, _)| *state == ItemState::Unused) {
            slots.pop();
        }
    };
    match op {
        Op::Add(off, len, place) => {
            let (at, new) = (usize::from(*off) % (max + 1), (ItemState::Normal, Some((*len, fill))));
            if *place == Place::Shift || at == max { slots.insert(at, new) } else { slots[at] = new }
        }
        Op::Delete(off) => _ = slots.remove(pick(off)),
        Op::MultiDelete(doomed) => {
            picked(doomed, max as u16).iter().rev().for_each(|off| _ = slots.remove(usize::from(off - 1)));
        }
        Op::DeleteNoCompact(off) if pick(off) + 1 == max => _ = slots.pop(),
        Op::DeleteNoCompact(off) | Op::Free(off) => slots[pick(off)] = (ItemState::Unused, None),
        Op::Overwrite(off, len) => slots[pick(off)].1 = Some((*len, fill)),
        Op::Dead(off) => slots[pick(off)] = (ItemState::Dead, None),
        Op::Redirect(off, _) => slots[pick(off)] = (ItemState::Redirect, None),
        Op::Repair(true) => cut(slots, 0),
        Op::Repair(false) => {}
        Op::Truncate => cut(slots, 1),
    }
}

/// Runs operations on an empty page with `special_len` bytes of special space, beside the model.
fn check(special_len: usize, ops: &[Op], compact: bool) {
    let mut page = Page::zeroed();
    page.init(special_len);
    let special = vec![0xAB; special_len];
    page.put(page.special(), &special).expect("inside of the page");
    let mut expected = Vec::new();
    for (op, fill) in ops.iter().zip((1..=u8::MAX).cycle()) {
        let before = page.clone();
        match op.apply(&mut page, fill) {
            Ok(()) => model(&mut expected, op, fill),
            Err(_) => assert_eq!(page, before, "a refused {op:?} changed the page"),
        }
        page.check_pointers().expect("sound pointers");
        assert_eq!(slots(&page), expected, "{op:?}");
        let free_of_gaps = compact || matches!(op, Op::Repair(_)) && page != before;
        if free_of_gaps {
            assert_eq!(page.special() - page.upper(), space_of(&expected), "{op:?}");
        }
        assert_eq!(page.bytes(page.special(), special_len).expect("inside of the page"), special);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn index_pages_stay_without_gaps(
        special_len in prop::sample::select(&[0_usize, 8, 16][..]),
        ops in prop::collection::vec(index_op(), 0..120),
    ) {
        check(special_len, &ops, true);
    }

    #[test]
    fn numbered_pages_keep_their_items(
        special_len in prop::sample::select(&[0_usize, 8][..]),
        ops in prop::collection::vec(numbered_op(), 0..120),
    ) {
        check(special_len, &ops, false);
    }

    #[test]
    fn damaged_pages_are_refused_or_stay_sound(
        ops in prop::collection::vec(any_op(), 0..60),
        damage in prop::collection::vec((0_usize..60, 10_usize..160, any::<u8>()), 0..8),
    ) {
        let mut page = Page::zeroed();
        page.init(8);
        for (n, op) in ops.iter().enumerate() {
            damage.iter().filter(|(when, ..)| *when == n).for_each(|(_, at, byte)| page.0[*at] = *byte);
            let sound = page.check_pointers().is_ok();
            if op.apply(&mut page, 7).is_ok() && sound {
                prop_assert!(page.check_pointers().is_ok(), "{:?}", op);
            }
            for off in 0..=page.max_offset().saturating_add(1) {
                let _ = page.item(off);
            }
        }
    }
}

#[test]
fn a_heap_page_holds_no_more_tuples_than_postgresql_allows() {
    let mut page = Page::zeroed();
    page.init(0);
    for off in 1..=HEAP_TUPLES_MAX {
        page.add_item_at(&[1; 8], off, Place::Heap).expect("space");
    }
    assert!(matches!(page.add_item_at(&[1; 8], HEAP_TUPLES_MAX + 1, Place::Heap), Err(PageError::Item { .. })));
    page.add_item_at(&[1; 8], HEAP_TUPLES_MAX + 1, Place::Overwrite).expect("space");
}

#[test]
fn two_are_deleted_one_by_one_and_three_together() {
    // Items out of the order of their line pointers: 2 was added before 1.
    let build = || {
        let mut page = Page::zeroed();
        page.init(0);
        for (fill, off) in [(2, 1), (1, 1), (3, 3), (4, 4), (5, 5)] {
            page.add_item_at(&[fill; 8], off, Place::Shift).expect("space");
        }
        page
    };
    let offs = |page: &Page| (1..=page.max_offset()).map(|n| page.item_id(n).expect("it").off).collect::<Vec<_>>();
    let mut page = build();
    page.index_multi_delete(&[4, 5]).expect("deleted");
    assert_eq!(offs(&page), [8176, 8184, 8168]);
    let mut page = build();
    page.index_multi_delete(&[3, 4, 5]).expect("deleted");
    assert_eq!(offs(&page), [8184, 8176]);
    for wrong in [[4, 3, 5], [4, 5, 6], [0, 1, 2]] {
        assert!(build().index_multi_delete(&wrong).is_err());
    }
}

#[test]
fn hints_of_free_line_pointers_follow() {
    let mut page = Page::zeroed();
    page.init(0);
    for off in 1..=3 {
        page.add_item_at(&[1; 8], off, Place::Heap).expect("space");
    }
    page.set_item_id(1, ItemId::UNUSED).expect("a line pointer");
    page.set_item_id(3, ItemId::UNUSED).expect("a line pointer");
    let flags = |change: fn(&mut Page) -> Result<(), PageError>, page: &Page| {
        let mut page = page.clone();
        change(&mut page).expect("changed");
        (page.max_offset(), page.flags())
    };
    assert_eq!(flags(|p| p.repair_fragmentation(false), &page), (3, PD_HAS_FREE_LINES));
    assert_eq!(flags(|p| p.repair_fragmentation(true), &page), (2, PD_HAS_FREE_LINES));
    assert_eq!(flags(Page::truncate_line_pointers, &page), (2, PD_HAS_FREE_LINES));
    page.set_item_id(2, ItemId::UNUSED).expect("a line pointer");
    assert_eq!(flags(|p| p.repair_fragmentation(true), &page), (0, 0));
    assert_eq!(flags(Page::truncate_line_pointers, &page), (1, PD_HAS_FREE_LINES));
}
