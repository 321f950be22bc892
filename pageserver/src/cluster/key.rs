//! What the page store holds things under: an ordered key for every block and every piece of metadata.
//!
//! A key's 18 bytes order as its fields do, so neighbouring blocks of a fork are neighbours, and a fork, a relation
//! and a database are ranges. Blocks are *dense*: within a fork's size each has a version. Everything else is *sparse*:
//! it is looked up or scanned, its absence is normal, and its end is a tombstone.

use pgformat::rel::{BlockNumber, BlockTag, Fork, RelFileLocator, RelFork};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;

/// Length of a key on disk.
pub(crate) const KEY_LEN: usize = 18;

/// What kind of thing a key names; the first byte of its order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub(crate) enum KeyKind {
    /// A block of a relation: spc, db, rel, fork, blk.
    Block = 0x10,
    /// Blocks of a fork (u32, little-endian), by spc, db, rel, fork; its tombstone means that the fork is gone.
    RelSize = 0x20,
    /// A database's directory, by spc, db: see `ingest`.
    Database = 0x30,
    /// A relation map file, by spc, db.
    RelMap = 0x31,
    /// A tablespace's path, by spc.
    Tablespace = 0x32,
    /// A page of an SLRU: spc = which SLRU, blk = page number.
    SlruPage = 0x40,
    /// Pages of an SLRU segment (u32), spc = which SLRU, blk = segment number.
    SlruSegment = 0x41,
    /// A prepared transaction, rel = high and blk = low half of its 64-bit xid.
    TwoPhase = 0x50,
    /// Counters and settings that the control file is made of.
    Control = 0x60,
    /// A replication origin's progress, blk = its number.
    Origin = 0x61,
    /// A restore point: spc and db = its LSN.
    RestorePoint = 0x62,
    /// PostgreSQL's own timelines: blk = tli.
    TliHistory = 0x63,
    /// A piece of the list of transactions' ends: spc and db = LSN of its first record.
    XactIndex = 0x70,
    /// A piece of the list of record starts: spc and db = LSN of its first record.
    RecordIndex = 0x71,
}

impl KeyKind {
    const ALL: [KeyKind; 14] = [
        KeyKind::Block,
        KeyKind::RelSize,
        KeyKind::Database,
        KeyKind::RelMap,
        KeyKind::Tablespace,
        KeyKind::SlruPage,
        KeyKind::SlruSegment,
        KeyKind::TwoPhase,
        KeyKind::Control,
        KeyKind::Origin,
        KeyKind::RestorePoint,
        KeyKind::TliHistory,
        KeyKind::XactIndex,
        KeyKind::RecordIndex,
    ];

    fn new(number: u8) -> Option<KeyKind> {
        KeyKind::ALL.into_iter().find(|k| *k as u8 == number)
    }
}

/// A key. Fields that a kind does not use are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Key {
    /// What it names.
    pub(crate) kind: KeyKind,
    /// Tablespace, or what the kind says.
    pub(crate) spc: u32,
    /// Oid of the database, or what the kind says.
    pub(crate) db: u32,
    /// Relation file number.
    pub(crate) rel: u32,
    /// Fork number, as PostgreSQL numbers them.
    pub(crate) fork: u8,
    /// Block number within the fork, or what the kind says.
    pub(crate) blk: u32,
}

impl Key {
    /// The smallest key of a kind.
    pub(crate) const fn first(kind: KeyKind) -> Key {
        Key { kind, spc: 0, db: 0, rel: 0, fork: 0, blk: 0 }
    }

    /// The key of a block.
    pub(crate) const fn block(tag: BlockTag) -> Key {
        Key { blk: tag.blk, ..Key::fork(KeyKind::Block, tag.fork) }
    }

    /// The size of a fork.
    pub(crate) const fn rel_size(fork: RelFork) -> Key {
        Key::fork(KeyKind::RelSize, fork)
    }

    /// Something of a database.
    pub(crate) const fn of_database(kind: KeyKind, spc: u32, db: u32) -> Key {
        Key { spc, db, ..Key::first(kind) }
    }

    /// Something by a number.
    pub(crate) const fn numbered(kind: KeyKind, spc: u32, blk: u32) -> Key {
        Key { spc, blk, ..Key::first(kind) }
    }

    /// Something by a 64-bit number, an LSN for example.
    pub(crate) const fn at(kind: KeyKind, number: u64) -> Key {
        Key { spc: (number >> 32) as u32, db: (number & 0xFFFF_FFFF) as u32, ..Key::first(kind) }
    }

