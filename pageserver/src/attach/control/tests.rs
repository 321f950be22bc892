//! Slots: round trip, torn writes, foreign versions, the golden file of version 1.

use super::super::disk::RealDisk;
use super::*;

fn sample() -> Control {
    Control {
        ttid: TenantTimelineId::new(TenantId::new([0x11; 16]), TimelineId::new([0x22; 16])),
        pageserver: NodeId(7),
        attach: AttachRequest {
            start_lsn: Lsn::new(0x0100_0028),
            pg_version_num: 150_004,
            system_id: SystemId(0x1234_5678_9ABC_DEF0),
            wal_seg_size: SegSize::DEFAULT,
            pg_history: vec![
                PgHistoryEntry { tli: Tli(1), start_lsn: Lsn::new(0) },
                PgHistoryEntry { tli: Tli(2), start_lsn: Lsn::new(0x0100_0000) },
            ],
        },
        choice_seq: 3,
    }
}

#[test]
fn slots_alternate_and_a_torn_one_falls_back_to_the_other() {
    let tmp = tempfile::tempdir().expect("temp dir");
    let mut control = sample();
    let mut file = ControlFile::create(tmp.path(), Arc::new(RealDisk), &control).expect("create");
    for n in 1..=5u64 {
        control.choice_seq = n;
        file.save(&control).expect("save");
        let (_, read) = ControlFile::open(tmp.path(), Arc::new(RealDisk)).expect("open");
        assert_eq!(read, control);
    }
    let path = tmp.path().join(FILE_NAME);
    let good = std::fs::read(&path).expect("read");
    assert_eq!(good.len(), 2 * SLOT_LEN);
    let newest = (usize::try_from(file.seq).expect("small") % 2) * SLOT_LEN;
    let used = control.encode(1).len();
    // Every byte of the newest slot counts.
    for at in (0..used).step_by(3) {
        let mut torn = good.clone();
        torn[newest + at] ^= 0x40;
        std::fs::write(&path, &torn).expect("write");
        let (_, read) = ControlFile::open(tmp.path(), Arc::new(RealDisk)).expect("the other slot");
        assert_eq!(read.choice_seq, 4, "byte {at}");
    }
    std::fs::write(&path, vec![0; 2 * SLOT_LEN]).expect("write");
    assert!(matches!(ControlFile::open(tmp.path(), Arc::new(RealDisk)), Err(ControlError::Damaged { .. })));
}

#[test]
fn an_unknown_version_is_refused() {
    let tmp = tempfile::tempdir().expect("temp dir");
    ControlFile::create(tmp.path(), Arc::new(RealDisk), &sample()).expect("create");
    let path = tmp.path().join(FILE_NAME);
    let mut bytes = std::fs::read(&path).expect("read");
    let slot = &mut bytes[SLOT_LEN..];
    slot[8] = 9;
    let len = sample().encode(1).len();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&slot[..24]), &slot[28..len]);
    slot[24..28].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, &bytes).expect("write");
    assert!(matches!(ControlFile::open(tmp.path(), Arc::new(RealDisk)), Err(ControlError::Version { found: 9, .. })));
}

#[test]
fn golden_slot_of_version_1() {
    let golden = include_bytes!("../../../testdata/control-v1.bin");
    let (seq, control) = read_slot(Bytes::from_static(golden)).unwrap_or_else(|_| panic!("the golden slot reads"));
    assert_eq!((seq, control), (42, sample()));
    // Its positions are zeros now.
    let mut zeroed = golden.to_vec();
    zeroed[HEADER_LEN + 64..HEADER_LEN + 80].fill(0);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&zeroed[..HEADER_LEN - 4]), &zeroed[HEADER_LEN..]);
    zeroed[HEADER_LEN - 4..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(sample().encode(42), zeroed, "the format has changed: give it a new version");
}
