//! What a member heard of the others since it was opened, and of an election that it must refuse.

use std::collections::BTreeSet;

use pgformat::Lsn;
use proto::id::{NodeId, Term};

use super::effect::WriteId;

/// What was heard since the timeline was opened. Volatile.
#[derive(Debug)]
pub(super) struct Heard {
    /// Members that answered at all.
    pub(super) answered: BTreeSet<NodeId>,
    /// Of them, those that vote and count.
    pub(super) admitted: BTreeSet<NodeId>,
    /// Members behind the fence that is asked for now.
    pub(super) fenced: BTreeSet<NodeId>,
    /// The fence that is asked for now.
    pub(super) asked: Option<Term>,
    /// The highest term that anybody stated or remembered.
    pub(super) highest: Term,
    /// A proposer was elected in this term, as others say.
    pub(super) elected: Term,
    /// The control file with the present count of starts; statements and acknowledgements wait for it.
    pub(super) started: Option<WriteId>,
}

impl Heard {
    /// Nothing was heard yet.
    pub(super) fn nothing() -> Heard {
        Heard {
            answered: BTreeSet::new(),
            admitted: BTreeSet::new(),
            fenced: BTreeSet::new(),
            asked: None,
            highest: Term::ZERO,
            elected: Term::ZERO,
            started: None,
        }
    }
}

/// An election that would cut committed WAL here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Parted {
    /// The term won.
    pub(super) term: Term,
    /// Where the logs part.
    pub(super) to: Lsn,
    /// Known committed here.
    pub(super) commit: Lsn,
}

impl std::fmt::Display for Parted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Parted { term, to, commit } = self;
        write!(
            f,
            "the log elected in term {term} parts from this one at {to}, below {commit}, which is committed here: one \
             of the two lost committed WAL. Copy the directories of all members, and see 'A member that refuses' in \
             docs/operations.md; 'walfabric timeline readmit --force' gives up what only this member has"
        )
    }
}
