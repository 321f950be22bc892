//! Records by hand.

use bytes::Bytes;
use pgformat::Tli;
use pgformat::checkpoint::CheckPoint;
use pgformat::control::ControlFile;
use pgformat::redo::{RedoError, rmid, vm};
use pgformat::rel::{BlockTag, Fork, RelFileLocator, RelFork};
use pgformat::slru::Slru;
use pgformat::wal::{StreamConfig, WalBuilder, WalDecoder};

use super::*;
use crate::cluster::error::RedoFailure;
use crate::cluster::extent::Extent;
use crate::cluster::key::KeyKind;
use crate::cluster::records::floor_record;
use crate::cluster::state::ClusterState;
use crate::cluster::testing::control_file;
use crate::cluster::value::ValueKind;
use crate::cluster::xacts::{EndKind, XactChunk, ends_between};
use crate::ingest::map::StopReason;
use crate::store::layer::Through;

const REL: RelFileLocator = RelFileLocator { spc: 1663, db: 5, rel: 16384 };
const MAIN: RelFork = RelFork { rel: REL, fork: Fork::Main };
const VM: RelFork = RelFork { rel: REL, fork: Fork::Vm };
const V14: usize = 0;
const V15: usize = 1;
const V18: usize = 4;

/// A mapper that is fed as records are built.
struct Script {
    rig: Rig,
    builder: WalBuilder,
    decoder: WalDecoder,
    start: Lsn,
}

fn words(fields: &[u32]) -> Vec<u8> {
    fields.iter().flat_map(|f| f.to_le_bytes()).collect()
}

/// A block reference's flags.
const INIT: u8 = 0x40;

/// A record's body: references to blocks of [`REL`], each without data, and main data.
fn with_blocks(blocks: &[(u8, Fork, u8, u32)], main: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for (id, fork, flags, blk) in blocks {
        body.extend([*id, *fork as u8 | flags, 0, 0]);
        body.extend(words(&[REL.spc, REL.db, REL.rel, *blk]));
    }
    if !main.is_empty() {
        body.extend([255, main.len() as u8]);
        body.extend(main);
    }
    body
}

/// Main data of a heap record whose flags, at their place, are these.
fn heap(op: u8, flags: u8) -> Vec<u8> {
    match op {
        0x00 => vec![1, 0, flags],
        _ => [&[0; 7][..], &[flags], &[0; 6]].concat(),
    }
}

impl Script {
    fn new(version: usize) -> Script {
        Script::with(version, |_| ())
    }

    fn with(version: usize, change: impl FnOnce(&mut ControlFile)) -> Script {
        let version = PgMajor::ALL[version];
        let start = Lsn::new(0x0100_0028);
        let mut file = control_file(version, start);
        change(&mut file);
        let state = ClusterState::of_file(file, true);
        let cfg = StreamConfig { version, seg_size: state.file.seg_size, system_id: None, tlis: Vec::new() };
        let builder = WalBuilder::new(cfg.clone(), start, None);
        let decoder = WalDecoder::new(cfg, start, None);
        let mut rig = Rig::new(state.clone(), RecordSpan { start: None, end: start });
        let value = state.encode(start);
        rig.batch.put(crate::cluster::state::STATE_KEY, start, ValueKind::Blob, |out| out.extend(value));
        Script { rig, builder, decoder, start }
    }

    /// The records built since the last call.
    fn built(&mut self) -> Vec<Record> {
        let (at, bytes): (Lsn, Bytes) = self.builder.take();
        let mut records = Vec::new();
        self.decoder
            .feed_records(at, &bytes, &mut |record| records.push(record.to_record()))
            .expect("it was just built");
        records
    }

    fn take(&mut self) -> Result<Lsn, MapError> {
        let records = self.built();
        records.iter().try_for_each(|record| self.rig.feed(record))?;
        Ok(self.rig.mapper.last().end)
    }

    fn record(&mut self, rmid: u8, info: u8, xid: u32, main: &[u8]) -> Lsn {
        self.builder.record(rmid, info, xid, main);
        self.take().expect("the record is understood")
    }

    fn blocks(&mut self, rmid: u8, info: u8, blocks: &[(u8, Fork, u8, u32)], main: &[u8]) -> Lsn {
        self.builder.record_with_body(rmid, info, 0, &with_blocks(blocks, main));
        self.take().expect("the record is understood")
    }

    fn size(&self, fork: RelFork, lsn: Lsn) -> Option<u32> {
        self.rig.blob(Key::rel_size(fork), lsn).map(|b| Extent::decode(&b).expect("a size").blocks)
    }

    /// Versions of a key: LSN and kind.
    fn versions(&self, key: Key) -> Vec<(Lsn, ValueKind)> {
        let next = Key { blk: key.blk + 1, ..key };
        let iters = self.rig.snapshot().iters(key..next, Through::Cache);
        let all = crate::store::merge::merge(iters).map(|v| v.expect("in memory"));
        all.map(|(_, v)| (v.lsn, v.kind)).collect()
    }

