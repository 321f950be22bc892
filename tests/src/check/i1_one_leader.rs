//! I1: at most one proposer is elected per term.

use std::collections::BTreeMap;

use proto::id::Term;

use super::Violation;

/// Who won which term.
#[derive(Debug, Default)]
pub struct OneLeader(BTreeMap<Term, String>);

impl OneLeader {
    /// `who` won an election.
    ///
    /// # Errors
    /// When somebody else won it before.
    pub fn elected(&mut self, term: Term, who: String) -> Result<(), Violation> {
        match self.0.insert(term, who.clone()) {
            Some(other) if other != who => Violation::of("I1", format!("term {term} was won by {other} and by {who}")),
            _ => Ok(()),
        }
    }
}
