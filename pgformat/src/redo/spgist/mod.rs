//! Redo of SP-GiST.
//!
//! A record has everything in its main data, packed without alignment. The number of a block's reference tells which
//! part concerns the block. Tuples that others point to are not removed; they become redirections, dead tuples or
//! placeholders ([`tuples`]).
//!
//! | module | records |
//! |---|---|
//! | this one | adding a leaf tuple, moving leaf tuples, vacuum |
//! | [`inner`] | inner tuples: adding nodes, splitting tuples, turning leaf tuples into a subtree |
//! | [`tuples`] | the page operations that all of them share |
//!
//! Source: PostgreSQL 14-18, `src/backend/access/spgist/spgxlog.c`, `src/include/access/spgxlog.h`.

mod inner;
#[cfg(test)]
mod tests;
mod tuples;

use super::index::tid;
use super::itup::all_read;
use super::{Change, Context, RedoError};
use crate::page::Page;
use crate::page::items::Place;
use crate::read::Take;
use tuples::{
    Dead, Downlink, SpgistOrigin, add_or_replace, delete_many, end_redirection, expect_old, init, kill_many,
    leaf_flags, set_next, take_leaf, take_offs,
};

const ADD_LEAF: u8 = 0x10;
const MOVE_LEAFS: u8 = 0x20;
const ADD_NODE: u8 = 0x30;
const SPLIT_TUPLE: u8 = 0x40;
const PICKSPLIT: u8 = 0x50;
const VACUUM_LEAF: u8 = 0x60;
const VACUUM_ROOT: u8 = 0x70;
const VACUUM_REDIRECT: u8 = 0x80;

/// Applies one change.
///
/// # Errors
/// See [`RedoError`].
pub fn redo(page: &mut Page, change: &Change<'_>, ctx: &Context) -> Result<(), RedoError> {
    let main = Take::new(change.main);
    match (change.info, change.block) {
        (ADD_LEAF, 0..=1) => add_leaf(page, change, main)?,
        (MOVE_LEAFS, 0..=2) => move_leafs(page, change, main)?,
        (ADD_NODE, 0..=2) => inner::add_node(page, change, main)?,
        (SPLIT_TUPLE, 0..=1) => inner::split_tuple(page, change, main)?,
        (PICKSPLIT, 0..=3) => inner::pick_split(page, change, main)?,
        (VACUUM_LEAF, 0) => vacuum_leaf(page, change, main)?,
        (VACUUM_ROOT, 0) => vacuum_root(page, change, main)?,
        (VACUUM_REDIRECT, 0) => vacuum_redirect(page, change, main, ctx)?,
        (ADD_LEAF..=VACUUM_REDIRECT, block) => return Err(RedoError::Block(block)),
        _ => return Err(change.unknown()),
    }
    page.set_lsn(ctx.end);
    Ok(())
}

/// References: 0 the leaf page, 1 the parent.
fn add_leaf(page: &mut Page, change: &Change<'_>, mut main: Take<'_>) -> Result<(), RedoError> {
    let (new_page, nulls) = (main.bool()?, main.bool()?);
    let (off, head_off) = (main.u16()?, main.u16()?);
    let link = Downlink { off: main.u16()?, node: main.u16()? };
    let tuple = take_leaf(&mut main)?;
    all_read(&main)?;
    if change.block == 1 {
        expect_old(page, change)?;
        return link.lead(page, tid(change.required(0)?, off));
    }
    if new_page {
        init(page, change, leaf_flags(nulls))?;
    } else {
        expect_old(page, change)?;
    }
    if off == head_off {
        // A dead tuple at the head of a chain gives up its place.
        page.index_delete(off)?;
        return Ok(page.add_item_at(tuple, off, Place::Shift)?);
    }
    add_or_replace(page, tuple, off)?;
    if head_off != 0 {
        set_next(page, head_off, off)?;
    }
    Ok(())
}

