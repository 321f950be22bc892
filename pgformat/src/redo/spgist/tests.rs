//! Redo of SP-GiST on pages made by hand.
//!
//! Source: PostgreSQL 15, `src/include/access/spgist_private.h`, `spgxlog.h`.

use super::super::index::testing::{apply, bytes, change, items};
use super::super::index::{NO_TID, tid};
use super::super::rmid;
use super::tuples::{LEAF, NULLS};
use super::*;
use crate::page::PAGE_SIZE;

const XID: u32 = 0x99;
/// `spgxlogState`: the transaction, outside of a build.
const STATE: [u8; 8] = [0x99, 0, 0, 0, 0, 0, 0, 0];
const BUILD: [u8; 8] = [0x99, 0, 0, 0, 1, 0, 0, 0];

/// Flags, redirections and placeholders of a page.
fn special(page: &Page) -> [u16; 3] {
    assert_eq!(page.0[PAGE_SIZE - 2..], [0x82, 0xFF]);
    [0, 2, 4].map(|at| page.u16_at(PAGE_SIZE - 8 + at).expect("inside"))
}

fn page(flags: u16, counts: [u16; 2], tuples: &[Vec<u8>]) -> Box<Page> {
    let mut page = Page::zeroed();
    page.init(8);
    page.put(PAGE_SIZE - 8, &bytes![flags, counts[0], counts[1], 0xFF82_u16]).expect("inside");
    for tuple in tuples {
        page.add_item(tuple).expect("fits");
    }
    page
}

/// A leaf tuple of 24 bytes with the next one of its chain.
fn leaf(next: u16, fill: u8) -> Vec<u8> {
    [bytes![24_u32 << 2, next | 0x8000], vec![fill; 18]].concat()
}

/// A tuple in state `state`.
fn dead(state: u32, target: [u8; 6], xid: u32) -> Vec<u8> {
    [bytes![16_u32 << 2 | state, 0_u16], target.to_vec(), bytes![xid]].concat()
}

fn redirect(blk: u32, off: u16) -> Vec<u8> {
    dead(1, tid(blk, off), XID)
}

fn placeholder() -> Vec<u8> {
    dead(3, NO_TID, 0)
}

/// An inner tuple with a prefix of 8 bytes and nodes of 8 and 16 bytes that lead to these places.
fn inner(targets: [[u8; 6]; 2], fill: u8) -> Vec<u8> {
    let header = bytes![8_u32 << 16 | 2 << 3, 40_u16, 0_u16];
    let node = |target: [u8; 6], len: u16| [target.to_vec(), bytes![len]].concat();
    [header, vec![fill; 8], node(targets[0], 8), node(targets[1], 16), vec![fill; 8]].concat()
}

fn plain_inner(fill: u8) -> Vec<u8> {
    inner([NO_TID; 2], fill)
}

