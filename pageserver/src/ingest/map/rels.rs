//! Forks of relations: which there are, and how long they are.
//!
//! Owner of the sizes: what was written and is not yet in the store is known here only. Free space maps are hints that
//! PostgreSQL does not log as such; nothing of them is kept.
//!
//! Source: PostgreSQL 14-18, `XLogReadBufferExtended` in `xlogutils.c`, `smgr_redo` in `storage.c`,
//! `visibilitymap_prepare_truncate` in `visibilitymap.c`.

use pgformat::redo::vm::{self, HEAP_BLOCKS_PER_PAGE, map_block};
use pgformat::redo::{Change, Ref, rmid};
use pgformat::rel::{BlockNumber, BlockTag, Fork, RelFileLocator, RelFork};
use rustc_hash::FxHashMap;
use smallvec::smallvec;

use super::look::{LookError, number, of_database};
use super::out::Out;
use crate::key::{Key, Kind};

/// The forks that are kept.
const KEPT: [Fork; 3] = [Fork::Main, Fork::Vm, Fork::Init];

/// Sizes of forks, as far as they were asked for or changed; `None` is a fork that does not exist.
#[derive(Default, Debug)]
pub(super) struct Rels {
    sizes: FxHashMap<RelFork, Option<BlockNumber>>,
}

/// Where a block lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Within the fork: what was there before counts.
    Inside,
    /// At its end or beyond: the fork has grown, the block begins as zeros.
    Grown,
    /// At its end or beyond, and the fork is new.
    Created,
}

impl Rels {
    /// Blocks of a fork; `None` when it does not exist.
    pub(super) fn size(&mut self, fork: RelFork, out: &Out<'_>) -> Result<Option<BlockNumber>, LookError> {
        if let Some(size) = self.sizes.get(&fork) {
            return Ok(*size);
        }
        let size = out.look.blob(Key::rel_size(fork))?.and_then(|b| number(&b));
        self.sizes.insert(fork, size);
        Ok(size)
    }

    fn set(&mut self, fork: RelFork, size: BlockNumber, out: &mut Out<'_>) {
        self.sizes.insert(fork, Some(size));
        out.blob(Key::rel_size(fork), &size.to_le_bytes());
    }

    /// Makes sure that a block exists. Blocks between the end and it become zeros.
    pub(super) fn reach(&mut self, tag: BlockTag, out: &mut Out<'_>) -> Result<Place, LookError> {
        let size = self.size(tag.fork, out)?;
        if size.is_some_and(|size| tag.blk < size) {
            return Ok(Place::Inside);
        }
        for blk in size.unwrap_or(0)..tag.blk {
            out.zeros(Key::block(BlockTag { blk, ..tag }));
        }
        self.set(tag.fork, tag.blk.saturating_add(1), out);
        Ok(if size.is_some() { Place::Grown } else { Place::Created })
    }

    /// Makes sure that a fork exists; whether it is new.
    pub(super) fn create(&mut self, fork: RelFork, out: &mut Out<'_>) -> Result<bool, LookError> {
        let new = self.size(fork, out)?.is_none();
        if new {
            self.set(fork, 0, out);
        }
        Ok(new)
    }

    /// Cuts the main fork.
    pub(super) fn truncate(
        &mut self,
        rel: RelFileLocator,
        blocks: BlockNumber,
        out: &mut Out<'_>,
    ) -> Result<(), LookError> {
        let main = RelFork { rel, fork: Fork::Main };
        if self.size(main, out)?.is_some_and(|size| size > blocks) {
            self.set(main, blocks, out);
        }
        Ok(())
    }

    /// Cuts the visibility map to what a main fork of `blocks` needs, and clears the bits behind it on its last page.
    pub(super) fn truncate_map(
        &mut self,
        rel: RelFileLocator,
        blocks: BlockNumber,
        out: &mut Out<'_>,
    ) -> Result<(), LookError> {
        let fork = RelFork { rel, fork: Fork::Vm };
        let Some(size) = self.size(fork, out)? else { return Ok(()) };
        let mut kept = map_block(blocks);
        if !blocks.is_multiple_of(HEAP_BLOCKS_PER_PAGE) && kept < size {
            map_change(fork, kept, vm::TRUNCATE, &vm::truncate(blocks), out);
            kept += 1;
        }
        if size > kept {
            self.set(fork, kept, out);
        }
        Ok(())
    }

    /// Removes all forks of a relation, as far as there are any.
    pub(super) fn drop(&mut self, rel: RelFileLocator, out: &mut Out<'_>) -> Result<(), LookError> {
        for fork in KEPT {
            let fork = RelFork { rel, fork };
            if self.size(fork, out)?.is_some() {
                self.forget(fork, out);
            }
        }
        Ok(())
    }

    /// Removes one fork.
    pub(super) fn forget(&mut self, fork: RelFork, out: &mut Out<'_>) {
        self.sizes.insert(fork, None);
        out.tombstone(Key::rel_size(fork));
    }

    /// All forks of a database in a tablespace with their sizes, ascending.
    pub(super) fn of_database(
        &mut self,
        spc: u32,
        db: u32,
        out: &Out<'_>,
    ) -> Result<Vec<(RelFork, BlockNumber)>, LookError> {
        for (key, value) in out.look.scan(of_database(Kind::RelSize, spc, db))? {
            let rel = RelFileLocator { spc, db, rel: key.rel };
            if let Some(fork) = Fork::new(key.fork) {
                self.sizes.entry(RelFork { rel, fork }).or_insert_with(|| number(&value));
            }
        }
        let here = self.sizes.iter().filter(|(fork, _)| (fork.rel.spc, fork.rel.db) == (spc, db));
        let mut found: Vec<_> = here.filter_map(|(fork, size)| Some((*fork, (*size)?))).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Sets the size of a fork that is copied as a whole.
    pub(super) fn copied(&mut self, fork: RelFork, size: BlockNumber, out: &mut Out<'_>) {
        self.set(fork, size, out);
    }
}

/// Writes one of our own changes to a page of a visibility map.
pub(super) fn map_change(fork: RelFork, blk: BlockNumber, info: u8, data: &[u8], out: &mut Out<'_>) {
    let change = Change {
        rmid: rmid::OUR_VM,
        info,
        xid: 0,
        block: 0,
        fork: Fork::Vm,
        blk,
        init: false,
        hint_lsn: false,
        refs: smallvec![Ref { id: 0, fork: Fork::Vm, blk }],
        data,
        main: &[],
    };
    out.change(Key::block(BlockTag { fork, blk }), &change, false);
}
