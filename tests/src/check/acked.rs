//! No acknowledged commit is ever lost: every commit acknowledged to a client is in every later elected log, and at the
//! end in the log of every node.

use std::collections::BTreeMap;

use proto::id::Term;

use super::{Violation, first_difference};

/// What clients were told, as the server's WAL up to the last commit that was acknowledged, and how far in which term.
#[derive(Debug, Default)]
pub struct Acked {
    log: Vec<u8>,
    reached: BTreeMap<Term, usize>,
}

impl Acked {
    /// Clients were told, in `term`, that everything in `log` is committed.
    ///
    /// # Errors
    /// When others were told something else before.
    pub fn told(&mut self, term: Term, log: &[u8]) -> Result<(), Violation> {
        if let Some(at) = first_difference(&self.log, log) {
            return Violation::of("acknowledged", format!("two acknowledged logs differ at byte {at}"));
        }
        if log.len() > self.log.len() {
            self.log.extend_from_slice(&log[self.log.len()..]);
        }
        let reached = self.reached.entry(term).or_insert(0);
        *reached = (*reached).max(log.len());
        Ok(())
    }

    /// `log` is elected in `term`, or (`None`) a node's at the end.
    ///
    /// # Errors
    /// When an acknowledged commit is missing in it.
    pub fn kept(&self, whose: &str, term: Option<Term>, log: &[u8]) -> Result<(), Violation> {
        let before = |of: &Term| term.is_none_or(|term| *of < term);
        let needed = self.reached.iter().filter(|(of, _)| before(of)).map(|(_, len)| *len).max().unwrap_or(0);
        if log.len() < needed || first_difference(&self.log[..needed], log).is_some() {
            let what = format!("{whose} has {} bytes, {needed} were acknowledged", log.len());
            return Violation::of("acknowledged", what);
        }
        Ok(())
    }

    /// Bytes of WAL acknowledged.
    pub fn bytes(&self) -> usize {
        self.log.len()
    }
}
