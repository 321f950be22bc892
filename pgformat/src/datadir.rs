//! Classifies a file of a data directory by its path.
//!
//! Source: PostgreSQL 15, `src/common/relpath.c`, `parse_filename_for_nontemp_relation` in `reinit.c`,
//! `excludeFiles` in `basebackup.c`.

use crate::PgMajor;
use crate::origins::ORIGINS_FILE_NAME;
use crate::rel::{BlockNumber, Fork, PG_DEFAULT, PG_GLOBAL, RelFileLocator, RelFork};
use crate::slru::{Slru, parse_segment_name};

/// Blocks of one file of a relation (`RELSEG_SIZE`): 1 GiB.
pub const SEGMENT_BLOCKS: BlockNumber = 131_072;
/// Where links to tablespaces are.
pub const TABLESPACES_DIR: &str = "pg_tblspc";
/// The file that names the major, in the data directory and in each database's.
pub const VERSION_FILE_NAME: &str = "PG_VERSION";

const DIRECTORIES: [&str; 22] = [
    "base",
    "global",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_logical/mappings",
    "pg_logical/snapshots",
    "pg_multixact",
    "pg_multixact/members",
    "pg_multixact/offsets",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    TABLESPACES_DIR,
    "pg_twophase",
    "pg_wal",
    "pg_wal/archive_status",
    "pg_xact",
];

/// What a file of a data directory holds, told by its path alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// A piece of a fork, from this block on.
    Relation(RelFork, BlockNumber),
    /// A segment of an SLRU.
    Slru(Slru, u32),
    /// A relation map, of (tablespace, database).
    RelMap(u32, u32),
    /// A prepared transaction, by the xid in its name.
    TwoPhase(u64),
    /// `global/pg_control`: the control file.
    Control,
    /// `backup_label`: where recovery of a base backup begins.
    Label,
    /// `tablespace_map`: the links of tablespaces that a base backup had.
    TablespaceMap,
    /// `PG_VERSION` of a database: that the database is there.
    Database(u32, u32),
    /// Progress of replication origins.
    Origins,
    /// Nothing that pages, backups or branches need.
    Skip,
}

/// The directory of a database in a tablespace, below the data directory: `base/5`, `global`,
/// `pg_tblspc/1700/PG_15_202209061/5` (`GetDatabasePath`).
pub fn database_path(spc: u32, db: u32, version: PgMajor) -> String {
    match spc {
        PG_GLOBAL => "global".to_owned(),
        PG_DEFAULT => format!("base/{db}"),
        spc => format!("{TABLESPACES_DIR}/{spc}/PG_{version}_{}/{db}", version.catalog_version()),
    }
}

/// The file that block `first` of a fork begins, below the data directory; `first` is a multiple of
/// [`SEGMENT_BLOCKS`] (`GetRelationPath`, and `_mdfd_segpath` for the segment's number).
pub fn relation_path(fork: RelFork, first: BlockNumber, version: PgMajor) -> String {
    let directory = database_path(fork.rel.spc, fork.rel.db, version);
    let name = format!("{directory}/{}{}", fork.rel.rel, fork.fork.suffix());
    match first / SEGMENT_BLOCKS {
        0 => name,
        segment => format!("{name}.{segment}"),
    }
}

/// Directories that a data directory has before anything is in it, parents first (`subdirs` of `initdb.c`).
pub fn directories(version: PgMajor) -> impl Iterator<Item = &'static str> {
    let summaries = (version.get() >= 17).then_some("pg_wal/summaries");
    DIRECTORIES.into_iter().chain(summaries)
}

/// Classifies `path`, relative to the data directory, or inside of tablespace `spc`: there below
/// `PG_<major>_<catalog version>/`.
pub fn classify(path: &str, spc: Option<u32>) -> FileKind {
    let parts: Vec<&str> = path.split('/').collect();
    match (spc, parts.as_slice()) {
        (Some(spc), [version, db, file]) if version.starts_with("PG_") => database_file(spc, db, file),
        (Some(_), _) => FileKind::Skip,
        (None, ["global", "pg_control"]) => FileKind::Control,
        (None, ["global", "pg_filenode.map"]) => FileKind::RelMap(PG_GLOBAL, 0),
        (None, ["global", file]) => relation(PG_GLOBAL, 0, file),
        (None, ["base", db, file]) => database_file(PG_DEFAULT, db, file),
        (None, ["pg_tblspc", spc, version, db, file]) if version.starts_with("PG_") => match spc.parse() {
            Ok(spc) => database_file(spc, db, file),
            Err(_) => FileKind::Skip,
        },
        (None, ["pg_xact", file]) => slru(Slru::Xact, file),
        (None, ["pg_multixact", "members", file]) => slru(Slru::MultixactMembers, file),
        (None, ["pg_multixact", "offsets", file]) => slru(Slru::MultixactOffsets, file),
        (None, ["pg_commit_ts", file]) => slru(Slru::CommitTs, file),
        (None, ["pg_twophase", file]) => match u64::from_str_radix(file, 16) {
            Ok(xid) if file.len() == 8 || file.len() == 16 => FileKind::TwoPhase(xid),
            _ => FileKind::Skip,
        },
        (None, _) if path == ORIGINS_FILE_NAME => FileKind::Origins,
        (None, ["backup_label"]) => FileKind::Label,
        (None, ["tablespace_map"]) => FileKind::TablespaceMap,
        (None, _) => FileKind::Skip,
    }
}

