//! Votes, announcements, truncation.

use super::*;

/// A log of two records in term 1, durable; returns the ends.
fn two_records(rig: &mut Rig, conn: ConnId) -> (WalBuilder, Lsn, Lsn) {
    let mut b = wal();
    let (one, two) = (b.noop(100).end, b.noop(200).end);
    let (at, bytes) = b.take();
    rig.append(conn, 1, at, bytes, None);
    rig.step(Input::FlushNow);
    rig.complete();
    (b, one, two)
}

#[test]
fn a_vote_waits_for_all_wal_and_the_term_to_be_durable() {
    let mut rig = Rig::new();
    let old = rig.leader();
    let mut b = wal();
    let end = b.noop(100).end;
    let (at, bytes) = b.take();
    rig.append(old, 1, at, bytes, None);
    let conn = rig.connect();
    rig.sent.clear();
    rig.say(conn, ProposerMessage::VoteRequest(VoteRequest { generation: Generation(1), term: Term(2) }));
    let kinds: Vec<&str> = rig
        .io
        .iter()
        .map(|e| match e {
            Effect::Disk(DiskOp::Write { .. }) => "write",
            Effect::Disk(DiskOp::Flush(_)) => "flush",
            Effect::Disk(DiskOp::Persist { .. }) => "persist",
            _ => "other",
        })
        .collect();
    assert!(rig.sent.is_empty());
    assert_eq!(kinds.last(), Some(&"persist"), "{kinds:?}");
    while rig.sent.is_empty() {
        assert!(rig.disk.term < Term(2), "nothing leaves before the term is durable");
        rig.complete_one();
    }
    assert_eq!(rig.disk.term, Term(2));
    let Some((_, AcceptorMessage::VoteResponse(vote))) = rig.sent.last() else { panic!("{:?}", rig.sent) };
    assert!(vote.vote_given);
    assert_eq!(vote.flush_lsn, Some(end));
    // The old leader is told.
    rig.append(old, 1, end, Bytes::new(), None);
    rig.step(Input::FlushNow);
    let ack = rig.last_ack(old).expect("an answer");
    assert_eq!((ack.term, ack.flush_lsn, ack.commit_lsn), (Term(2), None, None));
}

#[test]
fn a_term_is_voted_for_once() {
    let mut rig = Rig::new();
    let (a, b) = (rig.connect(), rig.connect());
    assert!(rig.vote(a, 5).is_some_and(|v| v.vote_given));
    assert!(rig.vote(b, 5).is_some_and(|v| !v.vote_given && v.term == Term(5)));
    assert!(rig.vote(b, 4).is_some_and(|v| !v.vote_given && v.term == Term(5)));
    assert!(rig.vote(a, 6).is_some_and(|v| v.vote_given));
}

#[test]
fn a_divergent_tail_is_cut_before_the_first_append_of_the_new_term() {
    let mut rig = Rig::new();
    let old = rig.leader();
    let (_, one, _) = two_records(&mut rig, old);
    // The new leader's log has only the first record, and goes on differently.
    let mut b = wal();
    b.noop(100);
    b.take();
    let conn = rig.connect();
    rig.vote(conn, 2);
    rig.elect(conn, one, &[(0, start()), (1, start()), (2, one)]);
    assert!(rig.acceptor.busy());
    let end = b.noop(300).end;
    let (at, bytes) = b.take();
    rig.append(conn, 2, at, bytes, None);
    rig.step(Input::FlushNow);
    let order: Vec<bool> =
        rig.io.iter().map(|e| matches!(e, Effect::Disk(DiskOp::Truncate { to, .. }) if *to == one)).collect();
    assert_eq!(
        order,
        [false, true, false],
        "what is cut is noted as not lost; cut, then history; the append waits: {:?}",
        rig.io
    );
    rig.complete();
    assert_eq!(rig.last_ack(conn).and_then(|a| a.flush_lsn), Some(end));
    assert_eq!(rig.disk.history, history(&[(0, start()), (1, start()), (2, one)]));
    assert_eq!(rig.acceptor.positions().last_log_term, Term(2));
}

