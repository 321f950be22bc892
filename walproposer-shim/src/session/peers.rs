//! The tasks of all safekeepers, by their address, and whose fault a failure is.
//!
//! Owner of the tasks. What a session is told, and when, comes from the core by way of the driver.

use std::sync::Arc;

use proto::id::NodeId;
use proto::pg::sqlstate;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::downstream::{self, EVENTS, FailureKind, PeerCommand, PeerEvent};
use crate::attach::doubt;
use crate::context::ShimContext;
use crate::core::{PeerId, PeerStatus};

/// One address of the list.
struct PeerHandle {
    commands: mpsc::Sender<PeerCommand>,
    task_guard: AbortOnDropHandle<()>,
    /// Last failure, for the status page.
    problem: Option<String>,
}

/// The tasks of one session of the shim; they end with it.
pub(super) struct Peers {
    ctx: Arc<ShimContext>,
    handles: Vec<PeerHandle>,
    /// For tasks that are started later.
    events: mpsc::Sender<PeerEvent>,
}

impl Peers {
    /// Starts the task of every address. Their events come from the receiver.
    pub(super) fn start(ctx: &Arc<ShimContext>) -> (Peers, mpsc::Receiver<PeerEvent>) {
        let (events, receiver) = mpsc::channel(EVENTS);
        let start = |i| {
            let (commands, task) = downstream::start(Arc::clone(&ctx.config), PeerId(i), events.clone());
            // What was told of an earlier session is over when WAL flows there again, not before.
            let problem = ctx.away.get(i).filter(|away| away.is_running()).map(|_| "away before".to_owned());
            PeerHandle { commands, task_guard: task, problem }
        };
        let handles = (0..ctx.config.safekeepers.len()).map(start).collect();
        (Peers { ctx: Arc::clone(ctx), handles, events }, receiver)
    }

    /// Queues a command; false when the task's queue is full.
    pub(super) fn command(&self, peer: PeerId, command: PeerCommand) -> bool {
        self.handles.get(peer.0).is_none_or(|known| known.commands.try_send(command).is_ok())
    }

    /// Ends a session from this side. The queue may be full, so the task is replaced instead of told.
    pub(super) fn give_up(&mut self, peer: PeerId, reason: String) {
        self.note_problem(peer, reason);
        let (commands, task) = downstream::start(Arc::clone(&self.ctx.config), peer, self.events.clone());
        if let Some(known) = self.handles.get_mut(peer.0) {
            (known.commands, known.task_guard) = (commands, task);
        }
    }

    /// Notes why a session failed.
    pub(super) fn note_problem(&mut self, peer: PeerId, reason: String) {
        let Some(known) = self.handles.get_mut(peer.0) else { return };
        if let Some(away) = self.ctx.away.get(peer.0) {
            away.warn(&reason);
        }
        known.problem = Some(reason);
        self.ctx.metrics.disconnects.inc();
    }

    /// Forgets the problems of those that WAL flows to.
    pub(super) fn note_streaming(&mut self, peers: &[PeerStatus]) {
        for ((peer, known), away) in peers.iter().zip(&mut self.handles).zip(&self.ctx.away) {
            if peer.streaming && known.problem.take().is_some() {
                away.over();
            }
        }
    }

    /// The last failure of each, in the order of the addresses.
    pub(super) fn problems(&self) -> impl Iterator<Item = Option<&str>> {
        self.handles.iter().map(|known| known.problem.as_deref())
    }

    /// Notes a failure, tells the status page what follows from it, and gives the reason in words. When the failure is
    /// another safekeeper's, that one is named, and passed over next time.
    pub(super) fn failed(&mut self, peer: PeerId, node: Option<NodeId>, reason: String, kind: FailureKind) -> String {
        let reason = self.blame(peer, reason, kind);
        self.note_problem(peer, reason.clone());
        let forgot = [sqlstate::TIMELINE_NOT_FOUND, sqlstate::NOT_ADMITTED].iter().any(|code| reason.contains(code));
        // A member that was opened a moment ago asks the others first, and has lost nothing.
        let forgot = forgot && !reason.contains("just opened");
        if let Some(node) = node.filter(|_| forgot) {
            self.ctx.board.absent(node, &format!("takes no part: {reason}"));
        }
        if matches!(kind, FailureKind::Fenced | FailureKind::Parted) {
            self.ctx.board.apart(peer, &reason);
        }
        reason
    }

    fn blame(&self, peer: PeerId, reason: String, kind: FailureKind) -> String {
        let name = |index: usize| self.ctx.safekeeper_name(index);
        match kind {
            FailureKind::Damaged(Some(lent)) => {
                doubt::ask(&self.ctx, lent, format!("by {}: {reason}", name(peer.0)));
                format!(
                    "it refused the WAL of {}..{} that came from {}: {reason}",
                    lent.from,
                    lent.to,
                    name(lent.donor)
                )
            }
            FailureKind::Donor(donor) => {
                self.ctx.board.donors(|donors| donors.failed(donor));
                format!("the donor {} failed: {reason}", name(donor))
            }
            _ => reason,
        }
    }
}
