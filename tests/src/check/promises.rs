//! Everything that left a node is durable there: a vote's term, an acknowledgement's positions (`docs/protocol.md`,
//! "Order on disk"). Checked when a node comes back from a kill or a power loss.

use std::collections::BTreeMap;

use pgformat::Lsn;
use proto::consensus::AcceptorMessage;
use proto::id::Term;
use safekeeper::core::ControlState;

use super::Violation;

/// What one node has told.
#[derive(Clone, Copy, Debug)]
struct Told {
    voted: Term,
    /// Term in which it acknowledged a position: the history that holds it must be durable.
    acked: Term,
    flush: Option<Lsn>,
    commit: Option<Lsn>,
}

/// What every node has told.
#[derive(Debug, Default)]
pub struct Promises(BTreeMap<u64, Told>);

impl Promises {
    fn of(&mut self, node: u64) -> &mut Told {
        self.0.entry(node).or_insert(Told { voted: Term::ZERO, acked: Term::ZERO, flush: None, commit: None })
    }

    /// A message leaves a node.
    pub fn sent(&mut self, node: u64, message: &AcceptorMessage) {
        let told = self.of(node);
        match message {
            AcceptorMessage::Greeting(_) => {}
            AcceptorMessage::VoteResponse(vote) => {
                if vote.vote_given {
                    told.voted = told.voted.max(vote.term);
                    told.flush = told.flush.max(vote.flush_lsn);
                }
            }
            AcceptorMessage::Append(ack) => {
                if ack.flush_lsn.is_some() {
                    told.acked = told.acked.max(ack.term);
                }
                told.flush = told.flush.max(ack.flush_lsn);
                told.commit = told.commit.max(ack.commit_lsn);
            }
        }
    }

    /// A node's directory was lost or rolled back: what it promised is gone, and that is its fault alone.
    pub fn forgotten(&mut self, node: u64) {
        self.0.remove(&node);
    }

    /// A node begins to cut its log: what it told about the tail is taken back, by an elected proposer's order.
    pub fn cut(&mut self, node: u64, to: Lsn) {
        let told = self.of(node);
        told.flush = told.flush.map(|f| f.min(to));
    }

    /// A node comes back.
    ///
    /// # Errors
    /// When it has forgotten something.
    pub fn reopened(&mut self, node: u64, state: &ControlState, flush: Option<Lsn>) -> Result<(), Violation> {
        let told = *self.of(node);
        let (term, commit) = (state.term, state.commit_lsn);
        if term < told.voted {
            let what = format!("node {node} is back at term {term}, it voted in {}", told.voted);
            return Violation::of("promises", what);
        }
        let last = state.history.last().map_or(Term::ZERO, |e| e.term);
        if last < told.acked {
            let what = format!("node {node} is back with history up to term {last}, it acknowledged in {}", told.acked);
            return Violation::of("promises", what);
        }
        if flush < told.flush || commit < told.commit {
            let what = format!("node {node} is back with flush {flush:?}, commit {commit:?}; it told {told:?}");
            return Violation::of("promises", what);
        }
        Ok(())
    }
}