/// Found by the simulator: a heartbeat right behind the announcement needs no flush, but its answer vouches for the
/// term.
#[test]
fn an_acknowledgement_waits_for_the_history_of_its_term() {
    let mut rig = Rig::new();
    let conn = rig.connect();
    rig.vote(conn, 1);
    rig.elect(conn, start(), &[(0, start()), (1, start())]);
    rig.append(conn, 1, start(), Bytes::new(), None);
    rig.step(Input::FlushNow);
    assert_eq!(rig.last_ack(conn), None);
    assert_eq!(rig.disk.history, history(&[(0, start())]));
    rig.complete();
    assert_eq!(rig.disk.history, history(&[(0, start()), (1, start())]));
    assert_eq!(rig.last_ack(conn).and_then(|a| a.flush_lsn), Some(start()));
}

#[test]
fn both_sides_must_agree_where_the_logs_part() {
    let mut rig = Rig::new();
    let old = rig.leader();
    let (_, one, two) = two_records(&mut rig, old);
    let conn = rig.connect();
    rig.vote(conn, 2);
    rig.elect(conn, one, &[(0, start()), (1, start()), (2, two)]);
    assert!(matches!(rig.last_refusal(), Some(Refusal::BadElection { .. })));
    let conn = rig.connect();
    rig.elect(conn, start(), &[(1, start()), (2, two)]);
    assert!(matches!(rig.last_refusal(), Some(Refusal::BadElection { .. })), "no common point is corruption");
    assert_eq!(rig.acceptor.positions().flush_lsn, Some(two));
}

#[test]
fn committed_wal_is_never_cut() {
    let mut rig = Rig::new();
    let old = rig.leader();
    let (_, one, two) = two_records(&mut rig, old);
    rig.append(old, 1, two, Bytes::new(), Some(two));
    let conn = rig.connect();
    rig.vote(conn, 2);
    rig.elect(conn, one, &[(0, start()), (1, start()), (2, one)]);
    let Some(refusal @ Refusal::BelowCommit { .. }) = rig.last_refusal() else { panic!("{:?}", rig.closed) };
    assert_eq!((refusal.sqlstate(), refusal.action()), ("XX001", NextAction::Damaged));
    let why = rig.acceptor.parted().expect("it says so for as long as it lasts");
    assert!(why.contains(&format!("parts from this one at {one}")) && why.contains(&two.to_string()), "{why}");
    // An operator gives it up: from then on it is a member that forgot, and follows behind a fence.
    rig.step(Input::Vouched);
    rig.complete();
    assert_eq!((rig.acceptor.parted(), rig.acceptor.positions().commit_lsn), (None, Some(one)));
    assert!(matches!(rig.acceptor.admission(), Admission::Barred { .. }));
    assert_eq!(rig.disk.commit_lsn, Some(one));
}

/// What a later election holds again is no quarrel any more.
#[test]
fn a_leader_that_holds_what_is_committed_ends_the_refusal() {
    let mut rig = Rig::new();
    let old = rig.leader();
    let (_, one, two) = two_records(&mut rig, old);
    rig.append(old, 1, two, Bytes::new(), Some(two));
    let conn = rig.connect();
    rig.vote(conn, 2);
    rig.elect(conn, one, &[(0, start()), (1, start()), (2, one)]);
    assert!(rig.acceptor.parted().is_some());
    let conn = rig.connect();
    rig.vote(conn, 3);
    rig.elect(conn, two, &[(0, start()), (1, start()), (3, two)]);
    assert_eq!(rig.acceptor.parted(), None);
}

