//! Databases, tablespaces and relation maps; copies of databases in bounded pieces.
//!
//! Source: PostgreSQL 14-18, `dbase_redo` in `dbcommands.c`, `tblspc_redo` in `tablespace.c`, `relmap_redo` in
//! `relmapper.c`.

use std::ops::Range;

use pgformat::Lsn;
use pgformat::effect::DatabaseDir;
use pgformat::redo::{Change, Ref, rmid};
use pgformat::rel::{BlockNumber, BlockTag, Fork, PG_GLOBAL, RelFileLocator, RelFork};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::smallvec;

use super::Mapper;
use super::out::RecordOut;
use crate::cluster::database::{LOGGED, ONLY_RELATIONS, WHOLE};
use crate::cluster::error::LookError;
use crate::cluster::extent::Extent;
use crate::cluster::key::{Key, KeyKind};

/// Bytes that one piece of a copy comes to, about.
const PIECE_BYTES: usize = 8 << 20;

/// Blocks that are copied before the size of the piece is looked at.
const STRETCH_BLOCKS: BlockNumber = 128;

/// Directories of databases, as far as they were asked for or changed, and whether they are there.
pub(super) type KnownDatabases = FxHashMap<DatabaseDir, bool>;

/// A database that is being copied.
#[derive(Debug)]
pub(super) struct DatabaseCopy {
    from: DatabaseDir,
    to: DatabaseDir,
    /// What is still to be copied, the next fork last, each from `blk` on.
    left: Vec<(RelFork, Extent)>,
    blk: BlockNumber,
    begun: bool,
}

impl DatabaseCopy {
    /// Of everything in `from`.
    pub(super) const fn new(from: DatabaseDir, to: DatabaseDir) -> DatabaseCopy {
        DatabaseCopy { from, to, left: Vec::new(), blk: 0, begun: false }
    }
}

fn dir_key(kind: KeyKind, dir: DatabaseDir) -> Key {
    Key::of_database(kind, dir.spc, dir.db)
}

impl Mapper {
    /// A fork was created: its directory is there.
    pub(super) fn has_dir(&mut self, rel: RelFileLocator, out: &mut RecordOut<'_>) -> Result<(), LookError> {
        let dir = DatabaseDir { spc: rel.spc, db: rel.db };
        if dir.spc == PG_GLOBAL {
            return Ok(());
        }
        let key = dir_key(KeyKind::Database, dir);
        let is_there = match self.databases.insert(dir, true) {
            Some(is_there) => is_there,
            None => out.look.blob(key)?.is_some(),
        };
        if !is_there {
            out.blob(key, &[ONLY_RELATIONS]);
        }
        Ok(())
    }

    /// A database without relations, [`WHOLE`] or [`LOGGED`].
    pub(super) fn create_database(&mut self, dir: DatabaseDir, how: u8, out: &mut RecordOut<'_>) {
        self.databases.insert(dir, true);
        out.blob(dir_key(KeyKind::Database, dir), &[how]);
    }

    /// Everything that a database has in a tablespace goes.
    pub(super) fn drop_database(&mut self, dir: DatabaseDir, out: &mut RecordOut<'_>) -> Result<(), LookError> {
        self.drop_databases(dir.db, std::iter::once(dir.spc), out)
    }

    /// Everything that a database has in these tablespaces goes.
    pub(super) fn drop_databases(
        &mut self,
        db: u32,
        spcs: impl Iterator<Item = u32>,
        out: &mut RecordOut<'_>,
    ) -> Result<(), LookError> {
        let spcs = spcs.collect();
        for (fork, _) in self.rels.of_database(&spcs, db, out)? {
            self.rels.forget(fork, out);
        }
        for spc in spcs {
            let dir = DatabaseDir { spc, db };
            self.databases.insert(dir, false);
            out.tombstone(dir_key(KeyKind::Database, dir));
            out.tombstone(dir_key(KeyKind::RelMap, dir));
        }
        Ok(())
    }

    /// A tablespace and its directories of databases go; they have no relations any more.
    pub(super) fn drop_tablespace(&mut self, spc: u32, out: &mut RecordOut<'_>) -> Result<(), LookError> {
        let stored = out.look.scan(Key::all_of_space(KeyKind::Database, spc))?;
        let mut dirs: Vec<DatabaseDir> = stored.iter().map(|(key, _)| DatabaseDir { spc, db: key.db }).collect();
        dirs.extend(self.databases.keys().filter(|dir| dir.spc == spc));
        dirs.sort_unstable();
        dirs.dedup();
        for dir in dirs {
            self.databases.insert(dir, false);
            out.tombstone(dir_key(KeyKind::Database, dir));
        }
        out.tombstone(Key { spc, ..Key::first(KeyKind::Tablespace) });
        Ok(())
    }

