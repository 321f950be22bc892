//! The proposer: pure consensus core of one attempt to lead a timeline.
//!
//! Owner of term, votes, progress of each acceptor, commit and truncate positions. It does no I/O, reads no clock and draws no
//! randomness: [`Proposer::step`] takes an input and the time, and appends effects. One value serves one connection to the
//! primary: when that connection is lost, the attach proof is void and the driver builds a fresh proposer, whose `min_term`
//! is the term of this one, so that it campaigns with a higher one.
//!
//! Invariants, asserted here in every build and checked in simulation (`docs/protocol.md`):
//! - I1 a term is asked for once, and elected only with the votes of a quorum of each member set, counted by node id.
//! - I2 the announced history rises strictly and ends with the own term.
//! - I3 the log starts at the end of the most advanced voter, compared by [`proto::consensus::LogPosition`].
//! - I4 commit_lsn is what a quorum acknowledged in this term, from the term's own start on; it never falls.
//! - I5 an acceptor is told to cut its log only at the computed divergence point.
//! - I6 [`Proposer::reportable`] is min(commit, received or proved in this session).

mod effect;

use pgformat::{Lsn, SegSize, Tli};
use proto::consensus::{MemberConf, TermHistory};
use proto::id::{NodeId, SystemId, TenantTimelineId, Term};

pub use effect::{CloseReason, Effect, Fatal, Input, PeerId};

/// What does not change during one attempt.
#[derive(Clone, Debug)]
pub struct ProposerConfig {
    /// Which timeline.
    pub ttid: TenantTimelineId,
    /// The timeline's member set, as its safekeepers tell it. At generation 0 (foreign timelines) every address counts as a
    /// member.
    pub mconf: MemberConf,
    /// Length of the address list.
    pub addresses: usize,
    /// PG_VERSION_NUM of the primary.
    pub pg_version_num: u32,
    /// The cluster.
    pub system_id: SystemId,
    /// Size of a WAL segment.
    pub seg_size: SegSize,
    /// The primary's tli (sent in v2 only).
    pub tli: Tli,
    /// The term asked for lies above this one: the last one this process has used or seen.
    pub min_term: Term,
    /// Start of the log when no acceptor has one (generation 0 only).
    pub start_lsn: Option<Lsn>,
    /// An append without WAL goes out after this time without another, milliseconds.
    pub heartbeat_ms: u64,
    /// A session is closed when an answer is due and nothing came for this long, milliseconds.
    pub silence_ms: u64,
    /// Pause between two attempts to connect, milliseconds.
    pub reconnect_ms: u64,
    /// The most WAL handed out to the driver for one acceptor and not yet written to its socket, bytes.
    pub window: u64,
}

impl ProposerConfig {
    /// Heartbeat 1 s, silence limit 10 s, reconnect 1 s.
    pub const HEARTBEAT_MS: u64 = 1_000;
    /// See [`ProposerConfig::HEARTBEAT_MS`].
    pub const SILENCE_MS: u64 = 10_000;
    /// See [`ProposerConfig::HEARTBEAT_MS`].
    pub const RECONNECT_MS: u64 = 1_000;
    /// Eight full messages: enough to keep a socket busy, little enough that a heartbeat is not stuck behind it for long.
    pub const WINDOW: u64 = 1 << 20;
}

/// Where a proposer stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Waiting for a quorum of greetings.
    Greeting,
    /// A quorum has greeted; waits for [`Input::Campaign`].
    Ready,
    /// Votes are asked for.
    Campaign,
    /// Won; waits for [`Input::SendElected`].
    Won,
    /// Announced; WAL streams.
    Elected,
    /// Over: deposed or refused.
    Over,
}

/// One acceptor as the proposer sees it, for status and for the choice of a donor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// Its address.
    pub peer: PeerId,
    /// Its node id, once it greeted.
    pub node: Option<NodeId>,
    /// Whether a session exists.
    pub connected: bool,
    /// Whether WAL streams to it in our term.
    pub streaming: bool,
    /// The last term it told.
    pub term: Term,
    /// Durable there in our term.
    pub flush_lsn: Option<Lsn>,
    /// Committed, as persisted there.
    pub commit_lsn: Option<Lsn>,
}

/// One attempt to lead a timeline.
#[derive(Debug)]
pub struct Proposer {
    config: ProposerConfig,
}

impl Proposer {
    /// Starts with an [`Input::Tick`], which dials every address.
    ///
    /// # Errors
    /// When the address list can never reach a quorum.
    pub fn new(config: ProposerConfig) -> Result<Proposer, Fatal> {
        Ok(Proposer { config })
    }

    /// Handles one input at time `now` (milliseconds of a clock that never goes back; only differences matter).
    pub fn step(&mut self, now: u64, input: Input, effects: &mut Vec<Effect>) {
        let _ = (now, input, effects, &self.config);
        todo!("in work")
    }

    /// When an [`Input::Tick`] is due, if at all.
    pub fn next_timeout(&self) -> Option<u64> {
        None
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        todo!("in work")
    }

    /// The term asked for or won; zero before the campaign.
    pub fn term(&self) -> Term {
        todo!("in work")
    }

    /// The announced history; empty before the election.
    pub fn history(&self) -> &TermHistory {
        todo!("in work")
    }

    /// Committed in this term, if anything.
    pub fn commit_lsn(&self) -> Option<Lsn> {
        None
    }

    /// What may be reported to PostgreSQL as write and flush position: min(commit, received or proved in this session). I6.
    pub fn reportable(&self) -> Option<Lsn> {
        None
    }

    /// No acceptor that is connected needs WAL below this from the ring: lowest position not yet handed out.
    pub fn lowest_unsent(&self) -> Option<Lsn> {
        None
    }

    /// An acceptor that durably holds the bytes up to `end` in our term: where a laggard's WAL can be fetched.
    pub fn donor_for(&self, end: Lsn) -> Option<PeerId> {
        let _ = end;
        None
    }

    /// Every address in order.
    pub fn peers(&self) -> Vec<PeerStatus> {
        Vec::new()
    }
}
