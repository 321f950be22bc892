//! A timeline's directory under power cuts, kills, failed syncs and a full disk. Each check is shown to notice a
//! planted bug.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use disk::{Disk, OpenMode};
use pgformat::wal::build::WalBuilder;
use pgformat::{Lsn, SegSize, Tli};
use proto::api::{PgHistoryEntry, TimelineSource};
use proto::consensus::{Member, MemberConf};
use proto::id::{Generation, NodeId, PrimaryEpoch, SystemId, TenantId, TenantTimelineId, Term, TimelineId};

use super::scan::stream_config;
use super::shared_dir::SharedDir;
use super::*;
use crate::core::{ControlState, LogEnd};
use disk::{FakeDisk, IoFault, Lie};

const SEG: u32 = 1 << 20;
/// Behind the first page's header and a few pages of earlier WAL, whose bytes are the primary's.
pub(super) const START: u64 = 5 * SEG as u64 + 3 * 8192 + 1000;

pub(crate) fn state() -> ControlState {
    let start = Lsn::new(START);
    let members = vec![Member { id: NodeId(1), host: "h".to_owned(), pg_port: 1 }];
    ControlState::created(
        TenantTimelineId::new(TenantId::new([1; 16]), TimelineId::new([2; 16])),
        TimelineSource::Vanilla,
        SystemId(77),
        150_004,
        SegSize::new(SEG).expect("1 MiB"),
        MemberConf::new(Generation(1), members, Vec::new()).expect("a valid set"),
        PrimaryEpoch(1),
        vec![PgHistoryEntry { tli: Tli(3), start_lsn: Lsn::new(4 * u64::from(SEG)) }],
        start,
    )
}

pub(crate) fn prehistory(state: &ControlState) -> Bytes {
    let cfg = stream_config(state).expect("a known version");
    let start = state.timeline_start_lsn.expect("a start");
    pgformat::wal::synthetic_prehistory(&cfg, start).expect("a record boundary").into()
}

fn target() -> PathBuf {
    PathBuf::from("/data/tenant/timeline")
}

pub(super) fn create(disk: &FakeDisk) -> Result<(), StorageError> {
    // No name is used twice.
    let staging = PathBuf::from(format!("/data/tmp/{}", disk.operations()));
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    disk.create_dir_all(Path::new("/data/tmp")).map_err(StorageError::io("creating", &staging))?;
    let [above, parent] = ["/data", "/data/tenant"].map(|dir| SharedDir::new(PathBuf::from(dir)));
    timeline::make_parent(&*disk, &above, parent.path())?;
    let staging_dir = SharedDir::new(PathBuf::from("/data/tmp"));
    let staging = (&staging_dir, &*staging);
    TimelineStorage::create(&disk, staging, (&parent, &target()), &state(), prehistory(&state()))
}

pub(super) fn open(disk: &FakeDisk) -> Result<(TimelineStorage, ControlState, Option<LogEnd>), StorageError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    TimelineStorage::open(&disk, &target())
}

/// As a starting process does.
fn start(disk: &FakeDisk) -> Result<(TimelineStorage, ControlState, Option<LogEnd>), StorageError> {
    let sync_all = || disk.sync_all(&target()).map_err(StorageError::io("syncing", &target()));
    sync_all()?;
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let found = TimelineStorage::open_at_start(&disk, &target())?;
    sync_all()?;
    Ok(found)
}

fn builder() -> WalBuilder {
    WalBuilder::new(stream_config(&state()).expect("known"), Lsn::new(START), None)
}

/// The whole log from its start, as the primary has it: records of many sizes, ends at a page's and at a segment's
/// end, a switch, over several segments. Also every record boundary.
pub(super) struct Log {
    bytes: Vec<u8>,
    pub(super) boundaries: Vec<Lsn>,
}

impl Log {
    fn new(rng: &mut fastrand::Rng) -> Log {
        Log::build(rng, true)
    }

