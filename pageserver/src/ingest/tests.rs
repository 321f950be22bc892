//! The ingest against real files: restarts, cuts, faults, space.

use std::path::Path;
use std::sync::atomic::Ordering;

use pgformat::wal::WalBuilder;
use pgformat::{SegSize, Tli};
use proto::api::PgHistoryEntry;
use proto::id::{NodeId, SystemId, TenantId, TenantTimelineId, TimelineId};

use super::disk::{Disk, RealDisk};
use super::faulty::{Fault, FaultyDisk};
use super::*;

const SEG: u32 = 1 << 20;
const START: Lsn = Lsn::new(0x10_0000 * 3 + 0x2_0028);

fn attach() -> AttachRequest {
    AttachRequest {
        start_lsn: START,
        pg_version_num: 150_004,
        system_id: SystemId(77),
        wal_seg_size: SegSize::new(SEG).expect("1 MiB"),
        pg_history: vec![PgHistoryEntry { tli: Tli(1), start_lsn: Lsn::new(0) }],
    }
}

fn first_control() -> Control {
    Control {
        ttid: TenantTimelineId::new(TenantId::new([1; 16]), TimelineId::new([2; 16])),
        pageserver: NodeId(1),
        attach: attach(),
        disk_consistent_lsn: START,
        last_record_start: None,
        choice_seq: 0,
    }
}

fn builder() -> WalBuilder {
    WalBuilder::new(stream_config(&attach()).expect("15"), START, Some(Lsn::new(START.get() - 64)))
}

/// WAL of a few segments with everything that is special: records ending at a page's and at a segment's end, records
/// over pages and over a segment border, a switch, an overwritten contrecord.
fn varied() -> (WalBuilder, Vec<Lsn>) {
    let mut b = builder();
    let mut ends = vec![START];
    for n in 0..40u32 {
        ends.push(b.noop(26 + n * 701).end);
    }
    ends.push(b.noop_until_page_end().end);
    ends.push(b.noop(64).end);
    ends.push(b.noop_until_segment_end().end);
    ends.push(b.noop(300_000).end);
    ends.push(b.switch().end);
    ends.push(b.noop(500).end);
    b.abort_record_at_page(30_000, 2);
    ends.push(b.overwrite_contrecord().end);
    for n in 0..30u32 {
        ends.push(b.noop(20_000 + n * 97).end);
    }
    (b, ends)
}

fn open(dir: &Path, disk: &Arc<dyn Disk>) -> Ingest {
    Ingest::new(recover::open(dir, disk).expect("opens"), Arc::new(Metrics::new()))
}

fn create(dir: &Path) -> Ingest {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    recover::create(dir, &first_control(), &disk).expect("created");
    open(dir, &disk)
}

/// Feeds `wal` from `at` on in pieces of `piece` bytes and waits until it is durable.
async fn feed(ingest: &mut Ingest, wal: &Bytes, piece: usize) {
    let mut at = ingest.begin().await.expect("begins");
    while at.bytes_since(START) < wal.len() as u64 {
        let from = usize::try_from(at.bytes_since(START)).expect("small");
        let chunk = wal.slice(from..wal.len().min(from + piece));
        let len = chunk.len() as u64;
        ingest.take(at, chunk).expect("valid WAL");
        ingest.start_write();
        at = at.add(len);
        while !ingest.has_room() {
            ingest.event().await;
        }
    }
    ingest.settle().await;
}

fn read_all(ingest: &Ingest, to: Lsn) -> Vec<u8> {
    let layout = ingest.write.idle().expect("settled").layout().clone();
    let (mut out, mut at) = (Vec::new(), START);
    while at < to {
        let left = usize::try_from(to.bytes_since(at)).expect("small");
        let bytes = layout.read(at, left).expect("reads");
        assert!(!bytes.is_empty(), "WAL at {at} is missing");
        at = at.add(bytes.len() as u64);
        out.extend_from_slice(&bytes);
    }
    out
}

#[tokio::test]
async fn everything_received_is_durable_and_found_again() {
    for piece in [1 << 20, 8192, 997] {
        let tmp = tempfile::tempdir().expect("temp dir");
        let dir = tmp.path().join("t/l");
        let mut ingest = create(&dir);
        let (mut b, ends) = varied();
        let (_, wal) = b.take();
        feed(&mut ingest, &wal, piece).await;
        let end = *ends.last().expect("records");
        assert_eq!(ingest.position().last_record_lsn, end);
        assert_eq!(ingest.position().disk_consistent_lsn, end);
        assert_eq!(ingest.position().last_record_start, b.last_record_start());
        assert!(read_all(&ingest, end) == wal[..], "bytes are the sender's");
        // Without an orderly close: the control file is old, the WAL tells.
        drop(ingest);
        let reopened = open(&dir, &(Arc::new(RealDisk) as Arc<dyn Disk>));
        assert_eq!(reopened.position().disk_consistent_lsn, end, "pieces of {piece}");
        assert_eq!(reopened.position().last_record_start, b.last_record_start());
    }
}