    /// Copies a piece of a database; whether there is more. The batch holds nothing else, and the source is as the
    /// store has it.
    pub(super) fn copy_piece(&mut self, copy: &mut DatabaseCopy, out: &mut RecordOut<'_>) -> Result<bool, LookError> {
        if !copy.begun {
            self.begin_copy(copy, out)?;
        }
        while let Some((fork, extent)) = copy.left.last() {
            let source = RelFork { rel: RelFileLocator { spc: copy.from.spc, db: copy.from.db, ..fork.rel }, ..*fork };
            while copy.blk < extent.blocks {
                if out.batch.bytes() >= PIECE_BYTES || out.batch.len() >= PIECE_BYTES / 64 {
                    return Ok(true);
                }
                let blocks = copy.blk..extent.blocks.min(copy.blk.saturating_add(STRETCH_BLOCKS));
                copy.blk = copy_stretch(source, *fork, extent, blocks, out)?;
            }
            copy.left.pop();
            copy.blk = 0;
        }
        Ok(false)
    }

    /// Drops what is at the target, and writes everything but the blocks.
    fn begin_copy(&mut self, copy: &mut DatabaseCopy, out: &mut RecordOut<'_>) -> Result<(), LookError> {
        let (from, to) = (copy.from, copy.to);
        self.drop_database(to, out)?;
        let is_logged = out.look.blob(dir_key(KeyKind::Database, from))?.is_some_and(|b| b[..] == [LOGGED]);
        self.create_database(to, if is_logged { LOGGED } else { WHOLE }, out);
        if let Some(map) = out.look.blob(dir_key(KeyKind::RelMap, from))? {
            out.blob(dir_key(KeyKind::RelMap, to), &map);
        }
        let source = self.rels.of_database(&FxHashSet::from_iter([from.spc]), from.db, out)?;
        let unlogged: FxHashSet<u32> =
            source.iter().filter(|(fork, _)| fork.fork == Fork::Init).map(|(fork, _)| fork.rel.rel).collect();
        for (fork, extent) in source.into_iter().rev() {
            // What an unlogged relation holds beside its init fork is not in the log.
            if fork.fork != Fork::Init && unlogged.contains(&fork.rel.rel) {
                continue;
            }
            let target = RelFork { rel: RelFileLocator { spc: to.spc, db: to.db, ..fork.rel }, ..fork };
            // What an earlier database of this number had must not show where nothing is copied.
            let blocks = extent.blocks;
            let copied = if extent.is_sparse() { Extent::sparse(blocks, out.lsn) } else { Extent::dense(blocks) };
            self.rels.copied(target, copied, out);
            copy.left.push((target, extent));
        }
        copy.begun = true;
        Ok(())
    }
}

/// Copies blocks of a fork, and says where to go on. Where pages need not be stored, only those that are cost anything.
fn copy_stretch(
    source: RelFork,
    target: RelFork,
    extent: &Extent,
    blocks: Range<BlockNumber>,
    out: &mut RecordOut<'_>,
) -> Result<BlockNumber, LookError> {
    let key = |blk| Key::block(BlockTag { fork: source, blk });
    if !extent.is_sparse() {
        blocks.clone().try_for_each(|blk| copy_block(key(blk), BlockTag { fork: target, blk }, None, out))?;
        return Ok(blocks.end);
    }
    let stored = out.look.keys(key(blocks.start)..key(extent.blocks), STRETCH_BLOCKS as usize)?;
    for from in &stored {
        copy_block(*from, BlockTag { fork: target, blk: from.blk }, extent.since(from.blk), out)?;
    }
    let is_last = stored.len() < STRETCH_BLOCKS as usize;
    Ok(stored.last().filter(|_| !is_last).map_or(extent.blocks, |last| last.blk.saturating_add(1)))
}

/// Copies one block, its LSN included.
fn copy_block(from: Key, to: BlockTag, since: Option<Lsn>, out: &mut RecordOut<'_>) -> Result<(), LookError> {
    match out.look.page(from, since) {
        Ok(Some(page)) => out.page(Key::block(to), &page),
        Ok(None) if since.is_some() => {}
        Ok(None) => out.zeros(Key::block(to)),
        // The copy of a page that cannot be rebuilt cannot be either: no redo knows this change.
        Err(LookError::Redo(_)) => {
            let (fork, blk) = (to.fork.fork, to.blk);
            let refs = smallvec![Ref { id: 0, fork, blk }];
            let (rmid, info) = (rmid::DBASE, 0);
            let lost = Change {
                rmid,
                info,
                xid: 0,
                block: 0,
                fork,
                blk,
                init: true,
                hint_lsn: false,
                refs,
                data: &[],
                main: &[],
            };
            out.change(Key::block(to), &lost, true);
        }
        Err(other) => return Err(other),
    }
    Ok(())
}
