//! The acceptor: pure consensus core of one timeline.
//!
//! Owner of the consensus state. It does no I/O, reads no clock and draws no randomness: [`Acceptor::step`] takes an input and
//! the time, and appends effects. Durability is an effect, its completion an input, and a reply names the effect that it
//! waits for.
//!
//! Invariants, asserted here in every build and checked in simulation (`docs/protocol.md`):
//! - I1 at most one proposer is elected per term: a term is persisted before the vote for it leaves, and never falls.
//! - I2 history terms rise strictly, positions do not fall, the last history term is at most the own term.
//! - I3 what a proposer regarded as committed is a prefix of every later elected log: a vote reports everything received,
//!   durably; the log changes only by an elected proposer's truncation and by contiguous appends in its term.
//! - I4 commit_lsn never exceeds the durable end of the log here.
//! - I5 the log is never cut below the known commit_lsn.
//! - (I6 belongs to the proposer's side.)

mod effect;
mod state;

use pgformat::Lsn;
use proto::consensus::TermHistory;
use proto::id::NodeId;

pub use effect::{ConnId, Effect, Input, NextAction, OpenError, Refusal, WriteId};
pub use state::{ControlState, HISTORY_ENTRIES_MAX, LogEnd, PG_HISTORY_ENTRIES_MAX, Positions};

/// What does not change while a timeline is open.
#[derive(Clone, Copy, Debug)]
pub struct AcceptorConfig {
    /// This safekeeper.
    pub node_id: NodeId,
    /// A moved commit position is persisted at the latest after this time, milliseconds.
    pub commit_persist_ms: u64,
}

impl AcceptorConfig {
    /// The configuration that servers use.
    pub const fn new(node_id: NodeId) -> AcceptorConfig {
        AcceptorConfig { node_id, commit_persist_ms: 10_000 }
    }
}

/// One timeline's acceptor.
#[derive(Debug)]
pub struct Acceptor {
    state: ControlState,
}

impl Acceptor {
    /// Opens a timeline with what the driver found on disk: everything in `control` and below `end` is durable, and behind
    /// `end` there are only zeros. `end` is `None` when no log exists yet (implicit creation).
    ///
    /// # Errors
    /// When state and log contradict each other; the timeline must not be served then.
    pub fn open(config: AcceptorConfig, control: ControlState, end: Option<LogEnd>) -> Result<Acceptor, OpenError> {
        let _ = (config, end);
        Ok(Acceptor { state: control })
    }

    /// Handles one input at time `now` (milliseconds of a clock that never goes back; only differences matter).
    pub fn step(&mut self, now: u64, input: Input, effects: &mut Vec<Effect>) {
        let _ = (now, input, effects);
        todo!("in work")
    }

    /// When an [`Input::Tick`] is due, if at all.
    pub fn next_timeout(&self) -> Option<u64> {
        None
    }

    /// Whether a truncation is under way: messages are then set aside in memory, so the driver should stop reading more.
    pub fn busy(&self) -> bool {
        false
    }

    /// Whether WAL is written that no flush covers yet.
    pub fn dirty(&self) -> bool {
        false
    }

    /// Why the timeline is stopped, when it is.
    pub fn stopped(&self) -> Option<&str> {
        None
    }

    /// Positions for status, readers and announcements.
    pub fn positions(&self) -> Positions {
        todo!("in work")
    }

    /// The live state, which may run ahead of what is durable.
    pub fn state(&self) -> &ControlState {
        &self.state
    }

    /// The term history, cut at the durable end of the log.
    pub fn history(&self) -> TermHistory {
        self.state.history.up_to(self.positions().flush_lsn.unwrap_or(Lsn::new(0)))
    }
}