    /// `crashes`: with records that the primary left unfinished and replaced.
    pub(super) fn build(rng: &mut fastrand::Rng, crashes: bool) -> Log {
        let mut b = builder();
        let mut boundaries = vec![b.position()];
        let stop = Lsn::new(8 * u64::from(SEG) + 9000);
        let mut switched = false;
        while b.position() < stop {
            let built = match rng.u8(..20) {
                0 => b.noop_until_page_end(),
                1 if !switched => {
                    switched = true;
                    b.switch()
                }
                2 if rng.u8(..8) == 0 => b.noop_until_segment_end(),
                // The primary crashed in the middle of a record.
                6 if crashes => {
                    b.abort_record_at_page(rng.u32(40_000..90_000), rng.u32(1..4));
                    b.overwrite_contrecord()
                }
                3..6 => b.noop(rng.u32(20_000..200_000)),
                _ => b.noop(rng.u32(26..6000)),
            };
            boundaries.push(built.end);
        }
        Log { bytes: b.bytes().to_vec(), boundaries }
    }

    pub(super) fn slice(&self, from: Lsn, to: Lsn) -> Bytes {
        let at = |l: Lsn| usize::try_from(l.bytes_since(Lsn::new(START))).expect("small");
        Bytes::copy_from_slice(&self.bytes[at(from)..at(to)])
    }

    /// Last boundary at or below `at`.
    pub(super) fn boundary(&self, at: Lsn) -> Lsn {
        *self.boundaries.iter().rev().find(|b| **b <= at).expect("the start is one")
    }
}

/// What a run was told, when it was stopped.
#[derive(Debug)]
struct Told {
    /// A completed flush covers this, and no truncation went below it since.
    flushed: Lsn,
    /// Nothing beyond was written since the last completed truncation.
    written: Lsn,
    commit: Lsn,
    created: bool,
}

/// Creates a timeline and works on it until the disk fails: appends cut anywhere, flushes, commits, truncations.
fn work(disk: &FakeDisk, log: &Log, rng: &mut fastrand::Rng) -> Told {
    let start = Lsn::new(START);
    let mut told = Told { flushed: start, written: start, commit: start, created: false };
    if create(disk).is_err() {
        return told;
    }
    told.created = true;
    // The first error ends it; what was told stands.
    let _ = append(disk, log, rng, &mut told);
    told
}

fn append(disk: &FakeDisk, log: &Log, rng: &mut fastrand::Rng, told: &mut Told) -> Result<(), StorageError> {
    let (mut storage, mut control, _) = open(disk)?;
    let end = *log.boundaries.last().expect("not empty");
    let mut at = told.written;
    while at < end {
        let to = at.add(rng.u64(1..150_000)).min(end);
        told.written = told.written.max(to);
        let middle = at.add(to.bytes_since(at) / 3);
        storage.write(at, &[log.slice(at, middle), log.slice(middle, to)])?;
        if rng.bool()
            && let Some(job) = storage.wal().spare_job()
        {
            job.run();
        }
        at = to;
        match rng.u8(..6) {
            0..3 => {
                storage.flush()?;
                told.flushed = log.boundary(at);
            }
            3 => {
                // Only what is durable is committed.
                let commit = log.boundary(told.flushed);
                control.commit_lsn = control.commit_lsn.max(Some(commit));
                told.commit = told.commit.max(commit);
                storage.persist(&control)?;
            }
            4 if rng.bool() => {
                let cut: Vec<Lsn> =
                    log.boundaries.iter().copied().filter(|b| *b >= told.commit && *b <= told.flushed).collect();
                let to = cut[rng.usize(..cut.len())];
                told.flushed = told.flushed.min(to);
                let found = storage.truncate(to)?;
                assert_eq!(found.flush_lsn, to);
                if let Some(last) = found.last_record_start {
                    assert!(log.boundaries.contains(&log.boundary(last)) && last < to);
                }
                at = to;
                told.written = to;
                told.flushed = to;
            }
            _ => {}
        }
    }
    storage.flush()
}

