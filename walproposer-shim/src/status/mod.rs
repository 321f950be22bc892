//! What the shim knows about itself, for status pages, metrics and the broker.
//!
//! Owner of nothing that decides: the driver, the guard and the attach loop write here, HTTP and the announcer read.
//! The lock is held for copies only, never across I/O.

pub(crate) mod donors;
mod memory;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use node::Aged;
use pgformat::Lsn;
use proto::api::{Readiness, ShimSafekeeperStatus, ShimStatus, shown};
use proto::broker::records::{PrimaryRecord, SCHEMA};
use proto::id::{NodeId, Term};
use tokio::sync::Notify;

use crate::config::Config;
use crate::core::{PeerId, PeerStatus};
use crate::dial::safekeeper;
use crate::dial::upstream::PrimaryIdentity;
use donors::Donors;
use memory::AcknowledgedWal;

/// Where the shim stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ShimPhase {
    /// No connection to the primary, or to a quorum.
    Detached,
    /// The attach proof runs.
    Validating,
    /// Votes are asked for.
    Campaign,
    /// Won; the rest of the proof runs.
    Elected,
    /// WAL flows, and a quorum follows.
    Streaming,
    /// WAL came from PostgreSQL, but no quorum follows: commits wait.
    NoQuorum,
    /// Over: this primary must not extend this log.
    Refused,
}

impl ShimPhase {
    pub(crate) const ALL: [ShimPhase; 7] = [
        ShimPhase::Detached,
        ShimPhase::Validating,
        ShimPhase::Campaign,
        ShimPhase::Elected,
        ShimPhase::Streaming,
        ShimPhase::Refused,
        ShimPhase::NoQuorum,
    ];

    /// Word for status pages.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            ShimPhase::Detached => "detached",
            ShimPhase::Validating => "validating",
            ShimPhase::Campaign => "campaign",
            ShimPhase::Elected => "elected",
            ShimPhase::Streaming => "streaming",
            ShimPhase::NoQuorum => "no_quorum",
            ShimPhase::Refused => "refused",
        }
    }
}

/// Between two checks of the guard.
pub(crate) const CHECK_PERIOD: Duration = Duration::from_secs(3);

/// A verdict of the guard that is older counts as none: two of its periods.
const VERDICT_AGE_MAX: Duration = Duration::from_secs(2 * CHECK_PERIOD.as_secs());

/// A proposer that leads says where it stands at each heartbeat; silent for so long it does not run.
const SEEN_AGE_MAX: Duration = Duration::from_secs(4);

/// WAL that waits so long for the quorum, while the commit position stands still, means that commits hang. A sync of a
/// busy disk takes less.
const STALL: Duration = Duration::from_secs(3);

/// More WAL than that behind the commit position, while no member has flushed more, is not just the beginning of a
/// record that PostgreSQL has yet to finish.
const TAIL_MAX: u64 = 256 << 10;

/// The guard's last verdict.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct GuardVerdict {
    /// Why commits are not protected; empty: they are.
    pub(crate) reasons: Vec<String>,
    /// What does no harm today and may tomorrow.
    pub(crate) warnings: Vec<String>,
}

