//! Effects beside pages: records built by hand, in the layouts of each major.

use super::kind::unknown;
use super::*;
use crate::rel::Fork;
use crate::rel::{RelFileLocator, RelFork};
use crate::slru::Slru;
use crate::twophase;
use crate::{Lsn, Tli};

const V14: usize = 0;
const V15: usize = 1;
const V16: usize = 2;
const V17: usize = 3;
const V18: usize = 4;

fn header(rmid: u8, info: u8, xid: u32) -> RecordHeader {
    RecordHeader { total_len: 0, xid, prev: Lsn::new(0), info, rmid, crc: 0 }
}

fn decode(rmid: u8, info: u8, main: &[u8], version: usize) -> Result<Effect<'_>, EffectError> {
    of(&header(rmid, info, 700), &RecordBody { main, ..RecordBody::default() }, PgMajor::ALL[version])
}

/// Puts fields together: `w` four bytes, `d` eight, `h` two, `b` one.
fn bytes(fields: &[(char, i64)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, value) in fields {
        let len = match kind {
            'd' => 8,
            'w' => 4,
            'h' => 2,
            _ => 1,
        };
        out.extend_from_slice(&value.to_le_bytes()[..len]);
    }
    out
}

/// A commit with every chunk there is.
fn full_commit(version: usize) -> Vec<u8> {
    let mut bits = 0x1FF;
    let stat: &[(char, i64)] = match version {
        V14 => {
            bits &= !0x100;
            &[]
        }
        V18 => &[('w', 1), ('w', 2), ('w', 5), ('w', 9), ('w', 0)],
        _ => &[('w', 1), ('w', 2), ('w', 5), ('w', 9)],
    };
    let mut main = bytes(&[('d', 1000), ('w', bits | 1 << 29), ('w', 5), ('w', 1663)]);
    main.extend(bytes(&[('w', 2), ('w', 801), ('w', 802)]));
    main.extend(bytes(&[('w', 1), ('w', 1663), ('w', 5), ('w', 16384)]));
    main.extend(bytes(stat));
    main.extend(bytes(&[('w', 1), ('d', 0), ('d', 0)]));
    main.extend(bytes(&[('w', 800)]));
    main.extend(b"a gid\0");
    main.extend(bytes(&[('d', 0x55), ('d', 990)]));
    main
}

#[test]
fn a_commits_chunks_are_in_postgresqls_order() {
    for version in [V14, V15, V17, V18] {
        let main = full_commit(version);
        let body = RecordBody { main: &main, origin: Some(3), ..RecordBody::default() };
        let decoded = of(&header(rmid::XACT, 0x30 | 0x80, 0), &body, PgMajor::ALL[version]).expect("a commit");
        let Effect::Commit(end) = decoded else { panic!("{decoded:?}") };
        assert_eq!((end.xid, end.prepared, end.time, end.origin), (800, true, 1000, 3));
        assert_eq!(end.subxids.iter().collect::<Vec<_>>(), [801, 802]);
        assert_eq!(end.dropped.iter().collect::<Vec<_>>(), [RelFileLocator { spc: 1663, db: 5, rel: 16384 }]);
        assert_eq!(end.progress, Some(OriginProgress { remote_lsn: Lsn::new(0x55), time: 990 }));
        assert_eq!(end.commit_timestamp(), 990);
        for cut in 0..main.len() {
            let body = RecordBody { main: &main[..cut], ..RecordBody::default() };
            assert!(of(&header(rmid::XACT, 0xB0, 0), &body, PgMajor::ALL[version]).is_err(), "cut at {cut}");
        }
    }
}

#[test]
fn a_commits_layout_of_another_major_is_not_misread() {
    // Reading statistics of twelve bytes as sixteen, or the reverse, leaves bytes over or ends too early.
    assert!(decode(rmid::XACT, 0xB0, &full_commit(V17), V18).is_err());
    assert!(decode(rmid::XACT, 0xB0, &full_commit(V18), V17).is_err());
    assert_eq!(decode(rmid::XACT, 0xB0, &full_commit(V15), V14), Err(EffectError::Flags(0x100)));
}