    fn block(&self, fork: RelFork, blk: u32) -> Vec<(Lsn, ValueKind)> {
        self.versions(Key::block(BlockTag { fork, blk }))
    }

    fn slru(&self, slru: Slru, page: u32) -> Box<Page> {
        let page = self.rig.page(Key::numbered(KeyKind::SlruPage, slru as u32, page), TIP);
        page.expect("it can be rebuilt").expect("it was written")
    }

    fn segments(&self, slru: Slru) -> Vec<(u32, u32)> {
        let found = self.rig.at(TIP, |at| at.scan(Key::all_of(KeyKind::SlruSegment))).expect("in memory");
        let of = found.into_iter().filter(|(key, _)| key.spc == slru as u32);
        of.map(|(key, n)| (key.blk, Extent::decode(&n).expect("a size").blocks)).collect()
    }
}

#[test]
fn a_fork_grows_with_its_blocks() {
    let mut s = Script::new(V18);
    let first = s.blocks(rmid::HEAP, 0x80, &[(0, Fork::Main, INIT, 2)], &heap(0, 0));
    let second = s.blocks(rmid::HEAP, 0x00, &[(0, Fork::Main, 0, 2)], &heap(0, 0));
    let fsm = s.blocks(rmid::XLOG, 0xA0, &[(0, Fork::Fsm, 0, 9)], &[]);
    s.rig.publish();
    assert_eq!((s.size(MAIN, s.start), s.size(MAIN, first), s.size(MAIN, fsm)), (None, Some(3), Some(3)));
    assert_eq!(s.block(MAIN, 0), [(first, ValueKind::Image)], "the gap is zeros");
    assert_eq!(s.block(MAIN, 2), [(first, ValueKind::Init), (second, ValueKind::Change)]);
    let fsm = RelFork { rel: REL, fork: Fork::Fsm };
    assert_eq!((s.size(fsm, TIP), s.block(fsm, 9)), (None, vec![]));
    let database = Key::of_database(KeyKind::Database, REL.spc, REL.db);
    assert_eq!(s.rig.blob(database, TIP), Some(vec![0]), "a directory that holds relations only");
}

#[test]
fn what_was_cut_off_does_not_come_back() {
    let mut s = Script::new(V15);
    for blk in 0..4 {
        s.blocks(rmid::HEAP, 0x80, &[(0, Fork::Main, INIT, blk)], &heap(0, 0));
    }
    let cut = s.record(rmid::SMGR, 0x20, 0, &words(&[1, REL.spc, REL.db, REL.rel, 7]));
    // A record that needs what was on the page, although the page is gone: it fails when it is read.
    let again = s.blocks(rmid::HEAP, 0x00, &[(0, Fork::Main, 0, 3)], &heap(0, 0));
    s.rig.publish();
    assert_eq!((s.size(MAIN, cut), s.size(MAIN, again)), (Some(1), Some(4)));
    assert_eq!(s.block(MAIN, 2).last(), Some(&(again, ValueKind::Image)));
    assert_eq!(s.block(MAIN, 3).last(), Some(&(again, ValueKind::Init)));
    let failed = s.rig.page(Key::block(BlockTag { fork: MAIN, blk: 3 }), TIP);
    assert!(matches!(failed, Err(LookError::Redo(RedoFailure { cause: RedoError::NewPage, .. }))), "{failed:?}");
}

/// Goal: however far away the block is that a record names, the record costs what its length costs; the blocks before
/// it are zeros, also where the fork was longer once and had other pages there; and what was readable before stays so.
#[test]
fn a_far_block_costs_nothing_and_shows_nothing_old() {
    let per_page = vm::HEAP_BLOCKS_PER_PAGE;
    let mut s = Script::new(V15);
    let visible = |s: &mut Script, blk: u32| {
        s.blocks(rmid::HEAP2, 0x40, &[(0, Fork::Vm, 0, blk / per_page), (1, Fork::Main, 0, blk)], &[0, 0, 0, 0, 3])
    };
    let old = visible(&mut s, per_page + 5);
    let far = 4_000_000_000;
    let reached = s.blocks(rmid::HEAP, 0x80, &[(0, Fork::Main, INIT, far)], &heap(0, 0));
    visible(&mut s, far);
    assert!(s.rig.batch.len() < 40, "{} versions", s.rig.batch.len());
    let cut = s.record(rmid::SMGR, 0x20, 0, &words(&[0, REL.spc, REL.db, REL.rel, 7]));
    s.rig.publish();
    let again = visible(&mut s, far);
    let two = visible(&mut s, per_page + 9);
    assert!(s.rig.batch.len() < 20, "{} versions", s.rig.batch.len());
    s.rig.publish();
    assert_eq!([reached, cut, again].map(|lsn| s.size(MAIN, lsn)), [Some(far + 1), Some(0), Some(far + 1)]);
    let map = |lsn| s.rig.page(Key::block(BlockTag { fork: VM, blk: 1 }), lsn).expect("redone").expect("a page");
    let bits = |lsn| [map(lsn).0[25], map(lsn).0[26]];
    assert_eq!([bits(old), bits(again), bits(two)], [[0b1100, 0], [0, 0], [0, 0b1100]]);
    let heap = |blk, lsn| s.rig.page(Key::block(BlockTag { fork: MAIN, blk }), lsn).expect("zeros").expect("a page");
    assert!([0, 70_000, far - 1].iter().all(|blk| heap(*blk, again).is_zero()));
}

