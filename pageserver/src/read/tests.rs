//! What is read at each LSN, and how each thing that cannot be read is told apart.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgformat::page::Page;
use pgformat::redo::{Change, Ref, rmid, vm};
use pgformat::rel::{BlockTag, Fork, PG_DEFAULT, RelFileLocator, RelFork};
use pgformat::slru::Slru;
use pgformat::{Lsn, PgMajor};
use proto::pagestream::Ask;
use tokio::sync::watch;

use super::model::{ModelReads, ModelVersions};
use super::service::ReadAnswer;
use super::store::StoredVersions;
use super::*;
use crate::cluster::extent::{Extent, Reach};
use crate::cluster::key::KeyKind;
use crate::cluster::value::{ValueKind, encode_page};
use crate::ingest::IngestPosition;
use crate::store::pages::PageCache;
use crate::store::{Batch, LayerMap};
use crate::timeline::Trouble;

pub(crate) const REL: RelFork =
    RelFork { rel: RelFileLocator { spc: PG_DEFAULT, db: 5, rel: 16384 }, fork: Fork::Main };
pub(crate) const VM: RelFork = RelFork { fork: Fork::Vm, ..REL };
pub(crate) const LATE: RelFork = RelFork { rel: RelFileLocator { rel: 16390, ..REL.rel }, fork: Fork::Main };
const NEVER: RelFork = RelFork { rel: RelFileLocator { rel: 16400, ..REL.rel }, fork: Fork::Main };

pub(crate) fn tag(fork: RelFork, blk: u32) -> BlockTag {
    BlockTag { fork, blk }
}

/// A page that tells itself apart, with a checksum that is of no use to anybody.
pub(crate) fn page(mark: u8) -> Page {
    let mut page = Page::default();
    page.init(0);
    page.add_item(&[mark; 20]).expect("space");
    page.set_checksum(0xBAD0 | u16::from(mark & 15));
    page
}

/// [`REL`] exists from 100 with one block, has two from 200, one again from 300, and is dropped at 400. [`LATE`] exists
/// from 500. Block 0 changes at 100, 150; block 1 at 200.
pub(crate) fn model() -> ModelVersions {
    let mut m = ModelVersions::default();
    m.size(REL, 100, 1);
    m.size(REL, 200, 2);
    m.size(REL, 300, 1);
    m.size(VM, 120, 1);
    m.put_page(tag(VM, 0), 120, &Page::default());
    m.end(Key::block(tag(REL, 1)), 300);
    m.end(Key::rel_size(REL), 400);
    m.end(Key::rel_size(VM), 400);
    m.put_page(tag(REL, 0), 100, &page(1));
    m.put_page(tag(REL, 0), 150, &page(2));
    m.put_page(tag(REL, 1), 200, &page(3));
    m.size(LATE, 500, 3);
    m.put_page(tag(LATE, 0), 500, &page(4));
    m.poison(tag(LATE, 1), 510, "record type 10/0x70 is not known");
    m.damage(Key::block(tag(LATE, 2)));
    m
}

fn at(model: &ModelVersions, lsn: u64) -> ReadView<'_> {
    ReadView { versions: model, lsn: Lsn::new(lsn), latest: Lsn::new(600), io: Io::Files }
}

pub(crate) fn cleared(mark: u8) -> Page {
    let mut page = page(mark);
    page.set_checksum(0);
    page
}

#[test]
fn pages_and_sizes_are_those_of_the_lsn() {
    let m = model();
    for (lsn, size, mark) in [(100, 1, 1), (149, 1, 1), (150, 1, 2), (200, 2, 2), (299, 2, 2), (300, 1, 2), (399, 1, 2)]
    {
        assert_eq!(at(&m, lsn).rel_size(REL), Ok(size), "at {lsn}");
        assert_eq!(at(&m, lsn).page(tag(REL, 0)).map(|p| *p), Ok(cleared(mark)), "at {lsn}, with a zero checksum");
        assert_eq!(at(&m, lsn).exists(REL), Ok(true));
    }
    assert_eq!(at(&m, 250).page(tag(REL, 1)).map(|p| *p), Ok(cleared(3)));
    assert_eq!((at(&m, 99).exists(REL), at(&m, 400).exists(REL)), (Ok(false), Ok(false)));
    let zeros = at(&m, 200).page(tag(VM, 0)).expect("a page of zeros");
    assert!(zeros.is_zero());
}

