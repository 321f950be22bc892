//! I2: history terms rise strictly, positions do not fall, the last history term is at most the own term; and a term
//! starts at the same position everywhere.

use std::collections::BTreeMap;

use pgformat::Lsn;
use proto::consensus::TermHistory;
use proto::id::Term;

use super::Violation;

/// Where each term started, by everybody's account.
#[derive(Debug, Default)]
pub struct History(BTreeMap<Term, Lsn>);

impl History {
    /// A node holds `history` at `term`.
    ///
    /// # Errors
    /// When it breaks I2, or contradicts what was seen before.
    pub fn held(&mut self, node: u64, history: &TermHistory, term: Term) -> Result<(), Violation> {
        let entries = history.entries();
        let rising = entries.iter().zip(entries.iter().skip(1)).all(|(a, b)| a.term < b.term && a.lsn <= b.lsn);
        if !rising || history.last().is_some_and(|last| last.term > term) {
            return Violation::of("I2", format!("node {node} at term {term} holds {entries:?}"));
        }
        for entry in entries {
            let known = *self.0.entry(entry.term).or_insert(entry.lsn);
            if known != entry.lsn {
                let what = format!("node {node} holds term {} from {} on, others from {known}", entry.term, entry.lsn);
                return Violation::of("I2", what);
            }
        }
        Ok(())
    }
}
