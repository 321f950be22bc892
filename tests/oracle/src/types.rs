//! Every type of record that a built-in resource manager of PostgreSQL 14-18 can write, by name.
//!
//! The names are those of `pg_waldump`, without its prefixes. The INIT variant of a type counts separately, because
//! redo takes a different path there.
//!
//! Source: PostgreSQL 14-18, `*_identify` in `src/backend/access/rmgrdesc/*.c`.

use std::fmt;

use pgformat::PgMajor;
use pgformat::redo::rmid;
use pgformat::wal::record::{RecordHeader, rmgr_name};

/// Resource manager and opcode, as far as they make a type of their own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RecordType {
    /// Resource manager.
    pub rmid: u8,
    /// Opcode.
    pub info: u8,
}

impl RecordType {
    /// Of a record. Transactions use the highest bit for something else.
    pub fn of(header: &RecordHeader) -> RecordType {
        RecordType::new(header.rmid, header.info)
    }

    /// From resource manager and `xl_info`.
    pub const fn new(rmid: u8, info: u8) -> RecordType {
        let mask = if rmid == rmid::XACT { 0x70 } else { 0xF0 };
        RecordType { rmid, info: info & mask }
    }

    /// `Heap/INSERT+INIT`; numbers when `version` has no such type.
    pub fn name(self, version: PgMajor) -> String {
        let rmgr = rmgr_name(self.rmid).map_or_else(|| self.rmid.to_string(), str::to_owned);
        match entry(self, version) {
            Some(entry) => format!("{rmgr}/{}", entry.name),
            None => format!("{rmgr}/{:#04x}", self.info),
        }
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:#04x}", rmgr_name(self.rmid).unwrap_or("?"), self.info)
    }
}

struct Entry {
    rmid: u8,
    info: u8,
    name: &'static str,
    /// First and last major that has it.
    majors: (u32, u32),
}

const ALL: (u32, u32) = (14, 18);

const fn e(rmid: u8, info: u8, name: &'static str) -> Entry {
    Entry { rmid, info, name, majors: ALL }
}

const fn of_majors(rmid: u8, info: u8, name: &'static str, first: u32, last: u32) -> Entry {
    Entry { rmid, info, name, majors: (first, last) }
}

