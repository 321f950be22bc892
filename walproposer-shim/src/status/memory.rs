//! What each safekeeper acknowledged to this process, in all its sessions, and which one has less now. Pure.
//!
//! A log that ends lower is no loss when a higher term was seen there since: its proposer may have cut it.

use std::collections::BTreeMap;

use pgformat::Lsn;
use proto::id::{NodeId, Term};

/// See the module.
#[derive(Clone, Default, Debug)]
pub(crate) struct AcknowledgedWal {
    acknowledged: BTreeMap<NodeId, (Term, Lsn)>,
    /// Who has less, in words.
    less: BTreeMap<NodeId, String>,
}

impl AcknowledgedWal {
    /// `node` acknowledged `flush` in `term`.
    pub(crate) fn acknowledged(&mut self, node: NodeId, term: Term, flush: Lsn) {
        let known = self.acknowledged.entry(node).or_insert((term, flush));
        if *known <= (term, flush) {
            *known = (term, flush);
            self.less.remove(&node);
        }
    }

    /// `node` stands at `term`, with a log that ends at `end`, written by `last_log_term`. Says so when it had more.
    pub(crate) fn compare(&mut self, node: NodeId, term: Term, (last_log_term, end): (Term, Lsn)) -> Option<String> {
        let (then, flush) = *self.acknowledged.get(&node)?;
        if term > then || (last_log_term, end) >= (then, flush) {
            return None;
        }
        self.note(node, &format!("has {end} of term {last_log_term}"))
    }

    /// `node` does not take part: it has lost the timeline, or says that it forgot.
    pub(crate) fn absent(&mut self, node: NodeId, said: &str) -> Option<String> {
        self.note(node, said)
    }

    fn note(&mut self, node: NodeId, now: &str) -> Option<String> {
        let (term, flush) = self.acknowledged.get(&node)?;
        let text = format!("safekeeper {node} acknowledged {flush} in term {term} and now {now}");
        let new = self.less.insert(node, text.clone()).as_ref() != Some(&text);
        if new {
            tracing::warn!(safekeeper = %node, "{text}");
        }
        Some(text)
    }

    /// Everybody who has less than before, in words.
    pub(crate) fn losses(&self) -> impl Iterator<Item = &String> {
        self.less.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_less_is_named_until_it_has_as_much_again() {
        let mut memory = AcknowledgedWal::default();
        let (node, at) = (NodeId(3), Lsn::new(0x306_1460));
        assert_eq!(memory.compare(node, Term(0), (Term(0), Lsn::new(8))), None, "nothing is known of it");
        memory.acknowledged(node, Term(1), at);
        assert_eq!(memory.compare(node, Term(1), (Term(1), at)), None);
        assert_eq!(memory.compare(node, Term(2), (Term(0), Lsn::new(8))), None, "a higher term may have cut it");
        let text = memory.compare(node, Term(0), (Term(0), Lsn::new(0x300_0028))).expect("it has less");
        assert_eq!(text, "safekeeper 3 acknowledged 0/3061460 in term 1 and now has 0/3000028 of term 0");
        assert_eq!(memory.losses().count(), 1);
        memory.acknowledged(node, Term(4), Lsn::new(0x306_0000));
        assert_eq!(memory.losses().count(), 0, "what counts now is the later term");
        assert!(memory.absent(node, "does not have the timeline").is_some_and(|t| t.contains("0/3060000 in term 4")));
    }
}
