//! Forks of relations: which there are, and how long they are.
//!
//! Owner of the sizes: what was written and is not yet in the store is known here only. Free space maps are hints that
//! PostgreSQL does not log as such; nothing of them is kept.
//!
//! Source: PostgreSQL 14-18, `XLogReadBufferExtended` in `xlogutils.c`, `smgr_redo` in `storage.c`,
//! `visibilitymap_prepare_truncate` in `visibilitymap.c`.

use std::collections::hash_map::Entry;

use pgformat::redo::vm::{self, HEAP_BLOCKS_PER_PAGE, map_block};
use pgformat::redo::{Change, Ref, rmid};
use pgformat::rel::{BlockNumber, BlockTag, Fork, RelFileLocator, RelFork};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::smallvec;

use super::out::RecordOut;
use crate::cluster::error::LookError;
use crate::cluster::extent::{Extent, FILL_BLOCKS, Reach};
use crate::cluster::key::{Key, KeyKind};

/// Forks that are known by heart: about 100 bytes each. The others are in the store.
const KNOWN_MAX: usize = 1 << 18;
/// The forks that are kept.
const KEPT: [Fork; 3] = [Fork::Main, Fork::Vm, Fork::Init];

/// Forks, as far as they were asked for or changed; `None` is a fork that does not exist.
#[derive(Default, Debug)]
pub(super) struct ForkExtents {
    extents: FxHashMap<RelFork, Option<Extent>>,
}

/// Where a block lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BlockPlace {
    /// Within the fork: what was there before counts.
    Inside,
    /// At its end or beyond: the fork has grown, the block begins as zeros.
    Grown,
    /// At its end or beyond, and the fork is new.
    Created,
}

