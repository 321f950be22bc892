//! The control file: round trips, damaged slots, torn writes, the golden file.

use std::sync::Arc;

use disk::{FakeDisk, IoFault, Lie};
use pgformat::{Lsn, SegSize, Tli};
use proto::admission::MemberMemory;
use proto::api::{PgHistoryEntry, TimelineSource};
use proto::consensus::{Member, MemberConf, TermHistory, TermLsn};
use proto::id::{
    Generation, Incarnation, NodeId, PrimaryEpoch, SystemId, TenantId, TenantTimelineId, Term, TimelineId,
};

use super::*;
use crate::core::Standing;

fn standing() -> Standing {
    let memory = |n: u64| MemberMemory {
        incarnation: Incarnation::new([n as u8; 16]),
        starts: n + 1,
        term: Term(n + 2),
        last_log_term: Term(n + 3),
        flush_lsn: Lsn::new(n + 4),
    };
    Standing {
        incarnation: Incarnation::new(*b"incarnation\x01\x02\x03\x04\x05"),
        starts: 12,
        barred: Some(Bar { why: "it forgot".to_owned(), fence: Some(Term(77)) }),
        readmitted: Term(66),
        acked_lsn: Some(Lsn::new(0x0169_0000)),
        peers: [(NodeId(2), memory(20)), (NodeId(3), memory(30))].into(),
    }
}

/// A state in which every field has a value of its own.
fn sample() -> ControlState {
    let member = |id: u64, port: u16| Member { id: NodeId(id), host: format!("sk{id}.example"), pg_port: port };
    let entry = |t: u64, l: u64| TermLsn { term: Term(t), lsn: Lsn::new(l) };
    ControlState {
        ttid: TenantTimelineId::new(TenantId::new(*b"tenant-0123456\x01\x02"), TimelineId::new([7; 16])),
        source: TimelineSource::Vanilla,
        system_id: SystemId(0x6543_2109_8765_4321),
        pg_version_num: 150_004,
        seg_size: SegSize::DEFAULT,
        mconf: MemberConf::new(
            Generation(3),
            vec![member(1, 5454), member(2, 5455), member(3, 5456)],
            vec![member(2, 5455), member(3, 5456), member(4, 5457)],
        )
        .expect("a valid set"),
        term: Term(9),
        primary_epoch: PrimaryEpoch(2),
        history: TermHistory::new(vec![entry(0, 0x0100_0028), entry(4, 0x0150_0000), entry(9, 0x0160_0108)])
            .expect("a valid history"),
        timeline_start_lsn: Some(Lsn::new(0x0100_0028)),
        local_start_lsn: Some(Lsn::new(0x0100_0030)),
        commit_lsn: Some(Lsn::new(0x0170_0000)),
        peer_horizon_lsn: Some(Lsn::new(0x0168_0000)),
        pg_history: vec![
            PgHistoryEntry { tli: Tli(1), start_lsn: Lsn::new(0x0100_0000) },
            PgHistoryEntry { tli: Tli(2), start_lsn: Lsn::new(0x0140_0000) },
        ],
        standing: standing(),
    }
}

/// The same of a member that takes part.
fn sound() -> ControlState {
    let standing = Standing { barred: None, ..standing() };
    ControlState { standing, ..sample() }
}

fn dir() -> &'static Path {
    Path::new("/data")
}

fn created() -> (FakeDisk, TimelineControlFile) {
    let disk = FakeDisk::new(1);
    let control = TimelineControlFile::create(&disk, dir(), &sample()).expect("created");
    disk.fsync_dir(dir()).expect("synced");
    (disk, control)
}

#[test]
fn states_of_every_size_come_back() {
    let mut empty = ControlState::implicit(sample().ttid, SystemId(0), 0, SegSize::DEFAULT);
    let mut full = sample();
    let history = (0..HISTORY_ENTRIES_MAX as u64).map(|i| TermLsn { term: Term(i), lsn: Lsn::new(i * 8) }).collect();
    full.history = TermHistory::new(history).expect("rising");
    full.pg_history = (1..=PG_HISTORY_ENTRIES_MAX as u32)
        .map(|i| PgHistoryEntry { tli: Tli(i), start_lsn: Lsn::new(u64::from(i) * 8) })
        .collect();
    let set = |from: u64| {
        (from..from + MEMBERS_MAX as u64)
            .map(|id| Member { id: NodeId(id), host: "h".repeat(HOST_LEN_MAX), pg_port: 1 })
            .collect()
    };
    full.mconf = MemberConf::new(Generation(1), set(1), set(10)).expect("a valid set");
    let (disk, mut control) = created();
    for state in [&sample(), &empty.clone(), &full] {
        control.persist(state).expect("written");
        let (_, back) = TimelineControlFile::open(&disk, dir()).expect("opened");
        assert_eq!(&back, state);
    }
    empty.pg_history = vec![PgHistoryEntry { tli: Tli(1), start_lsn: Lsn::new(8) }; PG_HISTORY_ENTRIES_MAX + 1];
    assert!(matches!(control.persist(&empty), Err(StorageError::Misuse(_))), "more than it holds");
}

