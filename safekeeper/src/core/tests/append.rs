//! WAL in: contiguity, group flush, record boundaries, the commit position.

use super::*;

#[test]
fn an_acknowledgement_waits_for_its_flush_and_flushes_gather() {
    let mut rig = Rig::new();
    let conn = rig.leader();
    let mut b = wal();
    let first = b.noop(100).end;
    let (at, bytes) = b.take();
    rig.append(conn, 1, at, bytes, None);
    assert!(rig.acceptor.dirty());
    rig.step(Input::FlushNow);
    assert_eq!(rig.last_ack(conn), None, "not before the flush");
    // Two more appends while the flush is under way: one further flush covers both.
    for _ in 0..2 {
        b.noop(60);
        let (at, bytes) = b.take();
        rig.append(conn, 1, at, bytes, None);
        rig.step(Input::FlushNow);
    }
    let flushes = |rig: &Rig| rig.io.iter().filter(|e| matches!(e, Effect::Disk(DiskOp::Flush(_)))).count();
    assert_eq!(flushes(&rig), 1);
    rig.complete_one();
    assert_eq!(rig.last_ack(conn).and_then(|a| a.flush_lsn), Some(first));
    assert_eq!(flushes(&rig), 1, "the next one started by itself");
    rig.complete();
    assert_eq!(rig.last_ack(conn).and_then(|a| a.flush_lsn), Some(b.position()));
    assert_eq!(rig.acceptor.positions().flush_lsn, Some(b.position()));
}

#[test]
fn only_whole_records_are_reported() {
    let mut rig = Rig::new();
    let conn = rig.leader();
    let mut b = wal();
    let first = b.noop(100).end;
    b.noop(20_000);
    let (at, bytes) = b.take();
    let cut = 8_192;
    rig.append(conn, 1, at, bytes.slice(..cut), None);
    rig.step(Input::FlushNow);
    rig.complete();
    assert_eq!(rig.last_ack(conn).and_then(|a| a.flush_lsn), Some(first));
    rig.append(conn, 1, at.add(cut as u64), bytes.slice(cut..), None);
    rig.step(Input::FlushNow);
    rig.complete();
    assert_eq!(rig.last_ack(conn).and_then(|a| a.flush_lsn), Some(b.position()));
}

#[test]
fn gaps_and_rewrites_and_lies_about_length_are_refused() {
    let mut b = wal();
    b.noop(100);
    let (at, bytes) = b.take();
    let mut rig = Rig::new();
    let conn = rig.leader();
    rig.append(conn, 1, at.add(8), bytes.clone(), None);
    assert!(matches!(rig.last_refusal(), Some(Refusal::Gap { .. })));
    let mut rig = Rig::new();
    let conn = rig.leader();
    rig.append(conn, 1, at, bytes.clone(), None);
    rig.append(conn, 1, at, bytes.clone(), None);
    assert!(matches!(rig.last_refusal(), Some(Refusal::Rewrite { .. })));
    let mut rig = Rig::new();
    let conn = rig.leader();
    let lie = AppendRequest {
        generation: Generation(1),
        term: Term(1),
        begin_lsn: at,
        end_lsn: at.add(8),
        commit_lsn: None,
        truncate_lsn: None,
        wal: bytes,
    };
    rig.say(conn, ProposerMessage::Append(lie));
    assert!(matches!(rig.last_refusal(), Some(Refusal::Malformed { .. })));
    assert!(rig.io.is_empty(), "nothing was written");
}

#[test]
fn damaged_wal_is_refused_and_leaves_nothing_behind() {
    let mut rig = Rig::new();
    let conn = rig.leader();
    let mut b = wal();
    let good = b.noop(100).end;
    let (at, bytes) = b.take();
    rig.append(conn, 1, at, bytes, None);
    rig.step(Input::FlushNow);
    rig.complete();
    b.noop(200);
    let (at, bytes) = b.take();
    let mut bad = bytes.to_vec();
    bad[60] ^= 1;
    rig.append(conn, 1, at, Bytes::from(bad), None);
    assert!(matches!(rig.last_refusal(), Some(Refusal::BadWal(_))));
    assert!(rig.io.is_empty());
    assert_eq!(rig.acceptor.positions().flush_lsn, Some(good));
    // The same leader comes back with the right bytes.
    let conn = rig.connect();
    let vote = rig.vote(conn, 1).expect("an answer");
    assert!(!vote.vote_given && vote.flush_lsn == Some(good));
    rig.elect(conn, good, &[(0, start()), (1, start())]);
    rig.append(conn, 1, at, bytes, None);
    rig.step(Input::FlushNow);
    rig.complete();
    assert_eq!(rig.last_ack(conn).and_then(|a| a.flush_lsn), Some(b.position()));
}