/// Goal: time grows with a list of transactions as its length does. Method: 60,000 that lie on 60,000 pages; one pass
/// over the list for each page would take minutes.
#[test]
fn a_list_of_transactions_is_gone_through_once() {
    let mut s = Script::new(V15);
    s.record(rmid::XLOG, 0x60, 0, &parameters(1));
    let subxids: Vec<u32> = (1..60_000_u32).rev().map(|n| n * 65_536 + 4).collect();
    let began = std::time::Instant::now();
    let main = end(1000, &subxids, &[]);
    s.builder.record_with_body(rmid::XACT, 0x80, 700, &[&[254][..], &words(&[main.len() as u32]), &main].concat());
    s.take().expect("the record is understood");
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
    let memory = s.rig.batch.memory();
    assert!(memory < 60 * main.len(), "{memory} bytes for a record of {}", main.len());
    s.rig.publish();
    // Entry 4 of a page is byte 1's first.
    assert!((0..3).all(|n| s.slru(Slru::Xact, n * 2 + 2).0[1] == 0b01));
    assert!(s.slru(Slru::Xact, 3).is_zero() && s.slru(Slru::Xact, 119_998).0[1] == 0b01);
    assert_eq!(s.rig.mapper.control().live.newest_commit_ts_xid, 65_540, "the last of the list");
    let ends = s.rig.at(TIP, |at| ends_between(at, s.start, TIP, 10)).expect("in memory");
    assert_eq!(ends.first().map(|end| end.subxids.to_vec()), Some(subxids), "in the order of the record");
}

#[test]
fn a_map_is_cleared_where_a_record_implies_it() {
    let per_page = vm::HEAP_BLOCKS_PER_PAGE;
    let mut s = Script::new(V15);
    let update = |s: &mut Script, new, old| {
        s.blocks(rmid::HEAP, 0x20, &[(0, Fork::Main, INIT, new), (1, Fork::Main, 0, old)], &heap(0x20, 3))
    };
    s.blocks(rmid::HEAP, 0x80, &[(0, Fork::Main, INIT, 1)], &heap(0, 0));
    let none = update(&mut s, 2, 1);
    let map = s.blocks(rmid::HEAP2, 0x40, &[(0, Fork::Vm, 0, 0), (1, Fork::Main, 0, 1)], &[0, 0, 0, 0, 3]);
    let both = update(&mut s, 2, 1);
    // One of the blocks is behind the map's end.
    let far = update(&mut s, per_page, 2);
    s.rig.publish();
    assert!(none < map);
    let clears: Vec<_> = s.block(VM, 0);
    assert_eq!(clears, [(map, ValueKind::Init), (both, ValueKind::Change), (far, ValueKind::Change)]);
    assert_eq!((s.size(VM, TIP), s.block(VM, 1)), (Some(1), vec![]));
    let bits = |lsn| s.rig.page(Key::block(BlockTag { fork: VM, blk: 0 }), lsn).expect("redone").expect("a page").0[24];
    assert_eq!((bits(map), bits(both)), (0b1100, 0));
}

#[test]
fn a_cut_map_keeps_no_bits_behind_its_end() {
    let mut s = Script::new(V15);
    s.blocks(rmid::HEAP2, 0x40, &[(0, Fork::Vm, 0, 0), (1, Fork::Main, 0, 5)], &[0, 0, 0, 0, 3]);
    let far = vm::HEAP_BLOCKS_PER_PAGE;
    let before = s.blocks(rmid::HEAP2, 0x40, &[(0, Fork::Vm, 0, 1), (1, Fork::Main, 0, far)], &[0, 0, 0, 0, 3]);
    let cut = s.record(rmid::SMGR, 0x20, 0, &words(&[5, REL.spc, REL.db, REL.rel, 7]));
    let at_page = s.record(rmid::SMGR, 0x20, 0, &words(&[0, REL.spc, REL.db, REL.rel, 7]));
    s.rig.publish();
    let bits = |lsn| s.rig.page(Key::block(BlockTag { fork: VM, blk: 0 }), lsn).expect("redone").expect("a page").0[25];
    assert_eq!((bits(before), bits(cut)), (0b1100, 0));
    assert_eq!([before, cut, at_page].map(|lsn| s.size(VM, lsn)), [Some(2), Some(1), Some(0)]);
}