/// `UPDATE_GOLDEN=1` writes the file of the present version anew; those of earlier versions are never written again.
#[test]
fn the_golden_file_of_version_2_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/control-v2.bin");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let (disk, mut control) = created();
        let mut newer = sample();
        newer.commit_lsn = Some(Lsn::new(0x0180_0000));
        control.persist(&newer).expect("written");
        let all = disk.content(&dir().join(CONTROL_FILE)).expect("a file");
        // Each slot without the zeros behind it.
        let slot = |i: usize| {
            let raw = &all[i * SLOT_SIZE..(i + 1) * SLOT_SIZE - MARK_LEN];
            let end = raw.iter().rposition(|b| *b != 0).map_or(0, |p| p + 1);
            raw[..end].to_vec()
        };
        let mut golden = slot(0);
        golden.resize(4096, 0);
        golden.extend_from_slice(&slot(1));
        std::fs::write(&path, golden).expect("written");
    }
    let (disk, state) = golden(&path);
    let mut expected = sample();
    expected.commit_lsn = Some(Lsn::new(0x0180_0000));
    assert_eq!(state, expected);
    assert!(disk.rot(&dir().join(CONTROL_FILE), (SLOT_SIZE + 100) as u64));
    assert_eq!(TimelineControlFile::open(&disk, dir()).expect("the other slot").1, sample());
}

/// A disk with a golden file, and the state in it.
fn golden(path: &Path) -> (FakeDisk, ControlState) {
    let golden = std::fs::read(path).expect("the golden file");
    let disk = FakeDisk::new(1);
    let file = disk.open(&dir().join(CONTROL_FILE), OpenMode::CreateNew).expect("created");
    file.allocate(2 * SLOT_SIZE as u64).expect("allocated");
    file.write_at(0, &[Bytes::copy_from_slice(&golden[..4096])]).expect("written");
    file.write_at(SLOT_SIZE as u64, &[Bytes::copy_from_slice(&golden[4096..])]).expect("written");
    let (control, state) = TimelineControlFile::open(&disk, dir()).expect("opened");
    assert_eq!((control.slot, control.sequence), (1, 2));
    (disk, state)
}

#[test]
fn a_file_of_version_1_is_read_and_gets_a_life_of_its_own() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/control-v1.bin");
    let (disk, state) = golden(&path);
    let incarnation = state.standing.incarnation;
    let standing = Standing { incarnation, ..Standing::default() };
    assert_ne!(incarnation, Standing::default().incarnation);
    assert_eq!(state, ControlState { commit_lsn: Some(Lsn::new(0x0180_0000)), standing, ..sample() });
    let (mut control, _) = TimelineControlFile::open(&disk, dir()).expect("opened");
    control.persist(&state).expect("written");
    assert_eq!(TimelineControlFile::open(&disk, dir()).expect("opened").1, state, "now of version 2");
}

#[test]
fn any_flipped_bit_of_the_newest_slot_gives_the_other_and_of_both_a_refusal() {
    let (disk, mut control) = created();
    let mut newer = sound();
    newer.term = Term(10);
    control.persist(&sound()).expect("written");
    control.persist(&sound()).expect("written");
    control.persist(&newer).expect("written");
    let path = dir().join(CONTROL_FILE);
    let used = HEADER_LEN + body::encode(&newer, None).expect("fits").len();
    for at in 0..used {
        let hurt = disk.after_kill();
        assert!(hurt.rot(&path, (SLOT_SIZE + at) as u64));
        let (mut file, state) = TimelineControlFile::open(&hurt, dir()).unwrap_or_else(|e| panic!("byte {at}: {e}"));
        let bar = state.standing.barred.clone().unwrap_or_else(|| panic!("byte {at}: a vote may be forgotten"));
        assert!(bar.why.contains("write 4 was completed and is damaged"), "{}", bar.why);
        assert_eq!(ControlState { standing: sound().standing, ..state }, sound(), "byte {at}");
        // An older slot that is damaged takes nothing away.
        let older = disk.after_kill();
        assert!(older.rot(&path, at as u64));
        assert_eq!(TimelineControlFile::open(&older, dir()).expect("opened").1, newer);
        // The damaged slot is written next.
        file.persist(&newer).expect("written");
        assert_eq!(TimelineControlFile::open(&hurt, dir()).expect("opened").1, newer);
        let both = disk.after_kill();
        assert!(both.rot(&path, (SLOT_SIZE + at) as u64));
        assert!(both.rot(&path, at as u64));
        let e = TimelineControlFile::open(&both, dir()).expect_err("no slot is valid");
        assert!(e.is_corruption() && e.to_string().contains("slot 0") && e.to_string().contains("slot 1"), "{e}");
    }
}

