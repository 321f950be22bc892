//! Numbers of resource managers, including those of our own changes.
//!
//! Source: PostgreSQL 14-18, `src/include/access/rmgrlist.h`.

/// The log itself.
pub const XLOG: u8 = 0;
/// Transactions.
pub const XACT: u8 = 1;
/// Files of relations.
pub const SMGR: u8 = 2;
/// Commit log.
pub const CLOG: u8 = 3;
/// Databases.
pub const DBASE: u8 = 4;
/// Tablespaces.
pub const TBLSPC: u8 = 5;
/// Multixacts.
pub const MULTIXACT: u8 = 6;
/// Relation map files.
pub const RELMAP: u8 = 7;
/// Standby.
pub const STANDBY: u8 = 8;
/// Heap, second part.
pub const HEAP2: u8 = 9;
/// Heap.
pub const HEAP: u8 = 10;
/// B-tree.
pub const BTREE: u8 = 11;
/// Hash.
pub const HASH: u8 = 12;
/// GIN.
pub const GIN: u8 = 13;
/// GiST.
pub const GIST: u8 = 14;
/// Sequences.
pub const SEQ: u8 = 15;
/// SP-GiST.
pub const SPGIST: u8 = 16;
/// BRIN.
pub const BRIN: u8 = 17;
/// Commit timestamps.
pub const COMMIT_TS: u8 = 18;
/// Replication origins.
pub const REPLORIGIN: u8 = 19;
/// Generic records.
pub const GENERIC: u8 = 20;
/// Logical decoding messages.
pub const LOGICALMSG: u8 = 21;
/// Ours: a change of the visibility map that a record implies without naming the page ([`super::vm`]).
/// PostgreSQL uses 0-21 and 128-255.
pub const OUR_VM: u8 = 100;
/// Ours: a change of an SLRU page ([`super::slru`]).
pub const OUR_SLRU: u8 = 101;
