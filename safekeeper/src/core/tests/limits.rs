//! Numbers at the end of their range, a history that fills up, and the first commit position of a term.

use super::*;

#[test]
fn a_term_absurdly_far_above_the_known_one_is_refused_and_changes_nothing() {
    let mut rig = Rig::new();
    for term in [u64::MAX, Term::JUMP_MAX + 1] {
        let conn = rig.connect();
        assert_eq!(rig.vote(conn, term), None);
        let refusal = rig.last_refusal().expect("refused");
        assert!(matches!(refusal, Refusal::TooFar { what: "term", here: 0, .. }), "{refusal}");
        assert_eq!((refusal.sqlstate(), refusal.hint().is_some()), ("22023", true));
        let conn = rig.connect();
        rig.elect(conn, start(), &[(0, start()), (term, start())]);
        assert!(matches!(rig.last_refusal(), Some(Refusal::TooFar { what: "term", .. })));
    }
    assert_eq!((rig.acceptor.state().term, rig.disk.term), (Term::ZERO, Term::ZERO));
    let conn = rig.connect();
    assert!(rig.vote(conn, Term::JUMP_MAX).is_some_and(|v| v.vote_given), "the bound itself is taken");
    assert!(rig.vote(conn, 2 * Term::JUMP_MAX).is_some_and(|v| v.vote_given), "and counted from what is known now");
}

#[test]
fn an_epoch_or_generation_absurdly_far_above_the_known_one_is_refused() {
    let mut rig = Rig::new();
    for epoch in [u64::MAX, PrimaryEpoch::FIRST.0 + PrimaryEpoch::JUMP_MAX + 1] {
        rig.open_conn(Some(PrimaryEpoch(epoch)));
        assert!(matches!(rig.last_refusal(), Some(Refusal::TooFar { what: "primary_epoch", here: 1, .. })));
    }
    let conn = rig.open_conn(Some(PrimaryEpoch::FIRST));
    rig.say(conn, ProposerMessage::Greeting(ProposerGreeting { mconf: mconf(u32::MAX), ..greeting() }));
    assert!(matches!(rig.last_refusal(), Some(Refusal::TooFar { what: "configuration generation", .. })));
    assert_eq!(rig.acceptor.state().primary_epoch, PrimaryEpoch::FIRST);
    assert_eq!(rig.acceptor.state().mconf.generation, Generation(1));
}

#[test]
fn an_election_that_starts_where_no_log_reaches_is_refused() {
    let mut rig = Rig::new();
    let conn = rig.connect();
    rig.vote(conn, 1);
    rig.elect(conn, start(), &[(0, start()), (1, Lsn::new(u64::MAX - 7))]);
    assert!(matches!(rig.last_refusal(), Some(Refusal::BadElection { .. })), "{:?}", rig.last_refusal());
}

#[test]
fn the_first_commit_of_a_term_is_told_when_it_is_durable() {
    let mut rig = Rig::new();
    let conn = rig.connect();
    rig.vote(conn, 1);
    // The log's end of an unclean stop: the commit position that is known lies below it.
    rig.elect(conn, start(), &[(0, start()), (1, start())]);
    rig.complete();
    let mut records = wal();
    records.noop(40);
    let (_, bytes) = records.take();
    rig.append(conn, 1, start(), bytes, None);
    rig.step(Input::FlushNow);
    rig.complete();
    let end = rig.acceptor.positions().flush_lsn.expect("a log");
    let conn = rig.connect();
    rig.vote(conn, 2);
    rig.elect(conn, end, &[(0, start()), (1, start()), (2, end)]);
    rig.complete();
    rig.append(conn, 2, end, Bytes::new(), Some(end));
    rig.step(Input::FlushNow);
    let first = rig.last_ack(conn).expect("an answer");
    assert!(first.commit_lsn < Some(end), "not durable yet: {first:?}");
    rig.complete();
    assert!(rig.acceptor.dirty(), "an answer is due that no append asks for");
    rig.step(Input::FlushNow);
    assert_eq!(rig.last_ack(conn).and_then(|a| a.commit_lsn), Some(end));
    assert!(!rig.acceptor.dirty(), "told once");
}

#[test]
fn elections_without_wal_never_fill_the_history() {
    let mut rig = Rig::new();
    let mut told = history(&[(0, start())]);
    for term in 1..=(HISTORY_ENTRIES_MAX as u64 + 10) {
        let conn = rig.connect();
        let vote = rig.vote(conn, term).expect("a vote");
        assert!(vote.vote_given, "term {term}");
        told = vote.history.with(TermLsn { term: Term(term), lsn: start() }).expect("rises");
        let entries: Vec<(u64, Lsn)> = told.entries().iter().map(|e| (e.term.0, e.lsn)).collect();
        rig.elect(conn, start(), &entries);
        rig.complete();
        rig.sent.clear();
        assert!(rig.closed.iter().all(|(_, r)| matches!(r, Refusal::Superseded(_))), "{:?}", rig.closed);
        rig.step(Input::Disconnected { conn });
    }
    assert_eq!((told.entries().len(), rig.acceptor.positions().history_entries), (3, 2));
}

#[test]
fn the_leader_of_the_present_term_gets_its_history_back_word_by_word() {
    let mut rig = Rig::new();
    let conn = rig.connect();
    rig.vote(conn, 3);
    let announced = [(0, start()), (1, start()), (3, start())];
    rig.elect(conn, start(), &announced);
    rig.complete();
    rig.step(Input::Disconnected { conn });
    let again = rig.connect();
    let vote = rig.vote(again, 3).expect("a refused vote shows the log");
    assert_eq!((vote.vote_given, vote.history), (false, history(&announced)));
    rig.elect(again, start(), &announced);
    rig.complete();
    assert_eq!(rig.last_refusal(), None);
    let other = rig.connect();
    let vote = rig.vote(other, 4).expect("a vote");
    assert_eq!(vote.history, history(&[(0, start()), (3, start())]), "the next one without what wrote nothing");
}