#[tokio::test]
async fn a_cut_anywhere_recovers_to_a_record_boundary_and_goes_on() {
    let tmp = tempfile::tempdir().expect("temp dir");
    let (mut b, ends) = varied();
    let (_, wal) = b.take();
    let end = *ends.last().expect("records");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    for n in 0..60u64 {
        // Padding between records is not checked by anybody, PostgreSQL included: cut at multiples of eight.
        let cut = Lsn::new(START.add(wal.len() as u64 * n / 60).get() & !7);
        let dir = tmp.path().join(format!("t/{n}"));
        let mut ingest = create(&dir);
        let control = std::fs::read(dir.join(control::FILE_NAME)).expect("control file");
        feed(&mut ingest, &wal, 64 << 10).await;
        // What power loss leaves of unsynced writes: everything after the cut is old or garbage, later segments are
        // gone.
        let layout = ingest.write.idle().expect("settled").layout().clone();
        drop(ingest);
        // A position is saved only when everything below it is synced.
        std::fs::write(dir.join(control::FILE_NAME), &control).expect("control file");
        let seg = SegSize::new(SEG).expect("1 MiB");
        for no in cut.segment_no(seg)..=end.segment_no(seg) {
            let path = layout.path(no);
            let mut bytes = std::fs::read(&path).expect("segment");
            let from =
                if no == cut.segment_no(seg) { usize::try_from(cut.segment_offset(seg)).expect("small") } else { 0 };
            let fill = if n % 2 == 0 { 0 } else { 0xA5 };
            bytes[from..].iter_mut().for_each(|b| *b = fill);
            std::fs::write(&path, bytes).expect("written");
        }
        let mut ingest = open(&dir, &disk);
        let expected = ends.iter().copied().filter(|e| *e <= cut).max().expect("the start at least");
        let found = ingest.position().disk_consistent_lsn;
        // Padding and the fill after a switch are no part of a record: a cut inside may keep the record.
        assert!(found == expected || (found > cut && ends.contains(&found)), "cut {cut}: {found}, not {expected}");
        feed(&mut ingest, &wal, 100_000).await;
        assert_eq!(ingest.position().disk_consistent_lsn, end);
        assert!(read_all(&ingest, end) == wal[..], "cut {cut}");
    }
}

#[tokio::test]
async fn what_is_written_counts_as_durable_only_after_a_sync_which_comes_with_time_or_with_bytes() {
    let tmp = tempfile::tempdir().expect("temp dir");
    let mut ingest = create(&tmp.path().join("t/l"));
    let mut b = builder();
    let first = b.noop(1000);
    let (_, wal) = b.take();
    ingest.begin().await.expect("begins");
    let began = std::time::Instant::now();
    ingest.take(START, wal).expect("valid");
    ingest.start_write();
    assert!(matches!(ingest.event().await, Event::Written));
    assert_eq!(ingest.position().last_record_lsn, first.end);
    assert_eq!(ingest.position().disk_consistent_lsn, START, "written is not durable");
    while !matches!(ingest.event().await, Event::Synced) {}
    assert!(began.elapsed() >= SYNC_AGE, "nobody hurries");
    assert_eq!(ingest.position().disk_consistent_lsn, first.end);
    // A long record: bytes alone make it due.
    b.noop(u32::try_from(SYNC_BYTES).expect("small"));
    let (at, wal) = b.take();
    ingest.take(at, wal).expect("valid");
    ingest.start_write();
    assert!(matches!(ingest.event().await, Event::Written));
    assert!(!ingest.sync.is_idle(), "enough to be synced at once");
    while !matches!(ingest.event().await, Event::Synced) {}
    assert_eq!(ingest.position().disk_consistent_lsn, b.position());
}

#[tokio::test]
async fn the_next_stream_begins_without_a_sync_and_takes_over_the_one_under_way() {
    let tmp = tempfile::tempdir().expect("temp dir");
    let mut ingest = create(&tmp.path().join("t/l"));
    let mut b = builder();
    let first = b.noop(1000);
    let (_, wal) = b.take();
    ingest.begin().await.expect("begins");
    ingest.take(START, wal).expect("valid");
    assert_eq!(ingest.begin().await, Ok(first.end), "it goes on behind what was received");
    assert_eq!(ingest.position().disk_consistent_lsn, START, "without a sync");
    ingest.start_sync();
    let second = b.noop(1000);
    let (at, wal) = b.take();
    ingest.take(at, wal).expect("valid");
    ingest.write_out().await;
    while !matches!(ingest.event().await, Event::Synced) {
        assert_eq!(ingest.position().disk_consistent_lsn, START);
    }
    assert!(ingest.position().disk_consistent_lsn >= first.end);
    ingest.settle().await;
    assert_eq!(ingest.position().disk_consistent_lsn, second.end);
}