/// A commit or an abort with subtransactions and dropped relations.
fn end(time: i64, subxids: &[u32], dropped: &[RelFileLocator]) -> Vec<u8> {
    let mut main = time.to_le_bytes().to_vec();
    main.extend(words(&[2 | 4, subxids.len() as u32]));
    main.extend(words(subxids));
    main.extend(words(&[dropped.len() as u32]));
    dropped.iter().for_each(|r| main.extend(words(&[r.spc, r.db, r.rel])));
    main
}

#[test]
fn a_transaction_ends() {
    let mut s = Script::new(V15);
    let created = s.record(rmid::SMGR, 0x11, 700, &words(&[REL.spc, REL.db, REL.rel, 0]));
    s.record(rmid::SMGR, 0x11, 700, &words(&[REL.spc, REL.db, REL.rel, 3]));
    s.record(rmid::SMGR, 0x11, 700, &words(&[REL.spc, REL.db, REL.rel, 2]));
    let other = RelFileLocator { rel: 16390, ..REL };
    let all = s.record(rmid::SMGR, 0x11, 702, &words(&[other.spc, other.db, other.rel, 0]));
    let committed = s.record(rmid::XACT, 0x80, 700, &end(1000, &[701, 32768], &[REL]));
    let aborted = s.record(rmid::XACT, 0xA0, 702, &end(900, &[], &[other]));
    s.rig.publish();
    let init = RelFork { rel: REL, fork: Fork::Init };
    let sizes = |lsn| [MAIN, VM, init, RelFork { rel: other, ..MAIN }].map(|fork| s.size(fork, lsn));
    assert_eq!(sizes(all), [Some(0); 4]);
    assert_eq!((sizes(committed), sizes(aborted)), ([None, None, None, Some(0)], [None; 4]));
    assert_eq!(s.rig.mapper.control().live.next_xid, 32769);
    // 700 is byte 175's first, 702 its third.
    assert_eq!(s.slru(Slru::Xact, 0).0[175], 0b0010_0101);
    assert_eq!(s.slru(Slru::Xact, 1).0[0], 0b01);
    assert_eq!(s.segments(Slru::Xact), [(0, 2)]);
    assert_eq!(s.segments(Slru::CommitTs), [], "timestamps are not kept");
    let chunks = s.rig.at(TIP, |at| at.scan(Key::all_of(KeyKind::XactIndex))).expect("in memory");
    let [(key, chunk)] = &chunks[..] else { panic!("{chunks:?}") };
    let chunk = XactChunk::decode(*key, chunk).expect("a chunk");
    let kinds: Vec<_> = chunk.ends.iter().map(|e| (e.kind, e.end, e.time, e.xid, e.subxids.to_vec())).collect();
    let commit = (EndKind::Commit, committed, 1000, 700, vec![701, 32768]);
    assert_eq!(kinds, [commit, (EndKind::Abort, aborted, 900, 702, vec![])]);
    assert_eq!(chunk.ends[1].start, committed);
    let between = |from, to| s.rig.at(TIP, |at| ends_between(at, from, to, 10)).expect("in memory").len();
    let first = s.rig.at(TIP, |at| ends_between(at, Lsn::new(0), TIP, 1)).expect("in memory");
    assert_eq!(first.iter().map(|e| e.end).collect::<Vec<_>>(), [committed], "no more than asked for, the first first");
    assert_eq!([(s.start, aborted), (all, committed), (committed, committed)].map(|(a, b)| between(a, b)), [2, 1, 0]);
    assert_eq!(chunk.next_xid, [(s.start, 700), (created, 701), (all, 703), (committed, 32769)]);
}

#[test]
fn a_prepared_transaction_is_kept_until_its_end() {
    // The transaction is of the epoch before.
    let mut s = Script::with(V15, |file| file.checkpoint_copy.next_xid = 1 << 32 | 5);
    let xid = u32::MAX - 1;
    let mut state = words(&[0x57F9_4534, 0, xid, 5]);
    state.extend([0; 72 - 16]);
    state[54] = 2;
    state.extend(b"x\0\0\0\0\0\0\0");
    let len = state.len() as u32 + 4;
    state[4..8].copy_from_slice(&len.to_le_bytes());
    let record = pgformat::wal::next_record_start(s.rig.mapper.last().end, s.rig.mapper.control().file.seg_size);
    let prepared = s.record(rmid::XACT, 0x10, xid, &state);
    let mut commit = 7_i64.to_le_bytes().to_vec();
    commit.extend(words(&[16, xid]));
    let committed = s.record(rmid::XACT, 0xB0, 0, &commit);
    s.rig.publish();
    let key = Key::two_phase(xid.into());
    let stored = s.rig.blob(key, prepared).expect("it is there");
    assert_eq!((&stored[..8], &stored[8..]), (&record.get().to_le_bytes()[..], &state[..]));
    assert_eq!(s.rig.blob(key, committed), None);
    assert_eq!(s.rig.mapper.control().live.next_xid, 1 << 32 | 5);
    assert_eq!(s.slru(Slru::Xact, Slru::Xact.last_page()).0[8191], 0b0001_0000);
}