#[test]
fn what_cannot_be_read_is_told_apart() {
    let m = model();
    let lsn = Lsn::new;
    let beyond = |blk, at, blocks| Problem::BeyondEnd { tag: tag(REL, blk), lsn: lsn(at), blocks };
    let cases = [
        (at(&m, 150).page(tag(REL, 1)), beyond(1, 150, 1)),
        (at(&m, 300).page(tag(REL, 1)), beyond(1, 300, 1)),
        (at(&m, 399).page(tag(REL, u32::MAX)), beyond(u32::MAX, 399, 1)),
        (at(&m, 99).page(tag(REL, 0)), Problem::NoRelation { fork: REL, lsn: lsn(99), created: None }),
        (at(&m, 499).page(tag(LATE, 0)), Problem::NoRelation { fork: LATE, lsn: lsn(499), created: Some(lsn(500)) }),
        (at(&m, 600).page(tag(NEVER, 0)), Problem::NoRelation { fork: NEVER, lsn: lsn(600), created: None }),
        (at(&m, 400).page(tag(REL, 0)), Problem::Dropped { fork: REL, lsn: lsn(400), dropped: lsn(400) }),
        (at(&m, 600).page(tag(VM, 0)), Problem::Dropped { fork: VM, lsn: lsn(600), dropped: lsn(400) }),
    ];
    for (got, want) in cases {
        assert_eq!(got, Err(want));
    }
    let poisoned = at(&m, 600).page(tag(LATE, 1)).expect_err("a record that is not known");
    assert!(matches!(&poisoned, Problem::NotRedone { record, cause, .. }
            if *record == lsn(510) && cause.contains("10/0x70")));
    let damaged = at(&m, 600).page(tag(LATE, 2)).expect_err("a damaged file");
    assert!(matches!(&damaged, Problem::Damaged { cause, .. } if cause.contains("layer-7")));
    let missing = at(&m, 505).page(tag(LATE, 1)).expect_err("no version, though within the size");
    assert!(matches!(&missing, Problem::Damaged { cause, .. } if cause.contains("no version")), "{missing}");
}

#[test]
fn every_refusal_has_its_own_sqlstate_and_names_the_range() {
    let (fork, lsn) = (REL, Lsn::new(7));
    let text = || "x".to_owned();
    let all = [
        Problem::Lsns { lsn, since: lsn },
        Problem::NotImported,
        Problem::TooOld { lsn },
        Problem::NotReached { lsn, waited: Duration::ZERO, why: None },
        Problem::NoRelation { fork, lsn, created: None },
        Problem::Dropped { fork, lsn, dropped: lsn },
        Problem::BeyondEnd { tag: tag(fork, 3), lsn, blocks: 3 },
        Problem::NoDatabase { db: 5, lsn },
        Problem::NoSegment { slru: Slru::Xact, segno: 1, lsn },
        Problem::NotRedone { what: text(), lsn, record: lsn, cause: text() },
        Problem::Damaged { what: text(), lsn, cause: text() },
        Problem::Io { what: text(), lsn, cause: text() },
        Problem::Internal(text()),
    ];
    let codes: BTreeSet<&str> = all.iter().map(Problem::code).collect();
    assert_eq!(codes.len(), all.len(), "two problems share an SQLSTATE: {codes:?}");
    let readable = Readable { from: Some(Lsn::new(0x10)), to: Lsn::new(0x1_0000_0020) };
    for problem in all {
        let sql = ReadError { problem, readable }.to_sql();
        assert!(sql.message.ends_with("(readable are LSNs 0/10 to 1/20)"), "{}", sql.message);
    }
}

