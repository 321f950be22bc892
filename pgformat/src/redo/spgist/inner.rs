//! Inner tuples of SP-GiST: adding a node, splitting a tuple, turning leaf tuples into a subtree.
//!
//! Source: PostgreSQL 14-18 (the same in all), `src/backend/access/spgist/spgxlog.c`.

use super::super::index::tid;
use super::super::itup::all_read;
use super::super::{Change, RedoError};
use super::tuples::{
    Dead, Downlink, NULLS, SpgistOrigin, add_or_replace, expect_old, init, kill, kill_many, leaf_flags, take_inner,
    take_leaf, take_offs,
};
use crate::page::Page;
use crate::page::items::Place;
use crate::read::Take;

/// References: 0 the page of the old tuple, 1 that of the new one unless it stays, 2 the parent unless it is one of
/// these.
pub(super) fn add_node(page: &mut Page, change: &Change<'_>, mut main: Take<'_>) -> Result<(), RedoError> {
    let (off, new_off, new_page) = (main.u16()?, main.u16()?, main.bool()?);
    // The reference that is the parent: 0, 1, 2; 255 for none.
    let parent = main.u8()?;
    let link = Downlink { off: main.u16()?, node: main.u16()? };
    main.skip(2)?;
    let origin = SpgistOrigin::take(&mut main)?;
    let tuple = take_inner(&mut main)?;
    all_read(&main)?;

    let Some(new_blk) = change.reference(1) else {
        if change.block != 0 {
            return Err(RedoError::Block(change.block));
        }
        expect_old(page, change)?;
        page.index_delete(off)?;
        return Ok(page.add_item_at(tuple, off, Place::Shift)?);
    };
    let new_tid = tid(new_blk, new_off);
    match change.block {
        0 => {
            expect_old(page, change)?;
            kill(page, off, origin.leaves(new_tid))?;
        }
        1 => {
            if new_page {
                init(page, change, 0)?;
            } else {
                expect_old(page, change)?;
            }
            add_or_replace(page, tuple, new_off)?;
        }
        block if block == parent => expect_old(page, change)?,
        block => return Err(RedoError::Block(block)),
    }
    if change.block == parent { link.lead(page, new_tid) } else { Ok(()) }
}

/// A tuple becomes two, one with its prefix and below it one with the rest. References: 0 the page of the first, 1 that
/// of the second unless it is the same.
pub(super) fn split_tuple(page: &mut Page, change: &Change<'_>, mut main: Take<'_>) -> Result<(), RedoError> {
    let (prefix_off, postfix_off) = (main.u16()?, main.u16()?);
    let (new_page, same_page) = (main.bool()?, main.bool()?);
    let (prefix, postfix) = (take_inner(&mut main)?, take_inner(&mut main)?);
    all_read(&main)?;
    if change.block == 0 {
        expect_old(page, change)?;
        page.index_delete(prefix_off)?;
        page.add_item_at(prefix, prefix_off, Place::Shift)?;
        return if same_page { add_or_replace(page, postfix, postfix_off) } else { Ok(()) };
    }
    if same_page {
        return Err(RedoError::Block(change.block));
    }
    if new_page {
        init(page, change, 0)?;
    } else {
        expect_old(page, change)?;
    }
    add_or_replace(page, postfix, postfix_off)
}

/// `spgxlogPickSplit`, up to the tuples.
struct PickSplit {
    is_root: bool,
    init_source: bool,
    init_dest: bool,
    inner_off: u16,
    init_inner: bool,
    nulls: bool,
    inner_is_parent: bool,
    link: Downlink,
    origin: SpgistOrigin,
    deleted: Vec<u16>,
    inserted: Vec<u16>,
    /// For each inserted tuple: not 0 when it goes to reference 1.
    to_dest: Vec<u8>,
}

impl PickSplit {
    fn take(main: &mut Take<'_>) -> Result<PickSplit, RedoError> {
        let is_root = main.bool()?;
        main.skip(1)?;
        let (deletes, inserts) = (main.u16()?, main.u16()?);
        let (init_source, init_dest) = (main.bool()?, main.bool()?);
        let (inner_off, init_inner, nulls, inner_is_parent) = (main.u16()?, main.bool()?, main.bool()?, main.bool()?);
        main.skip(1)?;
        let link = Downlink { off: main.u16()?, node: main.u16()? };
        main.skip(2)?;
        let origin = SpgistOrigin::take(main)?;
        let deleted = take_offs(main, deletes)?;
        let inserted = take_offs(main, inserts)?;
        let to_dest = main.bytes(usize::from(inserts))?.to_vec();
        Ok(PickSplit {
            is_root,
            init_source,
            init_dest,
            inner_off,
            init_inner,
            nulls,
            inner_is_parent,
            link,
            origin,
            deleted,
            inserted,
            to_dest,
        })
    }
}

/// Leaf tuples are distributed below a new inner tuple. References: 0 their page, 1 another page for some of them,
/// 2 that of the inner tuple, 3 the parent; 0, 1 and 3 only where there is one.
pub(super) fn pick_split(page: &mut Page, change: &Change<'_>, mut main: Take<'_>) -> Result<(), RedoError> {
    let split = PickSplit::take(&mut main)?;
    let inner = take_inner(&mut main)?;
    let inner_tid = tid(change.required(2)?, split.inner_off);
    match change.block {
        // A root appears only as the inner tuple's page.
        0 if split.is_root => return Err(RedoError::Block(0)),
        0 if split.init_source => init(page, change, leaf_flags(split.nulls))?,
        0 => {
            expect_old(page, change)?;
            kill_many(page, &split.deleted, split.origin.leaves(inner_tid), Dead::PLACEHOLDER)?;
        }
        1 if split.init_dest => init(page, change, leaf_flags(split.nulls))?,
        2 => {
            if split.init_inner {
                init(page, change, if split.nulls { NULLS } else { 0 })?;
            } else {
                expect_old(page, change)?;
            }
            add_or_replace(page, inner, split.inner_off)?;
            return if split.inner_is_parent { split.link.lead(page, inner_tid) } else { Ok(()) };
        }
        3 => {
            expect_old(page, change)?;
            return split.link.lead(page, inner_tid);
        }
        _ => expect_old(page, change)?,
    }
    for (off, to_dest) in split.inserted.iter().zip(&split.to_dest) {
        let tuple = take_leaf(&mut main)?;
        if (*to_dest != 0) == (change.block == 1) {
            add_or_replace(page, tuple, *off)?;
        }
    }
    all_read(&main)
}
