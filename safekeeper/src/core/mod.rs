//! The acceptor: pure consensus core of one timeline.
//!
//! Owner of the consensus state. It does no I/O, reads no clock and draws no randomness: [`Acceptor::step`] takes an
//! input and the time, and appends effects. Durability is an effect, its completion an input, and a reply names the
//! effect that it waits for.
//!
//! Invariants, asserted here in every build and checked in simulation (`docs/protocol.md`):
//! - I1 at most one proposer is elected per term: a term is persisted before the vote for it leaves, and never falls.
//! - I2 history terms rise strictly, positions do not fall, the last history term is at most the own term.
//! - I3 what a proposer regarded as committed is a prefix of every later elected log: a vote reports everything
//!   received, durably; the log changes only by an elected proposer's truncation and by contiguous appends in its
//!   term.
//! - I4 commit_lsn never exceeds the durable end of the log here.
//! - I5 the log is never cut below the known commit_lsn.
//! - (I6 belongs to the proposer's side.)
//!
//! | module | what |
//! |---|---|
//! | `state` | what is persisted, positions |
//! | `effect` | inputs, effects, refusals |
//! | `session`, `conn` | connections, the greeting |
//! | `vote`, `elect`, `append` | one message each |
//! | `durable`, `pending` | flush, persist, completions, failure, the commit position |
//! | `admission`, `heard` | whether this member may vote and count at all |
//! | `bounds` | what another member's words may say at most |
//! | `log` | the log's ends: written, durable, and the decoder that follows it |
//!
//! # Example
//! A vote: the answer names the write that it waits for. Until the driver reports that write as durable, the answer
//! does not leave.
//!
//! ```
//! use pgformat::{Lsn, SegSize, Tli};
//! use proto::api::{PgHistoryEntry, TimelineSource};
//! use proto::consensus::{
//!     AcceptorMessage, Member, MemberConf, ProposerGreeting, ProposerMessage, ProtoVersion, VoteRequest,
//! };
//! use proto::id::{Generation, NodeId, PrimaryEpoch, SystemId, TenantId, TenantTimelineId, Term, TimelineId};
//! use safekeeper::core::{Acceptor, AcceptorConfig, ConnId, ControlState, DiskOp, Effect, Input, LogEnd};
//!
//! // A timeline of one member that was just created: its log is empty and ends where it starts.
//! let ttid = TenantTimelineId::new(TenantId::new([1; 16]), TimelineId::new([2; 16]));
//! let (system_id, seg_size, start) = (SystemId(7), SegSize::new(16 << 20).unwrap(), Lsn::new(0x0100_0028));
//! let alone = vec![Member { id: NodeId(1), host: "localhost".to_owned(), pg_port: 5454 }];
//! let mconf = MemberConf::new(Generation(1), alone, vec![]).unwrap();
//! let pg_history = vec![PgHistoryEntry { tli: Tli(1), start_lsn: Lsn::new(0) }];
//! let (source, epoch) = (TimelineSource::Vanilla, PrimaryEpoch::FIRST);
//! let control =
//!     ControlState::created(ttid, source, system_id, 170_002, seg_size, mconf.clone(), epoch, pg_history, start);
//! let end = LogEnd { flush_lsn: start, last_record_start: None };
//! let mut acceptor = Acceptor::open(AcceptorConfig::new(NodeId(1)), control, Some(end)).unwrap();
//!
//! // A proposer connects, says whose WAL it has, and asks for a vote.
//! let (conn, mut effects) = (ConnId(1), Vec::new());
//! acceptor.step(0, Input::Connected { conn, version: ProtoVersion::V3, primary_epoch: Some(epoch) }, &mut effects);
//! let greeting = ProposerGreeting { ttid, mconf, pg_version_num: 170_002, system_id, seg_size, tli: None };
//! acceptor.step(0, Input::Message { conn, message: ProposerMessage::Greeting(greeting) }, &mut effects);
//! effects.clear();
//! let request = VoteRequest { generation: Generation(1), term: Term(1) };
//! acceptor.step(0, Input::Message { conn, message: ProposerMessage::VoteRequest(request) }, &mut effects);
//!
//! // The new term is persisted first, and the vote waits for just that.
//! let Some(Effect::Disk(DiskOp::Persist { write, state })) = effects.first() else { panic!("{effects:?}") };
//! assert_eq!(state.term, Term(1));
//! let Some(Effect::Reply { message: AcceptorMessage::VoteResponse(vote), after, .. }) = effects.last() else {
//!     panic!("{effects:?}")
//! };
//! assert!(vote.vote_given && *after == Some(*write));
//! ```

mod admission;
mod append;
mod bounds;
mod conn;
mod durable;
mod effect;
mod elect;
mod heard;
mod log;
mod pending;
mod session;
mod state;
#[cfg(test)]
mod tests;
mod vote;

use std::collections::{BTreeMap, VecDeque};

use pgformat::Lsn;
use proto::consensus::{LogPosition, ProposerMessage, TermHistory};
use proto::id::NodeId;

