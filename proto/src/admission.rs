//! Statements that the members of a timeline make about themselves, and what each remembers of the others. They reveal
//! a member that lost its memory before it votes (`docs/protocol.md`, "Amnesia"). Pure; JSON on the wire
//! (`MEMBER_STATEMENT`).

use pgformat::Lsn;
use serde::{Deserialize, Serialize};

use crate::id::{Incarnation, NodeId, Term};

/// What a member says about itself. Everything in it is durable there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Statement {
    /// The member that speaks.
    pub safekeeper_id: NodeId,
    /// The life of its directory.
    pub incarnation: Incarnation,
    /// How often that directory was opened.
    pub starts: u64,
    /// The highest term that it voted for or followed.
    pub term: Term,
    /// The term that wrote the end of its log.
    pub last_log_term: Term,
    /// End of its log; 0/0 when there is none.
    pub flush_lsn: Lsn,
    /// Whether it knows WAL behind the timeline's start to be committed.
    pub committed: bool,
    /// Whether it votes and counts.
    pub admitted: bool,
    /// The fence of its last re-admission; 0 when there was none. It outweighs whatever was remembered below it.
    pub readmitted: Term,
    /// It asks to be re-admitted: nobody shall vote or acknowledge in this term or below any more.
    #[serde(default)]
    pub fence: Option<Term>,
    /// What it knows to be committed; none when nothing is, and from versions that do not say it.
    #[serde(default)]
    pub commit_lsn: Option<Lsn>,
}

/// What a member remembers of another one: the most that it ever stated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberMemory {
    /// The life of its directory.
    pub incarnation: Incarnation,
    /// How often that directory was opened.
    pub starts: u64,
    /// The highest term that it stated.
    pub term: Term,
    /// The term that wrote the end of its log.
    pub last_log_term: Term,
    /// End of its log; 0/0 when there was none.
    pub flush_lsn: Lsn,
}

/// What a member answers to a [`Statement`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdmissionAnswer {
    /// What it says about itself.
    pub statement: Statement,
    /// The term of the last election that was announced to it.
    pub elected: Term,
    /// What it remembered of the one who asked, before it heard the statement.
    pub remembered: Option<MemberMemory>,
    /// The fence that was asked for, when it now stands there, durably.
    pub fenced: Option<Term>,
}

impl MemberMemory {
    /// What is to be remembered of a statement.
    pub fn of(s: &Statement) -> MemberMemory {
        MemberMemory {
            incarnation: s.incarnation,
            starts: s.starts,
            term: s.term,
            last_log_term: s.last_log_term,
            flush_lsn: s.flush_lsn,
        }
    }

    /// Why the one who states this must have forgotten something, when it must.
    ///
    /// Positions are compared only in one and the same term, when the log was written in it: an elected proposer of a
    /// higher term may have cut the log.
    pub fn objection(&self, s: &Statement) -> Option<String> {
        if s.readmitted > self.term {
            return None;
        }
        let was = format!("term {}, {} of term {}", self.term, self.flush_lsn, self.last_log_term);
        if s.incarnation != self.incarnation {
            let (other, own) = (self.incarnation, s.incarnation);
            return Some(format!("another directory (incarnation {other}, {was}); the one here is {own}"));
        }
        if s.starts < self.starts {
            return Some(format!("start {} of this directory ({was}), it is at start {}", self.starts, s.starts));
        }
        if s.term < self.term {
            return Some(format!("term {}, it is at term {}", self.term, s.term));
        }
        let (before, now) = ((self.last_log_term, self.flush_lsn), (s.last_log_term, s.flush_lsn));
        if s.term == self.term && self.last_log_term == self.term && now < before {
            return Some(format!(
                "WAL acknowledged up to {} in term {}, it ends at {} of term {}",
                before.1, before.0, now.1, now.0
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stated() -> Statement {
        Statement {
            safekeeper_id: NodeId(3),
            incarnation: Incarnation::new([7; 16]),
            starts: 4,
            term: Term(9),
            last_log_term: Term(9),
            flush_lsn: Lsn::new(0x300_0000),
            committed: true,
            admitted: true,
            readmitted: Term::ZERO,
            fence: None,
            commit_lsn: None,
        }
    }

    fn objection(change: impl FnOnce(&mut Statement)) -> Option<String> {
        let mut now = stated();
        change(&mut now);
        MemberMemory::of(&stated()).objection(&now)
    }

    #[test]
    fn whoever_has_as_much_as_was_remembered_is_believed() {
        assert_eq!(objection(|_| {}), None);
        assert_eq!(objection(|s| s.starts += 1), None);
        assert_eq!(objection(|s| s.flush_lsn = Lsn::new(0x300_0008)), None);
        let cut = |s: &mut Statement| {
            (s.term, s.last_log_term, s.flush_lsn) = (Term(10), Term(8), Lsn::new(8));
        };
        assert_eq!(objection(cut), None, "a proposer of a higher term may cut");
        let again = |s: &mut Statement| {
            (s.incarnation, s.starts, s.term) = (Incarnation::new([8; 16]), 1, Term(30));
            s.readmitted = Term(20);
        };
        assert_eq!(objection(again), None, "a re-admission outweighs what was before it");
    }

    #[test]
    fn whoever_has_less_is_told_what() {
        for (change, word) in [
            ((|s| s.incarnation = Incarnation::new([8; 16])) as fn(&mut Statement), "another directory"),
            (|s| s.starts = 3, "start 4"),
            (|s| (s.term, s.last_log_term) = (Term(8), Term(8)), "term 9"),
            (|s| s.flush_lsn = Lsn::new(0x2ff_fff8), "0/3000000 in term 9"),
            (|s| (s.incarnation, s.readmitted) = (Incarnation::new([8; 16]), Term(9)), "another directory"),
        ] {
            let text = objection(change).expect(word);
            assert!(text.contains(word), "{text}");
        }
    }
}