    /// The key of a prepared transaction by its 64-bit number.
    pub(crate) const fn two_phase(xid: u64) -> Key {
        Key { rel: (xid >> 32) as u32, blk: (xid & 0xFFFF_FFFF) as u32, ..Key::first(KeyKind::TwoPhase) }
    }

    const fn fork(kind: KeyKind, fork: RelFork) -> Key {
        let RelFileLocator { spc, db, rel } = fork.rel;
        Key { kind, spc, db, rel, fork: fork.fork as u8, blk: 0 }
    }

    /// The block that a key of kind [`KeyKind::Block`] names.
    pub(crate) fn tag(&self) -> Option<BlockTag> {
        let fork = Fork::new(self.fork).filter(|_| self.kind == KeyKind::Block)?;
        let rel = RelFileLocator { spc: self.spc, db: self.db, rel: self.rel };
        Some(BlockTag { fork: RelFork { rel, fork }, blk: self.blk as BlockNumber })
    }

    /// The 18 bytes, which order as the key does: kind, spc, db, rel, fork, blk, numbers big-endian.
    pub(crate) fn to_bytes(self) -> [u8; KEY_LEN] {
        let mut b = [0; KEY_LEN];
        b[0] = self.kind as u8;
        b[1..5].copy_from_slice(&self.spc.to_be_bytes());
        b[5..9].copy_from_slice(&self.db.to_be_bytes());
        b[9..13].copy_from_slice(&self.rel.to_be_bytes());
        b[13] = self.fork;
        b[14..18].copy_from_slice(&self.blk.to_be_bytes());
        b
    }

    /// From the 18 bytes; `None` for an unknown kind.
    pub(crate) fn from_bytes(b: &[u8; KEY_LEN]) -> Option<Key> {
        let word = |at: usize| u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        Some(Key { kind: KeyKind::new(b[0])?, spc: word(1), db: word(5), rel: word(9), fork: b[13], blk: word(14) })
    }

    /// Everything of one kind that a database has in a tablespace.
    pub(crate) const fn all_of_database(kind: KeyKind, spc: u32, db: u32) -> Range<Key> {
        let first = Key::of_database(kind, spc, db);
        first..Key { rel: u32::MAX, fork: u8::MAX, blk: u32::MAX, ..first }
    }

    /// Everything of one kind with this first number: a tablespace, an SLRU.
    pub(crate) const fn all_of_space(kind: KeyKind, spc: u32) -> Range<Key> {
        let first = Key { spc, ..Key::first(kind) };
        first..Key { db: u32::MAX, rel: u32::MAX, fork: u8::MAX, blk: u32::MAX, ..first }
    }

    /// All keys of a kind.
    pub(crate) fn all_of(kind: KeyKind) -> Range<Key> {
        let last = Key { spc: u32::MAX, db: u32::MAX, rel: u32::MAX, fork: u8::MAX, blk: u32::MAX, ..Key::first(kind) };
        Key::first(kind)..last
    }
}

impl Hash for Key {
    /// Two words instead of six fields: a look-up for every version that is taken in. Kind and fork go where oids of
    /// tablespaces have zeros.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let kind = u64::from(self.kind as u8) << 56 | u64::from(self.fork) << 48;
        state.write_u64((u64::from(self.spc) << 32 | u64::from(self.db)) ^ kind);
        state.write_u64(u64::from(self.rel) << 32 | u64::from(self.blk));
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tag() {
            Some(tag) => write!(f, "{tag}"),
            None => {
                write!(f, "{:?} {}/{}/{}/{}/{}", self.kind, self.spc, self.db, self.rel, self.fork, self.blk)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_order_as_keys_do() {
        let mut keys: Vec<Key> = KeyKind::ALL
            .into_iter()
            .flat_map(|kind| {
                [0, 1, 255, 256, u32::MAX].map(|n| Key { kind, spc: n, db: n / 3, rel: !n, fork: n as u8 & 3, blk: n })
            })
            .collect();
        keys.sort();
        assert!(keys.is_sorted_by_key(|k| k.to_bytes()));
        assert!(keys.iter().all(|k| Key::from_bytes(&k.to_bytes()) == Some(*k)));
        assert_eq!(Key::from_bytes(&[0xFF; KEY_LEN]), None);
    }
}