/// A chain moves to another page. References: 0 where from, 1 where to, 2 the parent.
fn move_leafs(page: &mut Page, change: &Change<'_>, mut main: Take<'_>) -> Result<(), RedoError> {
    let moves = main.u16()?;
    let (new_page, replaces_dead, nulls) = (main.bool()?, main.bool()?, main.bool()?);
    main.skip(1)?;
    let link = Downlink { off: main.u16()?, node: main.u16()? };
    main.skip(2)?;
    let origin = SpgistOrigin::take(&mut main)?;
    let deleted = take_offs(&mut main, moves)?;
    // The new tuple moves along with the others; when it replaces a dead tuple, it is the only one.
    let inserts = if replaces_dead { Some(1) } else { moves.checked_add(1) };
    let inserted = take_offs(&mut main, inserts.ok_or(RedoError::Short)?)?;
    let head = *inserted.last().ok_or(RedoError::Short)?;
    let head = tid(change.required(1)?, head);
    match change.block {
        0 => {
            expect_old(page, change)?;
            kill_many(page, &deleted, origin.leaves(head), Dead::PLACEHOLDER)
        }
        1 => {
            if new_page {
                init(page, change, leaf_flags(nulls))?;
            } else {
                expect_old(page, change)?;
            }
            for off in inserted {
                add_or_replace(page, take_leaf(&mut main)?, off)?;
            }
            all_read(&main)
        }
        _ => {
            expect_old(page, change)?;
            link.lead(page, head)
        }
    }
}

fn vacuum_leaf(page: &mut Page, change: &Change<'_>, mut main: Take<'_>) -> Result<(), RedoError> {
    expect_old(page, change)?;
    let (dead, placeholders, moves, chains) = (main.u16()?, main.u16()?, main.u16()?, main.u16()?);
    SpgistOrigin::take(&mut main)?;
    let dead = take_offs(&mut main, dead)?;
    let placeholders = take_offs(&mut main, placeholders)?;
    let (move_from, move_to) = (take_offs(&mut main, moves)?, take_offs(&mut main, moves)?);
    let (chain_from, chain_to) = (take_offs(&mut main, chains)?, take_offs(&mut main, chains)?);
    all_read(&main)?;

    kill_many(page, &dead, Dead::DEAD, Dead::DEAD)?;
    kill_many(page, &placeholders, Dead::PLACEHOLDER, Dead::PLACEHOLDER)?;
    // A tuple moves by swapping line pointers; the tuple it replaced is then deleted at the old place.
    for (from, to) in move_from.iter().zip(&move_to) {
        let (from_id, to_id) = (page.item_id(*from)?, page.item_id(*to)?);
        page.set_item_id(*from, to_id)?;
        page.set_item_id(*to, from_id)?;
    }
    kill_many(page, &move_from, Dead::PLACEHOLDER, Dead::PLACEHOLDER)?;
    for (off, next) in chain_from.iter().zip(&chain_to) {
        set_next(page, *off, *next)?;
    }
    Ok(())
}

/// Of a root that is a leaf too: nothing points to its tuples.
fn vacuum_root(page: &mut Page, change: &Change<'_>, mut main: Take<'_>) -> Result<(), RedoError> {
    expect_old(page, change)?;
    let count = main.u16()?;
    main.skip(2)?;
    SpgistOrigin::take(&mut main)?;
    let deleted = take_offs(&mut main, count)?;
    all_read(&main)?;
    Ok(page.index_multi_delete(&deleted)?)
}

/// Redirections that nobody can follow any more become placeholders; those at the page's end go.
fn vacuum_redirect(page: &mut Page, change: &Change<'_>, mut main: Take<'_>, ctx: &Context) -> Result<(), RedoError> {
    expect_old(page, change)?;
    let (count, first_placeholder) = (main.u16()?, main.u16()?);
    // The horizon for standbys.
    main.skip(4)?;
    if ctx.version.get() >= 16 {
        // Whether the table is a catalog, padded.
        main.skip(2)?;
    }
    let redirects = take_offs(&mut main, count)?;
    all_read(&main)?;
    redirects.iter().try_for_each(|off| end_redirection(page, *off))?;
    if first_placeholder == 0 {
        return Ok(());
    }
    let deleted: Vec<u16> = (first_placeholder..=page.max_offset()).collect();
    delete_many(page, &deleted)
}
