//! Everything that others see, as plain data, and what follows from it: phase, reasons, warnings. Pure but for the
//! clock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use node::Aged;
use pgformat::Lsn;
use proto::api::{PeerState, ShimPhase, ShimSafekeeperStatus, shown};
use proto::id::{NodeId, Term};

use super::donors::Donors;
use super::memory::AcknowledgedWal;
use super::verdict::{GuardVerdict, VERDICT_AGE_MAX};
use crate::config::ShimConfig;
use crate::core::PeerStatus;
use crate::dial::safekeeper;
use crate::dial::upstream::PrimaryIdentity;

/// A proposer that leads says where it stands at each heartbeat; silent for so long it does not run.
const SEEN_AGE_MAX: Duration = Duration::from_secs(4);

/// WAL that waits so long for the quorum, while the commit position stands still, means that commits hang. A sync of a
/// busy disk takes less.
const STALL: Duration = Duration::from_secs(3);

/// More WAL than that behind the commit position, while no member has flushed more, is not just the beginning of a
/// record that PostgreSQL has yet to finish.
const TAIL_MAX: u64 = 256 << 10;

/// Where the stream of the running session stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StreamPositions {
    /// End of the WAL received from PostgreSQL.
    pub(crate) received: Lsn,
    /// WAL in memory, bytes.
    pub(crate) ring_bytes: usize,
    /// What PostgreSQL was told to be written and flushed.
    pub(crate) reported: Option<Lsn>,
    /// What it was told to be applied.
    pub(crate) reported_apply: Option<Lsn>,
}

/// One moment of the process. Positions stay as they were last when a session ends, but for what was received and
/// reported in it.
#[derive(Clone, Debug)]
pub(crate) struct ShimState {
    pub(crate) phase: ShimPhase,
    pub(crate) identity: Option<PrimaryIdentity>,
    /// The identity of the last session in which the slot was ours to take: what the broker is told about. A shim that
    /// waits for the slot tells nothing, since the record belongs to the one that has it.
    pub(super) known: Option<PrimaryIdentity>,
    pub(crate) term: Term,
    pub(crate) elected_at: Option<Lsn>,
    pub(crate) commit: Option<Lsn>,
    /// The position before that: a record boundary, so the last committed record does not begin below it.
    pub(crate) commit_before: Option<Lsn>,
    pub(crate) received: Option<Lsn>,
    pub(crate) ring_bytes: usize,
    pub(crate) reported: Option<Lsn>,
    pub(crate) reported_apply: Option<Lsn>,
    pub(crate) peers: Vec<ShimSafekeeperStatus>,
    pub(crate) verdict: Aged<GuardVerdict>,
    /// What the safekeepers acknowledged.
    pub(super) memory: AcknowledgedWal,
    /// Who refuses this primary, or the log elected, while others take it, by address: an operator must look.
    pub(super) apart: BTreeMap<usize, String>,
    /// Whose WAL laggards get.
    pub(crate) donors: Donors,
    /// When the proposer of the running session said where it stands.
    pub(super) seen: Instant,
    /// Since when WAL waits for the quorum and the commit position stands still.
    pub(super) waiting_since: Option<Instant>,
    /// Why the last attempt or session ended.
    pub(crate) last_stop: Option<String>,
}

impl ShimState {
    /// Detached, with nothing checked.
    pub(super) fn new(config: &ShimConfig) -> ShimState {
        let row = |address| ShimSafekeeperStatus {
            id: NodeId(0),
            address: safekeeper::shown(address),
            state: PeerState::Offline,
            flush_lsn: None,
            problem: None,
        };
        ShimState {
            phase: ShimPhase::Detached,
            identity: None,
            known: None,
            term: Term::ZERO,
            elected_at: None,
            commit: None,
            commit_before: None,
            received: None,
            ring_bytes: 0,
            reported: None,
            reported_apply: None,
            peers: config.safekeepers.iter().map(row).collect(),
            memory: AcknowledgedWal::default(),
            apart: BTreeMap::new(),
            donors: Donors::default(),
            verdict: Aged::now(GuardVerdict::because("not checked yet".to_owned())),
            seen: Instant::now(),
            waiting_since: None,
            last_stop: None,
        }
    }