/// What a restart must find: everything told, nothing that was never written, zeros behind the end.
fn check(disk: &FakeDisk, log: &Log, told: &Told) -> Result<(), String> {
    let opened = start(disk);
    if !told.created && matches!(opened, Err(StorageError::Io { .. })) {
        return Ok(());
    }
    let (storage, control, end) = opened.map_err(|e| format!("opening: {e}"))?;
    let end = end.ok_or("no log found")?.flush_lsn;
    if control.commit_lsn < Some(told.commit) && told.created && control.commit_lsn > Some(end) {
        return Err(format!("commit {:?}, told {}", control.commit_lsn, told.commit));
    }
    if end < told.flushed {
        return Err(format!("the log ends at {end}, durable was {}", told.flushed));
    }
    if !log.boundaries.contains(&end) {
        return Err(format!("{end} is no record boundary"));
    }
    compare_bytes(disk, &storage, log, end)
}

fn compare_bytes(disk: &FakeDisk, storage: &TimelineStorage, log: &Log, end: Lsn) -> Result<(), String> {
    let seg = SegSize::new(SEG).expect("1 MiB");
    let segments = storage.wal().segments();
    let mut expected = prehistory(&state()).to_vec();
    expected.extend_from_slice(&log.slice(Lsn::new(START), end));
    let first = Lsn::new(START).segment_start(seg);
    for (i, want) in expected.chunks(SEG as usize).enumerate() {
        let at = first.add(i as u64 * u64::from(SEG));
        let path = target().join(seg.file_name(Tli(3), at.segment_no(seg)));
        let have = disk.content(&path).ok_or(format!("{} is missing", path.display()))?;
        // Only one that never got WAL may be short.
        let short_at_most = if end == Lsn::new(START) { want.len() } else { SEG as usize };
        if !(short_at_most..=SEG as usize).contains(&have.len()) || have[..want.len()] != *want {
            return Err(format!("{} differs", path.display()));
        }
        if have[want.len()..].iter().any(|b| *b != 0) {
            return Err(format!("{} holds bytes behind the end {end}", path.display()));
        }
    }
    let held = segments.bytes() / u64::from(SEG);
    if held != expected.len().div_ceil(SEG as usize) as u64 {
        return Err(format!("{held} segments are held for a log that ends at {end}"));
    }
    Ok(())
}

/// One life: work until cut, power loss or kill, restart; then the same again from there.
fn life(seed: u64, lies: &[Lie], cut_within: u64) -> Result<(), String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let log = Log::new(&mut rng);
    let disk = FakeDisk::lying(seed, lies);
    disk.die_at(rng.u64(..cut_within));
    let told = work(&disk, &log, &mut rng);
    let after = if rng.u8(..4) == 0 { disk.after_kill() } else { disk.after_power_loss(&mut rng) };
    // A restart that is itself cut short changes nothing.
    let halfway = after.after_kill();
    halfway.die_at(halfway.operations() + rng.u64(..12));
    if start(&halfway).is_ok() || rng.bool() {
        let twice = if rng.bool() { halfway.after_kill() } else { halfway.after_power_loss(&mut rng) };
        check(&twice, &log, &told).map_err(|e| format!("seed {seed}, second restart: {e}; {told:?}"))?;
    }
    let reported = after.after_kill();
    check(&reported, &log, &told).map_err(|e| format!("seed {seed}: {e}; {told:?}"))?;
    // What a restart reported is durable.
    let end = match start(&reported) {
        Ok((_, _, Some(end))) => end.flush_lsn,
        _ => return Ok(()),
    };
    let kept = reported.after_power_loss(&mut rng);
    let (_, control, found) = open(&kept).map_err(|e| format!("seed {seed}, after a second power loss: {e}"))?;
    if found.is_none_or(|f| f.flush_lsn < end) {
        return Err(format!("seed {seed}: {end} was reported, {found:?} is found"));
    }
    // And the log goes on from there.
    let mut told = Told { flushed: end, written: end, commit: control.commit_lsn.ok_or("a commit")?, created: true };
    append(&kept, &log, &mut rng, &mut told).map_err(|e| format!("seed {seed}, going on: {e}"))?;
    check(&kept, &log, &told).map_err(|e| format!("seed {seed}, after going on: {e}"))
}

