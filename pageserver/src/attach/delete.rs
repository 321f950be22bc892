//! Deletion of a timeline: its tasks end, its pages go from storage, then its directory.
//!
//! Until its directory has gone the timeline stays listed, after a crash too, so that a deletion that was cut off can
//! be repeated. Pages of a timeline that nobody lists would stay in storage for ever.

use std::path::{Path, PathBuf};
use std::time::Duration;

use blobs::Storage;
use disk::Disk;
use proto::id::TenantTimelineId;

use super::files;
use crate::process::Pageserver;
use crate::store::storage;

/// How long its tasks and its stream may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Deletes a timeline with its pages; false when there is none.
///
/// # Errors
/// When its tasks do not end, or storage or disk refuse; what is left of it is listed, and stopped.
pub(crate) async fn delete(pageserver: &Pageserver, ttid: TenantTimelineId) -> Result<bool, String> {
    let _one_at_a_time = pageserver.attaching().await;
    let Some(timeline) = pageserver.timeline(ttid) else { return Ok(false) };
    timeline.set_stopped("it is being deleted");
    timeline.stream.end();
    timeline.gone.cancel();
    timeline.tasks.close();
    let stuck = |what: &str| format!("timeline {ttid} is stopped, but its {what} did not end within {STOP_LIMIT:?}");
    tokio::time::timeout(STOP_LIMIT, timeline.tasks.wait()).await.map_err(|_| stuck("tasks"))?;
    // A stream brings what it holds to storage before it gives the writer back.
    let writer = tokio::time::timeout(STOP_LIMIT, timeline.slot.take_away()).await;
    drop(writer.map_err(|_| stuck("stream"))?);
    let (disk, storage, dir) = (pageserver.disk.clone(), pageserver.storage().clone(), pageserver.dir_of(ttid));
    let removed = tokio::task::spawn_blocking(move || remove(&*disk, &storage, ttid, &dir)).await;
    removed.map_err(|e| e.to_string())??;
    pageserver.forget(ttid);
    tracing::info!(timeline = %ttid, "deleted");
    Ok(true)
}

fn remove(disk: &dyn Disk, storage: &Storage, ttid: TenantTimelineId, dir: &Path) -> Result<(), String> {
    storage::remove_timeline(storage, ttid).map_err(|e| e.to_string())?;
    let error = |e: std::io::Error| format!("{}: {e}", dir.display());
    let mut unfinished = dir.as_os_str().to_owned();
    unfinished.push(files::UNFINISHED);
    let unfinished = PathBuf::from(unfinished);
    disk.rename(dir, &unfinished).map_err(error)?;
    disk.fsync_dir(dir.parent().unwrap_or(Path::new("."))).map_err(error)?;
    // The next start removes what is left under that name.
    if let Err(e) = disk.remove_dir_all(&unfinished) {
        tracing::warn!(timeline = %ttid, "files of a deleted timeline stay until the next start: {e}");
    }
    Ok(())
}