use conn::Conn;
use heard::{Heard, Parted};
use log::Log;
use pending::Pending;

pub use admission::Admission;
pub use bounds::{FENCE_JUMP_MAX, FENCE_STEP, check_statement};
pub use effect::{AskId, ConnId, DiskOp, Effect, Input, NextAction, OpenError, Refusal, WriteId};
pub use state::{
    BAR_REASON_MAX, Bar, ControlState, HISTORY_ENTRIES_MAX, LogEnd, PG_HISTORY_ENTRIES_MAX, Positions, Standing,
};

/// What does not change while a timeline is open.
#[derive(Clone, Copy, Debug)]
pub struct AcceptorConfig {
    /// The safekeeper that this acceptor is, as the member set names it.
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
    config: AcceptorConfig,
    /// Live: what was emitted for persisting, durable or not yet.
    state: ControlState,
    log: Option<Log>,
    conns: BTreeMap<ConnId, Conn>,
    /// The connection whose proposer's election was adopted in the current term.
    pusher: Option<ConnId>,
    last_write: u64,
    /// The control file with the history adopted last: acknowledgements in its term wait for it.
    adopted: Option<WriteId>,
    /// Unfinished I/O effects that report back, in order.
    pending: VecDeque<Pending>,
    /// Commit position in the durable control file.
    durable_commit: Option<Lsn>,
    /// Commit position that the elected proposer told; may run ahead of the log here.
    leader_commit: Option<Lsn>,
    /// When the commit position moved away from the persisted one.
    commit_dirty_since: Option<u64>,
    flush_wanted: bool,
    /// Of the history, without the terms that wrote nothing.
    history_entries: usize,
    /// Messages that came while a truncation was under way.
    parked: VecDeque<(ConnId, ProposerMessage)>,
    stopped: Option<String>,
    heard: Heard,
    /// The last election lacks WAL that is committed here: where the logs part, and the position known as committed.
    parted: Option<Parted>,
}

impl Acceptor {
    /// Opens a timeline with what the driver found on disk: everything in `control` and below `end` is durable, and
    /// behind `end` there are only zeros. `end` is `None` when no log exists yet (implicit creation).
    ///
    /// # Errors
    /// When state and log contradict each other; the timeline must not be served then.
    pub fn open(config: AcceptorConfig, control: ControlState, end: Option<LogEnd>) -> Result<Acceptor, OpenError> {
        check_open(config, &control, end)?;
        // Without a history nothing in the log counts: the first election begins it anew.
        let log = end.filter(|_| control.history.first().is_some()).map(Log::at);
        let mut control = control;
        control.standing.starts = control.standing.starts.saturating_add(1);
        if let Some(why) = lost_log(&control, end.map(|e| e.flush_lsn)) {
            control.standing.barred.get_or_insert(Bar { why, fence: None });
            // Known to be committed, and not held: who follows a leader again is not cut below it.
            control.commit_lsn = control.commit_lsn.min(end.map(|e| e.flush_lsn));
        }
        Ok(Acceptor {
            config,
            durable_commit: control.commit_lsn,
            history_entries: control.history.merged().entries().len(),
            state: control,
            log,
            conns: BTreeMap::new(),
            pusher: None,
            last_write: 0,
            adopted: None,
            pending: VecDeque::new(),
            leader_commit: None,
            commit_dirty_since: None,
            flush_wanted: false,
            parked: VecDeque::new(),
            stopped: None,
            heard: Heard::nothing(),
            parted: None,
        })
    }