#[test]
fn origins_go_forward_unless_forced() {
    let mut s = Script::new(V15);
    let set = |s: &mut Script, lsn: u64, force: u8| {
        s.record(rmid::REPLORIGIN, 0, 0, &[&lsn.to_le_bytes()[..], &[2, 0, force]].concat())
    };
    let key = Key::numbered(KeyKind::Origin, 0, 2);
    let lsns =
        [set(&mut s, 50, 0), set(&mut s, 40, 0), set(&mut s, 30, 1), s.record(rmid::REPLORIGIN, 0x10, 0, &[2, 0])];
    s.rig.publish();
    let progress = lsns.map(|lsn| s.rig.blob(key, lsn).map(|b| b[0]));
    assert_eq!(progress, [Some(50), Some(50), Some(30), None]);
}

fn multixact(multi: u32, offset: u32, xids: &[u32]) -> Vec<u8> {
    let mut main = words(&[multi, offset, xids.len() as u32]);
    xids.iter().for_each(|xid| main.extend(words(&[*xid, 4])));
    main
}

#[test]
fn a_multixact_says_where_the_next_one_begins() {
    let mut s = Script::new(V18);
    let zero = |s: &mut Script, info, page: u64| s.record(rmid::MULTIXACT, info, 0, &page.to_le_bytes());
    zero(&mut s, 0x00, 0);
    zero(&mut s, 0x10, 0);
    s.record(rmid::MULTIXACT, 0x20, 0, &multixact(1, 1, &[700, 701]));
    s.record(rmid::MULTIXACT, 0x20, 0, &multixact(2, 3, &[702]));
    // An older minor makes the next page later: its record must not erase what is there already.
    s.record(rmid::MULTIXACT, 0x20, 0, &multixact(2047, 1635, &[703, 704]));
    s.rig.publish();
    assert_eq!(s.rig.mapper.control().early_offsets_page, Some(1));
    zero(&mut s, 0x00, 1);
    zero(&mut s, 0x00, 2);
    s.rig.publish();
    let offsets = s.slru(Slru::MultixactOffsets, 0);
    assert_eq!([4, 8, 12, 8188].map(|at| offsets.u32_at(at).expect("inside")), [1, 3, 4, 1635]);
    assert_eq!(s.slru(Slru::MultixactOffsets, 1).u32_at(0), Ok(1637));
    let members = [s.slru(Slru::MultixactMembers, 0), s.slru(Slru::MultixactMembers, 1)];
    assert_eq!((members[0].u32_at(8), members[0].u32_at(8176), members[1].u32_at(4)), (Ok(700), Ok(703), Ok(704)));
    let live = s.rig.mapper.control().live;
    assert_eq!((live.next_multi, live.next_multi_offset, live.next_xid), (2048, 1637, 705));
    assert_eq!(s.segments(Slru::MultixactOffsets), [(0, 3)]);
}

#[test]
fn segments_go_as_a_whole() {
    let mut s = Script::new(V15);
    for page in [0, 31, 32, 64] {
        s.record(rmid::CLOG, 0, 0, &words(&[page]));
    }
    s.rig.publish();
    assert_eq!(s.segments(Slru::Xact), [(0, 32), (1, 1), (2, 1)]);
    s.record(rmid::CLOG, 0x10, 0, &words(&[63, 63 * 32768, 5]));
    s.rig.publish();
    assert_eq!(s.segments(Slru::Xact), [(1, 1), (2, 1)]);
    let live = s.rig.mapper.control().live;
    assert_eq!((live.oldest_xid, live.oldest_xid_db), (63 * 32768, 5));
    // Members go from a segment up to before another, around the end of their space too.
    for page in [0, 32, 64] {
        s.record(rmid::MULTIXACT, 0x10, 0, &words(&[page]));
    }
    s.record(rmid::MULTIXACT, 0x30, 0, &words(&[5, 1, 9, 1636 * 32, 1636 * 64 + 5]));
    s.rig.publish();
    assert_eq!(s.segments(Slru::MultixactMembers), [(0, 1), (2, 1)]);
    s.record(rmid::MULTIXACT, 0x30, 0, &words(&[5, 9, 10, u32::MAX, 1636 * 32]));
    s.rig.publish();
    assert_eq!(s.segments(Slru::MultixactMembers), [(2, 1)]);
    assert_eq!(s.rig.mapper.control().live.oldest_multi, 10);
}

