//! Failed I/O, disconnects, and what opening refuses.

use super::*;

#[test]
fn nothing_counts_beyond_the_last_good_sync_after_a_failure() {
    let mut rig = Rig::new();
    let conn = rig.leader();
    let mut b = wal();
    let good = b.noop(100).end;
    let (at, bytes) = b.take();
    rig.append(conn, 1, at, bytes, None);
    rig.step(Input::FlushNow);
    rig.complete();
    b.noop(100);
    let (at, bytes) = b.take();
    rig.append(conn, 1, at, bytes, None);
    rig.step(Input::FlushNow);
    rig.step(Input::Failed { reason: "fdatasync: I/O error".to_owned() });
    assert!(matches!(rig.last_refusal(), Some(Refusal::Stopped(_))));
    assert!(rig.waiting.is_empty(), "waiting acknowledgements are dropped");
    assert_eq!(rig.acceptor.positions().flush_lsn, Some(good));
    assert_eq!(rig.acceptor.positions().write_lsn, Some(good));
    assert!(rig.acceptor.stopped().is_some());
    rig.open_conn(Some(PrimaryEpoch::FIRST));
    let Some(refusal @ Refusal::Stopped(_)) = rig.last_refusal() else { panic!("{:?}", rig.closed) };
    assert_eq!((refusal.sqlstate(), refusal.action()), ("58030", NextAction::Damaged));
    // A completion that was under way changes nothing any more.
    rig.step(Input::Done(WriteId(99)));
    rig.step(Input::FlushNow);
    rig.step(Input::Tick);
}

#[test]
fn wal_received_before_a_disconnect_is_made_durable() {
    let mut rig = Rig::new();
    let conn = rig.leader();
    let mut b = wal();
    let end = b.noop(100).end;
    let (at, bytes) = b.take();
    rig.append(conn, 1, at, bytes, None);
    rig.step(Input::Disconnected { conn });
    rig.complete();
    assert_eq!(rig.acceptor.positions().flush_lsn, Some(end));
    assert!(!rig.acceptor.positions().streaming);
}

#[test]
fn messages_that_wait_for_a_truncation_go_with_their_connection() {
    let mut rig = Rig::new();
    let old = rig.leader();
    let mut b = wal();
    b.noop(100);
    let (at, bytes) = b.take();
    rig.append(old, 1, at, bytes, None);
    rig.step(Input::FlushNow);
    rig.complete();
    let conn = rig.connect();
    rig.vote(conn, 2);
    rig.elect(conn, start(), &[(0, start()), (2, start())]);
    rig.append(conn, 2, start(), Bytes::new(), None);
    rig.step(Input::Disconnected { conn });
    rig.complete();
    assert_eq!(rig.last_ack(conn), None);
    assert_eq!(rig.acceptor.positions().flush_lsn, Some(start()));
}

#[test]
fn a_reopened_acceptor_votes_with_what_it_held() {
    let mut rig = Rig::new();
    let conn = rig.leader();
    let mut b = wal();
    let built = b.noop(100);
    let (at, bytes) = b.take();
    rig.append(conn, 1, at, bytes, Some(built.end));
    rig.step(Input::FlushNow);
    rig.complete();
    let end = LogEnd { flush_lsn: built.end, last_record_start: Some(built.start) };
    let mut again = Rig::of(rig.disk.clone(), Some(end));
    let conn = again.connect();
    let vote = again.vote(conn, 2).expect("an answer");
    assert!(vote.vote_given && vote.flush_lsn == Some(built.end));
    assert_eq!(vote.history, history(&[(0, start()), (1, start())]));
    again.elect(conn, built.end, &[(0, start()), (1, start()), (2, built.end)]);
    again.complete();
    // The prev link of the first record after the restart is checked.
    let mut other = WalBuilder::new(stream(), built.end, Some(built.start.add(8)));
    other.noop(60);
    let (from, bytes) = other.take();
    again.append(conn, 2, from, bytes, None);
    assert!(matches!(again.last_refusal(), Some(Refusal::BadWal(_))));
    let conn = again.connect();
    again.vote(conn, 2);
    again.elect(conn, built.end, &[(0, start()), (1, start()), (2, built.end)]);
    b.noop(60);
    let (from, bytes) = b.take();
    again.append(conn, 2, from, bytes, None);
    again.step(Input::FlushNow);
    again.complete();
    assert_eq!(again.last_ack(conn).and_then(|a| a.flush_lsn), Some(b.position()));
}

/// It takes no part until it was admitted again, and may then be filled from where its log ends.
#[test]
fn a_log_that_ends_below_the_commit_position_bars_the_member() {
    let (mut state, left) = (control(), start().add(400));
    state.commit_lsn = Some(start().add(800));
    let end = LogEnd { flush_lsn: left, last_record_start: None };
    let acceptor = Acceptor::open(AcceptorConfig::new(NodeId(1)), state, Some(end)).expect("opened");
    let Admission::Barred { why, .. } = acceptor.admission() else { panic!("{:?}", acceptor.admission()) };
    assert!(why.contains("400 bytes are lost"), "{why}");
    let positions = acceptor.positions();
    assert_eq!((positions.commit_lsn, positions.flush_lsn), (Some(left), Some(left)));
}

#[test]
fn state_and_log_that_contradict_each_other_are_not_served() {
    let config = AcceptorConfig::new(NodeId(1));
    let end = |at| Some(LogEnd { flush_lsn: at, last_record_start: None });
    let mut state = control();
    state.commit_lsn = Some(start().add(800));
    let lost = Acceptor::open(config, state, None).expect_err("committed WAL is missing");
    assert!(matches!(lost, OpenError::BelowCommit { .. }));
    assert!(matches!(
        Acceptor::open(AcceptorConfig::new(NodeId(8)), control(), end(start())),
        Err(OpenError::NotAMember { .. })
    ));
    let mut state = control();
    state.history = history(&[(0, start()), (3, start())]);
    assert!(Acceptor::open(config, state, end(start())).is_err(), "history runs ahead of the term");
    let mut state = control();
    state.mconf = MemberConf::none();
    assert!(Acceptor::open(config, state, end(start())).is_err(), "a vanilla timeline without members");
}
