//! The proposer: pure consensus core of one attempt to lead a timeline.
//!
//! Owner of term, votes, progress of each acceptor, commit and truncate positions. It does no I/O, reads no clock and
//! draws no randomness: [`Proposer::step`] takes an input and the time, and appends effects. One value serves one
//! connection to the primary: when that connection is lost, the attach proof is void and the driver builds a fresh
//! proposer, whose `min_term` is the term of this one, so that it campaigns with a higher one.
//!
//! Invariants, asserted here in every build and checked in simulation (`docs/protocol.md`):
//! - I1 a term is asked for once, and elected only with the votes of a quorum of each member set, counted by node id.
//! - I2 the announced history rises strictly and ends with the own term.
//! - I3 the log starts at the end of the most advanced voter, compared by [`proto::consensus::LogPosition`].
//! - I4 commit_lsn is what a quorum acknowledged in this term, from the term's own start on; it never falls.
//! - I5 an acceptor is told to cut its log only at the computed divergence point.
//! - I6 [`Proposer::reportable`] is min(commit, received or proved in this session).

mod effect;
mod election;
mod peer;
mod stream;
#[cfg(test)]
mod tests;

use pgformat::{Lsn, SegSize, Tli};
use proto::consensus::{AcceptorMessage, HotStandbyFeedback, Member, MemberConf, TermHistory};
use proto::id::{Generation, NodeId, SystemId, TenantTimelineId, Term};

use peer::{Peer, Session};

pub use effect::{CloseReason, Effect, Fatal, Input, PeerId};

/// What does not change during one attempt.
#[derive(Clone, Debug)]
pub struct ProposerConfig {
    /// The timeline that it is to lead.
    pub ttid: TenantTimelineId,
    /// The timeline's member set, as its safekeepers tell it. At generation 0 (foreign timelines) every address counts
    /// as a member.
    pub mconf: MemberConf,
    /// Length of the address list.
    pub addresses: usize,
    /// PG_VERSION_NUM of the primary.
    pub pg_version_num: u32,
    /// System identifier of the cluster.
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
    /// An acceptor that feeds no pageserver hears of a commit after this time, when no append tells it before,
    /// milliseconds.
    pub commit_lag_ms: u64,
    /// A session is closed when an answer is due and nothing came for this long, milliseconds.
    pub silence_ms: u64,
    /// Pause between two attempts to connect, milliseconds.
    pub reconnect_ms: u64,
    /// The most WAL handed out to the driver for one acceptor and not yet written to its socket, bytes.
    pub window: u64,
}

impl ProposerConfig {
    /// An append without WAL goes out after a second without another.
    pub const HEARTBEAT_MS: u64 = 1_000;
    /// While commits follow each other nobody waits for it, and behind the last one a reader sees it before a person
    /// would.
    pub const COMMIT_LAG_MS: u64 = 20;
    /// Ten heartbeats without an answer: the session is closed.
    pub const SILENCE_MS: u64 = 10_000;
    /// A safekeeper that is away is dialled every second.
    pub const RECONNECT_MS: u64 = 1_000;
    /// Eight full messages: enough to keep a socket busy, little enough that a heartbeat is not stuck behind it for
    /// long.
    pub const WINDOW: u64 = 1 << 20;
}

/// How long standbys that were there have to come back before they count as gone, milliseconds: a safekeeper restarts
/// within seconds, and a standby dials again after 5 s.
const STANDBYS_MS: u64 = 10_000;

/// A member that was not heard of for so many heartbeats does not follow.
const QUORUM_HEARTBEATS: u64 = 3;

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
    /// Its place in the address list.
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
    /// The set that quorums are counted over: the timeline's, or at generation 0 one member per address.
    conf: MemberConf,
    peers: Vec<Peer>,
    phase: Phase,
    term: Term,
    history: TermHistory,
    /// E: where our term starts.
    term_start: Option<Lsn>,
    /// Address of the voter whose log was taken over.
    donor: Option<PeerId>,
    /// End of the primary's WAL at hand.
    received: Option<Lsn>,
    commit_lsn: Option<Lsn>,
    truncate_lsn: Option<Lsn>,
    /// The newest position of a pageserver that any acceptor passed on.
    fed: Option<Lsn>,
    /// When the election was announced.
    announced_at: Option<u64>,
}

