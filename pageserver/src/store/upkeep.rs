//! The task that compacts a timeline's layers and deletes what nothing names any more; and that claims the timeline
//! when storage was full or away at its opening.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use blobs::BlobErrorKind;
use node::parts::blocking;
use tokio_util::sync::CancellationToken;

use super::timeline_store::Store;

/// Looked at so often without being told that something was flushed: a horizon moves too, and files grow old.
const INTERVAL: Duration = Duration::from_secs(10);
/// After an error: as long as a service that is away may take to come back, short beside the time to fill up.
const PAUSE: Duration = Duration::from_secs(10);
/// Until the timeline is claimed: one small write, and nothing is taken in before.
const CLAIM: Duration = Duration::from_secs(1);

/// Compacts and collects until cancelled, or until the timeline belongs to another writer. Panics when that does.
pub(crate) async fn run(store: Arc<Store>, cancel: CancellationToken) {
    let turns = store.shared.compactions.clone();
    while !store.is_claimed() {
        if cancel.run_until_cancelled(tokio::time::sleep(CLAIM)).await.is_none() {
            return;
        }
        let work = store.clone();
        // No turn is waited for, and none is kept while storage is away.
        if !matches!(blocking(move || claim(&work)).await, Wait::No) {
            return;
        }
    }
    loop {
        let due = async {
            tokio::select! {
                () = store.compaction.flushed.notified() => {}
                () = tokio::time::sleep(INTERVAL) => {}
            }
        };
        if cancel.run_until_cancelled(due).await.is_none() {
            return;
        }
        let Some(Ok(turn)) = cancel.run_until_cancelled(turns.acquire()).await else { return };
        let work = store.clone();
        let mut once = pin!(blocking(move || once(&work)));
        let done = tokio::select! {
            done = &mut once => done,
            () = cancel.cancelled() => {
                // It notices at its next version.
                store.compaction.stop.store(true, Ordering::Relaxed);
                once.await
            }
        };
        drop(turn);
        match done {
            Wait::No => {}
            Wait::Pause => {
                cancel.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
            }
            Wait::Forever => return,
        }
    }
}

enum Wait {
    No,
    Pause,
    Forever,
}

/// Tries to claim the timeline.
fn claim(store: &Store) -> Wait {
    let timeline = store.manifest().id();
    match store.claim() {
        Ok(()) => tracing::info!(%timeline, "storage takes manifests again: WAL is taken in"),
        Err(e) if e.kind() == BlobErrorKind::Terminal => {
            tracing::error!(%timeline, "takes nothing in any more: {e}");
            return Wait::Forever;
        }
        // Said at the opening; the readiness page shows it.
        Err(e) => tracing::debug!(%timeline, "is not claimed yet: {e}"),
    }
    Wait::No
}

/// Everything that is due now.
fn once(store: &Store) -> Wait {
    let timeline = store.manifest().id();
    let failed = loop {
        match store.compact_one() {
            Ok(Some(done)) => tracing::info!(%timeline, ?done, "compacted"),
            Ok(None) => break store.collect().err().map(|e| (e.kind(), e.to_string())),
            Err(e) => break Some((e.kind(), e.to_string())),
        }
    };
    match failed {
        None => Wait::No,
        Some((BlobErrorKind::Terminal, e)) => {
            tracing::error!(%timeline, "nothing is compacted any more: {e}");
            Wait::Forever
        }
        Some((_, e)) => {
            tracing::warn!(%timeline, "compaction is tried again: {e}");
            Wait::Pause
        }
    }
}

#[cfg(test)]
mod tests;