#[test]
fn a_leaf_tuple_joins_a_chain() {
    // New page, nulls, offset, head, offset and node in the parent.
    let main = |new: u8, nulls: u8, off: u16, head: u16, tuple: &[u8]| {
        [bytes![new, nulls, off, head, 1_u16, 1_u16], tuple.to_vec()].concat()
    };
    let add = |main| Change { main, ..change(rmid::SPGIST, ADD_LEAF, 0, &[0x1_0007, 1]) };

    let mut first = Page::zeroed();
    let new_page = main(1, 1, 1, 0, &leaf(0, 1));
    apply(&mut first, &Change { init: true, ..add(&new_page) }, 14).expect("applies");
    assert_eq!((items(&first), special(&first)), (vec![leaf(0, 1)], [LEAF | NULLS, 0, 0]));
    assert!(apply(&mut first, &add(&new_page), 14).is_err(), "the reference does not announce a new page");

    let chained = main(0, 0, 2, 1, &leaf(0, 2));
    apply(&mut first, &add(&chained), 14).expect("applies");
    assert_eq!(items(&first), [leaf(2, 1), leaf(0, 2)], "the flags beside the link stay");

    let mut with_placeholder = page(LEAF, [0, 1], &[leaf(0, 1), placeholder(), leaf(0, 3)]);
    let apart = main(0, 0, 2, 0, &leaf(0, 2));
    apply(&mut with_placeholder, &add(&apart), 14).expect("applies");
    assert_eq!(items(&with_placeholder), [leaf(0, 1), leaf(0, 2), leaf(0, 3)]);
    assert_eq!(special(&with_placeholder), [LEAF, 0, 0]);
    assert!(
        matches!(apply(&mut with_placeholder, &add(&apart), 14), Err(RedoError::Precondition(_))),
        "no placeholder"
    );

    let mut with_dead = page(LEAF, [0, 0], &[leaf(0, 1), dead(2, NO_TID, 0), leaf(0, 3)]);
    let replacing = main(0, 0, 2, 2, &leaf(0, 2));
    apply(&mut with_dead, &add(&replacing), 14).expect("applies");
    assert_eq!(items(&with_dead), [leaf(0, 1), leaf(0, 2), leaf(0, 3)]);

    let mut parent = page(0, [0, 0], &[plain_inner(5)]);
    let link = Change { block: 1, blk: 1, ..add(&chained) };
    apply(&mut parent, &link, 14).expect("applies");
    assert_eq!(items(&parent), [inner([NO_TID, [1, 0, 7, 0, 2, 0]], 5)], "the second node leads there");
}

#[test]
fn a_chain_moves_and_leaves_a_redirection() {
    let fixed = |replaces_dead: u8, state: [u8; 8]| {
        // Moves, new page, replaces dead, nulls, offset and node in the parent.
        [bytes![3_u16, 1_u8, replaces_dead, 0_u8, 0_u8, 1_u16, 0_u16, 0_u16], state.to_vec()].concat()
    };
    let tuples = [leaf(2, 1), leaf(3, 2), leaf(4, 3), leaf(0, 4)];
    // Not in order: the chain's head is the first of the list.
    let offs = bytes![4_u16, 2_u16, 3_u16, 1_u16, 2_u16, 3_u16, 4_u16];
    let main = [fixed(0, STATE), offs.clone(), tuples.concat()].concat();
    let move_leafs = |main, block| Change { main, ..change(rmid::SPGIST, MOVE_LEAFS, block, &[5, 6, 1]) };

    let mut dest = Page::zeroed();
    apply(&mut dest, &Change { init: true, ..move_leafs(&main, 1) }, 15).expect("applies");
    assert_eq!((items(&dest), special(&dest)), (tuples.to_vec(), [LEAF, 0, 0]));

    let source = || page(LEAF, [1, 1], &[leaf(0, 9), leaf(3, 2), leaf(0, 3), leaf(2, 4)]);
    let mut with_redirect = source();
    apply(&mut with_redirect, &move_leafs(&main, 0), 15).expect("applies");
    assert_eq!(items(&with_redirect), [leaf(0, 9), placeholder(), placeholder(), redirect(6, 4)]);
    assert_eq!(special(&with_redirect), [LEAF, 2, 3]);
    assert_eq!(with_redirect.upper(), 8184 - 24 - 3 * 16);

    let build = [fixed(0, BUILD), offs.clone(), tuples.concat()].concat();
    let mut without = source();
    apply(&mut without, &move_leafs(&build, 0), 15).expect("applies");
    assert_eq!(items(&without), [leaf(0, 9), placeholder(), placeholder(), placeholder()]);
    assert_eq!(special(&without), [LEAF, 1, 4]);

    let mut parent = page(0, [0, 0], &[plain_inner(5)]);
    apply(&mut parent, &move_leafs(&main, 2), 15).expect("applies");
    assert_eq!(items(&parent), [inner([tid(6, 4), NO_TID], 5)]);

    let one = [fixed(1, STATE), bytes![1_u16, 2_u16, 3_u16, 1_u16], leaf(0, 8)].concat();
    let mut dest = Page::zeroed();
    apply(&mut dest, &Change { init: true, ..move_leafs(&one, 1) }, 15).expect("applies");
    assert_eq!(items(&dest), [leaf(0, 8)], "a dead chain moves as its new tuple only");

    let cut = &main[..main.len() - 1];
    assert_eq!(apply(&mut dest, &Change { init: true, ..move_leafs(cut, 1) }, 15), Err(RedoError::Short));
    let mut no_chain = page(LEAF, [0, 0], &[leaf(0, 1)]);
    assert!(matches!(apply(&mut no_chain, &move_leafs(&main, 0), 15), Err(RedoError::Page(_))));
    let unpinned = change(rmid::SPGIST, MOVE_LEAFS, 0, &[5]);
    assert_eq!(apply(&mut source(), &Change { main: &main, ..unpinned }, 15), Err(RedoError::NoRef(1)));
}