/// Operations that a whole life of `work` takes, about.
const OPERATIONS: u64 = 220;

#[test]
fn nothing_told_is_lost_wherever_power_or_process_is_cut() {
    for seed in 0..150 {
        life(seed, &[], OPERATIONS).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn planted_bugs_are_noticed() {
    for lies in [[Lie::NoFdatasync], [Lie::NoDirSync]] {
        let noticed = (0..150).find_map(|seed| life(seed, &lies, OPERATIONS).err());
        assert!(noticed.is_some(), "{lies:?} was not noticed");
    }
}

#[test]
fn a_failed_fdatasync_closes_the_log_until_it_is_opened_and_written_anew() {
    for lies in [&[][..], &[Lie::NoRewrite]] {
        let mut lost = false;
        for seed in 0..20 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let log = Log::build(&mut rng, false);
            let disk = FakeDisk::lying(seed, lies);
            create(&disk).expect("created");
            let (mut storage, _, _) = open(&disk).expect("opened");
            let (a, b) = (log.boundaries[3], log.boundaries[9]);
            storage.write(Lsn::new(START), &[log.slice(Lsn::new(START), a)]).expect("written");
            storage.flush().expect("synced");
            storage.write(a, &[log.slice(a, b)]).expect("written");
            disk.fail_times(IoFault::Sync, 1);
            storage.flush().expect_err("injected");
            assert!(matches!(storage.flush(), Err(StorageError::Poisoned)), "the same bytes are not synced again");
            assert!(matches!(storage.write(b, &[Bytes::from_static(b"x")]), Err(StorageError::Poisoned)));
            drop(storage);
            // The failed pages read as written and look clean; opening writes them again before it reports them.
            let (_, _, end) = open(&disk).expect("opened");
            assert_eq!(end.expect("a log").flush_lsn, b);
            let (_, _, end) = open(&disk.after_power_loss(&mut rng)).expect("opened");
            let end = end.expect("a log").flush_lsn;
            assert!(end >= a, "what was synced before is never lost");
            lost |= end < b;
        }
        assert_eq!(lost, !lies.is_empty(), "the check must notice a missing rewrite, and only that");
    }
}

#[test]
fn a_failed_sync_of_a_directory_fails_all_who_changed_it_before() {
    let disk = FakeDisk::new(1);
    let dir = SharedDir::new(PathBuf::from("/data"));
    let changed = |name: &str| {
        let ticket = dir.begin();
        disk.create_dir_all(&dir.path().join(name)).expect("made");
        ticket
    };
    let [a, b] = ["a", "b"].map(changed);
    disk.fail_nth(IoFault::SyncDir, 1);
    dir.sync(&disk, a).expect_err("injected");
    dir.sync(&disk, b).expect_err("the failed sync was b's as well");
    let c = changed("c");
    dir.sync(&disk, c).expect("synced");
    for seed in 0..10 {
        let there = disk.after_power_loss(&mut fastrand::Rng::with_seed(seed)).list(dir.path()).expect("listed");
        assert_eq!(there.into_iter().map(|e| e.name).collect::<Vec<_>>(), ["c"]);
    }
}

/// What a start shows is durable, whatever a process before it failed to sync.
#[test]
fn a_start_writes_anew_the_state_whose_sync_failed() {
    for lies in [&[][..], &[Lie::NoRewrite]] {
        let lost = (0..20).any(|seed| {
            let disk = FakeDisk::lying(seed, lies);
            create(&disk).expect("created");
            let (mut storage, mut control, _) = open(&disk).expect("opened");
            control.term = Term(9);
            disk.fail_times(IoFault::Sync, 1);
            storage.persist(&control).expect_err("injected");
            let killed = disk.after_kill();
            assert_eq!(start(&killed).expect("opened").1.term, Term(9), "the page cache shows it");
            let lost_power = killed.after_power_loss(&mut fastrand::Rng::with_seed(seed));
            open(&lost_power).expect("opened").1.term != Term(9)
        });
        assert_eq!(lost, !lies.is_empty(), "the check must notice a missing rewrite, and only that");
    }
}

/// A removal whose directory sync failed may be undone by the next power loss, whatever a later sync says.
fn cut_with_failing_directory(seed: u64, lies: &[Lie]) -> Result<(), String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let log = Log::new(&mut rng);
    let disk = FakeDisk::lying(seed, lies);
    create(&disk).map_err(|e| e.to_string())?;
    let (mut storage, _, _) = open(&disk).map_err(|e| e.to_string())?;
    let end = *log.boundaries.last().ok_or("not empty")?;
    storage.write(Lsn::new(START), &[log.slice(Lsn::new(START), end)]).map_err(|e| e.to_string())?;
    storage.flush().map_err(|e| e.to_string())?;
    // In the segment after the next, so that whole segments go.
    let to = log.boundary(Lsn::new(6 * u64::from(SEG) + rng.u64(..u64::from(SEG))));
    disk.fail_nth(IoFault::SyncDir, 1);
    storage.truncate(to).map(|_| "the directory sync fails").map_or(Ok(()), Err)?;
    let (mut storage, _, _) = open(&disk).map_err(|e| e.to_string())?;
    // The election asks again.
    storage.truncate(to).map_err(|e| e.to_string())?;
    let (_, _, found) = open(&disk.after_power_loss(&mut rng)).map_err(|e| e.to_string())?;
    match found {
        Some(found) if found.flush_lsn == to => Ok(()),
        other => Err(format!("seed {seed}: cut at {to}, the log ends at {other:?}")),
    }
}