#[test]
fn a_stale_announcement_is_ignored_and_its_append_answered_with_our_term() {
    let mut rig = Rig::new();
    let (stale, conn) = (rig.connect(), rig.connect());
    rig.vote(stale, 1);
    rig.vote(conn, 2);
    rig.elect(stale, start(), &[(0, start()), (1, start())]);
    assert!(rig.closed.is_empty() && rig.io.is_empty());
    rig.append(stale, 1, start(), Bytes::new(), None);
    assert_eq!(rig.last_ack(stale).map(|a| a.term), Some(Term(2)));
}

#[test]
fn an_append_without_an_announced_election_is_refused() {
    let mut rig = Rig::new();
    let conn = rig.connect();
    rig.vote(conn, 1);
    rig.append(conn, 1, start(), Bytes::new(), None);
    assert!(matches!(rig.last_refusal(), Some(Refusal::NotElected { .. })));
    let conn = rig.connect();
    rig.append(conn, 9, start(), Bytes::new(), None);
    assert!(matches!(rig.last_refusal(), Some(Refusal::NotElected { .. })));
}

#[test]
fn an_election_may_reach_an_acceptor_that_did_not_vote() {
    let mut rig = Rig::new();
    let conn = rig.connect();
    rig.elect(conn, start(), &[(0, start()), (7, start())]);
    rig.complete();
    assert_eq!(rig.disk.term, Term(7));
    assert!(rig.acceptor.positions().streaming);
}

#[test]
fn a_reconnect_in_the_same_term_takes_over_and_cuts_only_what_was_never_told() {
    let mut rig = Rig::new();
    let old = rig.leader();
    let (mut b, _, two) = two_records(&mut rig, old);
    b.noop(9_000);
    let (at, bytes) = b.take();
    rig.append(old, 1, at, bytes.slice(..4_000), None);
    let conn = rig.connect();
    let vote = rig.vote(conn, 1).expect("an answer");
    assert!(!vote.vote_given && vote.flush_lsn == Some(two), "{vote:?}");
    rig.elect(conn, two, &[(0, start()), (1, start())]);
    assert_eq!(rig.closed.last().map(|(c, r)| (*c, r.clone())), Some((old, Refusal::Superseded(Term(1)))));
    rig.complete();
    rig.append(conn, 1, at, bytes, None);
    rig.step(Input::FlushNow);
    rig.complete();
    assert_eq!(rig.last_ack(conn).and_then(|a| a.flush_lsn), Some(b.position()));
}

#[test]
fn another_history_in_the_same_term_is_refused() {
    let mut rig = Rig::new();
    let old = rig.leader();
    let (_, one, _) = two_records(&mut rig, old);
    let conn = rig.connect();
    rig.elect(conn, one, &[(0, start()), (1, one)]);
    assert!(matches!(rig.last_refusal(), Some(Refusal::BadElection { .. })));
}

#[test]
fn a_full_history_refuses_the_vote_before_anything_is_persisted() {
    let mut state = control();
    let entries: Vec<(u64, Lsn)> = (0..HISTORY_ENTRIES_MAX as u64).map(|t| (t, start().add(8 * t))).collect();
    state.history = history(&entries);
    state.term = Term(HISTORY_ENTRIES_MAX as u64 - 1);
    let mut rig = Rig::of(state, Some(LogEnd { flush_lsn: start(), last_record_start: None }));
    let before = (rig.disk.clone(), rig.acceptor.state().clone());
    let conn = rig.connect();
    assert!(rig.vote(conn, HISTORY_ENTRIES_MAX as u64).is_none());
    assert_eq!(rig.last_refusal(), Some(&Refusal::HistoryFull(HISTORY_ENTRIES_MAX)));
    assert_eq!((&rig.disk, rig.acceptor.state()), (&before.0, &before.1));
    // The present leader may still reconnect.
    let conn = rig.connect();
    assert!(rig.vote(conn, HISTORY_ENTRIES_MAX as u64 - 1).is_some_and(|v| !v.vote_given));
}