#[test]
fn databases_and_segments() {
    let mut m = model();
    let elsewhere = RelFork { rel: RelFileLocator { spc: 50000, db: 5, rel: 9 }, fork: Fork::Main };
    let other = RelFork { rel: RelFileLocator { spc: PG_DEFAULT, db: 6, rel: 9 }, fork: Fork::Main };
    m.size(elsewhere, 100, 10);
    m.size(other, 100, 100);
    m.put_blob(Key { spc: 50000, ..Key::first(KeyKind::Tablespace) }, 90, "/somewhere");
    assert_eq!(at(&m, 250).db_size(5), Ok((2 + 1 + 10) * 8192));
    assert_eq!(at(&m, 250).db_size(6), Ok(100 * 8192));
    assert_eq!(at(&m, 250).db_size(7), Err(Problem::NoDatabase { db: 7, lsn: Lsn::new(250) }));
    assert_eq!(at(&m, 250).relations(None).map(|r| r.len()), Ok(4));
    assert_eq!(at(&m, 400).relations(Some(5)), Ok(vec![(elsewhere, 10)]), "dropped ones are not listed");

    let segment = |slru: Slru, segno| Key::numbered(KeyKind::SlruSegment, slru as u32, segno);
    m.put_blob(segment(Slru::MultixactOffsets, 2), 100, 2u32.to_le_bytes());
    for n in [64, 65] {
        m.put_page_at(Key::numbered(KeyKind::SlruPage, Slru::MultixactOffsets as u32, n), 100, &Page([n as u8; 8192]));
    }
    let pages = at(&m, 200).slru_segment(Slru::MultixactOffsets, 2).expect("two pages");
    assert!(pages.len() == 16384 && pages[0] == 64 && pages[16383] == 65, "as they are: they have no checksum field");
    assert_eq!(at(&m, 200).slru_segments(Slru::MultixactOffsets), Ok(vec![(2, 2)]));
    assert_eq!(at(&m, 200).slru_segments(Slru::MultixactMembers), Ok(vec![]));
    let absent = Problem::NoSegment { slru: Slru::Xact, segno: 2, lsn: Lsn::new(200) };
    assert_eq!(at(&m, 200).slru_segment(Slru::Xact, 2), Err(absent));
    m.put_blob(segment(Slru::Xact, u32::MAX), 100, 1u32.to_le_bytes());
    m.put_blob(segment(Slru::Xact, 0), 100, 33u32.to_le_bytes());
    m.put_blob(segment(Slru::Xact, 1), 100, [1]);
    for segno in [u32::MAX, 0, 1] {
        let got = at(&m, 200).slru_segment(Slru::Xact, segno);
        assert!(matches!(got, Err(Problem::Damaged { .. })), "segment {segno:X}: {got:?}");
    }
    // The last one that a number of four bytes can name, its pages behind a gap, one of them of an earlier life.
    let last = u32::MAX / 32;
    m.put_page_at(Key::numbered(KeyKind::SlruPage, Slru::Xact as u32, u32::MAX), 90, &Page([9; 8192]));
    m.put_blob(segment(Slru::Xact, last), 100, Extent::sparse(32, Lsn::new(100)).encode());
    assert_eq!(at(&m, 200).slru_segment(Slru::Xact, last), Ok(vec![0; 32 * 8192]));
    m.put_page_at(Key::numbered(KeyKind::SlruPage, Slru::Xact as u32, u32::MAX), 100, &Page([8; 8192]));
    assert_eq!(at(&m, 200).slru_segment(Slru::Xact, last).map(|s| (s[0], s[32 * 8192 - 1])), Ok((0, 8)));
}

/// Goal: a page behind a gap is zeros without a version that counts, and damage elsewhere.
#[test]
fn only_a_step_lets_a_page_be_absent() {
    let mut m = ModelVersions::default();
    m.put_page(tag(REL, 70), 90, &page(1));
    m.put_page(tag(REL, 71), 90, &page(1));
    let mut extent = Extent::dense(50);
    assert_eq!(extent.reach(200, Lsn::new(100), 64), Reach::Grown(200..200));
    m.put_blob(Key::rel_size(REL), 100, extent.encode());
    m.put_page(tag(REL, 71), 100, &page(2));
    assert_eq!(at(&m, 100).rel_size(REL), Ok(201));
    let first = |blk| at(&m, 100).page(tag(REL, blk)).map(|page| page.0 == Page::zeroed().0);
    assert_eq!((first(50), first(70), first(71), first(200)), (Ok(true), Ok(true), Ok(false), Ok(true)));
    assert!(matches!(first(49), Err(Problem::Damaged { .. })));
    assert!(matches!(first(201), Err(Problem::BeyondEnd { .. })));
    m.put_blob(Key::rel_size(REL), 110, &extent.encode()[..9]);
    assert!(matches!(at(&m, 110).page(tag(REL, 71)), Err(Problem::Damaged { .. })));
}

