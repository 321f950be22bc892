//! Deletion of a timeline: its driver ends, its name goes durably, then its files.
//!
//! The order leaves no half-deleted timeline behind: a crash before the directory has left its name keeps all of it, a
//! crash after that leaves files in `tmp/`, which the next start removes.

use std::sync::atomic::Ordering;

use proto::id::TenantTimelineId;
use tracing::{info, warn};

use super::{DriverCommand, PoisonError, SHUTDOWN_MAX, STAGING_DIR, Timelines};

/// Why a timeline is not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// A proposer leads it.
    #[error("timeline {0} is being written: an elected proposer is connected")]
    Busy(TenantTimelineId),
    /// Its driver does not end.
    #[error("timeline {0} does not stop within {SHUTDOWN_MAX:?}: the disk hangs")]
    Stuck(TenantTimelineId),
    /// The disk refused or failed.
    #[error("deleting timeline {ttid}: {source}")]
    Io {
        /// The timeline that stays.
        ttid: TenantTimelineId,
        /// What the disk said.
        source: std::io::Error,
    },
}

impl Timelines {
    /// Deletes a timeline with its WAL, durably; false when there is none. With `force` also while a proposer leads it.
    ///
    /// # Errors
    /// See [`DeleteError`]; the timeline is then still there, or is so after a restart.
    pub async fn delete(&self, ttid: TenantTimelineId, force: bool) -> Result<bool, DeleteError> {
        let timelines = self.clone();
        // A client that goes away in the middle must not leave the work half done.
        let working = tokio::spawn(async move {
            let turn = timelines.inner.turns.take(ttid).await;
            let deleted = timelines.delete_in_turn(ttid, force).await;
            drop(turn);
            deleted
        });
        working.await.map_err(|panic| DeleteError::Io { ttid, source: std::io::Error::other(panic) })?
    }

    async fn delete_in_turn(&self, ttid: TenantTimelineId, force: bool) -> Result<bool, DeleteError> {
        let Some(handle) = self.get(ttid) else { return Ok(false) };
        let mut positions = handle.positions();
        if positions.borrow_and_update().streaming && !force {
            return Err(DeleteError::Busy(ttid));
        }
        // A driver that is gone needs no telling; its watch is closed then.
        let _ = handle.shared().commands.send(DriverCommand::Shutdown);
        let ended = async { while positions.changed().await.is_ok() {} };
        tokio::time::timeout(SHUTDOWN_MAX, ended).await.map_err(|_| DeleteError::Stuck(ttid))?;
        let begun = self.inner.begun.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}_{}_{begun}", ttid.tenant_id, ttid.timeline_id);
        let (home, aside) = (self.home(ttid), self.inner.config.dir.join(STAGING_DIR).join(name));
        let moved = tokio::task::spawn_blocking(move || {
            home.disk.rename(&home.dir, &aside)?;
            for dir in [home.dir.parent(), aside.parent()].into_iter().flatten() {
                home.disk.fsync_dir(dir)?;
            }
            if let Err(e) = home.disk.remove_dir_all(&aside) {
                warn!(%ttid, error = %e, "files of a deleted timeline stay until the next start");
            }
            Ok(())
        })
        .await;
        let io = |source| DeleteError::Io { ttid, source };
        moved.map_err(|panic| io(std::io::Error::other(panic)))?.map_err(io)?;
        self.inner.map.write().unwrap_or_else(PoisonError::into_inner).remove(&ttid);
        self.inner.changes.send_modify(|n| *n += 1);
        info!(%ttid, "timeline deleted");
        Ok(true)
    }
}