impl Proposer {
    /// Starts with an [`Input::Tick`], which dials every address.
    ///
    /// # Errors
    /// When the address list can never reach a quorum.
    pub fn new(config: ProposerConfig) -> Result<Proposer, Fatal> {
        let conf = counted_set(&config);
        let too_few = [&conf.members, &conf.new_members].into_iter().find(|set| config.addresses < set.len() / 2 + 1);
        if let Some(set) = too_few.filter(|set| !set.is_empty() || conf.members.is_empty()) {
            return Err(Fatal::TooFew { given: config.addresses, members: set.len() });
        }
        Ok(Proposer {
            conf,
            peers: (0..config.addresses).map(|_| Peer::new()).collect(),
            phase: Phase::Greeting,
            term: Term::ZERO,
            history: TermHistory::empty(),
            term_start: None,
            donor: None,
            received: None,
            commit_lsn: None,
            truncate_lsn: None,
            fed: None,
            announced_at: None,
            config,
        })
    }

    /// Handles one input at time `now` (milliseconds of a clock that never goes back; only differences matter).
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub fn step(&mut self, now: u64, input: Input, effects: &mut Vec<Effect>) {
        if self.phase == Phase::Over {
            return;
        }
        match input {
            Input::Connected { peer } => self.on_connected(now, peer, effects),
            Input::Message { peer, message } => self.on_message(now, peer, message, effects),
            Input::Disconnected { peer } => self.on_disconnected(now, peer),
            Input::Fenced { peer, said } => self.on_fenced(now, peer, said, effects),
            Input::Written { peer, end } => self.on_written(now, peer, end, effects),
            Input::Campaign => self.on_campaign(now, effects),
            Input::SendElected => self.on_send_elected(now, effects),
            Input::WalAvailable { end } => self.on_wal_available(now, end, effects),
            Input::Tick => self.on_tick(now, effects),
        }
        self.assert_invariants();
    }

    fn on_message(&mut self, now: u64, peer: PeerId, message: AcceptorMessage, effects: &mut Vec<Effect>) {
        let Some(known) = self.peers.get_mut(peer.0) else { return };
        if known.is_offline() {
            return; // of a session that was closed
        }
        known.last_heard = now;
        let handled = match message {
            AcceptorMessage::Greeting(m) => self.on_greeting(now, peer, &m, effects),
            AcceptorMessage::VoteResponse(m) => self.on_vote(now, peer, m, effects),
            AcceptorMessage::Append(m) => self.on_ack(now, peer, m, effects),
        };
        if let Err(reason) = handled {
            self.close(now, peer, reason, effects);
        }
    }

