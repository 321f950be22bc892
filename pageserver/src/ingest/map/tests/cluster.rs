//! A whole log of a server: from the cluster as it was in the beginning to the same cluster, shut down.
//!
//! Asked for by two environment variables, because recording one takes a server: `WALFABRIC_BASE` is a copy of a data
//! directory that was shut down, `WALFABRIC_DATA` the same directory, shut down again later, with all its WAL. The
//! control state, the SLRUs and the sizes of all relations must be the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use pgformat::SegSize;
use pgformat::control::ControlFile;
use pgformat::effect::{self, Effect};
use pgformat::page::{PAGE_SIZE, Page};
use pgformat::rel::{Fork, RelFileLocator, RelFork};
use pgformat::slru::{SEGMENT_PAGES, Slru, parse_segment_name};
use pgformat::twophase;
use pgformat::wal::{StreamConfig, WalDecoder, body};

use super::*;
use crate::cluster::compare::{self, StateDifference};
use crate::cluster::key::KeyKind;
use crate::cluster::records::floor_record;
use crate::cluster::state::ClusterState;
use crate::cluster::value::{ValueKind, encode_page};
use crate::cluster::xacts::{EndKind, XactChunk};

/// Blocks of a relation's file.
const SEGMENT_BLOCKS: u32 = 131_072;

fn files(dir: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .map(|e| e.expect("an entry").path())
        .map(|path| (path.file_name().expect("a name").to_string_lossy().into_owned(), path))
        .collect();
    found.sort();
    found
}

/// Folders of databases: tablespace, database, path.
fn databases(data: &Path) -> Vec<(u32, u32, PathBuf)> {
    let mut found = vec![(1664, 0, data.join("global"))];
    let of = |spc: u32, dir: &Path| {
        let numbered = files(dir).into_iter().filter_map(|(name, path)| Some((name.parse().ok()?, path)));
        numbered.map(|(db, path)| (spc, db, path)).collect::<Vec<_>>()
    };
    found.extend(of(1663, &data.join("base")));
    for (name, path) in files(&data.join("pg_tblspc")) {
        let spc = name.parse().expect("a tablespace's oid");
        for (_, versioned) in files(&path) {
            found.extend(of(spc, &versioned));
        }
    }
    found
}

/// Files of relations: fork, first block, path.
fn relations(data: &Path) -> Vec<(RelFork, u32, PathBuf)> {
    let mut found = Vec::new();
    for (spc, db, dir) in databases(data) {
        for (name, path) in files(&dir) {
            let (name, segment) = match name.split_once('.') {
                Some((name, segment)) => (name, segment.parse().ok()),
                None => (name.as_str(), Some(0)),
            };
            let fork: Option<RelFork> = format!("{spc}/{db}/{name}").parse().ok();
            if let (Some(fork), Some(segment)) = (fork, segment) {
                found.push((fork, segment * SEGMENT_BLOCKS, path));
            }
        }
    }
    found.retain(|(fork, ..)| fork.fork != Fork::Fsm);
    let unlogged: Vec<RelFileLocator> =
        found.iter().filter(|(fork, ..)| fork.fork == Fork::Init).map(|(fork, ..)| fork.rel).collect();
    found.retain(|(fork, ..)| fork.fork == Fork::Init || !unlogged.contains(&fork.rel));
    found
}

fn sizes(data: &Path) -> BTreeMap<RelFork, u32> {
    let mut sizes = BTreeMap::new();
    for (fork, first, path) in relations(data) {
        let blocks = (fs::metadata(path).expect("a file").len() / PAGE_SIZE as u64) as u32;
        let size: &mut u32 = sizes.entry(fork).or_default();
        *size = (*size).max(first + blocks);
    }
    sizes
}

fn segments(data: &Path, slru: Slru) -> Vec<(u32, PathBuf)> {
    let named = files(&data.join(slru.directory()));
    named.into_iter().filter_map(|(name, path)| Some((parse_segment_name(&name)?, path))).collect()
}

fn control_of(data: &Path) -> ControlFile {
    ControlFile::parse(&fs::read(data.join("global/pg_control")).expect("a control file")).expect("it is whole")
}

