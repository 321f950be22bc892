//! One block reference of a record becomes one version of that block.
//!
//! Source: PostgreSQL 14-18, `XLogReadBufferForRedoExtended` in `xlogutils.c`.

use pgformat::page::Page;
use pgformat::redo::{self, Change, Context, hash, rmid, vm};
use pgformat::rel::{Fork, RelFork};
use pgformat::wal::RecordHeader;
use pgformat::wal::body::{BlockRef, RecordBody};
use pgformat::wal::image::Image;

use super::out::RecordOut;
use super::rels::{BlockPlace, ForkExtents, map_change};
use crate::cluster::error::LookError;
use crate::cluster::key::Key;
use crate::cluster::value::{ValueKind, encode_image};

/// What is the same for all blocks of a record.
pub(super) struct BlockSource<'r, 'a> {
    /// The record's header.
    pub(super) header: &'r RecordHeader,
    /// What is in it.
    pub(super) body: &'r RecordBody<'a>,
    /// Whether hint bits are logged.
    pub(super) hint_lsn: bool,
    /// Of the redo.
    pub(super) ctx: Context,
}

/// Writes the version that a block reference makes. Returns whether it created a fork.
pub(super) fn block<'a>(
    source: &BlockSource<'_, 'a>,
    block: &BlockRef<'a>,
    rels: &mut ForkExtents,
    out: &mut RecordOut<'_>,
) -> Result<bool, LookError> {
    let image = block.applied_image();
    if block.tag.fork.fork == Fork::Fsm || image.is_none() && leaves_alone(source, block) {
        return Ok(false);
    }
    let place = rels.reach(block.tag, out)?;
    let change = Change::of(source.header, source.body, block, source.hint_lsn);
    match image {
        Some(image) => with_image(source, &change, &image, block, out),
        None => out.change(Key::block(block.tag), &change, change.init || place != BlockPlace::Inside),
    }
    Ok(place == BlockPlace::Created)
}

/// Whether redo does nothing to this block, its LSN included.
fn leaves_alone(source: &BlockSource<'_, '_>, block: &BlockRef<'_>) -> bool {
    const FPI_FOR_HINT: u8 = 0xA0;
    let info = source.header.info & 0xF0;
    match source.header.rmid {
        // A hint was set while whole pages are not logged.
        rmid::XLOG => info == FPI_FOR_HINT,
        rmid::HASH => hash::is_lock_only(info, block.id, source.body.main, source.ctx.version),
        _ => false,
    }
}

fn with_image(
    source: &BlockSource<'_, '_>,
    change: &Change<'_>,
    image: &Image<'_>,
    block: &BlockRef<'_>,
    out: &mut RecordOut<'_>,
) {
    let key = Key::block(block.tag);
    if !redo::changes_after_image(change.rmid, change.info, change.block) {
        out.batch.put(key, out.lsn, ValueKind::Image, |value| encode_image(image, false, value));
        return;
    }
    let mut page = Page::zeroed();
    let restored = image.restore(&mut page).is_ok();
    if restored && !page.is_new() {
        page.set_lsn(source.ctx.end);
    }
    if restored && redo::after_image(&mut page, change, &source.ctx).is_ok() {
        out.page(key, &page);
    } else {
        // Neither the image alone nor a guess: a change that starts without the page fails when it is read.
        out.change(key, change, true);
    }
}

/// Clears bits of visibility maps that a record says are clear now without naming the map's page. A record of an
/// unknown shape clears nothing here: its blocks fail when they are read.
pub(super) fn implied(
    source: &BlockSource<'_, '_>,
    rels: &mut ForkExtents,
    out: &mut RecordOut<'_>,
) -> Result<(), LookError> {
    let cleared = vm::implied_clears(source.header, source.body).unwrap_or_default();
    let mut rest = &cleared[..];
    while let [(rel, heap_blk, _), ..] = rest {
        let blk = vm::map_block(*heap_blk);
        // An update can clear bits of two blocks on one page: one change does both.
        let same = rest.iter().take_while(|(_, b, _)| vm::map_block(*b) == blk).count();
        let (here, others) = rest.split_at(same);
        let fork = RelFork { rel: *rel, fork: Fork::Vm };
        if rels.size(fork, out)?.is_some_and(|size| blk < size) {
            let data: Vec<u8> = here.iter().flat_map(|(_, b, mask)| vm::clear(*b, *mask)).collect();
            map_change(fork, blk, vm::CLEAR, &data, out);
        }
        rest = others;
    }
    Ok(())
}