#[test]
fn ends_of_transactions() {
    let plain = bytes(&[('d', 5)]);
    let Ok(Effect::Abort(end)) = decode(rmid::XACT, 0x20, &plain, V18) else { panic!("an abort") };
    assert_eq!((end.xid, end.prepared, end.commit_timestamp(), end.origin), (700, false, 5, 0));
    // An abort has no invalidations, and only a prepared transaction names a transaction other than the record's.
    let invals = bytes(&[('d', 5), ('w', 8), ('w', 0)]);
    assert_eq!(decode(rmid::XACT, 0xA0, &invals, V18), Err(EffectError::Flags(8)));
    let two_phase = bytes(&[('d', 5), ('w', 16), ('w', 9)]);
    assert_eq!(decode(rmid::XACT, 0x80, &two_phase, V18), Err(EffectError::Flags(16)));
    assert!(decode(rmid::XACT, 0xC0, &two_phase, V18).is_ok());
    assert_eq!(decode(rmid::XACT, 0x30, &plain, V18), Err(EffectError::Flags(0)));
    let strange = bytes(&[('d', 5), ('w', 1 << 20)]);
    assert_eq!(decode(rmid::XACT, 0x80, &strange, V18), Err(EffectError::Flags(1 << 20)));
    assert_eq!(decode(rmid::XACT, 0x00, &bytes(&[('d', 5), ('b', 0)]), V18), Err(EffectError::Long(1)));
    let negative = bytes(&[('d', 5), ('w', 2), ('w', -1)]);
    assert!(matches!(decode(rmid::XACT, 0x80, &negative, V18), Err(EffectError::Value { value: -1, .. })));
}

#[test]
fn other_records_of_transactions() {
    let main = bytes(&[('w', 700), ('w', 2), ('w', 701), ('w', 702)]);
    let Ok(Effect::Assignment(assigned)) = decode(rmid::XACT, 0x50, &main, V14) else { panic!("an assignment") };
    assert_eq!((assigned.top, assigned.subxids.iter().sum::<u32>()), (700, 1403));
    assert_eq!(decode(rmid::XACT, 0x60, &[], V14), Ok(Effect::None));
    assert_eq!(decode(rmid::XACT, 0x70, &[], V14), Err(unknown(rmid::XACT, 0x70)));
    let state = twophase::sample(PgMajor::ALL[V14], 700, &[701]);
    let Ok(Effect::Prepare { header, .. }) = decode(rmid::XACT, 0x10, &state, V14) else { panic!("a prepare") };
    assert_eq!(header.xid, 700);
    assert!(matches!(decode(rmid::XACT, 0x10, &state[1..], V14), Err(EffectError::TwoPhase(_))));
}

#[test]
fn records_of_files() {
    let rel = RelFileLocator { spc: 1663, db: 5, rel: 16384 };
    let main = bytes(&[('w', 1663), ('w', 5), ('w', 16384), ('w', 3)]);
    let created = Effect::RelCreate(RelFork { rel, fork: Fork::Init });
    assert_eq!(decode(rmid::SMGR, 0x11, &main, V15), Ok(created));
    assert!(decode(rmid::SMGR, 0x10, &bytes(&[('w', 1), ('w', 5), ('w', 7), ('w', 4)]), V15).is_err());
    assert!(decode(rmid::SMGR, 0x10, &bytes(&[('w', 1), ('w', 5), ('w', 0), ('w', 0)]), V15).is_err());
    let main = bytes(&[('w', 9), ('w', 1663), ('w', 5), ('w', 16384), ('w', 3)]);
    let cut = Effect::RelTruncate { rel, blocks: 9, main: true, vm: true, fsm: false };
    assert_eq!(decode(rmid::SMGR, 0x21, &main, V15), Ok(cut));
    let main = bytes(&[('w', 9), ('w', 1663), ('w', 5), ('w', 16384), ('w', 8)]);
    assert!(decode(rmid::SMGR, 0x20, &main, V15).is_err());
    assert_eq!(decode(rmid::SMGR, 0x30, &[], V15), Err(unknown(rmid::SMGR, 0x30)));

    let four = bytes(&[('w', 5), ('w', 1663), ('w', 1), ('w', 1664)]);
    let (to, from) = (DatabaseDir { spc: 1663, db: 5 }, DatabaseDir { spc: 1664, db: 1 });
    for version in [V14, V15] {
        assert_eq!(decode(rmid::DBASE, 0x00, &four, version), Ok(Effect::DatabaseCopy { to, from }));
    }
    assert_eq!(decode(rmid::DBASE, 0x10, &four, V15), Ok(Effect::DatabaseCreate(to)));
    let drop = bytes(&[('w', 5), ('w', 2), ('w', 1663), ('w', 99)]);
    for (info, version) in [(0x10, V14), (0x20, V15)] {
        let Ok(Effect::DatabaseDrop { db: 5, spcs }) = decode(rmid::DBASE, info, &drop, version) else {
            panic!("a drop")
        };
        assert_eq!((spcs.len(), format!("{spcs:?}")), (2, "[1663, 99]".to_string()));
    }
    assert_eq!(decode(rmid::DBASE, 0x20, &drop, V14), Err(unknown(rmid::DBASE, 0x20)));

    let mut space = bytes(&[('w', 99)]);
    space.extend(b"/there\0");
    assert_eq!(decode(rmid::TBLSPC, 0, &space, V18), Ok(Effect::TablespaceCreate { spc: 99, path: b"/there" }));
    assert_eq!(decode(rmid::TBLSPC, 0, &space[..8], V18), Err(EffectError::Short));
    assert_eq!(decode(rmid::TBLSPC, 0x10, &space, V18), Ok(Effect::TablespaceDrop(99)));
    let mut map = bytes(&[('w', 5), ('w', 1663), ('w', 3)]);
    map.extend(b"map");
    assert_eq!(decode(rmid::RELMAP, 0, &map, V18), Ok(Effect::RelMap { dir: to, map: b"map" }));
    assert_eq!(decode(rmid::RELMAP, 0, &map[..14], V18), Err(EffectError::Short));
}