#[test]
fn an_inner_tuple_gets_a_node() {
    // Offset, new offset, new page, which reference is the parent, offset and node in it.
    let main = |new_page: u8, parent: u8, state: [u8; 8]| {
        [bytes![1_u16, 2_u16, new_page, parent, 2_u16, 1_u16, 0_u16], state.to_vec(), plain_inner(7)].concat()
    };
    let add = |main, block, blks| Change { main, ..change(rmid::SPGIST, ADD_NODE, block, blks) };

    let in_place = main(0, 255, STATE);
    let mut same = page(0, [0, 0], &[plain_inner(1), plain_inner(2)]);
    apply(&mut same, &add(&in_place, 0, &[3]), 16).expect("applies");
    assert_eq!(items(&same), [plain_inner(7), plain_inner(2)]);

    let elsewhere = main(0, 2, STATE);
    let (mut old, mut new) = (page(0, [0, 0], &[plain_inner(1), plain_inner(2)]), page(0, [0, 0], &[plain_inner(3)]));
    apply(&mut old, &add(&elsewhere, 0, &[3, 4, 5]), 16).expect("applies");
    assert_eq!((items(&old), special(&old)), (vec![redirect(4, 2), plain_inner(2)], [0, 1, 0]));
    apply(&mut new, &add(&elsewhere, 1, &[3, 4, 5]), 16).expect("applies");
    assert_eq!(items(&new), [plain_inner(3), plain_inner(7)]);
    let mut parent = page(0, [0, 0], &[plain_inner(1), plain_inner(2)]);
    apply(&mut parent, &add(&elsewhere, 2, &[3, 4, 5]), 16).expect("applies");
    assert_eq!(items(&parent), [plain_inner(1), inner([NO_TID, tid(4, 2)], 2)]);

    let parent_is_old = main(0, 0, BUILD);
    let mut old = page(0, [0, 0], &[plain_inner(1), plain_inner(2)]);
    apply(&mut old, &add(&parent_is_old, 0, &[3, 4]), 16).expect("applies");
    assert_eq!(items(&old), [placeholder(), inner([NO_TID, tid(4, 2)], 2)]);
    assert_eq!(special(&old), [0, 0, 1]);

    let parent_is_new = main(0, 1, STATE);
    let mut new = page(0, [0, 1], &[plain_inner(1), placeholder()]);
    apply(&mut new, &add(&parent_is_new, 1, &[3, 4]), 16).expect("applies");
    assert_eq!((items(&new), special(&new)), (vec![plain_inner(1), inner([NO_TID, tid(4, 2)], 7)], [0, 0, 0]));

    let other = add(&parent_is_new, 2, &[3, 4, 5]);
    assert_eq!(apply(&mut parent, &other, 16), Err(RedoError::Block(2)), "another block is the parent");
}

