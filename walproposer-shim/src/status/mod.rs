//! What the shim knows about itself, for status pages, metrics and the broker.
//!
//! Owner of nothing that decides: the driver, the guard and the attach loop write here, HTTP and the announcer read.
//! The lock is held for copies only, never across I/O.

pub(crate) mod donors;
mod memory;
mod state;
#[cfg(test)]
mod tests;
mod verdict;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use node::Aged;
use pgformat::Lsn;
use proto::api::{self, Readiness, ShimPhase, ShimStatus};
use proto::broker::records::{PrimaryRecord, SCHEMA};
use proto::id::{NodeId, Term};
use tokio::sync::Notify;

use crate::config::ShimConfig;
use crate::core::{PeerId, PeerStatus};
use crate::dial::upstream::PrimaryIdentity;
use donors::Donors;

pub(crate) use state::{ShimState, StreamPositions};
pub(crate) use verdict::{CHECK_PERIOD, GuardVerdict};

/// One for the whole process: written by few, read by everybody who asks.
pub(crate) struct StatusBoard {
    state: Mutex<ShimState>,
    /// Told when something changed that the broker should know.
    changed: Notify,
    /// The primary's next transaction id, epoch included, as the guard saw it last; 0 = never.
    next_xid: AtomicU64,
}

impl StatusBoard {
    pub(crate) fn new(config: &ShimConfig) -> StatusBoard {
        let state = ShimState::new(config);
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

    /// The driver says where the running session stands; `quorum`: whether one follows.
    pub(crate) fn progress<'a>(
        &self,
        commit: Option<Lsn>,
        quorum: bool,
        stream: Option<StreamPositions>,
        peers: impl Iterator<Item = (&'a PeerStatus, Option<&'a str>)>,
    ) {
        if self.lock().progress(commit, quorum, stream, peers) {
            self.changed.notify_one();
        }
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
        self.lock().session_over();
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

    /// What `GET /v1/status` answers with.
    pub(crate) fn status(&self, config: &ShimConfig) -> ShimStatus {
        let state = self.snapshot();
        let reasons = state.reasons();
        ShimStatus {
            schema: api::SCHEMA,
            tenant_id: config.ttid.tenant_id,
            timeline_id: config.ttid.timeline_id,
            state: state.phase,
            term: state.term,
            elected_at_lsn: state.elected_at,
            commit_lsn: state.commit,
            received_lsn: state.received,
            reported_lsn: state.reported,
            reported_apply_lsn: state.reported_apply,
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
    pub(crate) fn record(&self, config: &ShimConfig, http: &str) -> Option<PrimaryRecord> {
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