#[test]
fn records_of_slrus_have_wider_pages_since_17() {
    let (narrow, wide) = (bytes(&[('w', 7), ('w', 3), ('w', 1)]), bytes(&[('d', 7), ('w', 3), ('w', 1)]));
    for (main, version) in [(&narrow, V15), (&wide, V17)] {
        let zeroed = |slru| Ok(Effect::SlruZero { slru, page: 7 });
        assert_eq!(decode(rmid::CLOG, 0, main, version), zeroed(Slru::Xact));
        assert_eq!(decode(rmid::COMMIT_TS, 0, main, version), zeroed(Slru::CommitTs));
        assert_eq!(decode(rmid::MULTIXACT, 0, main, version), zeroed(Slru::MultixactOffsets));
        assert_eq!(decode(rmid::MULTIXACT, 0x10, main, version), zeroed(Slru::MultixactMembers));
        let truncated = Effect::ClogTruncate { page: 7, oldest_xid: 3, oldest_xid_db: 1 };
        assert_eq!(decode(rmid::CLOG, 0x10, main, version), Ok(truncated));
        let truncated = Effect::CommitTsTruncate { page: 7, oldest_xid: 3 };
        assert_eq!(decode(rmid::COMMIT_TS, 0x10, main, version), Ok(truncated));
    }
    assert!(matches!(decode(rmid::CLOG, 0, &bytes(&[('w', -1)]), V15), Err(EffectError::Value { value: -1, .. })));
    assert_eq!(decode(rmid::CLOG, 0x20, &wide, V17), Err(unknown(rmid::CLOG, 0x20)));

    let main = bytes(&[('w', 6), ('w', 11), ('w', 2), ('w', 700), ('w', 4), ('w', 701), ('w', 1)]);
    let Ok(Effect::MultixactCreate { multi: 6, offset: 11, members }) = decode(rmid::MULTIXACT, 0x20, &main, V14)
    else {
        panic!("a multixact")
    };
    let (a, b) = (MultiXactMember { xid: 700, status: 4 }, MultiXactMember { xid: 701, status: 1 });
    assert_eq!((members.len(), members.iter().collect::<Vec<_>>()), (2, vec![a, b]));
    let strange = bytes(&[('w', 6), ('w', 11), ('w', 1), ('w', 700), ('w', 256)]);
    assert!(decode(rmid::MULTIXACT, 0x20, &strange, V14).is_err());
    let main = bytes(&[('w', 1), ('w', 2), ('w', 3), ('w', 4), ('w', 5)]);
    let cut = Effect::MultixactTruncate { oldest_db: 1, start: 2, end: 3, members_start: 4, members_end: 5 };
    assert_eq!(decode(rmid::MULTIXACT, 0x30, &main, V18), Ok(cut));
}

