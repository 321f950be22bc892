//! Numbers of resource managers, including those of our own changes.
//!
//! Source: PostgreSQL 14-18, `src/include/access/rmgrlist.h`.

/// The log itself.
pub const XLOG: u8 = 0;
/// Transactions: how each one ended (`xact.c`).
pub const XACT: u8 = 1;
/// Files of relations.
pub const SMGR: u8 = 2;
/// The commit log, `pg_xact` (`clog.c`).
pub const CLOG: u8 = 3;
/// Directories of databases (`dbcommands.c`).
pub const DBASE: u8 = 4;
/// Directories of tablespaces (`tablespace.c`).
pub const TBLSPC: u8 = 5;
/// Multixacts, several lockers of one row (`multixact.c`).
pub const MULTIXACT: u8 = 6;
/// Relation map files.
pub const RELMAP: u8 = 7;
/// What a hot standby must know: locks, running transactions (`standby.c`).
pub const STANDBY: u8 = 8;
/// Heap, second part.
pub const HEAP2: u8 = 9;
/// Heap, first part: insert, update, delete, lock (`heapam.c`).
pub const HEAP: u8 = 10;
/// B-tree indexes (`nbtxlog.c`).
pub const BTREE: u8 = 11;
/// Hash indexes (`hash_xlog.c`).
pub const HASH: u8 = 12;
/// GIN indexes (`ginxlog.c`).
pub const GIN: u8 = 13;
/// GiST indexes (`gistxlog.c`).
pub const GIST: u8 = 14;
/// Sequences, each one tuple on one page (`sequence.c`).
pub const SEQ: u8 = 15;
/// SP-GiST indexes (`spgxlog.c`).
pub const SPGIST: u8 = 16;
/// BRIN indexes (`brin_xlog.c`).
pub const BRIN: u8 = 17;
/// Times of commits, `pg_commit_ts` (`commit_ts.c`).
pub const COMMIT_TS: u8 = 18;
/// Progress of replication origins (`origin.c`).
pub const REPLORIGIN: u8 = 19;
/// Generic records of extensions: differences of pages (`generic_xlog.c`).
pub const GENERIC: u8 = 20;
/// Logical decoding messages.
pub const LOGICALMSG: u8 = 21;
/// Ours: a change of the visibility map that a record implies without naming the page ([`super::vm`]).
/// PostgreSQL uses 0-21 and 128-255.
pub const OUR_VM: u8 = 100;
/// Ours: a change of an SLRU page ([`super::slru`]).
pub const OUR_SLRU: u8 = 101;