    /// Handles one input at time `now` (milliseconds of a clock that never goes back; only differences matter).
    ///
    /// # Panics
    /// When the driver breaks its contract (completions out of order) or an invariant does not hold.
    pub fn step(&mut self, now: u64, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Connected { conn, version, primary_epoch } => {
                self.on_connected(conn, version, primary_epoch, effects);
            }
            Input::Message { conn, message } => self.on_message(now, conn, message, effects),
            Input::Disconnected { conn } => {
                self.drop_conn(conn);
                self.flush_now(effects);
            }
            Input::FlushNow => self.flush_now(effects),
            Input::Tick => self.on_tick(now, effects),
            Input::Done(write) => self.on_done(now, write, effects),
            Input::Truncated { write, end } => self.on_truncated(now, write, end, effects),
            Input::Told { ask, statement } => self.on_told(now, ask, &statement, effects),
            Input::Answered(answer) => self.on_answered(now, &answer, effects),
            Input::Vouched => self.on_vouched(effects),
            Input::Forgot { what } => self.bar(what, effects),
            Input::Failed { reason } => self.on_failed(reason, effects),
        }
        self.assert_invariants();
    }

    fn on_message(&mut self, now: u64, conn: ConnId, message: ProposerMessage, effects: &mut Vec<Effect>) {
        if !self.conns.contains_key(&conn) {
            return; // closed before; the driver had the message in its queue
        }
        if self.busy() {
            self.parked.push_back((conn, message));
            return;
        }
        let handled = match message {
            ProposerMessage::Greeting(m) => self.on_greeting(conn, &m, effects),
            ProposerMessage::VoteRequest(m) => self.on_vote_request(conn, &m, effects),
            ProposerMessage::Elected(m) => self.on_elected(conn, m, effects),
            ProposerMessage::Append(m) => self.on_append(now, conn, m, effects),
        };
        if let Err(refusal) = handled {
            self.close(conn, refusal, effects);
        }
    }

    /// When an [`Input::Tick`] is due, if at all.
    pub fn next_timeout(&self) -> Option<u64> {
        self.commit_dirty_since.map(|since| since.saturating_add(self.config.commit_persist_ms))
    }

    /// Whether a truncation is under way: messages are then set aside in memory, so the driver should stop reading
    /// more.
    pub fn busy(&self) -> bool {
        self.pending.iter().any(|p| matches!(p, Pending::Truncate { .. }))
    }

    /// Whether WAL is written that no emitted flush covers, or a proposer waits for an answer that
    /// [`Input::FlushNow`] gives.
    pub fn dirty(&self) -> bool {
        self.uncovered() || self.conns.values().any(|c| c.ack_due)
    }

    /// Why the timeline is stopped, when it is.
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// Positions for status, readers and announcements.
    pub fn positions(&self) -> Positions {
        let flush_lsn = self.flush_lsn();
        Positions {
            term: self.state.term,
            last_log_term: LogPosition::of(&self.state.history, flush_lsn).last_log_term,
            write_lsn: self.log.as_ref().map(|l| l.write_lsn),
            flush_lsn,
            commit_lsn: self.state.commit_lsn,
            persisted_commit_lsn: self.durable_commit,
            peer_horizon_lsn: self.state.peer_horizon_lsn,
            timeline_start_lsn: self.state.timeline_start_lsn,
            local_start_lsn: self.state.local_start_lsn,
            last_record_start: self.log.as_ref().and_then(|l| l.durable.last_record_start),
            streaming: self.pusher.is_some(),
            history_entries: self.history_entries,
        }
    }

    /// The live state, which may run ahead of what is durable.
    pub fn state(&self) -> &ControlState {
        &self.state
    }

    /// The term history, cut at the durable end of the log.
    pub fn history(&self) -> TermHistory {
        self.flush_lsn().map_or(TermHistory::empty(), |end| self.state.history.up_to(end))
    }

    /// Durable end of the log, a record boundary.
    fn flush_lsn(&self) -> Option<Lsn> {
        self.log.as_ref().map(|l| l.durable.flush_lsn)
    }

    fn assert_invariants(&self) {
        let last = self.state.history.last();
        assert!(last.is_none_or(|e| e.term <= self.state.term), "I2: history runs ahead of the term");
        assert!(self.state.commit_lsn <= self.flush_lsn(), "I4: commit beyond the durable end of the log");
        assert!(self.durable_commit <= self.state.commit_lsn, "the commit position fell");
        if let Some(log) = &self.log {
            log.assert_order();
        }
    }
}

fn check_open(config: AcceptorConfig, control: &ControlState, end: Option<LogEnd>) -> Result<(), OpenError> {
    let generation = control.mconf.generation;
    if !control.mconf.members.is_empty() && !control.mconf.contains(config.node_id) {
        return Err(OpenError::NotAMember { node: config.node_id, generation });
    }
    let flush_lsn = end.map(|e| e.flush_lsn);
    if let Some(commit) = control.commit_lsn.filter(|_| flush_lsn.is_none()) {
        return Err(OpenError::BelowCommit { end: flush_lsn, commit });
    }
    let problem = if control.history.last().is_some_and(|last| last.term > control.term) {
        "the term history runs ahead of the term"
    } else if control.history.entries().len() > HISTORY_ENTRIES_MAX {
        "the term history has more entries than its capacity"
    } else if control.timeline_start_lsn.is_some() != control.history.first().is_some() {
        "the start of the log and the term history do not go together"
    } else if control.timeline_start_lsn > flush_lsn {
        "the log ends below its start"
    } else if control.source == proto::api::TimelineSource::Vanilla
        && (control.mconf.members.is_empty() || control.primary_epoch < proto::id::PrimaryEpoch::FIRST)
    {
        "a vanilla timeline needs a member set and a primary epoch"
    } else {
        return Ok(());
    };
    Err(OpenError::Inconsistent(problem.to_owned()))
}

/// Says so when the log that was found is shorter than what was noted to be durable or committed.
fn lost_log(control: &ControlState, end: Option<Lsn>) -> Option<String> {
    // What is committed here was durable here, also where a version wrote the file that noted nothing else.
    let acked = control.standing.acked_lsn.max(control.commit_lsn).filter(|acked| Some(*acked) > end)?;
    Some(match end {
        Some(end) => format!(
            "the log was durable up to {acked} and now ends at {end}: {} bytes are lost",
            acked.bytes_since(end)
        ),
        None => format!("the log was durable up to {acked} and is gone"),
    })
}