    /// When an [`Input::Tick`] is due, if at all.
    pub fn next_timeout(&self) -> Option<u64> {
        if self.phase == Phase::Over {
            return None;
        }
        self.peers.iter().filter_map(|p| p.next_timeout(&self.config)).min()
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The term asked for or won; zero before the campaign.
    pub fn term(&self) -> Term {
        self.term
    }

    /// The history of the log elected; empty before the election.
    pub fn history(&self) -> &TermHistory {
        &self.history
    }

    /// Committed in this term, if anything.
    pub fn commit_lsn(&self) -> Option<Lsn> {
        self.commit_lsn
    }

    /// Whether a quorum follows: elected, announced, and heard of since the last heartbeats were due. Without one
    /// commits hang, whatever else is well.
    pub fn has_quorum(&self, now: u64) -> bool {
        let limit = self.config.heartbeat_ms.saturating_mul(QUORUM_HEARTBEATS);
        self.is_quorum(|p| p.stream().is_some() && p.last_heard.saturating_add(limit) > now)
    }

    /// Whether every acceptor with a session was told the commit position, and has answered since.
    pub fn all_told(&self) -> bool {
        let told =
            |p: &Peer| p.stream().is_none_or(|s| s.told_commit >= self.commit_lsn && p.last_heard > s.last_sent_at);
        self.peers.iter().all(told)
    }

    /// What may be reported to PostgreSQL as write and flush position: min(commit, received or proved in this
    /// session). I6.
    ///
    /// What lies below the election's end was proved by the driver before it announced the election; the rest was
    /// received.
    pub fn reportable(&self) -> Option<Lsn> {
        if self.phase != Phase::Elected {
            return None;
        }
        self.commit_lsn.min(self.available())
    }

    /// WAL below this was given to the sockets of a quorum, or of what is a quorum in each member set: who streams does
    /// not ask for it again, so a ring that is full may drop it. It can lie far above commit_lsn, which moves from
    /// record to record.
    pub fn given(&self) -> Option<Lsn> {
        let written = |member| self.peer_of(member).and_then(Peer::stream).map(|s| s.written);
        self.conf.quorum_value(written)
    }

    /// What the standbys behind all acceptors need kept: the oldest. `None` while that is not known: within
    /// [`STANDBYS_MS`] of the announcement, as long as an acceptor has not told it, or nobody needs anything yet.
    pub fn standbys(&self, now: u64) -> Option<HotStandbyFeedback> {
        let told = self.peers.iter().filter_map(|p| p.standbys(now));
        let oldest = told.fold(HotStandbyFeedback::default(), HotStandbyFeedback::with);
        let all = self.peers.iter().all(|p| p.standbys.is_some());
        let long = self.announced_at.is_some_and(|at| at.saturating_add(STANDBYS_MS) <= now);
        (long || all && !oldest.is_none()).then_some(oldest)
    }

    /// An acceptor that durably holds the bytes up to `end` in our term: where a laggard's WAL can be fetched.
    ///
    /// Up to the election's end the voter whose log was taken over; beyond, who acknowledged it. `None` above
    /// commit_lsn, where only the primary has it for certain. Of several the one with the lowest `rank`, none without.
    pub fn donor_for(&self, end: Lsn, rank: impl Fn(PeerId) -> Option<u32>) -> Option<PeerId> {
        let elected = self.donor.filter(|_| self.term_start >= Some(end));
        let holds =
            |(peer, p): &(PeerId, &Peer)| p.stream().is_some() && p.acked >= Some(end) || elected == Some(*peer);
        let holders = self.peers.iter().enumerate().map(|(i, p)| (PeerId(i), p)).filter(holds);
        let ranked = holders.filter_map(|(peer, p)| Some((rank(peer)?, p.stream().is_none(), peer)));
        ranked.min().map(|(.., peer)| peer)
    }

    /// Every address in order.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let status = |(i, p): (usize, &Peer)| PeerStatus {
            peer: PeerId(i),
            node: p.node,
            connected: !matches!(p.session, Session::Offline { .. } | Session::Dialing),
            streaming: p.stream().is_some(),
            term: p.term,
            flush_lsn: p.acked,
            commit_lsn: p.persisted_commit,
        };
        self.peers.iter().enumerate().map(status).collect()
    }

    /// The generation that every message carries.
    fn generation(&self) -> Generation {
        self.config.mconf.generation
    }

    /// The member that an address stands for in counting, once it greeted.
    fn member_of(&self, peer: usize) -> Option<NodeId> {
        let node = self.peers.get(peer)?.node?;
        if self.generation() == Generation::NONE { Some(NodeId(peer as u64 + 1)) } else { Some(node) }
    }

    /// The acceptor that answers for a member.
    fn peer_of(&self, member: NodeId) -> Option<&Peer> {
        let at = (0..self.peers.len()).find(|i| self.member_of(*i) == Some(member))?;
        self.peers.get(at)
    }

    fn is_quorum(&self, yes: impl Fn(&Peer) -> bool) -> bool {
        self.conf.is_quorum(|member| self.peer_of(member).is_some_and(&yes))
    }

    fn fatal(&mut self, reason: Fatal, effects: &mut Vec<Effect>) {
        self.phase = Phase::Over;
        effects.push(Effect::Fatal(reason));
    }

    fn deposed(&mut self, term: Term, effects: &mut Vec<Effect>) {
        self.phase = Phase::Over;
        effects.push(Effect::Deposed { term });
    }

    fn assert_invariants(&self) {
        let last = self.history.last();
        assert!(
            last.is_none_or(|e| e.term == self.term && Some(e.lsn) == self.term_start),
            "I2: history ends elsewhere"
        );
        assert!(
            self.commit_lsn.is_none() || self.commit_lsn >= self.term_start,
            "I4: commit below the own term's start"
        );
        assert!(
            self.truncate_lsn <= self.commit_lsn.max(self.term_start),
            "the peer horizon passed the commit position"
        );
    }
}

/// The members that quorums are counted over.
fn counted_set(config: &ProposerConfig) -> MemberConf {
    if config.mconf.generation != Generation::NONE {
        return config.mconf.clone();
    }
    let member = |i: usize| Member { id: NodeId(i as u64 + 1), host: String::new(), pg_port: 0 };
    let members = (0..config.addresses).map(member).collect();
    MemberConf { generation: Generation::FIRST, members, new_members: Vec::new() }
}