const TYPES: &[Entry] = &[
    e(rmid::XLOG, 0x00, "CHECKPOINT_SHUTDOWN"),
    e(rmid::XLOG, 0x10, "CHECKPOINT_ONLINE"),
    e(rmid::XLOG, 0x20, "NOOP"),
    e(rmid::XLOG, 0x30, "NEXTOID"),
    e(rmid::XLOG, 0x40, "SWITCH"),
    e(rmid::XLOG, 0x50, "BACKUP_END"),
    e(rmid::XLOG, 0x60, "PARAMETER_CHANGE"),
    e(rmid::XLOG, 0x70, "RESTORE_POINT"),
    e(rmid::XLOG, 0x80, "FPW_CHANGE"),
    e(rmid::XLOG, 0x90, "END_OF_RECOVERY"),
    e(rmid::XLOG, 0xA0, "FPI_FOR_HINT"),
    e(rmid::XLOG, 0xB0, "FPI"),
    e(rmid::XLOG, 0xD0, "OVERWRITE_CONTRECORD"),
    of_majors(rmid::XLOG, 0xE0, "CHECKPOINT_REDO", 17, 18),
    e(rmid::XACT, 0x00, "COMMIT"),
    e(rmid::XACT, 0x10, "PREPARE"),
    e(rmid::XACT, 0x20, "ABORT"),
    e(rmid::XACT, 0x30, "COMMIT_PREPARED"),
    e(rmid::XACT, 0x40, "ABORT_PREPARED"),
    e(rmid::XACT, 0x50, "ASSIGNMENT"),
    e(rmid::XACT, 0x60, "INVALIDATION"),
    e(rmid::SMGR, 0x10, "CREATE"),
    e(rmid::SMGR, 0x20, "TRUNCATE"),
    e(rmid::CLOG, 0x00, "ZEROPAGE"),
    e(rmid::CLOG, 0x10, "TRUNCATE"),
    of_majors(rmid::DBASE, 0x00, "CREATE", 14, 14),
    of_majors(rmid::DBASE, 0x10, "DROP", 14, 14),
    of_majors(rmid::DBASE, 0x00, "CREATE_FILE_COPY", 15, 18),
    of_majors(rmid::DBASE, 0x10, "CREATE_WAL_LOG", 15, 18),
    of_majors(rmid::DBASE, 0x20, "DROP", 15, 18),
    e(rmid::TBLSPC, 0x00, "CREATE"),
    e(rmid::TBLSPC, 0x10, "DROP"),
    e(rmid::MULTIXACT, 0x00, "ZERO_OFF_PAGE"),
    e(rmid::MULTIXACT, 0x10, "ZERO_MEM_PAGE"),
    e(rmid::MULTIXACT, 0x20, "CREATE_ID"),
    e(rmid::MULTIXACT, 0x30, "TRUNCATE_ID"),
    e(rmid::RELMAP, 0x00, "UPDATE"),
    e(rmid::STANDBY, 0x00, "LOCK"),
    e(rmid::STANDBY, 0x10, "RUNNING_XACTS"),
    e(rmid::STANDBY, 0x20, "INVALIDATIONS"),
    e(rmid::HEAP2, 0x00, "REWRITE"),
    of_majors(rmid::HEAP2, 0x10, "PRUNE", 14, 16),
    of_majors(rmid::HEAP2, 0x20, "VACUUM", 14, 16),
    of_majors(rmid::HEAP2, 0x30, "FREEZE_PAGE", 14, 16),
    of_majors(rmid::HEAP2, 0x10, "PRUNE_ON_ACCESS", 17, 18),
    of_majors(rmid::HEAP2, 0x20, "PRUNE_VACUUM_SCAN", 17, 18),
    of_majors(rmid::HEAP2, 0x30, "PRUNE_VACUUM_CLEANUP", 17, 18),
    e(rmid::HEAP2, 0x40, "VISIBLE"),
    e(rmid::HEAP2, 0x50, "MULTI_INSERT"),
    e(rmid::HEAP2, 0xD0, "MULTI_INSERT+INIT"),
    e(rmid::HEAP2, 0x60, "LOCK_UPDATED"),
    e(rmid::HEAP2, 0x70, "NEW_CID"),
    e(rmid::HEAP, 0x00, "INSERT"),
    e(rmid::HEAP, 0x80, "INSERT+INIT"),
    e(rmid::HEAP, 0x10, "DELETE"),
    e(rmid::HEAP, 0x20, "UPDATE"),
    e(rmid::HEAP, 0xA0, "UPDATE+INIT"),
    e(rmid::HEAP, 0x30, "TRUNCATE"),
    e(rmid::HEAP, 0x40, "HOT_UPDATE"),
    e(rmid::HEAP, 0x50, "CONFIRM"),
    e(rmid::HEAP, 0x60, "LOCK"),
    e(rmid::HEAP, 0x70, "INPLACE"),
    e(rmid::BTREE, 0x00, "INSERT_LEAF"),
    e(rmid::BTREE, 0x10, "INSERT_UPPER"),
    e(rmid::BTREE, 0x20, "INSERT_META"),
    e(rmid::BTREE, 0x30, "SPLIT_L"),
    e(rmid::BTREE, 0x40, "SPLIT_R"),
    e(rmid::BTREE, 0x50, "INSERT_POST"),
    e(rmid::BTREE, 0x60, "DEDUP"),
    e(rmid::BTREE, 0x70, "DELETE"),
    e(rmid::BTREE, 0x80, "UNLINK_PAGE"),
    e(rmid::BTREE, 0x90, "UNLINK_PAGE_META"),
    e(rmid::BTREE, 0xA0, "NEWROOT"),
    e(rmid::BTREE, 0xB0, "MARK_PAGE_HALFDEAD"),
    e(rmid::BTREE, 0xC0, "VACUUM"),
    e(rmid::BTREE, 0xD0, "REUSE_PAGE"),
    e(rmid::BTREE, 0xE0, "META_CLEANUP"),
    e(rmid::HASH, 0x00, "INIT_META_PAGE"),
    e(rmid::HASH, 0x10, "INIT_BITMAP_PAGE"),
    e(rmid::HASH, 0x20, "INSERT"),
    e(rmid::HASH, 0x30, "ADD_OVFL_PAGE"),
    e(rmid::HASH, 0x40, "SPLIT_ALLOCATE_PAGE"),
    e(rmid::HASH, 0x50, "SPLIT_PAGE"),
    e(rmid::HASH, 0x60, "SPLIT_COMPLETE"),
    e(rmid::HASH, 0x70, "MOVE_PAGE_CONTENTS"),
    e(rmid::HASH, 0x80, "SQUEEZE_PAGE"),
    e(rmid::HASH, 0x90, "DELETE"),
    e(rmid::HASH, 0xA0, "SPLIT_CLEANUP"),
    e(rmid::HASH, 0xB0, "UPDATE_META_PAGE"),
    e(rmid::HASH, 0xC0, "VACUUM_ONE_PAGE"),
    e(rmid::GIN, 0x10, "CREATE_PTREE"),
    e(rmid::GIN, 0x20, "INSERT"),
    e(rmid::GIN, 0x30, "SPLIT"),
    e(rmid::GIN, 0x40, "VACUUM_PAGE"),
    e(rmid::GIN, 0x50, "DELETE_PAGE"),
    e(rmid::GIN, 0x60, "UPDATE_META_PAGE"),
    e(rmid::GIN, 0x70, "INSERT_LISTPAGE"),
    e(rmid::GIN, 0x80, "DELETE_LISTPAGE"),
    e(rmid::GIN, 0x90, "VACUUM_DATA_LEAF_PAGE"),
    e(rmid::GIST, 0x00, "PAGE_UPDATE"),
    e(rmid::GIST, 0x10, "DELETE"),
    e(rmid::GIST, 0x20, "PAGE_REUSE"),
    e(rmid::GIST, 0x30, "PAGE_SPLIT"),
    e(rmid::GIST, 0x60, "PAGE_DELETE"),
    e(rmid::GIST, 0x70, "ASSIGN_LSN"),
    e(rmid::SEQ, 0x00, "LOG"),
    e(rmid::SPGIST, 0x10, "ADD_LEAF"),
    e(rmid::SPGIST, 0x20, "MOVE_LEAFS"),
    e(rmid::SPGIST, 0x30, "ADD_NODE"),
    e(rmid::SPGIST, 0x40, "SPLIT_TUPLE"),
    e(rmid::SPGIST, 0x50, "PICKSPLIT"),
    e(rmid::SPGIST, 0x60, "VACUUM_LEAF"),
    e(rmid::SPGIST, 0x70, "VACUUM_ROOT"),
    e(rmid::SPGIST, 0x80, "VACUUM_REDIRECT"),
    e(rmid::BRIN, 0x00, "CREATE_INDEX"),
    e(rmid::BRIN, 0x10, "INSERT"),
    e(rmid::BRIN, 0x90, "INSERT+INIT"),
    e(rmid::BRIN, 0x20, "UPDATE"),
    e(rmid::BRIN, 0xA0, "UPDATE+INIT"),
    e(rmid::BRIN, 0x30, "SAMEPAGE_UPDATE"),
    e(rmid::BRIN, 0x40, "REVMAP_EXTEND"),
    e(rmid::BRIN, 0x50, "DESUMMARIZE"),
    e(rmid::COMMIT_TS, 0x00, "ZEROPAGE"),
    e(rmid::COMMIT_TS, 0x10, "TRUNCATE"),
    e(rmid::REPLORIGIN, 0x00, "SET"),
    e(rmid::REPLORIGIN, 0x10, "DROP"),
    e(rmid::GENERIC, 0x00, "Generic"),
    e(rmid::LOGICALMSG, 0x00, "MESSAGE"),
];

fn entries(version: PgMajor) -> impl Iterator<Item = &'static Entry> {
    let major = version.get();
    TYPES.iter().filter(move |e| e.majors.0 <= major && major <= e.majors.1)
}

fn entry(t: RecordType, version: PgMajor) -> Option<&'static Entry> {
    entries(version).find(|e| e.rmid == t.rmid && e.info == t.info)
}

/// Every type that `version` can write, in the order of resource managers.
pub fn all(version: PgMajor) -> Vec<RecordType> {
    entries(version).map(|e| RecordType { rmid: e.rmid, info: e.info }).collect()
}

/// Why a type is never in a recording, for those where there is a reason.
pub fn explained(t: RecordType) -> Option<&'static str> {
    match (t.rmid, t.info) {
        (rmid::XLOG, 0x20) => Some("nothing in PostgreSQL writes it"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_type_is_listed_twice() {
        for version in PgMajor::ALL {
            let mut types = all(version);
            let listed = types.len();
            types.sort_unstable();
            types.dedup();
            assert_eq!(types.len(), listed, "{version}");
        }
    }
}
