//! A small cluster by hand against a pageserver that is a map: equal, and with every kind of difference planted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use bytes::Bytes;
use pgformat::checkpoint::CheckPoint;
use pgformat::control::{CONTROL_FILE_NAME, ControlFile, DbState};
use pgformat::effect::Parameters;
use pgformat::origins::{ORIGINS_FILE_NAME, file_of_origins};
use pgformat::page::Page;
use pgformat::rel::{BlockNumber, BlockTag, RelFork};
use pgformat::slru::Slru;
use pgformat::{Lsn, PgMajor, SegSize, Tli};
use proto::api::ControlDifference;

use super::local::Local;
use super::verify::{PageDifference, PageReport, PagesAtLsn, verify};

const CHECKPOINT: Lsn = Lsn::new(0x0300_0028);

fn control(state: DbState, checkpoint: Lsn) -> ControlFile {
    let checkpoint_copy = CheckPoint {
        redo: checkpoint,
        tli: Tli(1),
        prev_tli: Tli(1),
        full_page_writes: true,
        wal_level: 0,
        next_xid: 800,
        next_oid: 24576,
        next_multi: 1,
        next_multi_offset: 0,
        oldest_xid: 716,
        oldest_xid_db: 1,
        oldest_multi: 1,
        oldest_multi_db: 1,
        time: 1,
        oldest_commit_ts_xid: 0,
        newest_commit_ts_xid: 0,
        oldest_active_xid: 0,
    };
    ControlFile {
        version: PgMajor::new(15).expect("supported"),
        system_id: 77,
        state,
        time: 1,
        checkpoint,
        checkpoint_copy,
        unlogged_lsn: Lsn::new(1000),
        min_recovery_point: Lsn::new(0),
        min_recovery_point_tli: Tli(0),
        backup_start: Lsn::new(0),
        backup_end: Lsn::new(0),
        backup_end_required: false,
        parameters: Parameters::default(),
        seg_size: SegSize::DEFAULT,
        float8_by_val: true,
        data_checksum_version: 1,
        char_signed: true,
        mock_nonce: [7; 32],
    }
}

fn heap(mark: u8) -> Page {
    let mut page = Page::default();
    page.init(0);
    page.add_item(&[mark; 40]).expect("space");
    page.set_lsn(Lsn::new(0x0200_0000 + u64::from(mark)));
    page
}

fn rel(text: &str) -> RelFork {
    text.parse().expect("a relation")
}

/// Our side.
#[derive(Clone, Default)]
struct Model {
    pages: BTreeMap<BlockTag, Result<Page, String>>,
    sizes: BTreeMap<RelFork, BlockNumber>,
    segments: BTreeMap<(Slru, u32), Vec<u8>>,
    control: Vec<ControlDifference>,
    files: BTreeMap<String, Vec<u8>>,
    logged: BTreeSet<u32>,
}

impl Model {
    fn fork(&mut self, fork: &str, pages: &[Page]) {
        let fork = rel(fork);
        self.sizes.insert(fork, pages.len() as u32);
        for (blk, page) in (0..).zip(pages) {
            self.pages.insert(BlockTag { fork, blk }, Ok(page.clone()));
        }
    }

    fn page(&mut self, fork: &str, blk: u32) -> &mut Page {
        let tag = BlockTag { fork: rel(fork), blk };
        self.pages.get_mut(&tag).and_then(|p| p.as_mut().ok()).expect("a page")
    }
}

impl PagesAtLsn for Model {
    async fn relations(&mut self) -> Result<(BTreeMap<RelFork, BlockNumber>, BTreeSet<u32>)> {
        Ok((self.sizes.clone(), self.logged.clone()))
    }

    async fn pages(&mut self, tags: &[BlockTag]) -> Result<Vec<Result<Bytes, String>>> {
        let one = |tag| match &self.pages[tag] {
            Ok(page) => {
                let mut page = page.clone();
                page.set_checksum(0);
                Ok(Bytes::copy_from_slice(&page.0))
            }
            Err(text) => Err(text.clone()),
        };
        Ok(tags.iter().map(one).collect())
    }