#[test]
fn an_inner_tuple_is_split() {
    let main = |new_page: u8, same: u8| [bytes![1_u16, 2_u16, new_page, same], plain_inner(7), plain_inner(8)].concat();
    let split = |main, block| Change { main, ..change(rmid::SPGIST, SPLIT_TUPLE, block, &[3, 4]) };
    let (same, apart, new) = (main(0, 1), main(0, 0), main(1, 0));
    let before = || page(0, [0, 1], &[plain_inner(1), placeholder()]);
    let mut both = before();
    apply(&mut both, &split(&same, 0), 17).expect("applies");
    assert_eq!((items(&both), special(&both)), (vec![plain_inner(7), plain_inner(8)], [0, 0, 0]));
    let (mut prefix, mut postfix) = (before(), before());
    apply(&mut prefix, &split(&apart, 0), 17).expect("applies");
    assert_eq!(items(&prefix), [plain_inner(7), placeholder()]);
    apply(&mut postfix, &split(&apart, 1), 17).expect("applies");
    assert_eq!(items(&postfix), [plain_inner(1), plain_inner(8)]);
    let first = [bytes![1_u16, 1_u16], new[4..].to_vec()].concat();
    apply(&mut postfix, &Change { init: true, ..split(&first, 1) }, 17).expect("applies");
    assert_eq!((items(&postfix), special(&postfix)), (vec![plain_inner(8)], [0, 0, 0]));
    assert_eq!(apply(&mut postfix, &split(&same, 1), 17), Err(RedoError::Block(1)));
}

#[test]
fn leaf_tuples_become_a_subtree() {
    // Root, deletes, inserts, init of source and destination, inner tuple's offset and page, nulls, parent, its offset
    // and node.
    let main = |init_source: u8, init_inner: u8, inner_is_parent: u8, state: [u8; 8]| {
        [
            bytes![0_u8, 0_u8, 2_u16, 2_u16, init_source, 1_u8, 1_u16, init_inner, 0_u8, inner_is_parent, 0_u8],
            bytes![1_u16, 1_u16, 0_u16],
            state.to_vec(),
            bytes![2_u16, 1_u16, 1_u16, 1_u16, 1_u8, 0_u8],
            plain_inner(7),
            leaf(0, 1),
            leaf(0, 2),
        ]
        .concat()
    };
    let split = |main, block| Change { main, ..change(rmid::SPGIST, PICKSPLIT, block, &[10, 11, 12, 13]) };
    let usual = main(0, 0, 0, STATE);
    let old = || page(LEAF, [0, 0], &[leaf(0, 4), leaf(1, 5)]);

    // The second leaf tuple takes a placeholder's place.
    let mut source = old();
    apply(&mut source, &split(&usual, 0), 18).expect("applies");
    assert_eq!((items(&source), special(&source)), (vec![leaf(0, 2), redirect(12, 1)], [LEAF, 1, 0]));
    let mut source = old();
    let build = main(0, 0, 0, BUILD);
    apply(&mut source, &split(&build, 0), 18).expect("applies");
    assert_eq!((items(&source), special(&source)), (vec![leaf(0, 2), placeholder()], [LEAF, 0, 1]));
    let fresh = main(1, 1, 1, STATE);
    apply(&mut source, &Change { init: true, ..split(&fresh, 0) }, 18).expect("applies");
    assert_eq!((items(&source), special(&source)), (vec![leaf(0, 2)], [LEAF, 0, 0]));

    let mut dest = Page::zeroed();
    apply(&mut dest, &Change { init: true, ..split(&usual, 1) }, 18).expect("applies");
    assert_eq!((items(&dest), special(&dest)), (vec![leaf(0, 1)], [LEAF, 0, 0]));

    let mut inner_page = page(0, [0, 1], &[placeholder()]);
    apply(&mut inner_page, &split(&usual, 2), 18).expect("applies");
    assert_eq!((items(&inner_page), special(&inner_page)), (vec![plain_inner(7)], [0, 0, 0]));
    apply(&mut inner_page, &Change { init: true, ..split(&fresh, 2) }, 18).expect("applies");
    assert_eq!(items(&inner_page), [inner([NO_TID, tid(12, 1)], 7)], "it is the parent as well");

    let mut parent = page(0, [0, 0], &[plain_inner(3)]);
    apply(&mut parent, &split(&usual, 3), 18).expect("applies");
    assert_eq!(items(&parent), [inner([NO_TID, tid(12, 1)], 3)]);

    let mut of_root = usual.clone();
    of_root[0] = 1;
    assert_eq!(apply(&mut old(), &split(&of_root, 0), 18), Err(RedoError::Block(0)));
    let no_node = [&usual[..16], &[2, 0], &usual[18..]].concat();
    assert!(matches!(apply(&mut parent, &split(&no_node, 3), 18), Err(RedoError::Precondition(_))));
}