/// Everything in a data directory that was shut down, as versions at `lsn`.
fn import(data: &Path, state: &ClusterState, lsn: Lsn, batch: &mut Batch) {
    let blob = |batch: &mut Batch, key, value: &[u8]| {
        batch.put(key, lsn, ValueKind::Blob, |out| out.extend_from_slice(value));
    };
    blob(batch, super::super::STATE_KEY, &state.encode(lsn));
    let put_pages = |batch: &mut Batch, path: &Path, key: &dyn Fn(u32) -> Key| {
        let bytes = fs::read(path).expect("a file");
        for (i, page) in (0..).zip(bytes.chunks_exact(PAGE_SIZE)) {
            let page = Page::from_slice(page).expect("a page");
            batch.put(key(i), lsn, ValueKind::Image, |out| encode_page(&page, out));
        }
        (bytes.len() / PAGE_SIZE) as u32
    };
    for (fork, first, path) in relations(data) {
        put_pages(batch, &path, &|i| Key::block(pgformat::rel::BlockTag { fork, blk: first + i }));
    }
    for (fork, size) in sizes(data) {
        blob(batch, Key::rel_size(fork), &size.to_le_bytes());
    }
    for (spc, db, dir) in databases(data) {
        if let Ok(map) = fs::read(dir.join("pg_filenode.map")) {
            blob(batch, Key::of_database(KeyKind::RelMap, spc, db), &map);
        }
        blob(batch, Key::of_database(KeyKind::Database, spc, db), &[1]);
    }
    for slru in Slru::ALL {
        for (segment, path) in segments(data, slru) {
            let first = segment * SEGMENT_PAGES;
            let n = put_pages(batch, &path, &|i| Key::numbered(KeyKind::SlruPage, slru as u32, first + i));
            blob(batch, Key::numbered(KeyKind::SlruSegment, slru as u32, segment), &n.to_le_bytes());
        }
    }
}

/// What the log's own checks say beside the comparison with the cluster.
#[derive(Default, Debug)]
struct Counts {
    records: u64,
    batches: u64,
    commits: u64,
    prepares: u64,
    /// How the tracked counters differ from a shutdown checkpoint that is about to replace them.
    drift: Vec<(Lsn, Vec<StateDifference>)>,
}

/// Segments of the log by the position of their first byte; of several timelines' the newest one's, which begins as
/// the older one does.
fn wal_segments(data: &Path, seg: SegSize) -> BTreeMap<u64, PathBuf> {
    let named = files(&data.join("pg_wal")).into_iter();
    let whole = named.filter(|(name, _)| name.len() == 24 && name.bytes().all(|b| b.is_ascii_hexdigit()));
    let part = |name: &str, at: usize| u64::from_str_radix(&name[at..at + 8], 16).expect("hexadecimal");
    whole.map(|(name, path)| ((part(&name, 8) << 32) + part(&name, 16) * seg.bytes(), path)).collect()
}

/// Maps the whole log of `data` from `start` on.
fn run(rig: &mut Rig, data: &Path, start: Lsn) -> Counts {
    let seg = rig.mapper.control().file.seg_size;
    let version = rig.version;
    let cfg = StreamConfig { version, seg_size: seg, system_id: None, tlis: Vec::new() };
    let mut decoder = WalDecoder::new(cfg, start, None);
    let mut counts = Counts::default();
    for (first, path) in wal_segments(data, seg) {
        let bytes = Bytes::from(fs::read(path).expect("a segment"));
        let end = first + seg.bytes();
        for chunk in (first..end).step_by(256 << 10) {
            let from = chunk.max(decoder.position().get());
            let to = chunk + (256 << 10);
            if from >= to {
                continue;
            }
            let piece = bytes.slice((from - first) as usize..(to - first) as usize);
            let mut records = Vec::new();
            let fed = decoder.feed_records(Lsn::new(from), &piece, &mut |record| records.push(record.to_record()));
            for record in &records {
                let body = body::parse(&record.data, version).expect("a body");
                match effect::of(&record.header, &body, version) {
                    Ok(Effect::Checkpoint { shutdown: true, body }) => {
                        let drift = compare::counters(&rig.mapper.control().live, &body);
                        counts.drift.push((record.start, drift));
                    }
                    Ok(Effect::Commit(_)) => counts.commits += 1,
                    Ok(Effect::Prepare { .. }) => counts.prepares += 1,
                    _ => {}
                }
                rig.feed(record).expect("the record is understood");
                counts.records += 1;
            }
            rig.publish();
            counts.batches += 1;
            if fed.is_err() {
                return counts;
            }
        }
    }
    counts
}