#[test]
fn a_failed_directory_sync_brings_no_removed_wal_back() {
    for seed in 0..30 {
        cut_with_failing_directory(seed, &[]).unwrap_or_else(|e| panic!("{e}"));
    }
    let noticed = (0..30).find_map(|seed| cut_with_failing_directory(seed, &[Lie::NoZeroing]).err());
    assert!(noticed.is_some(), "a cut that only removes files must be noticed");
    // A timeline whose name is not durable does not exist, and the same request makes it later.
    for nth in 1..=3 {
        for seed in 0..30 {
            let disk = FakeDisk::new(1);
            disk.fail_nth(IoFault::SyncDir, nth);
            assert!(create(&disk).is_err() && open(&disk).is_err(), "sync {nth}");
            create(&disk).expect("created");
            open(&disk.after_kill()).expect("it is there");
            let lost_power = disk.after_power_loss(&mut fastrand::Rng::with_seed(seed));
            open(&lost_power).unwrap_or_else(|e| panic!("sync {nth}, seed {seed}: {e}"));
        }
    }
}

/// The bytes of a record that was left unfinished and replaced have no checksum: they count only when a sync covered
/// them.
#[test]
fn an_overwritten_record_counts_only_when_it_was_synced() {
    let mut b = builder();
    let before = b.noop(1000).end;
    b.abort_record_at_page(60_000, 5);
    let replaced = b.overwrite_contrecord().end;
    let end = b.noop(5000).end;
    let log = Log { bytes: b.bytes().to_vec(), boundaries: vec![Lsn::new(START), before, replaced, end] };
    for synced in [false, true] {
        let disk = FakeDisk::new(1);
        create(&disk).expect("created");
        let (mut storage, control, _) = open(&disk).expect("opened");
        storage.write(Lsn::new(START), &[log.slice(Lsn::new(START), end)]).expect("written");
        if synced {
            storage.flush().expect("synced");
        }
        // The process is killed: the page cache shows everything.
        let after = disk.after_kill();
        let (mut storage, found, now) = open(&after).expect("opened");
        assert_eq!(found, control);
        assert_eq!(now.expect("a log").flush_lsn, if synced { end } else { before });
        // What a cut removes is not trusted when it comes again.
        storage.truncate(before).expect("cut");
        storage.write(before, &[log.slice(before, end)]).expect("written");
        let (_, _, now) = open(&after.after_kill()).expect("opened");
        assert_eq!(now.expect("a log").flush_lsn, before);
    }
}

