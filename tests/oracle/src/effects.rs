//! Effects of records on whole relations: created, cut, dropped, copied with their database. Also the changes of
//! visibility maps that records imply.
//!
//! The comparison with the primary's files reveals wrong effects.

use anyhow::{Result, ensure};
use pgformat::PgMajor;
use pgformat::effect::Effect;
use pgformat::redo::{self, Change, rmid, vm};
use pgformat::rel::{BlockTag, Fork, RelFileLocator, RelFork};
use pgformat::wal::RecordHeader;
use pgformat::wal::body::RecordBody;

use crate::pages::Pages;

/// Carries out what a record does to relations.
///
/// # Errors
/// When the base cannot be read, or a map's page cannot be changed.
pub fn apply(pages: &mut Pages, effect: &Effect<'_>, ctx: &redo::Context) -> Result<()> {
    match effect {
        Effect::RelCreate(fork) => pages.cut(*fork, 0),
        Effect::Commit(end) | Effect::Abort(end) => end.dropped.iter().for_each(|rel| pages.drop_relation(rel)),
        Effect::DatabaseCopy { to, from } => pages.copy_database((from.spc, from.db), (to.spc, to.db))?,
        Effect::DatabaseDrop { db, spcs } => spcs.iter().for_each(|spc| pages.drop_database(spc, *db)),
        Effect::RelTruncate { rel, blocks, main, vm, .. } => {
            if *main {
                pages.cut(RelFork { rel: *rel, fork: Fork::Main }, *blocks);
            }
            if *vm {
                cut_map(pages, *rel, *blocks, ctx)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Cuts a visibility map to what `blocks` heap blocks need.
fn cut_map(pages: &mut Pages, rel: RelFileLocator, blocks: u32, ctx: &redo::Context) -> Result<()> {
    let fork = RelFork { rel, fork: Fork::Vm };
    let kept = vm::map_block(blocks);
    if blocks.is_multiple_of(vm::HEAP_BLOCKS_PER_PAGE) {
        pages.cut(fork, kept);
        return Ok(());
    }
    pages.cut(fork, kept + 1);
    own_change(pages, BlockTag { fork, blk: kept }, vm::TRUNCATE, &vm::truncate(blocks), ctx)
}

/// Clears the bits of visibility maps that a record clears without naming their pages.
///
/// # Errors
/// When the record is too short, or a map's page cannot be changed.
pub fn clear_bits(pages: &mut Pages, header: &RecordHeader, body: &RecordBody<'_>, ctx: &redo::Context) -> Result<()> {
    for (rel, heap_blk, mask) in vm::implied_clears(header, body)? {
        let tag = BlockTag { fork: RelFork { rel, fork: Fork::Vm }, blk: vm::map_block(heap_blk) };
        own_change(pages, tag, vm::CLEAR, &vm::clear(heap_blk, mask), ctx)?;
    }
    Ok(())
}

/// Applies a change of our own to a page of a map, if there is one, in its stored form.
fn own_change(pages: &mut Pages, tag: BlockTag, info: u8, data: &[u8], ctx: &redo::Context) -> Result<()> {
    let Some(page) = pages.get(tag) else { return Ok(()) };
    let change = Change {
        rmid: rmid::OUR_VM,
        info,
        xid: 0,
        block: 0,
        fork: tag.fork.fork,
        blk: tag.blk,
        init: false,
        hint_lsn: false,
        refs: Default::default(),
        data,
        main: &[],
    };
    let mut stored = Vec::new();
    change.encode(&mut stored);
    redo::redo(page, &Change::decode(&stored, tag.fork.fork, tag.blk)?, ctx)?;
    Ok(())
}

/// Reads the control file of a stopped cluster.
///
/// # Errors
/// When it cannot be read, or is not of `version`.
pub fn control_file(data: &std::path::Path, version: PgMajor) -> Result<pgformat::control::ControlFile> {
    let bytes = std::fs::read(data.join(pgformat::control::CONTROL_FILE_NAME))?;
    let control = pgformat::control::ControlFile::parse(&bytes)?;
    ensure!(control.version == version, "the log is of PostgreSQL {version}, the cluster of {}", control.version);
    Ok(control)
}