fn compare_slrus(rig: &Rig, data: &Path) -> (u64, Vec<StateDifference>) {
    let (mut pages, mut found) = (0, Vec::new());
    for slru in Slru::ALL {
        let on_disk: BTreeMap<u32, PathBuf> = segments(data, slru).into_iter().collect();
        let stored = rig.at(TIP, |at| at.scan(Key::all_of(KeyKind::SlruSegment))).expect("in memory");
        let ours: BTreeMap<u32, u32> = stored
            .into_iter()
            .filter(|(key, _)| key.spc == slru as u32)
            .map(|(key, n)| (key.blk, u32::from_le_bytes(n[..].try_into().expect("four bytes"))))
            .collect();
        let names = |keys: Vec<&u32>| format!("{keys:X?}");
        if !ours.keys().eq(on_disk.keys()) {
            let (ours, theirs) = (names(ours.keys().collect()), names(on_disk.keys().collect()));
            found.push(StateDifference { what: format!("segments of {slru}"), ours, theirs });
        }
        for (segment, path) in on_disk {
            let file = fs::read(path).expect("a segment");
            pages += (file.len() / PAGE_SIZE) as u64;
            let page = |n| rig.page(Key::numbered(KeyKind::SlruPage, slru as u32, n), TIP);
            let ours = ours.get(&segment).copied().unwrap_or(0);
            found.extend(super::files::segment(slru, segment, ours, &file, page).expect("pages can be rebuilt"));
        }
    }
    (pages, found)
}

fn compare_sizes(rig: &Rig, data: &Path) -> (usize, Vec<StateDifference>) {
    let stored = rig.at(TIP, |at| at.scan(Key::all_of(KeyKind::RelSize))).expect("in memory");
    let ours: BTreeMap<RelFork, u32> = stored
        .into_iter()
        .map(|(key, n)| {
            let rel = RelFileLocator { spc: key.spc, db: key.db, rel: key.rel };
            let fork = RelFork { rel, fork: Fork::new(key.fork).expect("a fork") };
            (fork, u32::from_le_bytes(n[..].try_into().expect("four bytes")))
        })
        .collect();
    let theirs = sizes(data);
    let all: std::collections::BTreeSet<RelFork> = ours.keys().chain(theirs.keys()).copied().collect();
    let files: BTreeMap<(RelFork, u32), PathBuf> =
        relations(data).into_iter().map(|(fork, first, path)| ((fork, first), path)).collect();
    let differ = all.iter().filter_map(|fork| {
        let page = |blk: u32| {
            let bytes = fs::read(&files[&(*fork, blk - blk % SEGMENT_BLOCKS)])?;
            let at = (blk % SEGMENT_BLOCKS) as usize * PAGE_SIZE;
            Ok::<_, std::io::Error>(Page::from_slice(&bytes[at..at + PAGE_SIZE]).expect("a page"))
        };
        let sizes = (ours.get(fork).copied(), theirs.get(fork).copied());
        super::files::size(*fork, sizes.0, sizes.1, page).expect("files can be read")
    });
    (all.len(), differ.collect())
}

fn compare_rest(rig: &Rig, data: &Path) -> Vec<StateDifference> {
    let mut found = Vec::new();
    let mut differ = |what: String, ours: String, theirs: String| {
        if ours != theirs {
            found.push(StateDifference { what, ours, theirs });
        }
    };
    let databases = databases(data);
    for (spc, db, dir) in &databases {
        let ours = rig.blob(Key::of_database(KeyKind::RelMap, *spc, *db), TIP);
        let theirs = fs::read(dir.join("pg_filenode.map")).ok();
        differ(format!("relation map {spc}/{db}"), format!("{ours:?}"), format!("{theirs:?}"));
    }
    let stored = rig.at(TIP, |at| at.scan(Key::all_of(KeyKind::Database))).expect("in memory");
    let ours: Vec<(u32, u32)> = stored.iter().map(|(key, _)| (key.spc, key.db)).collect();
    let mut theirs: Vec<(u32, u32)> = databases.iter().map(|(spc, db, _)| (*spc, *db)).collect();
    theirs.sort_unstable();
    differ("databases".into(), format!("{ours:?}"), format!("{theirs:?}"));
    let stored = rig.at(TIP, |at| at.scan(Key::all_of(KeyKind::TwoPhase))).expect("in memory");
    let states: BTreeMap<String, Vec<u8>> = files(&data.join(twophase::TWO_PHASE_DIR))
        .into_iter()
        .map(|(name, path)| (name, fs::read(path).expect("a file")))
        .collect();
    let ours: BTreeMap<String, Vec<u8>> = stored
        .into_iter()
        .map(|(key, value)| (u64::from(key.rel) << 32 | u64::from(key.blk), value))
        .map(|(xid, value)| (twophase::file_name(xid, rig.version), twophase::file_of_state(&value[8..])))
        .collect();
    differ("prepared transactions".into(), format!("{ours:?}"), format!("{states:?}"));
    let stored = rig.at(TIP, |at| at.scan(Key::all_of(KeyKind::Origin))).expect("in memory");
    let ours: Vec<(u32, Vec<u8>)> = stored.iter().map(|(key, lsn)| (key.blk, lsn.to_vec())).collect();
    differ("origins".into(), format!("{ours:?}"), format!("{:?}", origins(data)));
    let stored = rig.at(TIP, |at| at.scan(Key::all_of(KeyKind::Tablespace))).expect("in memory");
    let ours: Vec<(String, String)> =
        stored.iter().map(|(key, path)| (key.spc.to_string(), String::from_utf8_lossy(path).into_owned())).collect();
    let theirs: Vec<(String, String)> = files(&data.join("pg_tblspc"))
        .into_iter()
        .map(|(spc, link)| (spc, fs::read_link(link).expect("a link").to_string_lossy().into_owned()))
        .collect();
    differ("tablespaces".into(), format!("{ours:?}"), format!("{theirs:?}"));
    found
}