#[test]
fn a_full_disk_shows_before_anything_is_written_and_heals() {
    let mut rng = fastrand::Rng::with_seed(1);
    let log = Log::new(&mut rng);
    let disk = FakeDisk::new(1);
    create(&disk).expect("created");
    let (mut storage, control, _) = open(&disk).expect("opened");
    let end = Lsn::new(7 * u64::from(SEG) + 4096);
    // Room for one of the two further segments that this needs.
    disk.limit(Some(u64::from(SEG) + 10));
    let all = [log.slice(Lsn::new(START), end)];
    let written = || {
        let held = disk.content(&target().join("000000030000000000000005")).expect("there");
        held.iter().rposition(|b| *b != 0)
    };
    let before = written();
    for _ in 0..3 {
        let e = storage.write(Lsn::new(START), &all).expect_err("no room");
        assert!(e.is_no_space(), "{e}");
    }
    assert_eq!(written(), before, "nothing was written");
    storage.flush().expect("nothing to do");
    storage.persist(&control).expect("the control file needs no room");
    disk.limit(None);
    storage.write(Lsn::new(START), &all).expect("written");
    storage.flush().expect("synced");
    let (_, _, found) = open(&disk.after_power_loss(&mut rng)).expect("opened");
    assert_eq!(found.expect("a log").flush_lsn, log.boundary(end));
}

/// Goal: a creation takes the room of its prehistory, and nothing that comes before WAL takes more. Method: a disk that
/// has none left afterwards.
#[test]
fn a_timeline_takes_room_for_wal_only_when_wal_comes() {
    let first = target().join("000000030000000000000005");
    let mut rng = fastrand::Rng::with_seed(4);
    let log = Log::build(&mut rng, false);
    let disk = FakeDisk::new(1);
    create(&disk).expect("created");
    let held = prehistory(&state());
    assert!(disk.content(&first).expect("there") == held, "no more than the prehistory");
    disk.limit(Some(0));
    let (mut storage, _, found) = open(&disk.after_power_loss(&mut rng)).expect("opened");
    assert_eq!(found.map(|f| f.flush_lsn), Some(Lsn::new(START)));
    let cut = storage.truncate(Lsn::new(START)).expect("an election");
    assert_eq!(cut.flush_lsn, Lsn::new(START));
    let (mut storage, control, _) = start(&disk).expect("opened");
    storage.truncate(Lsn::new(START)).expect("an election");
    storage.persist(&control).expect("its term");
    let to = log.boundaries[5];
    let wal = [log.slice(Lsn::new(START), to)];
    assert!(storage.write(Lsn::new(START), &wal).expect_err("no room").is_no_space());
    assert!(disk.content(&first).expect("there") == held, "no more than the prehistory");
    disk.limit(None);
    storage.write(Lsn::new(START), &wal).expect("written");
    storage.flush().expect("synced");
    assert_eq!(disk.content(&first).expect("there").len(), SEG as usize);
    let (_, _, found) = open(&disk.after_power_loss(&mut rng)).expect("opened");
    assert_eq!(found.map(|f| f.flush_lsn), Some(to));
}

