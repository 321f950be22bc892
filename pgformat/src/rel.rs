//! Names of relations, their forks and blocks.
//!
//! Source: PostgreSQL 15, `src/include/storage/relfilenode.h` (`RelFileLocator` since 16, same bytes),
//! `src/include/common/relpath.h`, `src/include/storage/block.h`.

use std::fmt;

/// A relation's files: tablespace, database (0 for shared), file number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RelFileLocator {
    /// Oid of the tablespace: [`PG_DEFAULT`], [`PG_GLOBAL`], or one that was created.
    pub spc: u32,
    /// Database; 0 in tablespace [`PG_GLOBAL`].
    pub db: u32,
    /// File number (`relfilenode`).
    pub rel: u32,
}

/// Oid of tablespace `pg_default`, the directory `base`.
pub const PG_DEFAULT: u32 = 1663;
/// Oid of tablespace `pg_global`, the directory `global`.
pub const PG_GLOBAL: u32 = 1664;

impl fmt::Display for RelFileLocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.spc, self.db, self.rel)
    }
}

/// A fork of a relation (`ForkNumber`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Fork {
    /// The relation itself.
    Main = 0,
    /// Free space map: a hint, not logged.
    Fsm = 1,
    /// Visibility map: two bits for each block of the main fork.
    Vm = 2,
    /// What an unlogged relation is reset to.
    Init = 3,
}

impl Fork {
    /// All of them.
    pub const ALL: [Fork; 4] = [Fork::Main, Fork::Fsm, Fork::Vm, Fork::Init];

    /// The fork with this number (`ForkNumber` of `relpath.h`), `None` above 3.
    pub const fn new(number: u8) -> Option<Fork> {
        match number {
            0 => Some(Fork::Main),
            1 => Some(Fork::Fsm),
            2 => Some(Fork::Vm),
            3 => Some(Fork::Init),
            _ => None,
        }
    }

    /// The suffix of its files: empty, `_fsm`, `_vm`, `_init`.
    pub const fn suffix(self) -> &'static str {
        match self {
            Fork::Main => "",
            Fork::Fsm => "_fsm",
            Fork::Vm => "_vm",
            Fork::Init => "_init",
        }
    }
}

/// One fork of one relation. Text form `spc/db/rel`, `spc/db/rel_vm`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RelFork {
    /// The relation, by the names of its files.
    pub rel: RelFileLocator,
    /// Which of the relation's files.
    pub fork: Fork,
}

impl fmt::Display for RelFork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.rel, self.fork.suffix())
    }
}

/// Text that names no fork of a relation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no relation: expected tablespace/database/relfilenode with _fsm, _vm or _init behind it, as in \
     1663/5/16384_vm"
)]
pub struct ParseRelError {
    text: String,
}

impl std::str::FromStr for RelFork {
    type Err = ParseRelError;

    fn from_str(s: &str) -> Result<RelFork, ParseRelError> {
        let parse = || {
            let (name, fork) = match s.rsplit_once('_') {
                None => (s, Fork::Main),
                Some((name, suffix)) => (name, *Fork::ALL[1..].iter().find(|f| f.suffix().get(1..) == Some(suffix))?),
            };
            let mut numbers = name.split('/').map(|n| n.parse().ok().filter(|_| !n.starts_with('+')));
            let rel = RelFileLocator { spc: numbers.next()??, db: numbers.next()??, rel: numbers.next()?? };
            (numbers.next().is_none() && rel.rel != 0).then_some(RelFork { rel, fork })
        };
        parse().ok_or_else(|| ParseRelError { text: s.chars().take(60).collect() })
    }
}

/// Number of a block inside a fork (`BlockNumber`).
pub type BlockNumber = u32;
/// No block (`InvalidBlockNumber`).
pub const NO_BLOCK: BlockNumber = u32::MAX;

/// One block of one fork.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlockTag {
    /// The fork that has the block.
    pub fork: RelFork,
    /// Number of the block in that fork, from 0.
    pub blk: BlockNumber,
}

impl fmt::Display for BlockTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {} of {}", self.blk, self.fork)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_reads_as_it_prints() {
        for text in ["1663/5/16384", "1664/0/1262_vm", "99999/4294967295/7_init", "1663/5/2_fsm"] {
            assert_eq!(text.parse::<RelFork>().expect("a relation").to_string(), text);
        }
        for bad in ["", "1663/5", "1663/5/0", "1/2/3/4", "1663/5/16384_x", "1663/5/-1", "+1/2/3", "a/b/c"] {
            assert!(bad.parse::<RelFork>().is_err(), "{bad}");
        }
    }
}
