//! Statements and answers that no working member gives: they change nothing.

use proto::admission::{AdmissionAnswer, MemberMemory, Statement};
use proto::id::Incarnation;

use super::birth::{answers, born, fresh, uncommitted};
use super::*;
use crate::core::Admission;

const FAR: Term = Term(Term::JUMP_MAX + 10);

/// Member 2 as it stands when one record was written in term 1.
fn sound(end: Lsn) -> Statement {
    Statement { term: Term(1), last_log_term: Term(1), flush_lsn: end, admitted: true, ..fresh(2) }
}

/// What a statement brings about.
fn tell(rig: &mut Rig, statement: Statement) -> Result<AdmissionAnswer, Refusal> {
    let mut effects = Vec::new();
    let told = Input::Told { ask: AskId(1), statement: Box::new(statement) };
    rig.acceptor.step(rig.now, told, &mut effects);
    let answer = effects.iter().find_map(|e| match e {
        Effect::Answer { answer, .. } => Some(Ok((**answer).clone())),
        Effect::Doubted { ask: Some(AskId(1)), refusal } => Some(Err(refusal.clone())),
        _ => None,
    });
    answer.expect("a statement is answered")
}

fn absurd(sound: &Statement) -> Vec<(Statement, &'static str)> {
    let end = sound.flush_lsn;
    vec![
        (Statement { term: FAR, ..sound.clone() }, "term"),
        (Statement { term: Term(u64::MAX), ..sound.clone() }, "term"),
        (Statement { readmitted: FAR, ..sound.clone() }, "readmitted"),
        (Statement { last_log_term: Term(2), ..sound.clone() }, "its log ends in term 2"),
        (Statement { flush_lsn: Lsn::LIMIT, ..sound.clone() }, "positions lie below"),
        (Statement { commit_lsn: Some(end.add(8)), ..sound.clone() }, "is committed, and its log ends"),
        (Statement { fence: Some(Term(FENCE_JUMP_MAX + 2)), ..sound.clone() }, "fence"),
        (Statement { fence: Some(Term(u64::MAX)), ..sound.clone() }, "fence"),
    ]
}

#[test]
fn a_statement_that_cannot_be_changes_nothing() {
    let (mut rig, end) = uncommitted();
    rig.complete();
    let before = rig.acceptor.state().clone();
    for (statement, word) in absurd(&sound(end)) {
        let refusal = tell(&mut rig, statement).expect_err(word);
        let text = refusal.to_string();
        assert!(text.starts_with("statement of safekeeper 2: ") && text.contains(word), "{text}");
        assert_eq!((refusal.sqlstate(), refusal.hint().is_some()), ("22023", true));
        assert_eq!(rig.acceptor.state(), &before, "{word}");
    }
    let bound = Statement { fence: Some(Term(1 + FENCE_JUMP_MAX)), ..sound(end) };
    assert_eq!(tell(&mut rig, bound).expect("the bound itself is taken").fenced, Some(Term(1 + FENCE_JUMP_MAX)));
}

#[test]
fn an_answer_that_cannot_be_changes_nothing() {
    let (mut rig, end) = uncommitted();
    let before = rig.acceptor.state().clone();
    let plain = |statement| AdmissionAnswer { statement, elected: Term(1), remembered: None, fenced: None };
    let memory = MemberMemory { term: FAR, ..MemberMemory::of(&sound(end)) };
    let mut answers: Vec<AdmissionAnswer> = absurd(&sound(end)).into_iter().map(|(s, _)| plain(s)).collect();
    answers.push(AdmissionAnswer { elected: FAR, ..plain(sound(end)) });
    answers.push(AdmissionAnswer { remembered: Some(memory), ..plain(sound(end)) });
    for answer in answers {
        let mut effects = Vec::new();
        rig.acceptor.step(rig.now, Input::Answered(Box::new(answer.clone())), &mut effects);
        assert!(matches!(effects[..], [Effect::Doubted { ask: None, .. }]), "{answer:?}: {effects:?}");
        assert_eq!((rig.acceptor.state(), rig.acceptor.admission()), (&before, Admission::Admitted));
    }
}

/// A commit position of another directory is none of this log.
#[test]
fn a_commit_position_is_taken_from_the_remembered_directory_alone() {
    let (mut rig, end) = uncommitted();
    let knows = Statement { commit_lsn: Some(end), committed: true, ..sound(end) };
    let stranger = Statement { incarnation: Incarnation::new([0; 16]), ..knows.clone() };
    tell(&mut rig, stranger.clone()).expect("an answer");
    answers(&mut rig, Statement { readmitted: Term(1), ..stranger });
    tell(&mut rig, Statement { starts: 0, ..knows.clone() }).expect("an answer");
    tell(&mut rig, Statement { safekeeper_id: NodeId(9), ..knows.clone() }).expect("an answer");
    assert_eq!(rig.acceptor.positions().commit_lsn, Some(start()));
    tell(&mut rig, knows).expect("an answer");
    assert_eq!(rig.acceptor.positions().commit_lsn, Some(end));
}

#[test]
fn a_barred_member_that_nobody_can_admit_says_so() {
    let mut rig = born();
    rig.step(Input::Forgot { what: "a test".to_owned() });
    let waits = |rig: &Rig| match rig.acceptor.admission() {
        Admission::Barred { waits_for, .. } => waits_for,
        other => panic!("{other:?}"),
    };
    answers(&mut rig, fresh(2));
    let text = waits(&rig);
    assert!(text.starts_with("it waits for safekeeper 2 and 3 to answer"), "{text}");
    answers(&mut rig, fresh(3));
    let text = waits(&rig);
    assert!(text.starts_with("safekeeper 2 and 3 answered and took no part either"), "{text}");
    assert!(text.contains("--force"), "{text}");
}