impl ForkExtents {
    /// How long a fork is; `None` when it does not exist.
    fn extent(&mut self, fork: RelFork, out: &RecordOut<'_>) -> Result<&mut Option<Extent>, LookError> {
        match self.extents.entry(fork) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(unknown) => {
                let key = Key::rel_size(fork);
                let stored = out.look.blob(key)?.map(|bytes| Extent::decode(&bytes)).transpose();
                Ok(unknown.insert(stored.map_err(|_| LookError::Damaged(key))?))
            }
        }
    }

    /// Blocks of a fork; `None` when it does not exist.
    pub(super) fn size(&mut self, fork: RelFork, out: &RecordOut<'_>) -> Result<Option<BlockNumber>, LookError> {
        Ok(self.extent(fork, out)?.as_ref().map(|extent| extent.blocks))
    }

    fn set(&mut self, fork: RelFork, extent: Extent, out: &mut RecordOut<'_>) {
        out.blob(Key::rel_size(fork), &extent.encode());
        self.extents.insert(fork, Some(extent));
    }

    /// Makes sure that a block exists. Blocks between the end and it become zeros, which cost nothing when they are
    /// many.
    pub(super) fn reach(&mut self, tag: BlockTag, out: &mut RecordOut<'_>) -> Result<BlockPlace, LookError> {
        let known = self.extent(tag.fork, out)?;
        let place = if known.is_some() { BlockPlace::Grown } else { BlockPlace::Created };
        let extent = known.get_or_insert_default();
        match extent.reach(tag.blk, out.lsn, FILL_BLOCKS) {
            Reach::Inside => return Ok(BlockPlace::Inside),
            Reach::Refused => return Err(LookError::Gaps { fork: tag.fork, blk: tag.blk }),
            Reach::Grown(fill) => {
                out.blob(Key::rel_size(tag.fork), &extent.encode());
                fill.for_each(|blk| out.zeros(Key::block(BlockTag { blk, ..tag })));
            }
        }
        Ok(place)
    }

    /// Makes sure that a fork exists; whether it is new.
    pub(super) fn create(&mut self, fork: RelFork, out: &mut RecordOut<'_>) -> Result<bool, LookError> {
        let new = self.size(fork, out)?.is_none();
        if new {
            self.set(fork, Extent::default(), out);
        }
        Ok(new)
    }

    /// Cuts a fork, if it exists and is longer.
    fn cut(&mut self, fork: RelFork, blocks: BlockNumber, out: &mut RecordOut<'_>) -> Result<(), LookError> {
        if let Some(extent) = self.extent(fork, out)?
            && extent.cut(blocks)
        {
            out.blob(Key::rel_size(fork), &extent.encode());
        }
        Ok(())
    }

    /// Cuts the main fork.
    pub(super) fn truncate(
        &mut self,
        rel: RelFileLocator,
        blocks: BlockNumber,
        out: &mut RecordOut<'_>,
    ) -> Result<(), LookError> {
        self.cut(RelFork { rel, fork: Fork::Main }, blocks, out)
    }

    /// Cuts the visibility map to what a main fork of `blocks` needs, and clears the bits behind it on its last page.
    pub(super) fn truncate_map(
        &mut self,
        rel: RelFileLocator,
        blocks: BlockNumber,
        out: &mut RecordOut<'_>,
    ) -> Result<(), LookError> {
        let fork = RelFork { rel, fork: Fork::Vm };
        let Some(size) = self.size(fork, out)? else { return Ok(()) };
        let mut kept = map_block(blocks);
        if !blocks.is_multiple_of(HEAP_BLOCKS_PER_PAGE) && kept < size {
            map_change(fork, kept, vm::TRUNCATE, &vm::truncate(blocks), out);
            kept += 1;
        }
        self.cut(fork, kept, out)
    }

    /// Removes all forks of a relation, as far as there are any.
    pub(super) fn drop(&mut self, rel: RelFileLocator, out: &mut RecordOut<'_>) -> Result<(), LookError> {
        for fork in KEPT {
            let fork = RelFork { rel, fork };
            if self.size(fork, out)?.is_some() {
                self.forget(fork, out);
            }
        }
        Ok(())
    }

    /// Removes one fork.
    pub(super) fn forget(&mut self, fork: RelFork, out: &mut RecordOut<'_>) {
        self.extents.insert(fork, None);
        out.tombstone(Key::rel_size(fork));
    }

    /// All forks of a database in tablespaces, ascending. What is known is gone through once, however many they are.
    pub(super) fn of_database(
        &mut self,
        spcs: &FxHashSet<u32>,
        db: u32,
        out: &RecordOut<'_>,
    ) -> Result<Vec<(RelFork, Extent)>, LookError> {
        for spc in spcs {
            for (key, value) in out.look.scan(Key::all_of_database(KeyKind::RelSize, *spc, db))? {
                let Some(fork) = Fork::new(key.fork) else { continue };
                let fork = RelFork { rel: RelFileLocator { spc: *spc, db, rel: key.rel }, fork };
                let extent = Extent::decode(&value).map_err(|_| LookError::Damaged(key))?;
                self.extents.entry(fork).or_insert(Some(extent));
            }
        }
        let here = self.extents.iter().filter(|(fork, _)| fork.rel.db == db && spcs.contains(&fork.rel.spc));
        let mut found: Vec<_> = here.filter_map(|(fork, extent)| Some((*fork, extent.clone()?))).collect();
        found.sort_unstable_by_key(|(fork, _)| *fork);
        Ok(found)
    }

    /// A fork that is copied as a whole.
    pub(super) fn copied(&mut self, fork: RelFork, extent: Extent, out: &mut RecordOut<'_>) {
        self.set(fork, extent, out);
    }

    /// Forgets what the store has as well, when that is much. Everything that was written is in the store.
    pub(super) fn stored(&mut self) {
        if self.extents.len() > KNOWN_MAX {
            self.extents = FxHashMap::default();
        }
    }
}

/// Writes one of our own changes to a page of a visibility map.
pub(super) fn map_change(fork: RelFork, blk: BlockNumber, info: u8, data: &[u8], out: &mut RecordOut<'_>) {
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