impl GuardVerdict {
    /// Not protected, for one reason.
    pub(crate) fn because(reason: String) -> GuardVerdict {
        GuardVerdict { reasons: vec![reason], warnings: Vec::new() }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct ShimState {
    pub(crate) phase: ShimPhase,
    pub(crate) identity: Option<PrimaryIdentity>,
    /// The identity of the last session in which the slot was ours to take: what the broker is told about. A shim that
    /// waits for the slot tells nothing, since the record belongs to the one that has it.
    known: Option<PrimaryIdentity>,
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
    memory: AcknowledgedWal,
    /// Who refuses this primary, or the log elected, while others take it, by address: an operator must look.
    apart: BTreeMap<usize, String>,
    /// Whose WAL laggards get.
    pub(crate) donors: Donors,
    /// When the proposer of the running session said where it stands.
    seen: Instant,
    /// Since when WAL waits for the quorum and the commit position stands still.
    waiting_since: Option<Instant>,
    /// Why the last attempt or session ended.
    pub(crate) last_stop: Option<String>,
}

/// See the module's words.
pub(crate) struct StatusBoard {
    state: Mutex<ShimState>,
    /// Told when something changed that the broker should know.
    changed: Notify,
    /// The primary's next transaction id, epoch included, as the guard saw it last; 0 = never.
    next_xid: AtomicU64,
}

impl StatusBoard {
    pub(crate) fn new(config: &Config) -> StatusBoard {
        let row = |address| ShimSafekeeperStatus {
            id: NodeId(0),
            address: safekeeper::shown(address),
            state: "offline".to_owned(),
            flush_lsn: shown(None),
            problem: None,
        };
        let state = ShimState {
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
        };
        StatusBoard { state: Mutex::new(state), changed: Notify::new(), next_xid: AtomicU64::new(0) }
    }

    /// The primary's next transaction id, or one of a little earlier; `None` while unknown.
    pub(crate) fn next_xid(&self) -> Option<u64> {
        Some(self.next_xid.load(Relaxed)).filter(|xid| *xid > 0)
    }

    pub(crate) fn set_next_xid(&self, xid: Option<u64>) {
        self.next_xid.store(xid.unwrap_or(0), Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, ShimState> {
        // Every write is a plain assignment, so a panic elsewhere cannot leave a half-written state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of everything.
    pub(crate) fn snapshot(&self) -> ShimState {
        self.lock().clone()
    }

    /// Waits until something changed that the broker should know.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(crate) fn set_phase(&self, phase: ShimPhase) {
        let mut state = self.lock();
        if state.phase != phase {
            state.phase = phase;
            self.changed.notify_one();
        }
    }

    pub(crate) fn set_identity(&self, identity: PrimaryIdentity) {
        self.lock().identity = Some(identity);
        self.changed.notify_one();
    }

    /// Whether the slot on the present primary is free for this shim, or another one has it.
    pub(crate) fn set_at_work(&self, at_work: bool) {
        let mut state = self.lock();
        state.known = state.identity.filter(|_| at_work);
        self.changed.notify_one();
    }

    pub(crate) fn elected(&self, term: Term, end: Lsn) {
        let mut state = self.lock();
        (state.phase, state.term, state.elected_at) = (ShimPhase::Elected, term, Some(end));
        self.changed.notify_one();
    }

    /// Positions of the running session. `received`: end of the WAL received, bytes in the ring, reported flush and
    /// apply; `quorum`: whether one follows.
    pub(crate) fn progress<'a>(
        &self,
        commit: Option<Lsn>,
        quorum: bool,
        received: Option<(Lsn, usize, Option<Lsn>, Option<Lsn>)>,
        peers: impl Iterator<Item = (&'a PeerStatus, Option<&'a str>)>,
    ) {
        let mut state = self.lock();
        let now = Instant::now();
        state.seen = now;
        if commit > state.commit {
            (state.commit_before, state.commit) = (state.commit, commit);
            state.waiting_since = None;
        }
        if let Some((end, bytes, flush, apply)) = received {
            (state.received, state.ring_bytes) = (Some(end), bytes);
            (state.reported, state.reported_apply) = (flush, apply);
            let phase = if quorum { ShimPhase::Streaming } else { ShimPhase::NoQuorum };
            if state.phase != phase {
                state.phase = phase;
                state.last_stop = None;
                self.changed.notify_one();
            }
        }
        // The end of a record that PostgreSQL has not written out yet waits for PostgreSQL, not for the quorum.
        let tail = received.map_or(0, |(end, ..)| end.bytes_since(shown(state.commit)));
        let mut waits = tail > TAIL_MAX;
        let committed = state.commit;
        let state = &mut *state;
        for (row, (peer, problem)) in state.peers.iter_mut().zip(peers) {
            waits |= peer.streaming && peer.flush_lsn > committed;
            let word = match (peer.connected, peer.streaming, problem) {
                (_, true, _) => "active",
                (true, false, _) => "handshake",
                (false, ..) => "offline",
            };
            if row.state != word {
                word.clone_into(&mut row.state);
            }
            if let (Some(node), Some(flush)) = (peer.node, peer.flush_lsn) {
                // What it has acknowledged in this session, in our term; not while it is away, when that is old news.
                if peer.streaming {
                    state.memory.acknowledged(node, state.term, flush);
                }
            }
            if peer.streaming {
                state.apart.remove(&peer.peer.0);
            }
            row.id = peer.node.unwrap_or(row.id);
            row.problem = problem.filter(|_| !peer.streaming).map(str::to_owned);
            row.flush_lsn = shown(peer.flush_lsn).max(row.flush_lsn);
        }
        state.waiting_since = state.waiting_since.or(Some(now)).filter(|_| waits && received.is_some());
    }

    /// A safekeeper says where it stands; what it lost, when it had acknowledged more.
    pub(crate) fn stands(&self, node: NodeId, term: Term, end: (Term, Lsn)) -> Option<String> {
        self.lock().memory.compare(node, term, end)
    }

    /// A safekeeper lost the timeline, or says that it forgot.
    pub(crate) fn absent(&self, node: NodeId, said: &str) {
        self.lock().memory.absent(node, said);
    }

    /// A safekeeper refuses this primary, or the log elected, for good.
    pub(crate) fn apart(&self, peer: PeerId, said: &str) {
        self.lock().apart.insert(peer.0, said.to_owned());
    }

    /// Looks at the donors, or changes what is known of them.
    pub(crate) fn donors<T>(&self, look: impl FnOnce(&mut Donors) -> T) -> T {
        look(&mut self.lock().donors)
    }

    /// The session is over: nothing is received or reported any more.
    pub(crate) fn session_over(&self) {
        let mut state = self.lock();
        (state.phase, state.identity) = (ShimPhase::Detached, None);
        (state.received, state.ring_bytes) = (None, 0);
        state.waiting_since = None;
        (state.reported, state.reported_apply) = (None, None);
        for row in &mut state.peers {
            "offline".clone_into(&mut row.state);
        }
        self.changed.notify_one();
    }

    pub(crate) fn stopped(&self, why: String, refused: bool) {
        let mut state = self.lock();
        state.phase = if refused { ShimPhase::Refused } else { ShimPhase::Detached };
        state.last_stop = Some(why);
        self.changed.notify_one();
    }

    /// Takes over the guard's verdict; whether it differs from the last one.
    pub(crate) fn set_verdict(&self, verdict: GuardVerdict) -> bool {
        let mut state = self.lock();
        let changed = *state.verdict.value() != verdict;
        state.verdict = Aged::now(verdict);
        if changed {
            self.changed.notify_one();
        }
        changed
    }

    /// `GET /v1/status`.
    pub(crate) fn status(&self, config: &Config) -> ShimStatus {
        let state = self.snapshot();
        let reasons = state.reasons();
        ShimStatus {
            tenant_id: config.ttid.tenant_id,
            timeline_id: config.ttid.timeline_id,
            state: state.phase.name().to_owned(),
            term: state.term,
            elected_at_lsn: shown(state.elected_at),
            commit_lsn: shown(state.commit),
            received_lsn: shown(state.received),
            reported_lsn: shown(state.reported),
            reported_apply_lsn: shown(state.reported_apply),
            protected: reasons.is_empty(),
            reasons,
            warnings: state.warnings(config),
            safekeepers: state.peers,
        }
    }

    /// `GET /readyz`: ready while synchronous commits really wait for the quorum.
    pub(crate) fn readiness(&self) -> Readiness {
        let reasons = self.snapshot().reasons();
        Readiness { ready: reasons.is_empty(), reasons }
    }

    /// `GET /writable`: whether commits reach the quorum now. Unlike readiness, not whether they wait for it.
    pub(crate) fn writable(&self) -> Readiness {
        let reasons = self.snapshot().quorum_reasons();
        Readiness { ready: reasons.is_empty(), reasons }
    }

    /// The record for the broker, once there is a primary that no other shim works on.
    pub(crate) fn record(&self, config: &Config, http: &str) -> Option<PrimaryRecord> {
        let state = self.snapshot();
        let identity = state.known?;
        let reasons = state.reasons();
        Some(PrimaryRecord {
            schema: SCHEMA,
            shim_http: http.to_owned(),
            system_id: identity.system_id,
            tli: identity.tli.0,
            term: Some(state.term).filter(|t| *t != Term::ZERO),
            primary_epoch: config.primary_epoch,
            protected: reasons.is_empty(),
            reasons,
        })
    }
}

impl ShimState {
    /// What does no harm to commits now.
    fn warnings(&self, config: &Config) -> Vec<String> {
        let name = |index: usize| config.safekeepers.get(index).map(safekeeper::shown).unwrap_or_default();
        let doubts = self.donors.describe(name);
        self.memory.losses().cloned().chain(doubts).chain(self.verdict.value().warnings.iter().cloned()).collect()
    }

    fn stalled(&self, waits: Duration) -> String {
        let position = |lsn: Option<Lsn>| shown(lsn).to_string();
        let members: Vec<String> =
            self.peers.iter().map(|p| format!("{} {} {}", p.address, p.state, p.flush_lsn)).collect();
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
        let away: Vec<String> = self.peers.iter().filter(|p| p.state != "active").map(row).collect();
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
    fn quorum_reasons(&self) -> Vec<String> {
        let mut out = Vec::new();
        if self.phase == ShimPhase::NoQuorum {
            out.push(self.no_quorum());
        } else if self.phase != ShimPhase::Streaming {
            let why = self.last_stop.as_deref().map(|w| format!(": {w}")).unwrap_or_default();
            out.push(format!("not streaming, the shim is {}{why}", self.phase.name()));
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

#[cfg(test)]
mod tests {
    use pgformat::Tli;
    use proto::id::SystemId;

    use super::*;
    use crate::testing::config;

    #[test]
    fn protected_needs_a_stream_and_a_clean_verdict() {
        let config = config(&[]);
        let shared = StatusBoard::new(&config);
        assert!(!shared.readiness().ready);
        shared.set_verdict(GuardVerdict::default());
        shared.stopped("the primary is away".to_owned(), false);
        assert!(shared.readiness().reasons[0].contains("away"));
        let at = Some(Lsn::new(9));
        shared.progress(at, false, Some((Lsn::new(10), 1, at, at)), std::iter::empty());
        let status = shared.status(&config);
        assert!(!status.protected && status.state == "no_quorum", "WAL flows, and nobody acknowledges it");
        assert!(status.reasons[0].contains("no quorum"), "{:?}", status.reasons);
        shared.progress(at, true, Some((Lsn::new(10), 1, at, at)), std::iter::empty());
        let status = shared.status(&config);
        assert!(status.protected && status.reasons.is_empty());
        assert_eq!((status.state.as_str(), status.reported_lsn), ("streaming", Lsn::new(9)));
        shared.session_over();
        let status = shared.status(&config);
        assert_eq!((status.reported_lsn, status.commit_lsn), (Lsn::new(0), Lsn::new(9)));
        assert!(!status.protected);
    }

    fn before(seconds: u64) -> Instant {
        Instant::now().checked_sub(Duration::from_secs(seconds)).expect("up for a minute")
    }

    fn streaming() -> StatusBoard {
        let shared = StatusBoard::new(&config(&[]));
        shared.set_verdict(GuardVerdict::default());
        let at = Some(Lsn::new(16));
        shared.progress(at, true, Some((Lsn::new(16), 0, at, at)), std::iter::empty());
        assert!(shared.readiness().ready && shared.writable().ready);
        shared
    }

    #[test]
    fn an_old_verdict_counts_as_none() {
        let shared = streaming();
        shared.lock().verdict = Aged::at(GuardVerdict::default(), before(5));
        assert!(shared.readiness().ready, "younger than two periods");
        shared.lock().verdict = Aged::at(GuardVerdict::default(), before(8));
        assert_eq!(shared.readiness().reasons, ["not checked for 8 s"]);
        assert!(!shared.status(&config(&[])).protected);
        assert!(shared.writable().ready, "commits reach the quorum all the same");
        assert!(!shared.set_verdict(GuardVerdict::default()), "nothing new");
        assert!(shared.readiness().ready, "but new enough");
    }

    #[test]
    fn a_proposer_that_is_silent_is_not_believed() {
        let shared = streaming();
        shared.lock().seen = before(9);
        assert_eq!(shared.writable().reasons, ["the proposer has said nothing for 9 s"]);
        assert!(!shared.readiness().ready);
    }

    #[test]
    fn wal_that_waits_while_the_commit_position_stands_still_is_a_reason() {
        let shared = streaming();
        let one = |flush| PeerStatus {
            peer: PeerId(0),
            node: Some(NodeId(1)),
            connected: true,
            streaming: true,
            term: Term(1),
            flush_lsn: Some(Lsn::new(flush)),
            commit_lsn: None,
        };
        // One member has it all.
        let more = |end, commit| {
            let (at, ahead) = (Some(Lsn::new(commit)), one(end));
            shared.progress(at, true, Some((Lsn::new(end), 0, at, at)), std::iter::once((&ahead, None)));
        };
        more(32, 16);
        assert!(shared.readiness().ready, "it has only just come");
        shared.lock().waiting_since = Some(before(4));
        more(40, 16);
        let now = shared.readiness();
        assert!(now.reasons[0].contains("up to 0/28") && now.reasons[0].contains("stood at 0/10 for 4 s"), "{now:?}");
        assert!(!shared.writable().ready);
        more(48, 24);
        assert!(shared.readiness().ready, "slow, but it moves");
        shared.lock().waiting_since = Some(before(4));
        more(48, 48);
        assert!(shared.readiness().ready && shared.lock().waiting_since.is_none(), "nothing waits");
        let (at, same) = (Some(Lsn::new(48)), one(48));
        let half = |end| shared.progress(at, true, Some((Lsn::new(end), 0, at, at)), std::iter::once((&same, None)));
        half(1000);
        assert!(shared.lock().waiting_since.is_none(), "the beginning of a record");
        half(300 << 10);
        assert!(shared.lock().waiting_since.is_some(), "too much for that");
    }

    #[test]
    fn a_safekeeper_that_refuses_for_good_is_a_reason_until_it_follows() {
        let shared = streaming();
        shared.apart(PeerId(0), "primary_epoch 1 is older than 2");
        assert!(shared.readiness().reasons[0].contains("gets no WAL: primary_epoch 1 is older"));
        assert!(shared.writable().ready, "commits reach the quorum all the same");
        let (at, mut peer) = (
            Some(Lsn::new(16)),
            PeerStatus {
                peer: PeerId(0),
                node: Some(NodeId(1)),
                connected: false,
                streaming: false,
                term: Term(1),
                flush_lsn: None,
                commit_lsn: None,
            },
        );
        for (streaming, ready) in [(false, false), (true, true)] {
            (peer.connected, peer.streaming) = (streaming, streaming);
            shared.progress(at, true, Some((Lsn::new(16), 0, at, at)), std::iter::once((&peer, None)));
            assert_eq!(shared.readiness().ready, ready);
        }
    }

    #[test]
    fn the_broker_hears_of_a_primary_only_when_there_is_one() {
        let config = config(&[]);
        let shared = StatusBoard::new(&config);
        assert!(shared.record(&config, "x").is_none());
        shared.set_identity(PrimaryIdentity { system_id: SystemId(7), tli: Tli(1), pid: 3 });
        assert!(shared.record(&config, "x").is_none(), "another shim may have the slot");
        shared.set_at_work(true);
        let record = shared.record(&config, "127.0.0.1:9").expect("a primary is known");
        assert_eq!((record.term, record.protected), (None, false));
        shared.set_verdict(GuardVerdict::default());
        shared.progress(None, true, Some((Lsn::new(10), 1, None, None)), std::iter::empty());
        assert!(shared.record(&config, "x").is_some_and(|r| r.protected));
        shared.session_over();
        let record = shared.record(&config, "x").expect("the primary is still known");
        assert!(!record.protected, "a session that is over must not leave a good record behind");
        shared.set_identity(PrimaryIdentity { system_id: SystemId(7), tli: Tli(1), pid: 4 });
        shared.set_at_work(false);
        assert!(shared.record(&config, "x").is_none(), "the record belongs to the shim that has the slot");
    }
}