#[test]
fn vacuum_of_a_leaf_keeps_chains_together() {
    let old = [leaf(2, 1), leaf(3, 2), leaf(0, 3), leaf(5, 4), leaf(0, 5), leaf(0, 6)];
    let main = [
        // Dead, placeholders, moves, chains.
        bytes![1_u16, 1_u16, 1_u16, 1_u16],
        STATE.to_vec(),
        bytes![6_u16, 2_u16, 5_u16, 4_u16, 1_u16, 3_u16],
    ]
    .concat();
    let mut page = page(LEAF, [0, 0], &old);
    let vacuum = Change { main: &main, ..change(rmid::SPGIST, VACUUM_LEAF, 0, &[10]) };
    apply(&mut page, &vacuum, 14).expect("applies");
    // Tuple 4 was the head of its chain, so 5 takes its number.
    let expected = [leaf(3, 1), placeholder(), leaf(0, 3), leaf(0, 5), placeholder(), dead(2, NO_TID, 0)];
    assert_eq!((items(&page), special(&page)), (expected.to_vec(), [LEAF, 0, 2]));
    assert_eq!(apply(&mut page, &Change { main: &main[..27], ..vacuum }, 14), Err(RedoError::Short));
}

#[test]
fn vacuum_of_a_root_only_deletes() {
    let mut root = page(LEAF, [0, 0], &[leaf(0, 1), leaf(0, 2), leaf(0, 3), leaf(0, 4)]);
    let main = [bytes![3_u16, 0_u16], STATE.to_vec(), bytes![1_u16, 2_u16, 4_u16]].concat();
    apply(&mut root, &Change { main: &main, ..change(rmid::SPGIST, VACUUM_ROOT, 0, &[1]) }, 14).expect("applies");
    assert_eq!((items(&root), special(&root)), (vec![leaf(0, 3)], [LEAF, 0, 0]));
}

#[test]
fn redirections_end_in_the_layout_of_each_major() {
    let old = [leaf(0, 1), redirect(5, 6), placeholder(), redirect(7, 8), placeholder()];
    for major in 14..=18 {
        let mut main = bytes![2_u16, 4_u16, 1000_u32];
        if major >= 16 {
            main.extend_from_slice(&[1, 0]);
        }
        main.extend_from_slice(&bytes![2_u16, 4_u16]);
        let end = Change { main: &main, ..change(rmid::SPGIST, VACUUM_REDIRECT, 0, &[10]) };
        let mut ended = page(LEAF, [2, 2], &old);
        apply(&mut ended, &end, major).expect("applies");
        assert_eq!(items(&ended), [leaf(0, 1), dead(3, NO_TID, XID), placeholder()], "the transaction stays");
        assert_eq!(special(&ended), [LEAF, 0, 2]);
        let other = if major >= 16 { 15 } else { 16 };
        assert!(apply(&mut page(LEAF, [2, 2], &old), &end, other).is_err(), "read as {other}");
        let miscounted = apply(&mut page(LEAF, [1, 2], &old), &end, major);
        assert!(matches!(miscounted, Err(RedoError::Precondition(_))), "the page knows of one redirection");
    }
}

#[test]
fn what_is_no_sp_gist_is_refused() {
    let unknown = change(rmid::SPGIST, 0x90, 0, &[1]);
    assert_eq!(
        apply(&mut page(0, [0; 2], &[]), &unknown, 14),
        Err(RedoError::Unknown { rmid: rmid::SPGIST, info: 0x90 })
    );
    let block = change(rmid::SPGIST, VACUUM_ROOT, 1, &[1, 2]);
    assert_eq!(apply(&mut page(0, [0; 2], &[]), &block, 14), Err(RedoError::Block(1)));
    let mut other = Page::zeroed();
    other.init(8);
    let vacuum = change(rmid::SPGIST, VACUUM_ROOT, 0, &[1]);
    assert!(matches!(apply(&mut other, &vacuum, 14), Err(RedoError::Precondition(_))));
}