#[test]
fn the_store_is_read_as_the_model_is() {
    let layers = LayerMap::default();
    let mut batch = Batch::default();
    let size = |n: u32| move |out: &mut Vec<u8>| out.extend_from_slice(&n.to_le_bytes());
    batch.put(Key::rel_size(REL), Lsn::new(100), ValueKind::Blob, size(1));
    batch.put(Key::block(tag(REL, 0)), Lsn::new(100), ValueKind::Image, |out| encode_page(&page(1), out));
    batch.put(Key::block(tag(REL, 0)), Lsn::new(150), ValueKind::Image, |out| encode_page(&page(2), out));
    batch.put(Key::block(tag(REL, 0)), Lsn::new(160), ValueKind::Change, |out| out.extend_from_slice(&[0xFF; 9]));
    batch.put(Key::rel_size(REL), Lsn::new(400), ValueKind::Tombstone, |_| {});
    layers.append(&mut batch).expect("a batch");
    let major = PgMajor::new(15).expect("supported");
    let stored = StoredVersions::new(layers.snapshot(), major, PageCache::new(1 << 20).of_timeline());
    let at = |lsn, io| ReadView { versions: &stored, lsn: Lsn::new(lsn), latest: Lsn::new(600), io };
    for io in [Io::Memory, Io::Files] {
        assert_eq!(at(120, io).page(tag(REL, 0)).map(|p| *p), Ok(cleared(1)));
        assert_eq!(at(150, io).page(tag(REL, 0)).map(|p| *p), Ok(cleared(2)));
        let poisoned = at(160, io).page(tag(REL, 0)).expect_err("a change that is none");
        assert!(matches!(poisoned, Problem::NotRedone { record, .. } if record == Lsn::new(160)), "{poisoned}");
        let dropped = Problem::Dropped { fork: REL, lsn: Lsn::new(500), dropped: Lsn::new(400) };
        assert_eq!(at(500, io).page(tag(REL, 0)), Err(dropped));
    }
    assert_eq!(at(120, Io::Files).relations(None), Ok(vec![(REL, 1)]));
    assert_eq!(at(120, Io::Memory).relations(None), Err(Problem::NotInMemory));
}

/// Goal: a read that begins with a page built before gives what a read from the beginning gives. Method: a page whose
/// every change shows, with an image and an end in between, read at LSNs in any order.
#[test]
fn a_kept_page_changes_no_answer() {
    let (layers, major, key) = (LayerMap::default(), PgMajor::new(15).expect("supported"), Key::block(tag(VM, 0)));
    let mut full = Page([0xFF; 8192]);
    full.init(0);
    full.0[24..].fill(0xFF);
    let lsn = |n: u32| Lsn::new(100 + 10 * u64::from(n));
    let mut batch = Batch::default();
    for n in 0..100 {
        match n {
            0 | 40 => batch.put(key, lsn(n), ValueKind::Image, |out| encode_page(&full, out)),
            70 => batch.put(key, lsn(n), ValueKind::Tombstone, |_| {}),
            71 => batch.put(key, lsn(n), ValueKind::Image, |_| {}),
            _ => {
                let data = vm::clear(n, vm::VALID_BITS);
                let refs = smallvec::smallvec![Ref { id: 0, fork: Fork::Vm, blk: 0 }];
                let (rmid, info, fork) = (rmid::OUR_VM, vm::CLEAR, Fork::Vm);
                let (xid, block, blk, init, hint_lsn, main) = (0, 0, 0, false, false, &[][..]);
                let change = Change { rmid, info, xid, block, fork, blk, init, hint_lsn, refs, data: &data, main };
                batch.put(key, lsn(n), ValueKind::Change, |out| change.encode(out));
            }
        }
    }
    layers.append(&mut batch).expect("a batch");
    let cache = PageCache::new(1 << 20);
    let (kept, mut rng) = (cache.of_timeline(), fastrand::Rng::with_seed(7));
    let (warm, mut begun_with_kept) = (StoredVersions::new(layers.snapshot(), major, kept.clone()), 0);
    for _ in 0..500 {
        let at = Lsn::new(rng.u64(100..1100));
        begun_with_kept += u32::from(kept.at(key, at).is_some());
        let cold = StoredVersions::new(layers.snapshot(), major, cache.of_timeline());
        let io = if rng.bool() { Io::Memory } else { Io::Files };
        // The file was cut and grew over a gap at 55: what was kept before is of an earlier life.
        let since = (at >= lsn(55)).then_some(lsn(55));
        assert_eq!(warm.page(key, at, since, io), cold.page(key, at, since, io), "at {at}");
    }
    assert!(begun_with_kept > 10, "only {begun_with_kept} reads began with a kept page");
}

/// A timeline for readers, readable from 100 on.
pub(crate) struct Fixture {
    pub(crate) reads: Arc<ModelReads>,
    pub(crate) positions: watch::Sender<IngestPosition>,
    pub(crate) troubles: watch::Sender<Trouble>,
}