#[test]
fn records_of_the_log_itself() {
    let mut body = [0; 88];
    body[32] = 42;
    let decoded = decode(rmid::XLOG, 0x10, &body, V18);
    assert!(matches!(decoded, Ok(Effect::Checkpoint { shutdown: false, body }) if body.next_oid == 42));
    assert_eq!(decode(rmid::XLOG, 0x00, &body[..87], V18), Err(EffectError::Short));
    assert_eq!(decode(rmid::XLOG, 0x30, &bytes(&[('w', 24576)]), V18), Ok(Effect::NextOid(24576)));
    assert_eq!(decode(rmid::XLOG, 0x40, &[], V18), Ok(Effect::Switch));
    assert_eq!(decode(rmid::XLOG, 0x50, &bytes(&[('d', 40)]), V18), Ok(Effect::BackupEnd(Lsn::new(40))));
    let main = bytes(&[('w', 100), ('w', 8), ('w', 10), ('w', 0), ('w', 64), ('w', 1), ('b', 0), ('b', 1), ('h', 0)]);
    let Ok(Effect::Parameters(p)) = decode(rmid::XLOG, 0x60, &main, V18) else { panic!("parameters") };
    assert_eq!((p.max_connections, p.max_locks_per_xact, p.wal_level), (100, 64, 1));
    assert!(!p.wal_log_hints && p.track_commit_timestamp);
    let mut named = bytes(&[('d', 9)]);
    named.extend(b"here");
    named.resize(72, 0);
    assert_eq!(decode(rmid::XLOG, 0x70, &named, V18), Ok(Effect::RestorePoint { time: 9, name: b"here" }));
    assert_eq!(decode(rmid::XLOG, 0x80, &[1], V18), Ok(Effect::FullPageWrites(true)));
    let end = bytes(&[('d', 9), ('w', 2), ('w', 1), ('w', 1), ('w', 0)]);
    let levels = [V15, V17].map(|version| match decode(rmid::XLOG, 0x90, &end, version) {
        Ok(Effect::EndOfRecovery { tli: Tli(2), prev_tli: Tli(1), wal_level, .. }) => wal_level,
        other => panic!("{other:?}"),
    });
    assert_eq!(levels, [None, Some(1)]);
    let lost = Effect::OverwriteContrecord { lost: Lsn::new(9), time: 2 << 32 | 1 };
    let main = bytes(&[('d', 9), ('w', 1), ('w', 2)]);
    assert_eq!(decode(rmid::XLOG, 0xD0, &main, V15), Ok(lost));
    assert_eq!(decode(rmid::XLOG, 0xE0, &bytes(&[('w', 1)]), V17), Ok(Effect::CheckpointRedo { wal_level: 1 }));
    assert_eq!(decode(rmid::XLOG, 0xE0, &bytes(&[('w', 1)]), V15), Err(unknown(rmid::XLOG, 0xE0)));
}

#[test]
fn records_for_standbys_and_decoding() {
    let main = bytes(&[('w', 1), ('w', 1), ('w', 1), ('w', 705), ('w', 700), ('w', 699), ('w', 700), ('w', 701)]);
    let Ok(Effect::RunningXacts(running)) = decode(rmid::STANDBY, 0x10, &main, V16) else { panic!("running") };
    assert!(running.overflowed);
    assert_eq!((running.next_xid, running.oldest, running.latest_completed, running.xids.len()), (705, 700, 699, 2));
    assert_eq!(decode(rmid::STANDBY, 0x00, &[], V16), Ok(Effect::None));
    let set = bytes(&[('d', 9), ('h', 2), ('b', 1)]);
    let expected = Effect::OriginSet { origin: 2, remote_lsn: Lsn::new(9), force: true };
    assert_eq!(decode(rmid::REPLORIGIN, 0, &set, V16), Ok(expected));
    assert_eq!(decode(rmid::REPLORIGIN, 0x10, &set[8..], V16), Ok(Effect::OriginDrop(2)));
    let mut message = bytes(&[('w', 5), ('w', 1), ('d', 3), ('d', 2)]);
    message.extend(b"me\0hi");
    let expected = Effect::LogicalMessage { db: 5, transactional: true, prefix: b"me", message: b"hi" };
    assert_eq!(decode(rmid::LOGICALMSG, 0, &message, V16), Ok(expected));
}

#[test]
fn what_is_not_known_is_refused() {
    for rmid in [22, 127, 128, 255] {
        assert_eq!(decode(rmid, 0, &[], V18), Err(unknown(rmid, 0)), "resource manager {rmid}");
    }
    for (rmid, info) in [(rmid::HEAP, 0x30), (rmid::HEAP2, 0x70), (rmid::BTREE, 0xD0), (rmid::GIST, 0x70)] {
        assert_eq!(decode(rmid, info, &[], V18), Ok(Effect::None));
    }
    for (rmid, info) in [(rmid::HEAP, 0x00), (rmid::GENERIC, 0), (rmid::BTREE, 0xF0), (rmid::SEQ, 0)] {
        assert_eq!(decode(rmid, info, &[], V18), Err(unknown(rmid, info)), "without the blocks that it changes");
    }
}