#[tokio::test]
async fn a_failed_sync_or_write_stops_and_counts_for_nothing() {
    for fault in [Fault::Sync, Fault::Write] {
        let tmp = tempfile::tempdir().expect("temp dir");
        let dir = tmp.path().join("t/l");
        drop(create(&dir));
        let faulty = Arc::new(FaultyDisk::default());
        let disk: Arc<dyn Disk> = faulty.clone();
        let mut ingest = open(&dir, &disk);
        let (mut b, ends) = varied();
        let (_, wal) = b.take();
        let half = usize::try_from(ends[10].bytes_since(START)).expect("small");
        feed(&mut ingest, &wal.slice(..half), 4096).await;
        assert_eq!(ingest.position().disk_consistent_lsn, ends[10]);
        faulty.arm(fault);
        ingest.begin().await.expect("still sound");
        ingest.take(ends[10], wal.slice(half..half + 100_000)).expect("valid");
        ingest.start_write();
        ingest.settle().await;
        let why = ingest.stopped().expect("stopped").to_owned();
        assert!(why.contains("injected"), "{why}");
        assert_eq!(ingest.position().disk_consistent_lsn, ends[10], "nothing beyond the last good sync");
        assert_eq!(ingest.position().last_record_lsn, ends[10]);
        let calls = faulty.calls.load(Ordering::Relaxed);
        assert!(ingest.begin().await.is_err(), "no stream begins");
        assert_eq!(faulty.calls.load(Ordering::Relaxed), calls, "nothing is tried again on the same bytes");
        assert!(!ingest.has_room());
        drop(ingest);
        // A restart finds what it finds, but counts it only when it was written anew and synced: after a failed sync
        // the kernel takes bytes for clean that never reached the disk.
        if fault == Fault::Sync {
            faulty.arm(Fault::Sync);
            assert!(recover::open(&dir, &disk).is_err(), "no position before the sync");
        }
        let written = faulty.written.load(Ordering::Relaxed);
        let mut ingest = open(&dir, &disk);
        let found = ingest.position().disk_consistent_lsn;
        assert!(if fault == Fault::Sync { found > ends[10] } else { found >= ends[10] }, "{found}");
        assert!(faulty.written.load(Ordering::Relaxed) - written >= found.bytes_since(START), "{found}");
        feed(&mut ingest, &wal, 50_000).await;
        assert!(read_all(&ingest, *ends.last().expect("records")) == wal[..], "bytes are the sender's");
    }
}

#[tokio::test]
async fn a_failed_save_of_the_position_stops_too() {
    let tmp = tempfile::tempdir().expect("temp dir");
    let dir = tmp.path().join("t/l");
    drop(create(&dir));
    let faulty = Arc::new(FaultyDisk::default());
    let disk: Arc<dyn Disk> = faulty.clone();
    let mut ingest = open(&dir, &disk);
    let (mut b, _) = varied();
    let (_, wal) = b.take();
    feed(&mut ingest, &wal.slice(..50_000), 8192).await;
    faulty.arm(Fault::Write);
    ingest.close().await;
    assert!(ingest.stopped().expect("stopped").contains("control file"));
    open(&dir, &disk);
}

#[tokio::test]
async fn a_full_disk_acknowledges_nothing_and_heals() {
    let tmp = tempfile::tempdir().expect("temp dir");
    let dir = tmp.path().join("t/l");
    drop(create(&dir));
    let faulty = Arc::new(FaultyDisk::default());
    let disk: Arc<dyn Disk> = faulty.clone();
    let mut ingest = open(&dir, &disk);
    let (mut b, ends) = varied();
    let (_, wal) = b.take();
    faulty.full.store(true, Ordering::Relaxed);
    ingest.begin().await.expect("begins");
    // More than is left in the first segment.
    ingest.take(START, wal.clone()).expect("valid");
    ingest.start_write();
    let Event::Full(why) = ingest.event().await else { panic!("the disk is full") };
    assert!(why.contains("no space"), "{why}");
    assert_eq!(ingest.position().disk_consistent_lsn, START);
    assert!(matches!(ingest.event().await, Event::Quiet), "tried again after a while");
    assert!(matches!(ingest.event().await, Event::Full(_)));
    faulty.full.store(false, Ordering::Relaxed);
    while !matches!(ingest.event().await, Event::Synced) {}
    let end = *ends.last().expect("records");
    assert_eq!(ingest.position().disk_consistent_lsn, end);
    // A stream that ends while the disk is full gives its WAL back.
    faulty.full.store(true, Ordering::Relaxed);
    let mut more = WalBuilder::new(stream_config(&attach()).expect("15"), end, b.last_record_start());
    more.noop(3 << 20);
    let (at, rest) = more.take();
    ingest.begin().await.expect("begins");
    ingest.take(at, rest.clone()).expect("valid");
    ingest.start_write();
    ingest.settle().await;
    assert_eq!(ingest.position().last_record_lsn, end);
    faulty.full.store(false, Ordering::Relaxed);
    assert_eq!(ingest.begin().await, Ok(end));
    ingest.take(at, rest).expect("valid");
    ingest.settle().await;
    assert_eq!(ingest.position().disk_consistent_lsn, more.position());
}