pub(crate) fn position(last: u64) -> IngestPosition {
    let last_record_lsn = Lsn::new(last);
    IngestPosition { last_record_lsn, last_record_start: None, disk_consistent_lsn: last_record_lsn }
}

impl Fixture {
    /// With the last record ending at `last`.
    pub(crate) fn new(model: ModelVersions, last: u64) -> Fixture {
        let reads = ModelReads { from: Some(Lsn::new(100)), checksums: true, model: Mutex::new(model) };
        let (positions, troubles) = (watch::Sender::new(position(last)), watch::Sender::new(Trouble::default()));
        Fixture { reads: Arc::new(reads), positions, troubles }
    }

    pub(crate) fn advance(&self, last: u64) {
        self.positions.send_replace(position(last));
    }

    pub(crate) fn reader(&self) -> PageReader {
        PageReader::new(self.reads.clone(), self.positions.subscribe(), self.troubles.subscribe())
    }
}

#[tokio::test]
async fn the_future_is_waited_for_and_no_longer_than_allowed() {
    let fixture = Fixture::new(model(), 200);
    let reader = fixture.reader();
    let limit = Duration::from_millis(50);
    let waiting = async {
        tokio::join!(reader.resolve(ReadPoint::exactly(Lsn::new(250)), limit), async { fixture.advance(300) })
    };
    assert_eq!(waiting.await.0, Ok(Lsn::new(250)), "at the LSN asked for, not at the one that is here by then");
    assert_eq!(reader.try_resolve(ReadPoint::exactly(Lsn::new(301))), Ok(None));

    let started = tokio::time::Instant::now();
    let late = reader.resolve(ReadPoint::exactly(Lsn::new(301)), limit).await.expect_err("it never comes");
    let is_late = |p: &Problem| match p {
        Problem::NotReached { lsn, waited, why: None } => lsn.get() == 301 && *waited >= limit,
        _ => false,
    };
    assert!(is_late(&late.problem) && started.elapsed() >= limit, "{late}");
    assert_eq!(late.readable, Readable { from: Some(Lsn::new(100)), to: Lsn::new(300) });

    let stopped = async {
        let stop = async { fixture.troubles.send_modify(|t| t.stopped = Some("record 0/12C".to_owned())) };
        tokio::join!(reader.resolve(ReadPoint::exactly(Lsn::new(301)), Duration::MAX / 4), stop).0
    };
    let late = stopped.await.expect_err("ingest has stopped").to_string();
    assert!(late.contains("record 0/12C") && late.contains("readable are LSNs 0/64 to 0/12C"), "{late}");
    assert_eq!(
        reader.resolve(ReadPoint::exactly(Lsn::new(300)), limit).await,
        Ok(Lsn::new(300)),
        "what is here stays readable"
    );
}

#[tokio::test]
async fn a_batch_is_answered_in_order_from_memory_and_files() {
    let mut model = model();
    model.cool(Key::block(tag(REL, 0)));
    model.cool(Key::rel_size(VM));
    let fixture = Fixture::new(model, 600);
    let reader = fixture.reader();
    let ask = |ask, lsn| (ask, Lsn::new(lsn));
    let answers = reader
        .batch(vec![
            ask(Ask::Nblocks(REL), 250),
            ask(Ask::Page(tag(REL, 0)), 120),
            ask(Ask::Page(tag(REL, 1)), 120),
            ask(Ask::Exists(VM), 250),
            ask(Ask::Page(tag(REL, 1)), 250),
            ask(Ask::DbSize { db: 5 }, 250),
            ask(Ask::SlruSegment { slru: Slru::CommitTs, segno: 0 }, 250),
        ])
        .await;
    let readable = Readable { from: Some(Lsn::new(100)), to: Lsn::new(600) };
    let error = |problem| Err(ReadError { problem, readable });
    let boxed = |mark| Ok(ReadAnswer::Page(Box::new(cleared(mark))));
    assert_eq!(
        answers,
        [
            Ok(ReadAnswer::Nblocks(2)),
            boxed(1),
            error(Problem::BeyondEnd { tag: tag(REL, 1), lsn: Lsn::new(120), blocks: 1 }),
            Ok(ReadAnswer::Exists(true)),
            boxed(3),
            Ok(ReadAnswer::DbSize(3 * 8192)),
            error(Problem::NoSegment { slru: Slru::CommitTs, segno: 0, lsn: Lsn::new(250) }),
        ]
    );
    let cold = reader.read(Lsn::new(120), |view| view.page(tag(REL, 0))).await;
    assert_eq!(cold.map(|p| *p), Ok(cleared(1)));
}