    async fn segments(&mut self, slru: Slru) -> Result<Vec<u32>> {
        Ok(self.segments.keys().filter(|(s, _)| *s == slru).map(|(_, n)| *n).collect())
    }

    async fn segment(&mut self, slru: Slru, segno: u32) -> Result<Bytes> {
        Ok(self.segments[&(slru, segno)].clone().into())
    }

    async fn files(&mut self) -> Result<Vec<String>> {
        Ok(self.files.keys().cloned().collect())
    }

    async fn file(&mut self, path: &str) -> Result<Bytes> {
        Ok(self.files[path].clone().into())
    }

    async fn control(&mut self, file: &[u8]) -> Result<Vec<ControlDifference>> {
        assert!(ControlFile::parse(file).is_ok(), "the whole file is sent");
        Ok(self.control.clone())
    }
}

fn write(root: &Path, path: &str, pages: &[Page]) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
    let bytes: Vec<u8> = pages.iter().flat_map(|p| p.0).collect();
    std::fs::write(path, bytes).expect("written");
}

const MAP: &str = "base/5/pg_filenode.map";
const PREPARED: &str = "pg_twophase/000002BC";

fn small(root: &Path, path: &str, bytes: &[u8]) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
    std::fs::write(path, bytes).expect("written");
}

/// A cluster of two tables, one with a map, one in a tablespace, one unlogged, and the pageserver that has it.
fn cluster(root: &Path) -> Model {
    let mut model = Model::default();
    let file = control(DbState::Shutdown, CHECKPOINT);
    std::fs::create_dir_all(root.join("global")).expect("made");
    std::fs::write(root.join(CONTROL_FILE_NAME), file.to_bytes()).expect("written");
    // 200 blocks take more than one batch.
    let pages: Vec<Page> = (0..200u8).map(heap).collect();
    let checksummed = |pages: &[Page]| -> Vec<Page> {
        let mut pages = pages.to_vec();
        (0..).zip(&mut pages).for_each(|(blk, p)| p.stamp_checksum(blk, true));
        pages
    };
    write(root, "base/5/16384", &checksummed(&pages));
    model.fork("1663/5/16384", &pages);
    write(root, "base/5/16384_vm", &[Page::default()]);
    model.fork("1663/5/16384_vm", &[Page::default()]);
    write(root, "base/5/16384_fsm", &[heap(9)]);
    write(root, "pg_tblspc/99999/PG_15_202209061/5/16390", &[heap(1)]);
    write(root, "pg_tblspc/99999/PG_14_202107181/5/16391", &[heap(1)]);
    model.fork("99999/5/16390", &[heap(1)]);
    write(root, "base/5/16400", &[heap(3), heap(4)]);
    write(root, "base/5/16400_init", &[heap(2)]);
    model.fork("1663/5/16400_init", &[heap(2)]);
    write(root, "global/1262", &checksummed(&pages[..1]));
    model.fork("1664/0/1262", &pages[..1]);
    write(root, "base/5/t3_16500", &[heap(1)]);
    write(root, "pg_xact/0000", &[Page([0x55; 8192])]);
    model.segments.insert((Slru::Xact, 0), vec![0x55; 8192]);
    for path in [MAP, PREPARED] {
        small(root, path, path.as_bytes());
        model.files.insert(path.to_owned(), path.into());
    }
    // One that a session merely used, and an order of its own.
    let theirs = BTreeMap::from([(2, Lsn::new(9)), (3, Lsn::new(0))]);
    small(root, ORIGINS_FILE_NAME, &file_of_origins(&theirs));
    model.files.insert(ORIGINS_FILE_NAME.to_owned(), file_of_origins(&BTreeMap::from([(2, Lsn::new(9))])));
    // Pages of zeros need not be there.
    model.segments.insert((Slru::MultixactOffsets, 0), vec![0; 16384]);
    model
}