fn parameters(track: u8) -> Vec<u8> {
    [&words(&[100, 8, 10, 0, 64, 1])[..], &[0, track, 0, 0]].concat()
}

#[test]
fn commit_timestamps_are_kept_while_asked_for() {
    let mut s = Script::new(V15);
    s.record(rmid::XLOG, 0x60, 0, &parameters(1));
    s.rig.publish();
    assert_eq!(s.segments(Slru::CommitTs), [(0, 1)]);
    let live = s.rig.mapper.control().live;
    assert_eq!((live.oldest_commit_ts_xid, live.newest_commit_ts_xid), (700, 700));
    s.record(rmid::XACT, 0x80, 701, &end(0x0102, &[819], &[]));
    s.record(rmid::XACT, 0x20, 820, &[0; 8]);
    s.rig.publish();
    assert_eq!(s.slru(Slru::CommitTs, 0).0[7010..7012], [2, 1]);
    assert_eq!(s.slru(Slru::CommitTs, 1).0[..12], [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "none for an abort");
    assert_eq!(s.rig.mapper.control().live.newest_commit_ts_xid, 819);
    s.record(rmid::XLOG, 0x60, 0, &parameters(0));
    s.rig.publish();
    assert_eq!(s.segments(Slru::CommitTs), []);
    let live = s.rig.mapper.control().live;
    assert_eq!((live.oldest_commit_ts_xid, live.newest_commit_ts_xid), (0, 0));
}

#[test]
fn a_database_is_copied_in_pieces() {
    let mut s = Script::new(V14);
    s.record(rmid::RELMAP, 0, 0, &{
        let mut map = vec![0; 512];
        map[..4].copy_from_slice(&words(&[0x0059_2717]));
        let crc = crc32c::crc32c(&map[..504]);
        map[504..508].copy_from_slice(&crc.to_le_bytes());
        [words(&[5, 1663, 512]), map].concat()
    });
    let blocks = 200_000;
    s.blocks(rmid::XLOG, 0xB0, &[(0, Fork::Main, INIT, blocks - 1)], &[]);
    let unlogged = [1663, 5, 20000];
    s.record(rmid::SMGR, 0x10, 0, &[words(&unlogged), words(&[3])].concat());
    s.record(rmid::SMGR, 0x10, 0, &[words(&unlogged), words(&[0])].concat());
    // Something that stands at the target goes.
    s.record(rmid::SMGR, 0x10, 0, &words(&[1700, 9, 30000, 0]));
    let copied = s.record(rmid::DBASE, 0x00, 0, &words(&[9, 1700, 5, 1663]));
    s.rig.publish();
    let target = |rel, fork| RelFork { rel: RelFileLocator { spc: 1700, db: 9, rel }, fork };
    let size = |fork| s.size(fork, copied);
    assert_eq!(size(target(16384, Fork::Main)), Some(blocks));
    assert_eq!((size(target(20000, Fork::Init)), size(target(20000, Fork::Main))), (Some(0), None));
    assert_eq!(size(target(30000, Fork::Main)), None);
    let fork = target(16384, Fork::Main);
    let lost = s.rig.page(Key::block(BlockTag { fork, blk: blocks - 1 }), TIP);
    assert!(matches!(lost, Err(LookError::Redo(_))), "the source's page cannot be rebuilt either");
    assert!(s.rig.page(Key::block(BlockTag { fork, blk: 5 }), TIP).expect("zeros").expect("a page").is_zero());
    let versions: usize = [0, 5, blocks - 2, blocks - 1].map(|blk| s.block(fork, blk).len()).iter().sum();
    assert_eq!(versions, 1, "of blocks that nothing is stored of nothing is copied");
    assert_eq!(s.rig.blob(Key::of_database(KeyKind::RelMap, 1700, 9), copied).map(|m| m.len()), Some(512));
    assert_eq!(s.rig.blob(Key::of_database(KeyKind::Database, 1700, 9), copied), Some(vec![1]));
    let dropped = s.record(rmid::DBASE, 0x10, 0, &words(&[9, 1, 1700]));
    s.rig.publish();
    assert_eq!((s.size(fork, dropped), s.size(MAIN, dropped)), (None, Some(blocks)));
    assert_eq!(s.rig.blob(Key::of_database(KeyKind::Database, 1700, 9), dropped), None);
}

/// Goal: a copy takes pieces, shows nothing of what was at its target, and copies what lies behind gaps. Method: a
/// source with a stored part of more than a piece, a gap, and a stored block; the target's number had other pages.
#[test]
fn a_copy_with_gaps_is_the_source() {
    let mut s = Script::new(V14);
    let map = |rel: [u32; 3], blk: u32, s: &mut Script| {
        let mut body = vec![0, Fork::Vm as u8, 0, 0];
        body.extend(words(&[rel[0], rel[1], rel[2], blk]));
        body.extend([1, Fork::Main as u8, 0, 0]);
        body.extend(words(&[rel[0], rel[1], rel[2], blk * vm::HEAP_BLOCKS_PER_PAGE]));
        body.extend([255, 5, 0, 0, 0, 0, 3]);
        s.builder.record_with_body(rmid::HEAP2, 0x40, 0, &body);
        s.take().expect("the record is understood");
    };
    let (source, target) = ([1663, 5, 16384], [1700, 9, 16384]);
    // What the target had before: it must not show.
    (0..3).for_each(|blk| map(target, blk, &mut s));
    map(source, 0, &mut s);
    map(source, 100_000, &mut s);
    (200..500).for_each(|blk| map(source, blk, &mut s));
    let copied = s.record(rmid::DBASE, 0x00, 0, &words(&[9, 1700, 5, 1663]));
    s.rig.publish();
    let fork = RelFork { rel: RelFileLocator { spc: 1700, db: 9, rel: 16384 }, fork: Fork::Vm };
    assert_eq!(s.size(fork, copied), Some(100_001));
    let page = |fork, blk| s.rig.page(Key::block(BlockTag { fork, blk }), copied).expect("redone").expect("a page");
    for blk in [0, 1, 2, 3, 199, 200, 300, 499, 500, 99_999, 100_000] {
        assert!(page(fork, blk) == page(VM, blk), "block {blk}");
    }
    assert!(!page(fork, 300).is_zero() && page(fork, 1).is_zero());
}

#[test]
fn a_database_made_through_the_log_is_known_as_such_and_so_are_its_copies() {
    let mut s = Script::new(V15);
    s.record(rmid::SMGR, 0x10, 0, &words(&[REL.spc, 5, REL.rel, 0]));
    s.record(rmid::DBASE, 0x10, 0, &words(&[8, 1663]));
    s.record(rmid::DBASE, 0x00, 0, &words(&[9, 1700, 8, 1663]));
    s.record(rmid::DBASE, 0x00, 0, &words(&[10, 1663, 5, 1663]));
    s.rig.publish();
    let kind = |spc, db| s.rig.blob(Key::of_database(KeyKind::Database, spc, db), TIP);
    assert_eq!((kind(1663, 8), kind(1700, 9), kind(1663, 10)), (Some(vec![2]), Some(vec![2]), Some(vec![1])));
}

#[test]
fn tablespaces_have_paths() {
    let mut s = Script::new(V15);
    let key = Key { spc: 99, ..Key::first(KeyKind::Tablespace) };
    let made = s.record(rmid::TBLSPC, 0, 0, &[&words(&[99])[..], b"/there\0"].concat());
    s.record(rmid::SMGR, 0x10, 0, &words(&[99, 5, 16384, 0]));
    let gone = s.record(rmid::TBLSPC, 0x10, 0, &words(&[99]));
    s.rig.publish();
    assert_eq!((s.rig.blob(key, made), s.rig.blob(key, gone)), (Some(b"/there".to_vec()), None));
    assert_eq!(s.rig.blob(Key::of_database(KeyKind::Database, 99, 5), gone), None);
}

#[test]
fn what_is_not_understood_stops_or_poisons() {
    let mut s = Script::new(V15);
    let good = s.record(rmid::XACT, 0x20, 700, &[0; 8]);
    s.rig.publish();
    let refused = |rmid, info, main: &[u8]| {
        let mut s = Script::new(V15);
        s.record(rmid::XACT, 0x20, 700, &[0; 8]);
        s.rig.publish();
        let before = (s.rig.mapper.control().clone(), s.rig.mapper.last());
        s.builder.record(rmid, info, 900, main);
        let Err(MapError::Stop { record, why, .. }) = s.take() else { panic!("{rmid} {info} was taken") };
        assert_eq!(record, before.1.end);
        assert_eq!((s.rig.mapper.control().clone(), s.rig.mapper.last()), before, "nothing is taken of it");
        assert!(s.rig.batch.len() == 0);
        why
    };
    assert!(matches!(refused(rmid::XLOG, 0xE0, &[1, 0, 0, 0]), StopReason::Effect(_)));
    assert!(matches!(refused(200, 0, &[]), StopReason::Effect(_)));
    assert!(matches!(refused(rmid::RELMAP, 0, &words(&[5, 1663, 0])), StopReason::RelMap(_)));
    let minimal = [&words(&[100, 8, 10, 0, 64, 0])[..], &[0; 4]].concat();
    assert_eq!(refused(rmid::XLOG, 0x60, &minimal), StopReason::Minimal);
    assert_eq!(s.rig.mapper.last().end, good);
    // One that names its blocks harms these alone, until an image or a new beginning.
    let custom = s.blocks(200, 0x50, &[(0, Fork::Main, INIT, 0)], b"anything");
    let healed = s.blocks(rmid::HEAP, 0x80, &[(0, Fork::Main, INIT, 0)], &heap(0, 0));
    s.rig.publish();
    let failed = s.rig.page(Key::block(BlockTag { fork: MAIN, blk: 0 }), custom);
    assert!(matches!(failed, Err(LookError::Redo(RedoFailure { cause: RedoError::Unknown { rmid: 200, .. }, .. }))));
    assert_eq!(s.block(MAIN, 0).last(), Some(&(healed, ValueKind::Init)));
}

#[test]
fn the_control_state_is_exact_at_every_record() {
    let mut s = Script::new(V18);
    let body = CheckPoint { redo: s.start, next_xid: 750, ..control_file(PgMajor::ALL[V18], s.start).checkpoint_copy };
    let mut exact = vec![(s.start, s.rig.mapper.control().clone())];
    for round in 0..40_u32 {
        let xid = 700 + round * 3;
        s.record(rmid::XACT, 0x20, xid, &[0; 8]);
        exact.push((s.rig.mapper.last().end, s.rig.mapper.control().clone()));
        match round % 8 {
            0 => s.record(rmid::MULTIXACT, 0x20, 0, &multixact(round + 1, round + 1, &[xid])),
            1 => s.record(rmid::XLOG, 0x30, 0, &words(&[20000 + round])),
            2 => s.record(rmid::XLOG, 0x10, 0, &body.to_bytes(PgMajor::ALL[V18])),
            3 => s.record(rmid::STANDBY, 0x10, 0, &words(&[0, 0, 0, xid + 2, xid, xid - 1])),
            4 => s.record(rmid::XLOG, 0x80, 0, &[0]),
            5 => s.record(rmid::XLOG, 0x60, 0, &parameters((round / 8 % 2) as u8)),
            6 => s.record(rmid::XACT, 0x00, xid + 1, &[0; 8]),
            _ => {
                s.rig.publish();
                s.record(rmid::XLOG, 0x20, 0, &vec![0; 40 << 10])
            }
        };
        exact.push((s.rig.mapper.last().end, s.rig.mapper.control().clone()));
    }
    s.rig.publish();
    for (lsn, state) in &exact {
        let loaded = s.rig.at(*lsn, |at| s.rig.at(TIP, |tip| ClusterState::load(at, tip, *lsn)));
        assert_eq!(&loaded.expect("a state"), state, "at {lsn}");
    }
    let seg = exact[0].1.file.seg_size;
    let ends: Vec<Lsn> = exact.iter().map(|(lsn, _)| *lsn).collect();
    for window in ends.windows(2) {
        for lsn in [window[0], Lsn::new(window[1].get() - 1)] {
            let floor = s.rig.at(TIP, |at| floor_record(at, lsn, seg)).expect("in memory").expect("known");
            assert_eq!(floor.end, window[0]);
            let start = (window[0] > s.start).then(|| ends[ends.iter().position(|e| *e == window[0]).expect("it") - 1]);
            assert_eq!(floor.start, start.map(|before| pgformat::wal::next_record_start(before, seg)));
        }
    }
    let before = Lsn::new(s.start.get() - 8);
    assert_eq!(s.rig.at(TIP, |at| floor_record(at, before, seg)).expect("in memory"), None);
}

#[test]
fn postgresqls_timelines_are_remembered() {
    let mut s = Script::new(V18);
    let before = s.record(rmid::XLOG, 0x20, 0, &[]);
    s.record(rmid::XLOG, 0x90, 0, &[&[0; 8][..], &words(&[2, 1, 1, 0])].concat());
    let same = CheckPoint { tli: Tli(2), prev_tli: Tli(2), ..s.rig.mapper.control().live };
    s.record(rmid::XLOG, 0x10, 0, &same.to_bytes(PgMajor::ALL[V18]));
    let at = s.rig.mapper.last().end;
    let shutdown = CheckPoint { tli: Tli(3), prev_tli: Tli(2), ..same };
    s.record(rmid::XLOG, 0x00, 0, &shutdown.to_bytes(PgMajor::ALL[V18]));
    let name = [&5_i64.to_le_bytes()[..], b"here", &[0; 60]].concat();
    let point = s.record(rmid::XLOG, 0x70, 0, &name);
    s.rig.publish();
    let history = |tli| s.rig.blob(Key::numbered(KeyKind::TliHistory, 0, tli), TIP);
    let began = |since: Lsn, prev| Some([&since.get().to_le_bytes()[..], &words(&[prev])].concat());
    assert_eq!((history(1), history(2), history(3)), (None, began(before, 1), began(at, 2)));
    let named = s.rig.blob(Key::at(KeyKind::RestorePoint, point.get()), TIP);
    assert_eq!(named, Some([&5_i64.to_le_bytes()[..], b"here"].concat()));
    let control = s.rig.mapper.control();
    assert!(control.shutdown && control.file.checkpoint == at && control.live.tli == Tli(3));
}
