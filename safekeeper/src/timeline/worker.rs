//! What a driver has done on blocking threads: opening, and groups of disk effects. One at a time per timeline; the
//! storage is moved in and comes back with the result, so nothing is locked.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use disk::Disk;
use proto::id::{NodeId, TenantTimelineId};

use super::metrics::StorageMetrics;
use crate::core::{Acceptor, AcceptorConfig, ControlState, DiskOp, Input, OpenError};
use crate::storage::timeline::FoundTimeline;
use crate::storage::wal::SpareJob;
use crate::storage::{StorageError, TimelineStorage, run_group};

/// Where a timeline is, and whose it is.
#[derive(Clone, Debug)]
pub(super) struct TimelineHome {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) node_id: NodeId,
    /// Which timeline of the node gave the disk work last, and when.
    pub(super) last_turn: Arc<Mutex<Option<(TenantTimelineId, Instant)>>>,
}

/// Acceptor and storage of a timeline that was just opened.
#[derive(Debug)]
pub(super) struct OpenedTimeline {
    pub(super) acceptor: Acceptor,
    pub(super) storage: TimelineStorage,
}

/// Why a timeline cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenFailure {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Core(#[from] OpenError),
}

impl OpenFailure {
    /// Whether the data itself is at fault; anything else may pass.
    pub(super) fn is_corruption(&self) -> bool {
        match self {
            OpenFailure::Storage(e) => e.is_corruption(),
            OpenFailure::Core(_) => true,
        }
    }
}

impl TimelineHome {
    /// Notes that `ttid` gives the disk work now; true when no other timeline of the node did so for `quiet`.
    pub(super) fn alone_since(&self, ttid: TenantTimelineId, quiet: Duration) -> bool {
        let mut last = self.last_turn.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last.replace((ttid, Instant::now()));
        before.is_none_or(|(other, at)| other == ttid || at.elapsed() >= quiet)
    }

    /// Opens it; `how` is one of [`TimelineStorage`]'s.
    pub(super) fn open(
        &self,
        how: fn(&Arc<dyn Disk>, &Path) -> Result<FoundTimeline, StorageError>,
    ) -> Result<OpenedTimeline, OpenFailure> {
        let (storage, state, end) = how(&self.disk, &self.dir)?;
        let acceptor = Acceptor::open(AcceptorConfig::new(self.node_id), state, end)?;
        Ok(OpenedTimeline { acceptor, storage })
    }
}

/// A turn of the disk.
#[derive(Debug)]
pub(super) struct DiskTurn {
    pub(super) storage: TimelineStorage,
    pub(super) ops: VecDeque<DiskOp>,
    /// Give back what only an active timeline needs.
    pub(super) rest: bool,
}

/// How a turn ended; ops that are left were not run.
#[derive(Debug)]
pub(super) struct DiskTurnResult {
    pub(super) storage: TimelineStorage,
    pub(super) ops: VecDeque<DiskOp>,
    pub(super) completions: Vec<Input>,
    /// Newly persisted state, when there is one.
    pub(super) persisted: Option<Arc<ControlState>>,
    /// Next segment to prepare.
    pub(super) spare: Option<SpareJob>,
    pub(super) failure: Option<StorageError>,
    /// Duration of the group.
    pub(super) took: Duration,
}

impl DiskTurn {
    /// Runs one group: the driver learns of its completion before the next one starts.
    pub(super) fn run(mut self, metrics: &StorageMetrics) -> DiskTurnResult {
        let mut result = DiskTurnResult {
            completions: Vec::new(),
            persisted: None,
            spare: None,
            failure: None,
            ops: VecDeque::new(),
            storage: self.storage,
            took: Duration::ZERO,
        };
        if self.rest
            && let Err(e) = result.storage.rest()
        {
            tracing::debug!(error = %e, "prepared segment not removed");
        }
        let started = Instant::now();
        let persists = matches!(self.ops.front(), Some(DiskOp::Persist { .. }));
        let before: usize = self.ops.iter().map(DiskOp::wal_len).sum();
        match run_group(&mut result.storage, &mut self.ops) {
            Ok(completions) => {
                let after: usize = self.ops.iter().map(DiskOp::wal_len).sum();
                metrics.group((before - after) as u64, started.elapsed());
                result.completions = completions;
                result.persisted = persists.then(|| Arc::new(result.storage.persisted().clone()));
                if before > after {
                    result.spare = result.storage.wal().spare_job();
                }
            }
            Err(e) => result.failure = Some(e),
        }
        result.took = started.elapsed();
        result.ops = self.ops;
        result
    }
}