async fn compare(root: &Path, model: &mut Model) -> PageReport {
    verify(&Local::read(root).expect("a cluster"), model).await.expect("compared")
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

#[tokio::test]
async fn an_equal_cluster_is_equal() {
    let dir = dir();
    let mut model = cluster(dir.path());
    let report = compare(dir.path(), &mut model).await;
    assert!(report.equal, "{}", report.render());
    assert_eq!(report.lsn, Lsn::new(0x0300_0028 + 120), "the end of the checkpoint's record");
    // 200 + 1 + 1 + 1 + 1 pages of forks, 1 + 2 of segments; neither free space maps nor unlogged main forks.
    assert_eq!((report.forks, report.pages, report.files), (5, 207, 3));
    assert_eq!(report.kinds["heap"], 203);

    // Hint bits, the hole, the checksum and the flags of a heap page are PostgreSQL's own business.
    let mut theirs = heap(0);
    theirs.change_flags(0, pgformat::page::PD_PAGE_FULL);
    theirs.set_prune_xid(9);
    theirs.0[100] = 1;
    write(dir.path(), "global/1262", &[theirs]);
    // A file may end with blocks that were never used.
    write(dir.path(), "base/5/16384_vm", &[Page::default(), Page::default()]);
    let report = compare(dir.path(), &mut model).await;
    assert!(report.equal, "{}", report.render());
    assert_eq!(report.empty_tail_pages, 1);
}

/// What is told about the one thing that `plant` breaks.
async fn planted(plant: impl FnOnce(&Path, &mut Model)) -> PageDifference {
    let dir = dir();
    let mut model = cluster(dir.path());
    plant(dir.path(), &mut model);
    let report = compare(dir.path(), &mut model).await;
    assert_eq!((report.equal, report.differences), (false, 1), "{}", report.render());
    assert!(report.render().contains(&report.examples[0].file));
    report.examples[0].clone()
}

#[tokio::test]
async fn every_difference_is_found_and_named() {
    let d = planted(|_, m| m.page("1663/5/16384", 150).0[8182] ^= 1).await;
    assert_eq!((d.file.as_str(), d.block, d.offset, d.bytes), ("base/5/16384", Some(150), Some(8182), Some(1)));
    assert_eq!(d.their_lsn, Some(Lsn::new(0x0200_0000 + 150)));
    assert!(d.ours.is_some_and(|b| b.starts_with("97")) && d.theirs.is_some_and(|b| b.starts_with("96")));

    let d = planted(|_, m| m.page("99999/5/16390", 0).set_lsn(Lsn::new(5))).await;
    assert_eq!(
        (d.file.as_str(), d.offset, d.our_lsn),
        ("pg_tblspc/99999/PG_15_202209061/5/16390", Some(4), Some(Lsn::new(5)))
    );
    let d = planted(|_, m| m.page("1663/5/16384_vm", 0).0[30] = 1).await;
    assert_eq!(d.file, "base/5/16384_vm");
    let d = planted(|_, m| m.page("1663/5/16400_init", 0).0[8170] ^= 1).await;
    assert_eq!(d.file, "base/5/16400_init");
    let d = planted(|_, m| m.segments.get_mut(&(Slru::Xact, 0)).expect("a segment")[8191] = 0).await;
    assert_eq!((d.file.as_str(), d.block, d.offset), ("pg_xact/0000", Some(0), Some(8191)));
    let d = planted(|_, m| drop(m.segments.remove(&(Slru::Xact, 0)))).await;
    assert_eq!((d.file.as_str(), d.bytes), ("pg_xact/0000", Some(8192)));
    let d = planted(|_, m| m.segments.get_mut(&(Slru::MultixactOffsets, 0)).expect("a segment")[8192] = 1).await;
    assert_eq!((d.file.as_str(), d.block), ("pg_multixact/offsets/0000", Some(1)));

    let tag = BlockTag { fork: rel("1664/0/1262"), blk: 0 };
    let d = planted(|_, m| drop(m.pages.insert(tag, Err("WF017 cannot be redone".to_owned())))).await;
    assert!(d.file == "global/1262" && d.what.contains("WF017"), "{}", d.what);
    let d = planted(|_, m| assert_eq!(m.sizes.insert(rel("1664/0/1262"), 0), Some(1))).await;
    assert!(d.what.contains("does not have it"), "{}", d.what);
    let d = planted(|_, m| assert_eq!(m.sizes.remove(&rel("1664/0/1262")), Some(1))).await;
    assert!(d.what.contains("does not have it"), "{}", d.what);
    let d = planted(|_, m| m.fork("1663/5/16384", &(0..=200u8).map(heap).collect::<Vec<_>>())).await;
    assert!(d.what.contains("201 blocks, the cluster 200"), "{}", d.what);
    let d = planted(|_, m| m.fork("1663/5/17000", &[])).await;
    assert!(d.file == "1663/5/17000" && d.what.contains("no such fork"), "{}", d.what);
    let d = planted(|root, _| write(root, "base/5/17000", &[])).await;
    assert!(d.file == "base/5/17000" && d.what.contains("no such fork"), "{}", d.what);
    let d = planted(|root, _| write(root, "base/5/17000", &[heap(1)])).await;
    assert!(d.file == "base/5/17000" && d.block == Some(0), "{}", d.what);
    let d = planted(|_, m| {
        let (what, ours, theirs) = ("next transaction".to_owned(), "799".to_owned(), "800".to_owned());
        m.control.push(ControlDifference { what, ours, theirs });
    })
    .await;
    assert!(d.file == CONTROL_FILE_NAME && d.what.contains("ours 799, file's 800"), "{}", d.what);
}

#[tokio::test]
async fn every_difference_of_a_small_file_is_found_and_named() {
    let d = planted(|root, _| small(root, MAP, b"base/5/pg_filenode.mbq")).await;
    assert_eq!((d.file.as_str(), d.offset, d.bytes), (MAP, Some(20), Some(2)));
    assert_eq!((d.ours.as_deref(), d.theirs.as_deref()), (Some("6170"), Some("6271")));
    let d = planted(|root, _| small(root, PREPARED, b"pg_twophase/000002B")).await;
    assert!(d.file == PREPARED && d.what.contains("20 bytes, the file 19"), "{}", d.what);
    let d = planted(|root, _| std::fs::remove_file(root.join(PREPARED)).expect("removed")).await;
    assert!(d.file == PREPARED && d.what.contains("the cluster has no such file"), "{}", d.what);
    let d = planted(|_, m| drop(m.files.remove(PREPARED))).await;
    assert!(d.file == PREPARED && d.what.contains("the pageserver has no such file"), "{}", d.what);
    let global = "global/pg_filenode.map";
    let d = planted(|root, _| small(root, global, b"map")).await;
    assert_eq!(d.file, global);

    let origins = |origin, lsn| file_of_origins(&BTreeMap::from([(origin, Lsn::new(lsn))]));
    let d = planted(|root, _| small(root, ORIGINS_FILE_NAME, &origins(2, 10))).await;
    assert!(d.file == ORIGINS_FILE_NAME && d.what.contains("origin 2: ours 0/9, file's 0/A"), "{}", d.what);
    let d = planted(|root, _| std::fs::remove_file(root.join(ORIGINS_FILE_NAME)).expect("removed")).await;
    assert!(d.what.contains("origin 2: ours 0/9, file's none"), "{}", d.what);
    let d = planted(|root, m| {
        small(root, ORIGINS_FILE_NAME, &origins(7, 0));
        m.files.insert(ORIGINS_FILE_NAME.to_owned(), origins(7, 5));
    })
    .await;
    assert!(d.what.contains("origin 7: ours 0/5, file's none"), "{}", d.what);
    let mut torn = origins(2, 9);
    torn[10] ^= 1;
    let d = planted(|root, _| small(root, ORIGINS_FILE_NAME, &torn)).await;
    assert!(d.file == ORIGINS_FILE_NAME && d.what.contains("the cluster's: the checksum"), "{}", d.what);
}

/// Bits that we lack are allowed where the log lacks them, and only there.
#[tokio::test]
async fn bits_of_visibility_maps_may_be_missing_in_logged_databases_alone() {
    let plant = |root: &Path| {
        let mut theirs = Page::default();
        theirs.init(0);
        theirs.0[30] = 1;
        write(root, "base/5/16384_vm", &[theirs]);
    };
    let missing = |m: &mut Model| {
        let mut ours = Page::default();
        ours.init(0);
        *m.page("1663/5/16384_vm", 0) = ours;
    };
    let d = planted(|root, m| {
        plant(root);
        missing(m);
        m.logged.insert(6);
    })
    .await;
    assert_eq!(d.file, "base/5/16384_vm");
    let dir = dir();
    let mut model = cluster(dir.path());
    plant(dir.path());
    missing(&mut model);
    model.logged.insert(5);
    let report = compare(dir.path(), &mut model).await;
    assert!(report.equal && !report.allowed.is_empty(), "{}", report.render());
}

/// A row of a catalog: its inserter, and columns of four bytes at these places.
fn row(xmin: u32, columns: &[(usize, u32)]) -> Vec<u8> {
    let mut bytes = vec![0; 32 + 96];
    bytes[..4].copy_from_slice(&xmin.to_le_bytes());
    bytes[22] = 32;
    for (at, value) in columns {
        bytes[32 + at..36 + at].copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

fn relation_map(oid: u32) -> Vec<u8> {
    let mut map = vec![0; 512];
    for (at, word) in [(0, 0x0059_2717), (4, 1), (8, oid), (12, oid)] {
        map[at..at + 4].copy_from_slice(&u32::to_le_bytes(word));
    }
    let crc = crc32c::crc32c(&map[..504]);
    map[504..508].copy_from_slice(&crc.to_le_bytes());
    map
}

/// The cluster with catalogs that name its files: `pg_class` with these rows more, of (inserter, file number,
/// tablespace), `pg_database` with these databases more, of (inserter, oid).
fn with_catalogs(root: &Path, classes: &[(u32, u32, u32)], databases: &[(u32, u32)]) -> Model {
    let mut model = cluster(root);
    let both = |path: &str, fork: &str, rows: Vec<Vec<u8>>, model: &mut Model| {
        let mut page = Page::default();
        page.init(0);
        for row in &rows {
            page.add_item(row).expect("space");
        }
        page.set_lsn(Lsn::new(0x0200_0000));
        write(root, path, std::slice::from_ref(&page));
        model.fork(fork, &[page]);
    };
    let classes = [(2, 16384, 0), (2, 16390, 99999), (2, 16400, 0)].iter().chain(classes);
    let classes = classes.map(|(xmin, rel, spc)| row(*xmin, &[(88, *rel), (92, *spc)])).collect();
    both("base/5/1259", "1663/5/1259", classes, &mut model);
    let databases = [(2, 5)].iter().chain(databases);
    let databases = databases.map(|(xmin, oid)| row(*xmin, &[(0, *oid), (92, 1663)])).collect();
    both("global/1262", "1664/0/1262", databases, &mut model);
    for (path, oid) in [(MAP, 1259), ("global/pg_filenode.map", 1262)] {
        small(root, path, &relation_map(oid));
        model.files.insert(path.to_owned(), relation_map(oid));
    }
    model
}

/// The states of transactions 800 to 803, on both sides: lost in a crash, committed, aborted, committed.
fn clog(root: &Path, model: &mut Model) {
    let mut page = Page([0x55; 8192]);
    page.0[200] = 0b0110_0100;
    write(root, "pg_xact/0000", std::slice::from_ref(&page));
    model.segments.insert((Slru::Xact, 0), page.0.to_vec());
}

fn forget_prepared(root: &Path, model: &mut Model) {
    std::fs::remove_file(root.join(PREPARED)).expect("removed");
    model.files.remove(PREPARED);
}

/// Goal: files of transactions that a crash ended are listed and not judged.
#[tokio::test]
async fn what_a_crash_left_behind_is_listed_and_not_judged() {
    let dir = dir();
    let root = dir.path();
    // Of database 78 nothing is left.
    let mut model = with_catalogs(root, &[(800, 17000, 0), (802, 17001, 0)], &[(800, 77), (801, 78)]);
    clog(root, &mut model);
    forget_prepared(root, &mut model);
    let report = compare(root, &mut model).await;
    assert!(report.equal && report.left_by_crash == 0, "{}", report.render());
    assert_eq!(report.catalogs_unread, Vec::<String>::new());
    // Of an index build, of a table that both sides have, of a database with its map, and of none that was ever named.
    write(root, "base/5/17000", &[heap(1), heap(2)]);
    write(root, "base/5/17001", &[heap(1)]);
    model.fork("1663/5/17001", &[heap(2)]);
    write(root, "base/77/1259", &[heap(1)]);
    small(root, "base/77/pg_filenode.map", &relation_map(1259));
    write(root, "base/5/17002_init", &[heap(1)]);
    // A database that was to be moved to another tablespace.
    write(root, "pg_tblspc/99999/PG_15_202209061/5/16384", &[heap(1)]);
    let report = compare(root, &mut model).await;
    assert!(report.equal, "{}", report.render());
    assert_eq!((report.left_by_crash, report.left_by_crash_pages), (6, 6), "{}", report.render());
    assert!(report.render().contains("base/77/pg_filenode.map"), "{}", report.render());
}

/// What is told when the catalogs are these, and `plant` breaks one thing.
async fn planted_beside(
    classes: &[(u32, u32, u32)],
    databases: &[(u32, u32)],
    plant: impl FnOnce(&Path, &mut Model),
) -> PageDifference {
    let dir = dir();
    let mut model = with_catalogs(dir.path(), classes, databases);
    clog(dir.path(), &mut model);
    plant(dir.path(), &mut model);
    let report = compare(dir.path(), &mut model).await;
    assert_eq!((report.equal, report.differences, report.left_by_crash), (false, 1, 0), "{}", report.render());
    report.examples[0].clone()
}

/// Goal: the allowance for such files is closed: whatever a catalog may name is judged.
#[tokio::test]
async fn what_a_catalog_names_is_judged_whatever_the_pageserver_lacks() {
    let file = |root: &Path, _: &mut Model| write(root, "base/5/17000", &[heap(1)]);
    for (why, xmin) in [("committed", 801), ("frozen", 2), ("prepared, perhaps", 800)] {
        let d = planted_beside(&[(xmin, 17000, 0)], &[], file).await;
        assert_eq!((d.file.as_str(), d.block), ("base/5/17000", Some(0)), "{why}");
    }
    let d = planted_beside(&[(803, 17000, 99999)], &[], |root, _| {
        write(root, "pg_tblspc/99999/PG_15_202209061/5/17000", &[heap(1)]);
    })
    .await;
    assert_eq!(d.block, Some(0));
    let database = |root: &Path, model: &mut Model| {
        small(root, "base/77/pg_filenode.map", &relation_map(1259));
        model.files.insert("base/77/pg_filenode.map".to_owned(), relation_map(1259));
        write(root, "base/77/1259", &[heap(1)]);
    };
    let d = planted_beside(&[], &[(801, 77)], database).await;
    assert_eq!((d.file.as_str(), d.block), ("base/77/1259", Some(0)));
    let d = planted_beside(&[], &[], |_, m| m.fork("1663/5/17000", &[])).await;
    assert!(d.file == "1663/5/17000" && d.what.contains("no such fork"), "{}", d.what);
    // A file of the relation itself that lacks a page, and a catalog's own page.
    let d = planted_beside(&[], &[], |_, m| m.page("1663/5/16384", 150).0[8182] ^= 1).await;
    assert_eq!((d.file.as_str(), d.block), ("base/5/16384", Some(150)));
    let d = planted_beside(&[], &[], |_, m| m.page("1663/5/1259", 0).0[8100] ^= 1).await;
    assert_eq!(d.file, "base/5/1259");
    // A catalog that cannot be read names everything.
    let d = planted_beside(&[], &[], |root, m| {
        let mut map = relation_map(1259);
        map[504] ^= 1;
        small(root, MAP, &map);
        m.files.insert(MAP.to_owned(), map);
        write(root, "base/5/17000", &[heap(1)]);
    })
    .await;
    assert_eq!(d.file, "base/5/17000");
}

/// Goal: pages that PostgreSQL writes without a record are counted, and what lies next to that is found.
#[tokio::test]
async fn pages_written_without_a_record_are_counted() {
    let unused = || {
        let mut page = Page::default();
        page.init(8);
        page.put_u16(8184, 4).and(page.put_u16(8190, 0xFF82)).expect("inside");
        page
    };
    let logged = || {
        let mut page = unused();
        page.set_lsn(Lsn::new(0x0200_0000));
        page
    };
    // A metapage of an extension's access method.
    let bloom = |lsn| {
        let mut page = Page::default();
        page.init(24);
        page.0[24..100].fill(7);
        page.set_lower(100);
        page.set_lsn(Lsn::new(lsn));
        page
    };
    let set = |root: &Path, m: &mut Model| {
        write(root, "base/5/16500", &[logged(), logged(), logged(), unused(), unused(), unused()]);
        m.fork("1663/5/16500", &[logged(), logged(), logged(), Page::default(), logged()]);
        write(root, "base/5/16501_init", &[bloom(0)]);
        m.fork("1663/5/16501_init", &[bloom(0x0200_0000)]);
    };
    let dir = dir();
    let mut model = cluster(dir.path());
    set(dir.path(), &mut model);
    let report = compare(dir.path(), &mut model).await;
    assert!(report.equal, "{}", report.render());
    assert_eq!(report.allowed.values().copied().collect::<Vec<_>>(), [3, 1], "{}", report.render());

    let find = |name: &'static str, blk: u32, byte: usize| async move {
        let d = planted(|root, m| {
            set(root, m);
            m.page(name, blk).0[byte] ^= 0x41;
        })
        .await;
        assert_eq!(d.block, Some(blk), "{name}, byte {byte}");
    };
    find("1663/5/16500", 4, 8188).await;
    find("1663/5/16500", 3, 8000).await;
    find("1663/5/16501_init", 0, 30).await;
    let d = planted(|root, m| {
        set(root, m);
        write(root, "base/5/16500", &[logged(), logged(), logged(), unused(), unused(), logged()]);
    })
    .await;
    assert_eq!(d.block, Some(5), "a page that a record has made");
}

#[test]
fn only_a_stopped_cluster_is_compared() {
    let dir = dir();
    cluster(dir.path());
    for state in [DbState::Production, DbState::CrashRecovery, DbState::ShutdownInRecovery] {
        std::fs::write(dir.path().join(CONTROL_FILE_NAME), control(state, CHECKPOINT).to_bytes()).expect("written");
        let error = Local::read(dir.path()).expect_err("not shut down").to_string();
        assert!(error.contains("not shut down cleanly"), "{error}");
    }
    // Positions where no record can begin.
    for at in [0, 8, 0x0300_0000, 0x0300_0020, 0x0300_002C, 0x0300_4010] {
        let file = control(DbState::Shutdown, Lsn::new(at));
        std::fs::write(dir.path().join(CONTROL_FILE_NAME), file.to_bytes()).expect("written");
        assert!(Local::read(dir.path()).is_err(), "a checkpoint at {at:X}");
    }
    // The record goes over a page's end, and over a segment's: 24 and 40 bytes of headers.
    for (at, end) in
        [(0x0300_1FF0, 0x0300_1FF0 + 120 + 24), (0x03FF_FFE8, 0x03FF_FFE8 + 120 + 40), (0x0300_1F88, 0x0300_2000)]
    {
        let file = control(DbState::Shutdown, Lsn::new(at));
        std::fs::write(dir.path().join(CONTROL_FILE_NAME), file.to_bytes()).expect("written");
        assert_eq!(Local::read(dir.path()).expect("a cluster").lsn, Lsn::new(end), "a checkpoint at {at:X}");
    }
    let mut torn = control(DbState::Shutdown, CHECKPOINT).to_bytes();
    torn[50] ^= 1;
    std::fs::write(dir.path().join(CONTROL_FILE_NAME), torn).expect("written");
    assert!(Local::read(dir.path()).is_err(), "a damaged control file");
}