/// Origins with their progress, as the last checkpoint wrote them: a magic number, entries of 16 bytes, a checksum.
fn origins(data: &Path) -> Vec<(u32, Vec<u8>)> {
    let file = fs::read(data.join("pg_logical/replorigin_checkpoint")).unwrap_or_default();
    let entries = file.get(4..file.len() - file.len().min(4)).unwrap_or_default();
    let mut found: Vec<(u32, Vec<u8>)> = entries
        .chunks_exact(16)
        .map(|entry| (u32::from(u16::from_le_bytes([entry[0], entry[1]])), entry[8..].to_vec()))
        .collect();
    found.sort();
    found
}

/// The lists of records and of transactions say what the log says.
fn check_lists(rig: &Rig, counts: &Counts) {
    let chunks = rig.at(TIP, |at| at.scan(Key::all_of(KeyKind::XactIndex))).expect("in memory");
    let chunks: Vec<XactChunk> =
        chunks.into_iter().map(|(key, chunk)| XactChunk::decode(key, &chunk).expect("a chunk")).collect();
    let listed =
        |kinds: &[EndKind]| chunks.iter().flat_map(|c| &c.ends).filter(|e| kinds.contains(&e.kind)).count() as u64;
    assert_eq!(listed(&[EndKind::Commit, EndKind::CommitPrepared]), counts.commits);
    assert_eq!(listed(&[EndKind::Prepare]), counts.prepares);
    let ends: Vec<Lsn> = chunks.iter().flat_map(|c| &c.ends).map(|e| e.end).collect();
    assert!(ends.is_sorted());
    let seg = rig.mapper.control().file.seg_size;
    for end in ends.iter().step_by(1 + ends.len() / 1000) {
        let before = Lsn::new(end.get() - 8);
        let (exact, earlier) = rig.at(TIP, |at| {
            let floor = |lsn| floor_record(at, lsn, seg).expect("in memory").expect("a record");
            (floor(*end), floor(before))
        });
        assert_eq!(exact.end, *end);
        assert!(exact.start.is_some_and(|start| start < *end));
        assert!(earlier.end < *end && earlier.start < exact.start);
    }
}

#[test]
fn a_cluster_is_what_its_log_says() {
    let (Some(base), Some(data)) = (std::env::var_os("WALFABRIC_BASE"), std::env::var_os("WALFABRIC_DATA")) else {
        return;
    };
    let (base, data) = (PathBuf::from(base), PathBuf::from(data));
    let file = control_of(&base);
    let start = file.checkpoint;
    let state = ClusterState::of_file(file, true);
    let mut rig = Rig::new(state.clone(), RecordSpan { start: None, end: start });
    let mut batch = Batch::default();
    import(&base, &state, start, &mut batch);
    rig.layers.append(&mut batch).expect("nothing is there yet");
    let begun = std::time::Instant::now();
    let counts = run(&mut rig, &data, start);
    println!("{} records in {} batches, {:?}", counts.records, counts.batches, begun.elapsed());
    println!("{} commits, {} prepares, drift {:#?}", counts.commits, counts.prepares, counts.drift);
    let (pages, mut found) = compare_slrus(&rig, &data);
    println!("{pages} pages of SLRUs");
    let (forks, sizes) = compare_sizes(&rig, &data);
    println!("{forks} forks");
    found.extend(sizes);
    found.extend(compare_rest(&rig, &data));
    let theirs = control_of(&data);
    found.extend(compare::control(rig.mapper.control(), &theirs));
    check_lists(&rig, &counts);
    let last = rig.mapper.last().end;
    let loaded = rig.at(last, |at| rig.at(TIP, |tip| ClusterState::load(at, tip, last)));
    assert_eq!(loaded.expect("a state"), *rig.mapper.control());
    assert!(found.is_empty(), "{} differences: {:#?}", found.len(), &found[..found.len().min(40)]);
}