/// On a real disk: what is held stays when a segment gets its length.
#[test]
fn a_short_segment_keeps_what_it_holds() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().expect("a directory");
    let state = ControlState { seg_size: SegSize::new(1 << 30).expect("1 GiB"), ..state() };
    let disk: Arc<dyn Disk> = Arc::new(disk::FsDisk);
    wal::WalStorage::create(Arc::clone(&disk), dir.path(), &state, prehistory(&state)).expect("created");
    let file = dir.path().join(state.seg_size.file_name(Tli(3), 0));
    let blocks = std::fs::metadata(&file).expect("there").blocks();
    assert!(blocks * 512 < 8 << 20, "{blocks} blocks for a prehistory of {START} bytes");
    let state = super::tests::state();
    let dir = tempfile::tempdir().expect("a directory");
    wal::WalStorage::create(Arc::clone(&disk), dir.path(), &state, prehistory(&state)).expect("created");
    let (mut log, _) = wal::WalStorage::open(disk, dir.path(), &state, None, false).expect("opened");
    log.write(Lsn::new(START), &[Bytes::from_static(b"12345678")]).expect("written");
    let held = std::fs::read(dir.path().join(state.seg_size.file_name(Tli(3), 5))).expect("read");
    assert!(held.len() == SEG as usize && held.starts_with(&prehistory(&state)));
}

#[test]
fn writes_that_do_not_continue_the_log_are_refused() {
    let disk = FakeDisk::new(1);
    create(&disk).expect("created");
    let (mut storage, _, _) = open(&disk).expect("opened");
    for wrong in [START - 8, START + 8] {
        let e = storage.write(Lsn::new(wrong), &[Bytes::from_static(b"12345678")]).expect_err("a gap or a rewrite");
        assert!(matches!(e, StorageError::Misuse(_)), "{e}");
    }
}

#[test]
fn segments_are_named_for_the_tli_of_their_first_byte() {
    let disk = FakeDisk::new(1);
    create(&disk).expect("created");
    let (mut storage, _, _) = open(&disk).expect("opened");
    let next = Lsn::new(6 * u64::from(SEG));
    let fill = |from: u64| Bytes::from(vec![0; usize::try_from(next.get() - from).expect("small")]);
    storage.write(Lsn::new(START), &[fill(START)]).expect("written");
    storage.wal().spare_job().expect("the next one").run();
    assert!(disk.content(&target().join("000000030000000000000006")).is_some(), "prepared for the present tli");
    // The page says tli 4: PostgreSQL was promoted in the segment before.
    storage.write(next, &[Bytes::from_static(&[0x10, 0xD1, 6, 0, 4, 0, 0, 0, 0, 0])]).expect("written");
    assert!(disk.content(&target().join("000000040000000000000006")).is_some());
    assert!(disk.content(&target().join("000000030000000000000006")).is_none());
    assert_eq!(storage.wal().segments().bytes(), 2 * u64::from(SEG));
    // After a crash both may be there: the first page decides.
    storage.flush().expect("synced");
    let stale = target().join("000000050000000000000006");
    disk.open(&stale, OpenMode::CreateNew).expect("created").allocate(u64::from(SEG)).expect("room");
    let again = segment::HeldSegments::open(Arc::new(disk.clone()), &target(), SegSize::new(SEG).expect("1 MiB"));
    assert_eq!(again.expect("opened").tli_of(6), Some(Tli(4)));
    assert!(disk.content(&stale).is_none());
}