fn slru(slru: Slru, file: &str) -> FileKind {
    parse_segment_name(file).map_or(FileKind::Skip, |segment| FileKind::Slru(slru, segment))
}

fn database_file(spc: u32, db: &str, file: &str) -> FileKind {
    let Ok(db) = db.parse() else { return FileKind::Skip };
    match file {
        "PG_VERSION" => FileKind::Database(spc, db),
        "pg_filenode.map" => FileKind::RelMap(spc, db),
        _ => relation(spc, db, file),
    }
}

/// `<relfilenode>[_fsm|_vm|_init][.<segment>]`; temporary relations (`t<backend>_...`) are none of ours.
fn relation(spc: u32, db: u32, file: &str) -> FileKind {
    let (name, segment) = match file.split_once('.') {
        None => (file, Some(0)),
        Some((name, segment)) => (name, segment.parse::<u32>().ok()),
    };
    let (rel, fork) = match name.split_once('_') {
        None => (name, Some(Fork::Main)),
        Some((rel, suffix)) => {
            (rel, Fork::ALL.into_iter().find(|f| f.suffix().strip_prefix('_').is_some_and(|s| s == suffix)))
        }
    };
    let digits = !rel.is_empty() && rel.bytes().all(|b| b.is_ascii_digit());
    match (rel.parse(), fork, segment.and_then(|n| n.checked_mul(SEGMENT_BLOCKS))) {
        (Ok(rel), Some(fork), Some(first)) if digits && rel != 0 => {
            FileKind::Relation(RelFork { rel: RelFileLocator { spc, db, rel }, fork }, first)
        }
        _ => FileKind::Skip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rel(spc: u32, db: u32, rel: u32, fork: Fork, first: u32) -> FileKind {
        FileKind::Relation(RelFork { rel: RelFileLocator { spc, db, rel }, fork }, first)
    }

    #[test]
    fn paths_are_read_back_as_what_they_were_made_for() {
        let version = PgMajor::ALL[1];
        for (spc, db) in [(PG_GLOBAL, 0), (PG_DEFAULT, 5), (1700, 5)] {
            for fork in Fork::ALL {
                let fork = RelFork { rel: RelFileLocator { spc, db, rel: 16384 }, fork };
                for first in [0, SEGMENT_BLOCKS, 3 * SEGMENT_BLOCKS] {
                    let path = relation_path(fork, first, version);
                    assert_eq!(classify(&path, None), FileKind::Relation(fork, first), "{path}");
                }
            }
        }
        assert_eq!(database_path(1700, 5, version), "pg_tblspc/1700/PG_15_202209061/5");
        let names: Vec<&str> = directories(PgMajor::ALL[3]).collect();
        assert!(names.iter().all(|n| n.rsplit_once('/').is_none_or(|(parent, _)| names.contains(&parent))));
        assert_eq!(names.len(), directories(version).count() + 1, "17 has one more");
    }

    #[test]
    fn every_kind_of_file_is_known_by_its_path() {
        let cases = [
            ("base/5/16384", rel(1663, 5, 16384, Fork::Main, 0)),
            ("base/5/16384_vm", rel(1663, 5, 16384, Fork::Vm, 0)),
            ("base/5/16384_init", rel(1663, 5, 16384, Fork::Init, 0)),
            ("base/5/16384_fsm.1", rel(1663, 5, 16384, Fork::Fsm, 131_072)),
            ("base/5/16384.2", rel(1663, 5, 16384, Fork::Main, 262_144)),
            ("global/1262", rel(1664, 0, 1262, Fork::Main, 0)),
            ("pg_tblspc/99999/PG_15_202209061/5/16390", rel(99999, 5, 16390, Fork::Main, 0)),
            ("base/5/pg_filenode.map", FileKind::RelMap(1663, 5)),
            ("global/pg_filenode.map", FileKind::RelMap(1664, 0)),
            ("base/5/PG_VERSION", FileKind::Database(1663, 5)),
            ("pg_xact/0000", FileKind::Slru(Slru::Xact, 0)),
            ("pg_multixact/members/00AB", FileKind::Slru(Slru::MultixactMembers, 0xAB)),
            ("pg_commit_ts/0001", FileKind::Slru(Slru::CommitTs, 1)),
            ("pg_twophase/00000ABC", FileKind::TwoPhase(0xABC)),
            ("pg_twophase/0000000100000ABC", FileKind::TwoPhase(0x1_0000_0ABC)),
            ("global/pg_control", FileKind::Control),
            ("backup_label", FileKind::Label),
            ("tablespace_map", FileKind::TablespaceMap),
            ("pg_logical/replorigin_checkpoint", FileKind::Origins),
        ];
        for (path, kind) in cases {
            assert_eq!(classify(path, None), kind, "{path}");
        }
        assert_eq!(classify("PG_15_202209061/5/16390.1", Some(99)), rel(99, 5, 16390, Fork::Main, 131_072));
        let skipped = [
            "base/5/t3_16384",
            "base/pgsql_tmp/pgsql_tmp1.0",
            "base/5/pg_internal.init",
            "postgresql.conf",
            "base/5/16384.x",
            "base/5/0",
            "base/5/16384_foo",
            "pg_xact/x",
            "pg_wal/000000010000000000000001",
            "pg_replslot/s/state",
            "pg_twophase/1",
            "base/5/16384.99999999",
        ];
        for path in skipped {
            assert_eq!(classify(path, None), FileKind::Skip, "{path}");
        }
    }
}
