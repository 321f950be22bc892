//! When the disk is full or fails: the timeline stops, says so, and heals by itself.
//!
//! A full disk leaves the effects as they were; they are tried again. Any other failure ends the acceptor: nothing
//! beyond the last good sync counts until the timeline was opened anew, which writes and syncs every uncertain byte
//! again.

use super::backoff::{DiskBackoff, FAILED_MAX, FULL_MAX};
use super::*;

impl IdleTimes {
    /// How long after the last write something is given back next.
    fn next(&self) -> Duration {
        if self.holds_wal { self.recent_for.min(self.after) } else { self.after }
    }
}

impl TimelineDriver {
    /// The disk is full, nothing was written.
    pub(super) fn full(&mut self, e: &StorageError, storage: TimelineStorage) {
        let retry = Instant::now() + self.backoff.next(FULL_MAX);
        self.disk = DiskState::Full { storage: Box::new(storage), retry };
        if self.stopped.is_none() {
            self.metrics.full.inc();
            warn!(ttid = %self.shared.ttid, error = %e, "disk full: no WAL is acknowledged until space is back");
            self.stopped = Some(Stopped { code: sqlstate::DISK_FULL, reason: format!("disk full: {e}").into() });
        }
    }

    /// A write or sync failed: nothing later than the last good sync counts.
    pub(super) fn fail(&mut self, e: &StorageError) {
        self.metrics.failures.inc();
        let ttid = self.shared.ttid;
        error!(%ttid, error = %e, "timeline stopped; it is opened anew and writes again what was not synced");
        self.stopped = Some(Stopped { code: sqlstate::IO_ERROR, reason: e.to_string().into() });
        let reopen = Instant::now() + self.backoff.next(FAILED_MAX);
        self.disk = DiskState::Failed { reopen };
        self.gathering.abandon();
        self.step(Input::Failed { reason: e.to_string() });
        self.asks = asks::Asks::default();
        self.gathering.abandon();
        self.shared.recent.clear();
    }

    /// The disk did what was asked.
    pub(super) fn healed(&mut self) {
        if self.stopped.take().is_some() {
            info!(ttid = %self.shared.ttid, "timeline accepts WAL again");
        }
        self.backoff = DiskBackoff::new();
    }

    pub(super) fn reopened(&mut self, result: Result<Result<OpenedTimeline, OpenFailure>, tokio::task::JoinError>) {
        let opened = match result {
            Ok(Ok(opened)) => opened,
            Ok(Err(e)) if e.is_corruption() => return self.dead(&e.to_string()),
            Ok(Err(e)) => {
                tracing::debug!(ttid = %self.shared.ttid, error = %e, "opening anew failed");
                let reopen = Instant::now() + self.backoff.next(FAILED_MAX);
                self.disk = DiskState::Failed { reopen };
                return;
            }
            Err(panic) => return self.dead(&format!("opening panicked: {panic}")),
        };
        let (before, now) = (self.acceptor.positions().flush_lsn, opened.acceptor.positions().flush_lsn);
        self.acceptor = opened.acceptor;
        self.gathering.restart();
        self.asks = asks::Asks::default();
        self.shared.set_view(|view| {
            view.control = Arc::new(opened.storage.persisted().clone());
            view.segments = Arc::clone(opened.storage.wal().segments());
        });
        self.disk = DiskState::Ready(Box::new(opened.storage));
        self.healed();
        if now < before {
            let shown = proto::api::shown;
            let what = format!("the log was durable up to {} and now ends at {}", shown(before), shown(now));
            self.step(Input::Forgot { what });
        }
    }

    fn dead(&mut self, problem: &str) {
        let ttid = self.shared.ttid;
        error!(%ttid, problem, "timeline is damaged; restore it, or remove this safekeeper from the member set");
        self.disk = DiskState::Dead;
        self.stopped = Some(Stopped { code: sqlstate::DATA_CORRUPTED, reason: problem.into() });
    }

    pub(super) fn next_timer(&self) -> Option<Instant> {
        let disk = match &self.disk {
            DiskState::Full { retry, .. } => Some(*retry),
            DiskState::Failed { reopen } => Some(*reopen),
            _ => None,
        };
        let tick = self.acceptor.next_timeout().map(|ms| self.started + Duration::from_millis(ms));
        let idle = self.idle.active_since.map(|since| since + self.idle.next());
        [disk, tick, idle].into_iter().flatten().min()
    }

    pub(super) fn timer(&mut self) {
        let now = Instant::now();
        match std::mem::replace(&mut self.disk, DiskState::Dead) {
            DiskState::Full { storage, retry } if retry <= now => self.disk = DiskState::Ready(storage),
            DiskState::Failed { reopen } if reopen <= now => self.disk = self.reopen(),
            other => self.disk = other,
        }
        self.step(Input::Tick);
        if self.idle.holds_wal && self.idle.active_since.is_some_and(|since| since + self.idle.next() <= now) {
            self.idle.holds_wal = false;
            self.shared.recent.clear();
        }
        if self.idle.active_since.is_some_and(|since| since + self.idle.after <= now) {
            self.idle.active_since = None;
            self.idle.rest_due = true;
            if self.spare.as_ref().is_some_and(|(_, preparing)| preparing.is_finished()) {
                self.spare = None;
            }
        }
    }

    fn reopen(&mut self) -> DiskState {
        let home = self.home.clone();
        let preparing = self.spare.take();
        DiskState::Reopening(tokio::spawn(async move {
            if let Some((_, job)) = preparing {
                // It works on the same files; its outcome does not matter.
                let _ = job.await;
            }
            let opening = tokio::task::spawn_blocking(move || home.open(TimelineStorage::open)).await;
            opening.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
        }))
    }
}