#[test]
fn an_unknown_version_is_refused_even_when_the_other_slot_is_known() {
    let (disk, _control) = created();
    let mut raw = encode_slot(2, b"whatever a later version holds").to_vec();
    raw[8..12].copy_from_slice(&3u32.to_le_bytes());
    raw[24..28].fill(0);
    let crc = crc32c::crc32c(&raw);
    raw[24..28].copy_from_slice(&crc.to_le_bytes());
    let file = disk.open(&dir().join(CONTROL_FILE), OpenMode::Write).expect("opened");
    file.write_at(SLOT_SIZE as u64, &[Bytes::from(raw)]).expect("written");
    let e = TimelineControlFile::open(&disk, dir()).expect_err("version 3");
    assert!(matches!(e, StorageError::UnknownVersion { found: 3, known: 2, .. }) && e.is_corruption(), "{e}");
}

/// Power is cut at every operation of a series of writes: the state found is the last one reported durable, or the
/// next.
fn cut_everywhere(lies: &[Lie]) -> Result<(), String> {
    let with_term = |t: u64| ControlState { term: Term(t), ..sound() };
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        for cut in 0..12 {
            let disk = FakeDisk::lying(seed, lies);
            let mut control = TimelineControlFile::create(&disk, dir(), &with_term(9)).map_err(|e| e.to_string())?;
            disk.fsync_dir(dir()).expect("synced");
            disk.die_at(disk.operations() + cut);
            let reported = (10..20).take_while(|t| control.persist(&with_term(*t)).is_ok()).last().unwrap_or(9);
            let after = if rng.bool() { disk.after_power_loss(&mut rng) } else { disk.after_kill() };
            let (_, found) =
                TimelineControlFile::open(&after, dir()).map_err(|e| format!("seed {seed} cut {cut}: {e}"))?;
            // What was given out by opening must itself survive.
            let again = after.after_power_loss(&mut rng);
            let (_, kept) =
                TimelineControlFile::open(&again, dir()).map_err(|e| format!("seed {seed} cut {cut}: {e}"))?;
            if found.standing.barred.is_some() {
                return Err(format!("seed {seed} cut {cut}: a write that never ended counts as damage"));
            }
            if found.term.0 < reported || found.term.0 > reported + 1 || kept.term != found.term {
                return Err(format!(
                    "seed {seed} cut {cut}: {reported} reported, {} found, {} kept",
                    found.term, kept.term
                ));
            }
        }
    }
    Ok(())
}

#[test]
fn a_power_cut_never_takes_a_reported_state_back() {
    cut_everywhere(&[]).expect("no state is lost");
    cut_everywhere(&[Lie::NoFdatasync]).expect_err("a missing fdatasync must be noticed");
}

#[test]
fn a_failed_sync_counts_for_nothing_until_written_anew() {
    for lies in [&[][..], &[Lie::NoRewrite]] {
        let mut lost = false;
        for seed in 0..20 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let disk = FakeDisk::lying(seed, lies);
            let mut control = TimelineControlFile::create(&disk, dir(), &sample()).expect("created");
            disk.fsync_dir(dir()).expect("synced");
            disk.fail_times(IoFault::Sync, 1);
            let newer = ControlState { term: Term(10), ..sample() };
            control.persist(&newer).expect_err("the sync fails");
            // A restart reads the new slot from the page cache, and gives it out only after it wrote it again.
            let (_, found) = TimelineControlFile::open(&disk.after_kill(), dir()).expect("opened");
            assert_eq!(found.term, Term(10));
            let reopened = disk.after_kill();
            TimelineControlFile::open(&reopened, dir()).expect("opened");
            lost |= TimelineControlFile::open(&reopened.after_power_loss(&mut rng), dir()).expect("opened").1.term
                != Term(10);
            // Without a restart, writing again makes it durable.
            control.persist(&newer).expect("written");
            let kept = TimelineControlFile::open(&disk.after_power_loss(&mut rng), dir()).expect("opened").1;
            assert!(!lies.is_empty() || kept.term == Term(10));
        }
        assert_eq!(lost, !lies.is_empty(), "the check must notice a missing rewrite, and only that");
    }
}

#[test]
fn no_room_shows_at_creation_and_never_later() {
    let disk = Arc::new(FakeDisk::new(1));
    disk.limit(Some(1000));
    assert!(TimelineControlFile::create(&*disk, dir(), &sample()).expect_err("no room").is_no_space());
    disk.limit(None);
    disk.remove(&dir().join(CONTROL_FILE)).expect("removed");
    let mut control = TimelineControlFile::create(&*disk, dir(), &sample()).expect("created");
    disk.limit(Some(0));
    control.persist(&sample()).expect("needs no room");
}