#[test]
fn groups_complete_in_order_and_a_full_disk_leaves_them_queued() {
    use crate::core::{DiskOp, Input, WriteId};
    use std::collections::VecDeque;
    let mut rng = fastrand::Rng::with_seed(2);
    let log = Log::new(&mut rng);
    let disk = FakeDisk::new(1);
    create(&disk).expect("created");
    let (mut storage, control, _) = open(&disk).expect("opened");
    let at = |i: usize| log.boundaries[i];
    let write = |from: Lsn, to: Lsn| DiskOp::Write { begin: from, wal: log.slice(from, to) };
    let mut ops: VecDeque<DiskOp> = [
        write(at(0), at(1)),
        DiskOp::Flush(WriteId(1)),
        write(at(1), at(2)),
        DiskOp::Flush(WriteId(2)),
        DiskOp::Persist { write: WriteId(3), state: Box::new(control) },
        write(at(2), at(4)),
        DiskOp::Truncate { write: WriteId(4), to: at(1) },
    ]
    .into();
    let before = disk.operations();
    let done = run_group(&mut storage, &mut ops).expect("run");
    assert_eq!(done, [Input::Done(WriteId(1)), Input::Done(WriteId(2))]);
    assert!(disk.operations() - before <= 4, "one write and one sync, but for a new segment");
    assert_eq!(run_group(&mut storage, &mut ops).expect("run"), [Input::Done(WriteId(3))]);
    assert_eq!(run_group(&mut storage, &mut ops).expect("run"), []);
    let done = run_group(&mut storage, &mut ops).expect("run");
    assert!(matches!(done[..], [Input::Truncated { write: WriteId(4), end }] if end.flush_lsn == at(1)));
    let far = DiskOp::Write { begin: at(1), wal: log.slice(at(1), Lsn::new(7 * u64::from(SEG))) };
    disk.limit(Some(0));
    ops.extend([far, DiskOp::Flush(WriteId(5))]);
    assert!(run_group(&mut storage, &mut ops).expect_err("no room").is_no_space());
    assert_eq!(ops.len(), 2);
    disk.limit(None);
    assert_eq!(run_group(&mut storage, &mut ops).expect("run"), [Input::Done(WriteId(5))]);
}

/// A log that lost its end below the commit position is opened with what is left of it: the acceptor decides.
#[test]
fn a_log_without_the_segment_of_its_commit_position_ends_before_it() {
    let mut rng = fastrand::Rng::with_seed(3);
    let log = Log::build(&mut rng, false);
    let committed = log.boundary(Lsn::new(7 * u64::from(SEG) + u64::from(SEG / 2)));
    for lost in 0..4 {
        let disk = FakeDisk::new(1);
        create(&disk).expect("created");
        let (mut storage, mut control, _) = open(&disk).expect("opened");
        let end = *log.boundaries.last().expect("some");
        storage.write(Lsn::new(START), &[log.slice(Lsn::new(START), end)]).expect("written");
        storage.flush().expect("synced");
        control.commit_lsn = Some(committed);
        storage.persist(&control).expect("persisted");
        drop(storage);
        let seg = SegSize::new(SEG).expect("1 MiB");
        let names = |segno| target().join(seg.file_name(Tli(3), segno));
        let expected = match lost {
            // The commit position's own, one before it, all of them.
            0 => [7].map(|n| disk.remove(&names(n)).expect("there")).map(|()| log.boundary(seg.start_of(7))).to_vec(),
            1 => {
                [6, 7].map(|n| disk.remove(&names(n)).expect("there")).map(|()| log.boundary(seg.start_of(6))).to_vec()
            }
            2 => [5, 6, 7, 8].map(|n| disk.remove(&names(n)).expect("there")).map(|()| Lsn::new(START)).to_vec(),
            // The commit position's segment is zeros.
            _ => {
                let file = disk.open(&names(7), OpenMode::Write).expect("there");
                vec![log.boundary(seg.start_of(7)); usize::from(file.zero_range(0, seg.bytes()).is_ok())]
            }
        };
        let (mut storage, state, found) = open(&disk).unwrap_or_else(|e| panic!("case {lost}: {e}"));
        let found = found.expect("a log").flush_lsn;
        assert_eq!((found, state.commit_lsn), (expected[0], Some(committed)), "case {lost}");
        // And goes on from there.
        storage.write(found, &[log.slice(found, end)]).expect("written");
        storage.flush().expect("synced");
        let (_, _, again) = open(&disk).expect("opened");
        assert_eq!(again.expect("a log").flush_lsn, end, "case {lost}");
    }
}
