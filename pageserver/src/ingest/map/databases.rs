//! Databases, tablespaces and relation maps; copies of databases in bounded pieces.
//!
//! Source: PostgreSQL 14-18, `dbase_redo` in `dbcommands.c`, `tblspc_redo` in `tablespace.c`, `relmap_redo` in
//! `relmapper.c`.

use pgformat::effect::DatabaseDir;
use pgformat::redo::{Change, Ref, rmid};
use pgformat::rel::{BlockNumber, BlockTag, Fork, PG_GLOBAL, RelFileLocator, RelFork};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::smallvec;

use super::Mapper;
use super::look::{LookError, of_space};
use super::out::Out;
use crate::key::{Key, Kind};

/// A database's directory holds relations only: the database itself is in another tablespace.
pub(crate) const ONLY_RELATIONS: u8 = 0;
/// A database's own directory, with its version file.
pub(crate) const WHOLE: u8 = 1;
/// The same of one that was made page by page through the log (`STRATEGY wal_log`), or copied from such a one: its
/// visibility maps came without bits.
pub(crate) const LOGGED: u8 = 2;
/// Bytes that one piece of a copy comes to, about.
const PIECE_BYTES: usize = 8 << 20;

/// Directories of databases, as far as they were asked for or changed, and whether they are there.
pub(super) type Known = FxHashMap<DatabaseDir, bool>;

/// A database that is being copied.
#[derive(Debug)]
pub(super) struct Copy {
    from: DatabaseDir,
    to: DatabaseDir,
    /// What is still to be copied, the next fork last, each from `blk` on.
    left: Vec<(RelFork, BlockNumber)>,
    blk: BlockNumber,
    begun: bool,
}

impl Copy {
    /// Of everything in `from`.
    pub(super) const fn new(from: DatabaseDir, to: DatabaseDir) -> Copy {
        Copy { from, to, left: Vec::new(), blk: 0, begun: false }
    }
}

fn dir_key(kind: Kind, dir: DatabaseDir) -> Key {
    Key::of_database(kind, dir.spc, dir.db)
}

impl Mapper {
    /// A fork was created: its directory is there.
    pub(super) fn has_dir(&mut self, rel: RelFileLocator, out: &mut Out<'_>) -> Result<(), LookError> {
        let dir = DatabaseDir { spc: rel.spc, db: rel.db };
        if dir.spc == PG_GLOBAL {
            return Ok(());
        }
        let key = dir_key(Kind::Database, dir);
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
    pub(super) fn create_database(&mut self, dir: DatabaseDir, how: u8, out: &mut Out<'_>) {
        self.databases.insert(dir, true);
        out.blob(dir_key(Kind::Database, dir), &[how]);
    }

    /// Everything that a database has in a tablespace goes.
    pub(super) fn drop_database(&mut self, dir: DatabaseDir, out: &mut Out<'_>) -> Result<(), LookError> {
        for (fork, _) in self.rels.of_database(dir.spc, dir.db, out)? {
            self.rels.forget(fork, out);
        }
        self.databases.insert(dir, false);
        out.tombstone(dir_key(Kind::Database, dir));
        out.tombstone(dir_key(Kind::RelMap, dir));
        Ok(())
    }

    /// A tablespace and its directories of databases go; they have no relations any more.
    pub(super) fn drop_tablespace(&mut self, spc: u32, out: &mut Out<'_>) -> Result<(), LookError> {
        let stored = out.look.scan(of_space(Kind::Database, spc))?;
        let mut dirs: Vec<DatabaseDir> = stored.iter().map(|(key, _)| DatabaseDir { spc, db: key.db }).collect();
        dirs.extend(self.databases.keys().filter(|dir| dir.spc == spc));
        dirs.sort_unstable();
        dirs.dedup();
        for dir in dirs {
            self.databases.insert(dir, false);
            out.tombstone(dir_key(Kind::Database, dir));
        }
        out.tombstone(Key { spc, ..Key::first(Kind::Tablespace) });
        Ok(())
    }

    /// Copies a piece of a database; whether there is more. The batch holds nothing else, and the source is as the
    /// store has it.
    pub(super) fn copy_piece(&mut self, copy: &mut Copy, out: &mut Out<'_>) -> Result<bool, LookError> {
        if !copy.begun {
            self.begin_copy(copy, out)?;
        }
        while let Some((fork, size)) = copy.left.last().copied() {
            let rel = RelFileLocator { spc: copy.from.spc, db: copy.from.db, ..fork.rel };
            while copy.blk < size {
                if out.batch.bytes() >= PIECE_BYTES || out.batch.len() >= PIECE_BYTES / 64 {
                    return Ok(true);
                }
                let tag = BlockTag { fork, blk: copy.blk };
                let from = Key::block(BlockTag { fork: RelFork { rel, ..fork }, ..tag });
                copy_block(from, tag, out)?;
                copy.blk += 1;
            }
            copy.left.pop();
            copy.blk = 0;
        }
        Ok(false)
    }

    /// Drops what is at the target, and writes everything but the blocks.
    fn begin_copy(&mut self, copy: &mut Copy, out: &mut Out<'_>) -> Result<(), LookError> {
        let (from, to) = (copy.from, copy.to);
        self.drop_database(to, out)?;
        let is_logged = out.look.blob(dir_key(Kind::Database, from))?.is_some_and(|b| b[..] == [LOGGED]);
        self.create_database(to, if is_logged { LOGGED } else { WHOLE }, out);
        if let Some(map) = out.look.blob(dir_key(Kind::RelMap, from))? {
            out.blob(dir_key(Kind::RelMap, to), &map);
        }
        let source = self.rels.of_database(from.spc, from.db, out)?;
        let unlogged: FxHashSet<u32> =
            source.iter().filter(|(fork, _)| fork.fork == Fork::Init).map(|(fork, _)| fork.rel.rel).collect();
        for (fork, size) in source.into_iter().rev() {
            // What an unlogged relation holds beside its init fork is not in the log.
            if fork.fork != Fork::Init && unlogged.contains(&fork.rel.rel) {
                continue;
            }
            let target = RelFork { rel: RelFileLocator { spc: to.spc, db: to.db, ..fork.rel }, ..fork };
            self.rels.copied(target, size, out);
            copy.left.push((target, size));
        }
        copy.begun = true;
        Ok(())
    }
}

/// Copies one block, its LSN included.
fn copy_block(from: Key, to: BlockTag, out: &mut Out<'_>) -> Result<(), LookError> {
    match out.look.page(from) {
        Ok(Some(page)) => out.page(Key::block(to), &page),
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