#[tokio::test]
async fn a_new_stream_starts_at_the_last_record_and_leaves_no_trace_of_the_unfinished_one() {
    let tmp = tempfile::tempdir().expect("temp dir");
    let dir = tmp.path().join("t/l");
    let mut ingest = create(&dir);
    let mut b = builder();
    let first = b.noop(1000);
    b.noop(50_000);
    let (_, wal) = b.take();
    ingest.begin().await.expect("begins");
    ingest.take(START, wal.slice(..30_000)).expect("valid");
    ingest.settle().await;
    assert_eq!(ingest.position().disk_consistent_lsn, first.end);
    assert_eq!(ingest.begin().await, Ok(first.end));
    let layout = ingest.write.idle().expect("settled").layout().clone();
    let tail = layout.read(first.end, 60_000).expect("reads");
    assert!(tail.iter().all(|b| *b == 0), "the unfinished record is gone");
    feed(&mut ingest, &wal, 7777).await;
    assert!(read_all(&ingest, b.position()) == wal[..], "bytes are the sender's");
}

#[tokio::test]
async fn gaps_overlaps_and_damage_are_refused_and_nothing_of_them_is_kept() {
    let tmp = tempfile::tempdir().expect("temp dir");
    let dir = tmp.path().join("t/l");
    let mut ingest = create(&dir);
    let mut b = builder();
    let first = b.noop(400);
    let second = b.noop(400);
    let (_, wal) = b.take();
    let split = usize::try_from(first.end.bytes_since(START)).expect("small");
    ingest.begin().await.expect("begins");
    ingest.take(START, wal.slice(..split)).expect("valid");
    for wrong in [first.end.add(8), START, Lsn::new(first.end.get() - 8)] {
        assert!(matches!(ingest.take(wrong, wal.slice(split..)), Err(WalError::NotContiguous { .. })), "{wrong}");
    }
    let mut damaged = wal[split..].to_vec();
    damaged[300] ^= 1;
    assert!(matches!(ingest.take(first.end, damaged.into()), Err(WalError::Crc { .. })));
    assert!(ingest.take(first.end, wal.slice(split..)).is_err(), "the stream is over");
    assert_eq!(ingest.begin().await, Ok(first.end));
    // A sound record that follows another one.
    let mut other =
        WalBuilder::new(stream_config(&attach()).expect("15"), first.end, Some(Lsn::new(first.start.get() - 8)));
    other.noop(100);
    let (at, foreign) = other.take();
    assert!(matches!(ingest.take(at, foreign), Err(WalError::PrevLink { .. })));
    assert_eq!(ingest.begin().await, Ok(first.end));
    ingest.take(first.end, wal.slice(split..)).expect("the real one");
    ingest.settle().await;
    assert_eq!(ingest.position().disk_consistent_lsn, second.end);
    assert!(read_all(&ingest, second.end) == wal[..], "bytes are the sender's");
}

#[test]
fn attach_is_all_or_nothing() {
    let tmp = tempfile::tempdir().expect("temp dir");
    let dir = tmp.path().join("t/l");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    // A crash in the middle of an earlier attempt.
    std::fs::create_dir_all(tmp.path().join("t/l.attaching/wal")).expect("dirs");
    std::fs::write(tmp.path().join("t/l.attaching/control"), b"half").expect("file");
    recover::create(&dir, &first_control(), &disk).expect("created");
    assert!(!tmp.path().join("t/l.attaching").exists());
    let recovered = recover::open(&dir, &disk).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(recovered.control, first_control());
    // Without its first segment the timeline is damaged, and says so.
    let cfg = stream_config(&attach()).expect("15");
    let first = cfg.seg_size.file_name(Tli(1), START.segment_no(cfg.seg_size));
    std::fs::remove_file(dir.join("wal").join(first)).expect("removed");
    assert!(recover::open(&dir, &disk).is_err_and(|e| e.to_string().contains("missing")));
}