    /// Takes over where the running session stands; `quorum`: whether one follows. Whether the phase changed, which the
    /// broker should know.
    pub(super) fn progress<'a>(
        &mut self,
        commit: Option<Lsn>,
        quorum: bool,
        stream: Option<StreamPositions>,
        peers: impl Iterator<Item = (&'a PeerStatus, Option<&'a str>)>,
    ) -> bool {
        let now = Instant::now();
        self.seen = now;
        if commit > self.commit {
            (self.commit_before, self.commit) = (self.commit, commit);
            self.waiting_since = None;
        }
        let mut changed = false;
        if let Some(stream) = stream {
            (self.received, self.ring_bytes) = (Some(stream.received), stream.ring_bytes);
            (self.reported, self.reported_apply) = (stream.reported, stream.reported_apply);
            let phase = if quorum { ShimPhase::Streaming } else { ShimPhase::NoQuorum };
            if self.phase != phase {
                self.phase = phase;
                self.last_stop = None;
                changed = true;
            }
        }
        // The end of a record that PostgreSQL has not written out yet waits for PostgreSQL, not for the quorum.
        let tail = stream.map_or(0, |stream| stream.received.bytes_since(shown(self.commit)));
        let mut waits = tail > TAIL_MAX;
        let committed = self.commit;
        for (row, (peer, problem)) in self.peers.iter_mut().zip(peers) {
            waits |= peer.streaming && peer.flush_lsn > committed;
            let word = match (peer.connected, peer.streaming, problem) {
                (_, true, _) => PeerState::Active,
                (true, false, _) => PeerState::Handshake,
                (false, ..) => PeerState::Offline,
            };
            row.state = word;
            if let (Some(node), Some(flush)) = (peer.node, peer.flush_lsn) {
                // What it has acknowledged in this session, in our term; not while it is away, when that is old news.
                if peer.streaming {
                    self.memory.acknowledged(node, self.term, flush);
                }
            }
            if peer.streaming {
                self.apart.remove(&peer.peer.0);
            }
            row.id = peer.node.unwrap_or(row.id);
            row.problem = problem.filter(|_| !peer.streaming).map(str::to_owned);
            row.flush_lsn = peer.flush_lsn.max(row.flush_lsn);
        }
        self.waiting_since = self.waiting_since.or(Some(now)).filter(|_| waits && stream.is_some());
        changed
    }

    /// The session is over: nothing is received or reported any more.
    pub(super) fn session_over(&mut self) {
        (self.phase, self.identity) = (ShimPhase::Detached, None);
        (self.received, self.ring_bytes) = (None, 0);
        self.waiting_since = None;
        (self.reported, self.reported_apply) = (None, None);
        for row in &mut self.peers {
            row.state = PeerState::Offline;
        }
    }

    /// What does no harm to commits now.
    pub(super) fn warnings(&self, config: &ShimConfig) -> Vec<String> {
        let name = |index: usize| config.safekeepers.get(index).map(safekeeper::shown).unwrap_or_default();
        let doubts = self.donors.describe(name);
        self.memory.losses().cloned().chain(doubts).chain(self.verdict.value().warnings.iter().cloned()).collect()
    }

    fn stalled(&self, waits: Duration) -> String {
        let position = |lsn: Option<Lsn>| shown(lsn).to_string();
        let members: Vec<String> =
            self.peers.iter().map(|p| format!("{} {} {}", p.address, p.state, position(p.flush_lsn))).collect();
        format!(
            "commits wait: WAL up to {} came from PostgreSQL, the quorum has stood at {} for {} s (flushed: {})",
            position(self.received),
            position(self.commit),
            waits.as_secs(),
            members.join(", ")
        )
    }

    fn no_quorum(&self) -> String {
        let row = |p: &ShimSafekeeperStatus| match &p.problem {
            Some(problem) => format!("{}: {problem}", p.address),
            None => format!("{}: {}", p.address, p.state),
        };
        let away: Vec<String> = self.peers.iter().filter(|p| p.state != PeerState::Active).map(row).collect();
        let silent = if away.is_empty() { "they do not answer".to_owned() } else { away.join("; ") };
        format!("no quorum of safekeepers follows, commits wait ({silent})")
    }

    /// Why synchronous commits are not known to wait for the quorum, or hang in front of it.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let mut out = self.quorum_reasons();
        let row = |index: &usize| self.peers.get(*index).map(|row| row.address.as_str()).unwrap_or_default();
        out.extend(self.apart.iter().map(|(index, said)| format!("safekeeper {} gets no WAL: {said}", row(index))));
        match self.verdict.fresh(VERDICT_AGE_MAX) {
            Ok(verdict) => out.extend(verdict.reasons.iter().cloned()),
            Err(age) => out.push(format!("not checked for {} s", age.as_secs())),
        }
        out
    }

    /// Why commits do not reach the quorum.
    pub(super) fn quorum_reasons(&self) -> Vec<String> {
        let mut out = Vec::new();
        if self.phase == ShimPhase::NoQuorum {
            out.push(self.no_quorum());
        } else if self.phase != ShimPhase::Streaming {
            let why = self.last_stop.as_deref().map(|w| format!(": {w}")).unwrap_or_default();
            out.push(format!("not streaming, the shim is {}{why}", self.phase));
        }
        let streams = matches!(self.phase, ShimPhase::Streaming | ShimPhase::NoQuorum);
        if streams && self.seen.elapsed() > SEEN_AGE_MAX {
            out.push(format!("the proposer has said nothing for {} s", self.seen.elapsed().as_secs()));
        } else if let Some(waits) = self.waiting_since.map(|since| since.elapsed()).filter(|w| *w > STALL) {
            out.push(self.stalled(waits));
        }
        out
    }
}
