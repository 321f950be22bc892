//! What another member's words may say at most. Members ask each other at the addresses of the member set, so that no
//! stranger is heard; this is what holds when one of them is broken. Whatever lies beyond changes nothing.

use pgformat::Lsn;
use proto::admission::{AdmissionAnswer, Statement};
use proto::id::Term;

use super::effect::Refusal;

/// How far above every known term a fence stands. A member that forgot may have voted in terms that no other one has
/// heard of; it did not do so this often.
pub const FENCE_STEP: u64 = 1 << 20;

/// The most that a fence may lie above both members' terms: room for a thousand re-admissions that both of them missed.
pub const FENCE_JUMP_MAX: u64 = 1024 * FENCE_STEP;

/// Why a statement cannot be taken by a member at term `here`, when it cannot.
///
/// # Errors
/// [`Refusal::BadStatement`], which names the number and its bound.
pub fn check_statement(here: Term, s: &Statement) -> Result<(), Refusal> {
    let bad = |problem: String| Err(Refusal::BadStatement { node: s.safekeeper_id, problem });
    for (what, term) in [("term", s.term), ("readmitted", s.readmitted)] {
        if let Some(problem) = too_far(here, what, term) {
            return bad(problem);
        }
    }
    if s.last_log_term > s.term {
        return bad(format!("its log ends in term {}, above its own term {}", s.last_log_term, s.term));
    }
    if !s.flush_lsn.is_plausible() {
        return bad(format!("its log ends at {}, positions lie below {}", s.flush_lsn, Lsn::LIMIT));
    }
    if let Some(commit) = s.commit_lsn.filter(|commit| *commit > s.flush_lsn) {
        return bad(format!("{commit} is committed, and its log ends at {}", s.flush_lsn));
    }
    let known = here.max(s.term);
    match s.fence {
        Some(fence) if fence.0.saturating_sub(known.0) > FENCE_JUMP_MAX => {
            bad(format!("fence {fence} lies more than {FENCE_JUMP_MAX} above {known}, the higher term of the two"))
        }
        _ => Ok(()),
    }
}

/// The same of an answer, with what it says of others.
pub(super) fn check_answer(here: Term, answer: &AdmissionAnswer) -> Result<(), Refusal> {
    check_statement(here, &answer.statement)?;
    let remembered = answer.remembered.map_or(Term::ZERO, |m| m.term);
    let bad = [("elected", answer.elected), ("remembered term", remembered)];
    match bad.into_iter().find_map(|(what, term)| too_far(here, what, term)) {
        Some(problem) => Err(Refusal::BadStatement { node: answer.statement.safekeeper_id, problem }),
        None => Ok(()),
    }
}

fn too_far(here: Term, what: &str, asked: Term) -> Option<String> {
    let far = !asked.may_follow(here);
    far.then(|| format!("{what} {asked} lies more than {} above {here}, the one known here", Term::JUMP_MAX))
}