#[test]
fn commit_is_bounded_by_the_own_log_and_persisted_lazily() {
    let mut rig = Rig::new();
    let conn = rig.leader();
    let mut b = wal();
    let first = b.noop(100).end;
    let (at, bytes) = b.take();
    rig.append(conn, 1, at, bytes, Some(first.add(1 << 19)));
    assert_eq!(rig.acceptor.positions().commit_lsn, Some(start()), "not durable here yet");
    rig.step(Input::FlushNow);
    rig.complete();
    assert_eq!(rig.acceptor.positions().commit_lsn, Some(first));
    assert_eq!(rig.disk.commit_lsn, Some(start()), "the term's start is persisted already; the rest may wait");
    assert_eq!(rig.acceptor.next_timeout(), Some(10_000));
    rig.now = 10_000;
    rig.step(Input::Tick);
    rig.complete();
    assert_eq!(rig.disk.commit_lsn, Some(first));
    assert_eq!(rig.acceptor.next_timeout(), None);
    rig.append(conn, 1, first, Bytes::new(), None);
    rig.step(Input::FlushNow);
    assert_eq!(rig.last_ack(conn).and_then(|a| a.commit_lsn), Some(first), "the persisted one is told");
}

#[test]
fn commit_is_persisted_at_once_at_the_terms_start_and_after_a_segment() {
    let mut rig = Rig::new();
    let conn = rig.leader();
    let mut b = wal();
    let end = b.noop(50_000).end;
    let (at, bytes) = b.take();
    rig.append(conn, 1, at, bytes, None);
    rig.step(Input::FlushNow);
    rig.complete();
    let conn = rig.connect();
    rig.vote(conn, 2);
    rig.elect(conn, end, &[(0, start()), (1, start()), (2, end)]);
    rig.append(conn, 2, end, Bytes::new(), Some(end));
    rig.complete();
    assert_eq!(rig.disk.commit_lsn, Some(end), "a failover waits for this step");
    let mut at = end;
    for _ in 0..12 {
        b.noop(120_000);
        let (from, bytes) = b.take();
        rig.append(conn, 2, from, bytes.slice(..100_000), Some(from));
        rig.append(conn, 2, from.add(100_000), bytes.slice(100_000..), Some(from));
        rig.step(Input::FlushNow);
        rig.complete();
        at = from;
    }
    assert!(rig.disk.commit_lsn > Some(end) && rig.acceptor.positions().commit_lsn == Some(at));
    assert!(at.get() - rig.disk.commit_lsn.map_or(0, Lsn::get) < seg().bytes(), "at most a segment behind");
}

#[test]
fn a_switch_record_moves_the_boundary_ahead_of_the_bytes() {
    let mut rig = Rig::new();
    let conn = rig.leader();
    let mut b = wal();
    b.noop(100);
    let switch = b.switch();
    b.noop(100);
    let (at, bytes) = b.take();
    let cut = (switch.start.get() - at.get()) as usize + 24;
    rig.append(conn, 1, at, bytes.slice(..cut), None);
    rig.step(Input::FlushNow);
    rig.complete();
    let ack = rig.last_ack(conn).and_then(|a| a.flush_lsn);
    assert_eq!(ack, Some(start().add(1 << 20)), "the next segment's start");
    // The fill goes on on the same connection.
    rig.append(conn, 1, at.add(cut as u64), bytes.slice(cut..cut + 100_000), None);
    assert_eq!(rig.last_refusal(), None);
    // A reconnect starts behind the fill.
    let conn = rig.connect();
    let end = rig.vote(conn, 1).and_then(|v| v.flush_lsn).expect("an end");
    assert_eq!(end, start().add(1 << 20));
    rig.elect(conn, end, &[(0, start()), (1, start())]);
    rig.complete();
    let next = bytes.slice((end.get() - at.get()) as usize..);
    rig.append(conn, 1, end, next, None);
    rig.step(Input::FlushNow);
    rig.complete();
    assert_eq!(rig.last_ack(conn).and_then(|a| a.flush_lsn), Some(b.position()));
}

#[test]
fn heartbeats_are_answered_without_a_flush() {
    let mut rig = Rig::new();
    let conn = rig.leader();
    rig.append(conn, 1, start(), Bytes::new(), None);
    rig.step(Input::FlushNow);
    assert!(rig.io.is_empty());
    assert_eq!(rig.last_ack(conn).and_then(|a| a.flush_lsn), Some(start()));
}
