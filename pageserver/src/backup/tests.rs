//! Plans and ranges of a backup out of model versions.

use std::collections::BTreeMap;

use bytes::Bytes;
use pgformat::boot::{BootFiles, WalFile};
use pgformat::datadir::SEGMENT_BLOCKS;
use pgformat::page::{PAGE_SIZE, Page};
use pgformat::rel::{BlockTag, Fork, PG_DEFAULT, PG_GLOBAL, RelFileLocator, RelFork};
use pgformat::slru::Slru;
use pgformat::{Lsn, PgMajor, SegSize};

use super::content::{FileRanges, ViewRanges};
use super::plan::{BackupPlan, FileContent, plan};
use crate::cluster::database::{ONLY_RELATIONS, WHOLE};
use crate::cluster::key::{Key, KeyKind};
use crate::read::model::ModelVersions;
use crate::read::{Io, ReadView};

const LSN: u64 = 1000;

fn fork(spc: u32, rel: u32, fork: Fork) -> RelFork {
    let db = if spc == PG_GLOBAL { 0 } else { 5 };
    RelFork { rel: RelFileLocator { spc, db, rel }, fork }
}

fn page(mark: u8) -> Page {
    let mut page = Page::zeroed();
    page.0.fill(mark);
    *page
}

fn boot() -> BootFiles {
    let segment = WalFile { name: "000000020000000000000001".to_owned(), bytes: vec![7; 100] };
    BootFiles {
        control: vec![1; 8192],
        segments: vec![segment],
        history: Some(("00000002.history".to_owned(), "1\t0/3E8\tbranch\n".to_owned())),
        record: Vec::new(),
        checkpoint: Lsn::new(LSN),
        end: Lsn::new(LSN + 120),
    }
}

fn cluster() -> ModelVersions {
    let mut m = ModelVersions::default();
    m.put_blob(Key::of_database(KeyKind::Database, PG_DEFAULT, 5), 100, [WHOLE]);
    m.put_blob(Key::of_database(KeyKind::Database, 1700, 5), 100, [ONLY_RELATIONS]);
    m.put_blob(Key { spc: 1700, ..Key::first(KeyKind::Tablespace) }, 100, "/old/place");
    m.put_blob(Key::of_database(KeyKind::RelMap, PG_DEFAULT, 5), 100, b"map");
    // Logged, longer than a segment; its pages need no versions to be planned.
    m.size(fork(PG_DEFAULT, 16384, Fork::Main), 100, SEGMENT_BLOCKS + 1);
    m.size(fork(PG_DEFAULT, 16384, Fork::Vm), 100, 1);
    m.size(fork(PG_DEFAULT, 16384, Fork::Fsm), 100, 3);
    // Unlogged: what its main fork holds is not in the log.
    m.size(fork(PG_DEFAULT, 16390, Fork::Main), 100, 9);
    m.size(fork(PG_DEFAULT, 16390, Fork::Vm), 100, 1);
    m.size(fork(PG_DEFAULT, 16390, Fork::Init), 100, 2);
    m.size(fork(1700, 16400, Fork::Main), 100, 0);
    m.size(fork(PG_GLOBAL, 1262, Fork::Main), 100, 1);
    for (blk, mark) in [(0, 3), (1, 4)] {
        m.put_page(BlockTag { fork: fork(PG_DEFAULT, 16390, Fork::Init), blk }, 100, &page(mark));
    }
    m.put_blob(Key::numbered(KeyKind::SlruSegment, Slru::Xact as u32, 0), 100, 1_u32.to_le_bytes());
    m.put_page_at(Key::numbered(KeyKind::SlruPage, Slru::Xact as u32, 0), 100, &page(9));
    // Not there yet.
    m.size(fork(PG_DEFAULT, 16500, Fork::Main), 2000, 1);
    m
}

fn view(m: &ModelVersions) -> ReadView<'_> {
    ReadView { versions: m, lsn: Lsn::new(LSN), latest: Lsn::new(3000), io: Io::Files }
}

fn planned(m: &ModelVersions) -> BackupPlan {
    let settings = vec![("postgresql.conf", Bytes::from_static(b"x"))];
    plan(&view(m), PgMajor::ALL[1], &boot(), SegSize::DEFAULT, settings).expect("nothing is damaged")
}

#[test]
fn every_file_is_planned_once_in_its_archive_and_the_control_file_last() {
    let m = cluster();
    let BackupPlan { archives } = planned(&m);
    assert_eq!(archives.len(), 2);
    assert_eq!(archives[0].tablespace, Some((1700, "/old/place".to_owned())));
    let space: Vec<&str> = archives[0].entries.iter().map(|e| e.path.as_str()).collect();
    assert_eq!(space, ["PG_15_202209061", "PG_15_202209061/5", "PG_15_202209061/5/16400"]);

    let base = &archives[1];
    assert_eq!(base.entries.last().map(|e| e.path.as_str()), Some("global/pg_control"));
    let mut files = BTreeMap::new();
    for (n, entry) in base.entries.iter().enumerate() {
        if let Some((parent, _)) = entry.path.rsplit_once('/') {
            let before = &base.entries[..n];
            assert!(before.iter().any(|e| e.path == parent && e.content.is_none()), "{parent} before {}", entry.path);
        }
        if let Some(content) = &entry.content {
            assert!(files.insert(entry.path.as_str(), content.len()).is_none(), "{} is there twice", entry.path);
        }
    }
    let page = PAGE_SIZE as u64;
    let expected = [
        ("PG_VERSION", 3),
        ("base/5/16384", u64::from(SEGMENT_BLOCKS) * page),
        ("base/5/16384.1", page),
        ("base/5/16384_vm", page),
        ("base/5/16390", 2 * page),
        ("base/5/16390_init", 2 * page),
        ("base/5/PG_VERSION", 3),
        ("base/5/pg_filenode.map", 3),
        ("global/1262", page),
        ("global/pg_control", 8192),
        ("pg_logical/replorigin_checkpoint", 8),
        ("pg_wal/00000002.history", 15),
        ("pg_wal/000000020000000000000001", 16 << 20),
        ("pg_xact/0000", page),
        ("postgresql.conf", 1),
    ];
    assert_eq!(files.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn ranges_are_pages_with_checksums_and_bytes_with_zeros() {
    let m = cluster();
    let ranges = ViewRanges { view: view(&m), checksums: true };
    let init = FileContent::Blocks { fork: fork(PG_DEFAULT, 16390, Fork::Init), first: 0, blocks: 2 };
    let size = PAGE_SIZE as u64;
    let second = ranges.range(&init, size..2 * size).expect("it is stored");
    let mut expected = page(4);
    expected.set_checksum(expected.checksum(1));
    assert_eq!(second[..], expected.0[..], "summed with its number in the fork");
    assert_eq!(ranges.range(&init, 0..2 * size).expect("both").len(), 2 * PAGE_SIZE);
    assert!(ranges.range(&init, size..3 * size).is_err(), "beyond the end");
    let segment = FileContent::Segment(Slru::Xact, 0, 1);
    assert_eq!(ranges.range(&segment, 0..size).expect("stored")[..], [9; PAGE_SIZE]);
    let wal = FileContent::Bytes(Bytes::from_static(b"head"), 10);
    assert_eq!(ranges.range(&wal, 2..10).expect("bytes")[..], *b"ad\0\0\0\0\0\0");
    assert_eq!(ranges.range(&wal, 8..10).expect("bytes")[..], [0; 2]);
}
