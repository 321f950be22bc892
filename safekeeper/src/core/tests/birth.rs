//! What members remember of each other from a timeline's birth on.

use proto::admission::{AdmissionAnswer, MemberMemory, Statement};
use proto::id::Incarnation;

use super::*;
use crate::core::Admission;

/// A directory that was just made, of member `id`.
pub(super) fn fresh(id: u64) -> Statement {
    Statement {
        safekeeper_id: NodeId(id),
        incarnation: Incarnation::new([id as u8; 16]),
        starts: 1,
        term: Term::ZERO,
        last_log_term: Term::ZERO,
        flush_lsn: start(),
        committed: false,
        admitted: false,
        readmitted: Term::ZERO,
        fence: None,
        commit_lsn: None,
    }
}

pub(super) fn answers(rig: &mut Rig, statement: Statement) {
    let answer = AdmissionAnswer { statement, elected: Term::ZERO, remembered: None, fenced: None };
    rig.step(Input::Answered(Box::new(answer)));
}

/// What this member answers to the statement that it remembers.
fn remembered(rig: &mut Rig, statement: Statement) -> Option<MemberMemory> {
    let mut effects = Vec::new();
    let told = Input::Told { ask: AskId(1), statement: Box::new(statement) };
    rig.acceptor.step(rig.now, told, &mut effects);
    let answer = effects.into_iter().find_map(|e| match e {
        Effect::Answer { answer, .. } => Some(answer),
        _ => None,
    });
    answer.expect("a statement is answered").remembered
}

/// Member 1 of three that are reached, which has heard nothing yet.
pub(super) fn born() -> Rig {
    let member = |id| Member { id: NodeId(id), host: "sk".to_owned(), pg_port: 1 };
    let mconf = MemberConf::new(Generation(1), (1..=3).map(member).collect(), Vec::new()).expect("valid");
    Rig::of(ControlState { mconf, ..control() }, Some(LogEnd { flush_lsn: start(), last_record_start: None }))
}

/// One record in term 1 that is durable here: its leader and its end.
fn append_a_record(rig: &mut Rig) -> (ConnId, Lsn) {
    let mut wal = wal();
    let end = wal.noop(64).end;
    let conn = rig.leader();
    rig.append(conn, 1, start(), wal.take().1, None);
    rig.step(Input::FlushNow);
    rig.complete();
    (conn, end)
}

/// Commits one record; its end.
fn commit_a_record(rig: &mut Rig) -> Lsn {
    let (conn, end) = append_a_record(rig);
    rig.append(conn, 1, end, Bytes::new(), Some(end));
    rig.step(Input::FlushNow);
    rig.complete();
    assert_eq!(rig.acceptor.state().commit_lsn, Some(end), "the record is committed");
    end
}

#[test]
fn a_member_that_asks_after_the_first_commit_finds_itself_known_from_its_answer() {
    let mut rig = born();
    answers(&mut rig, fresh(2));
    answers(&mut rig, fresh(3));
    assert_eq!(rig.acceptor.admission(), Admission::Admitted);
    commit_a_record(&mut rig);
    assert_eq!(remembered(&mut rig, fresh(3)), Some(MemberMemory::of(&fresh(3))));
}

/// One record in term 1 that is durable here, and of which no proposer said that it is committed.
pub(super) fn uncommitted() -> (Rig, Lsn) {
    let mut rig = born();
    answers(&mut rig, fresh(2));
    answers(&mut rig, fresh(3));
    let (conn, end) = append_a_record(&mut rig);
    rig.step(Input::Disconnected { conn });
    assert_eq!(rig.acceptor.positions().commit_lsn, Some(start()));
    (rig, end)
}

/// The proposer told it to one member, and went.
#[test]
fn a_commit_position_that_reached_one_member_is_learned_from_it() {
    let knows = |end| {
        let (term, commit_lsn) = (Term(1), Some(end));
        Statement { term, last_log_term: term, flush_lsn: end, committed: true, admitted: true, commit_lsn, ..fresh(2) }
    };
    let (mut rig, end) = uncommitted();
    remembered(&mut rig, knows(end));
    assert_eq!(rig.acceptor.positions().commit_lsn, Some(end), "from what it tells");
    let (mut rig, end) = uncommitted();
    answers(&mut rig, knows(end.add(800)));
    assert_eq!(rig.acceptor.positions().commit_lsn, Some(end), "from its answer, as far as the log here goes");
    let (mut rig, end) = uncommitted();
    answers(&mut rig, Statement { last_log_term: Term(2), term: Term(2), ..knows(end) });
    answers(&mut rig, Statement { admitted: false, ..knows(end) });
    assert_eq!(rig.acceptor.positions().commit_lsn, Some(start()), "not of another log, nor from one that forgot");
}

#[test]
fn a_directory_first_heard_of_after_a_commit_stays_unknown() {
    let mut rig = born();
    answers(&mut rig, fresh(2));
    answers(&mut rig, fresh(3));
    let end = commit_a_record(&mut rig);
    let mut of_an_older_version = rig.acceptor.state().clone();
    of_an_older_version.standing.peers.clear();
    let mut rig = Rig::of(of_an_older_version, Some(LogEnd { flush_lsn: end, last_record_start: Some(start()) }));
    answers(&mut rig, fresh(3));
    assert_eq!(remembered(&mut rig, fresh(3)), None);
    assert_eq!(remembered(&mut rig, fresh(3)), None, "also when the answer was lost and it asks again");
}
