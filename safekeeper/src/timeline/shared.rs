//! What a timeline's driver and the handles share. Owner: the driver writes, handles read; no lock is held over I/O.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use proto::feedback::PageserverFeedback;
use proto::id::{NodeId, TenantTimelineId};
use proto::pg::sqlstate;
use tokio::sync::{Notify, mpsc, watch};

use super::commands::DriverCommand;
use super::doubt::Doubts;
use super::hearsay::Hearsay;
use super::positions::{Stopped, TimelinePositions};
use super::rings::RecentWal;
use super::standbys::Standbys;
use crate::core::{self, ConnId, ControlState};
use crate::storage::segment::HeldSegments;

/// Shared state of one timeline.
#[derive(Debug)]
pub(super) struct TimelineShared {
    pub(super) ttid: TenantTimelineId,
    pub(super) node_id: NodeId,
    pub(super) positions: watch::Receiver<TimelinePositions>,
    pub(super) commands: mpsc::UnboundedSender<DriverCommand>,
    pub(super) feedback: TimelineFeedback,
    pub(super) queue_bytes: u32,
    next_conn: AtomicU64,
    /// Why the timeline is stopped until a restart: a part of it panicked.
    broken: OnceLock<Stopped>,
    view: Mutex<TimelineView>,
    /// The newest WAL in memory.
    pub(super) recent: RecentWal,
    pub(super) doubts: Doubts,
    pub(super) hearsay: Hearsay,
}

/// What status and readers look at.
#[derive(Clone, Debug)]
pub(super) struct TimelineView {
    /// What the control file durably says.
    pub(super) control: Arc<ControlState>,
    pub(super) core: core::Positions,
    /// Replaced when the timeline is opened anew.
    pub(super) segments: Arc<HeldSegments>,
}

/// Newest feedback of each pageserver, and of the standbys: a slow driver skips what newer feedback replaced.
#[derive(Debug, Default)]
pub(super) struct TimelineFeedback {
    newest: Mutex<NewestFeedback>,
    pub(super) standbys: Arc<Standbys>,
    pub(super) arrived: Notify,
}

#[derive(Debug, Default)]
struct NewestFeedback {
    /// Number of the newest one.
    last: u64,
    by_pageserver: BTreeMap<NodeId, (u64, PageserverFeedback)>,
}

impl TimelineFeedback {
    pub(super) fn record(&self, pageserver: NodeId, feedback: PageserverFeedback) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.last += 1;
        let number = newest.last;
        newest.by_pageserver.insert(pageserver, (number, feedback));
        drop(newest);
        self.arrived.notify_one();
    }

    /// The oldest feedback numbered above `seen`.
    pub(super) fn after(&self, seen: u64) -> Option<(u64, PageserverFeedback)> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.by_pageserver.values().filter(|(number, _)| *number > seen).min_by_key(|(number, _)| *number).cloned()
    }
}

impl TimelineShared {
    pub(super) fn new(
        ttid: TenantTimelineId,
        node_id: NodeId,
        positions: watch::Receiver<TimelinePositions>,
        commands: mpsc::UnboundedSender<DriverCommand>,
        view: TimelineView,
        (recent, queue_bytes): (RecentWal, u32),
    ) -> TimelineShared {
        TimelineShared {
            ttid,
            node_id,
            positions,
            commands,
            feedback: TimelineFeedback::default(),
            queue_bytes,
            next_conn: AtomicU64::new(1),
            broken: OnceLock::new(),
            view: Mutex::new(view),
            recent,
            doubts: Doubts::default(),
            hearsay: Hearsay::default(),
        }
    }

    pub(super) fn next_conn(&self) -> ConnId {
        ConnId(self.next_conn.fetch_add(1, Ordering::Relaxed))
    }

    /// A part of the timeline panicked: it is stopped until a restart.
    pub(super) fn broke(&self, why: &str) {
        tracing::error!(ttid = %self.ttid, "timeline stopped until a restart: {why}");
        // The first panic is the cause.
        let _ = self.broken.set(Stopped { code: sqlstate::TIMELINE_STOPPED, reason: why.into() });
        // A driver that is gone needs no telling.
        let _ = self.commands.send(DriverCommand::Shutdown);
    }

    /// Why no WAL is accepted.
    pub(super) fn stopped(&self) -> Option<Stopped> {
        self.broken.get().cloned().or_else(|| self.positions.borrow().stopped.clone())
    }

    pub(super) fn view(&self) -> TimelineView {
        self.lock_view().clone()
    }

    pub(super) fn set_view(&self, change: impl FnOnce(&mut TimelineView)) {
        change(&mut self.lock_view());
    }

    fn lock_view(&self) -> MutexGuard<'_, TimelineView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
