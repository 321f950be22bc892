//! `walfabric timeline import`: pageservers copy a running cluster, and this follows them.
//!
//! The pageservers do the work, so ending this command ends nothing; repeating it follows on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use proto::Lsn;
use proto::api::{ImportStatus, PageserverTimelineStatus};
use proto::id::{NodeId, TenantTimelineId};

use crate::http::Http;
use crate::timeline::timeline_path;

/// Pause between two looks.
const STEP: Duration = Duration::from_millis(50);
/// A line of progress this often.
const SAY_EVERY: Duration = Duration::from_secs(1);
/// An import that shows no progress for so long has a problem that needs the operator: the shim does not run, or the
/// pageserver cannot reach the cluster.
const STALLED: Duration = Duration::from_secs(60);

/// Follows the imports on `pageservers` until each one can serve pages; `say` is told about the progress. Gives where
/// the last of them becomes readable.
///
/// # Errors
/// When one of them makes no progress for a minute.
pub async fn follow(
    pageservers: &[(NodeId, String)],
    ttid: TenantTimelineId,
    say: &mut dyn FnMut(&str),
) -> Result<Option<Lsn>> {
    let http = Http::new(Duration::from_secs(5))?;
    let mut readable = None;
    for (id, address) in pageservers {
        let (mut moved_at, mut said_at, mut before) = (Instant::now(), Instant::now(), None);
        loop {
            let status = http.get::<PageserverTimelineStatus>(address, &timeline_path(ttid)).await;
            if let Ok(status) = &status {
                if status.import.is_none() && status.readable_from.get() != 0 {
                    // Done by an earlier life of the pageserver.
                    readable = readable.max(Some(status.readable_from));
                    break;
                }
                let import = status.import.as_ref().with_context(|| format!("pageserver {id} imports nothing"))?;
                if import.state == "done" {
                    readable = readable.max(Some(status.readable_from));
                    say(&format!("pageserver {id}: {}", describe(import, status)));
                    break;
                }
                // A new attempt alone is no progress: one that is refused is made again and again.
                let now = Some((import.bytes, status.last_record_lsn));
                if now != before {
                    (before, moved_at) = (now, Instant::now());
                }
                if said_at.elapsed() >= SAY_EVERY {
                    said_at = Instant::now();
                    say(&format!("pageserver {id}: {}", describe(import, status)));
                }
            }
            ensure!(
                moved_at.elapsed() < STALLED,
                "the import on pageserver {id} has stood still for {STALLED:?}: {}",
                status.map_or_else(
                    |e| format!("{e:#}"),
                    |s| s.import.as_ref().map(|i| describe(i, &s)).unwrap_or_default()
                )
            );
            tokio::time::sleep(STEP).await;
        }
    }
    Ok(readable)
}

fn describe(import: &ImportStatus, status: &PageserverTimelineStatus) -> String {
    let mib = |bytes: u64| bytes >> 20;
    let rate = import.bytes * 1000 / import.elapsed_ms.max(1);
    let mut text = match import.state.as_str() {
        "copying" => {
            let left = import.bytes_total.saturating_sub(import.bytes) / rate.max(1);
            let (done, total) = (mib(import.bytes), mib(import.bytes_total));
            format!("copying, {done} of about {total} MiB, {} MiB/s, {left} s left", mib(rate))
        }
        "replaying" => format!(
            "copied {} MiB, replays WAL: at {} of {} (the shim must run)",
            mib(import.bytes),
            status.last_record_lsn,
            import.end_lsn
        ),
        "done" => format!(
            "imported {} MiB in {:.1} s, pages can be read from {} on",
            mib(import.bytes),
            import.elapsed_ms as f64 / 1000.0,
            status.readable_from
        ),
        other => other.to_owned(),
    };
    if let Some(error) = &import.last_error {
        text.push_str(&format!("; attempt {} failed: {error}", import.attempts.saturating_sub(1).max(1)));
    }
    text
}
