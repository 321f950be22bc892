//! I3: what any proposer regarded as committed is a prefix of every later elected log.
//!
//! "Later" means of a higher term: when votes travel for a long time, a proposer may win a lower term late; nobody
//! follows it.

use std::collections::BTreeMap;

use proto::id::Term;

use super::{Violation, first_difference};

/// The committed log, byte by byte from the start of the timeline, and how much of it each term committed.
#[derive(Debug, Default)]
pub struct Prefix {
    log: Vec<u8>,
    reached: BTreeMap<Term, usize>,
}

impl Prefix {
    /// The proposer of `term` regards `log` as committed.
    ///
    /// # Errors
    /// When it differs from what was committed before.
    pub fn committed(&mut self, term: Term, log: &[u8]) -> Result<(), Violation> {
        if let Some(at) = first_difference(&self.log, log) {
            return Violation::of("I3", format!("two committed logs differ {at} bytes behind the start"));
        }
        if log.len() > self.log.len() {
            self.log.extend_from_slice(&log[self.log.len()..]);
        }
        self.reached.insert(term, log.len());
        Ok(())
    }

    /// The proposer of `term` was elected with `log`.
    ///
    /// # Errors
    /// When what lower terms committed is no prefix of it.
    pub fn elected(&self, term: Term, log: &[u8]) -> Result<(), Violation> {
        let needed = self.reached.range(..term).map(|(_, len)| *len).max().unwrap_or(0);
        if log.len() < needed {
            let what = format!("elected in term {term} with {} bytes, lower terms committed {needed}", log.len());
            return Violation::of("I3", what);
        }
        match first_difference(&self.log[..needed], log) {
            Some(at) => Violation::of("I3", format!("the log elected in term {term} differs at byte {at}")),
            None => Ok(()),
        }
    }

    /// The committed log.
    pub fn log(&self) -> &[u8] {
        &self.log
    }
}
