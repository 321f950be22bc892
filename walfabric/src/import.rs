//! `walfabric timeline import`: pageservers copy a running cluster, and this follows them.
//!
//! The pageservers do the work, so ending this command ends nothing; repeating it follows on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use proto::Lsn;
use proto::api::{ImportStage, ImportStatus, PageserverTimelineStatus, shown};
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

/// Follows the imports on `pageservers` until each one can serve pages; `say` is told about the progress, and nothing
/// twice. `shim` says how the shim is started, without which WAL does not come. Gives where the last of them becomes
/// readable.
///
/// # Errors
/// When one of them makes no progress for a minute.
pub async fn follow(
    pageservers: &[(NodeId, String)],
    ttid: TenantTimelineId,
    shim: &str,
    say: &mut dyn FnMut(&str),
) -> Result<Option<Lsn>> {
    let http = Http::new(Duration::from_secs(5))?;
    let mut readable = None;
    for (id, address) in pageservers {
        let (mut moved_at, mut said_at, mut before) = (Instant::now(), Instant::now(), None);
        let mut told = ImportTold::default();
        loop {
            let status = http.get::<PageserverTimelineStatus>(address, &timeline_path(ttid)).await;
            if let Ok(status) = &status {
                if status.import.is_none() && status.readable_from.is_some() {
                    // Done by an earlier life of the pageserver.
                    readable = readable.max(status.readable_from);
                    break;
                }
                let import = status.import.as_ref().with_context(|| format!("pageserver {id} imports nothing"))?;
                if import.state == ImportStage::Done {
                    readable = readable.max(status.readable_from);
                    say(&format!("pageserver {id}: {}", describe(import, position(import, status), shim)));
                    break;
                }
                // A new attempt alone is no progress: one that is refused is made again and again.
                let now = Some((import.bytes, status.last_record_lsn));
                if now != before {
                    (before, moved_at) = (now, Instant::now());
                }
                if said_at.elapsed() >= SAY_EVERY {
                    said_at = Instant::now();
                    if let Some(text) = told.news(import, position(import, status), shim) {
                        say(&format!("pageserver {id}: {text}"));
                    }
                }
            }
            ensure!(
                moved_at.elapsed() < STALLED,
                "the import on pageserver {id} has stood still for {STALLED:?}: {}",
                status.map_or_else(
                    |e| format!("{e:#}"),
                    |s| s.import.as_ref().map(|i| describe(i, position(i, &s), shim)).unwrap_or_default()
                )
            );
            tokio::time::sleep(STEP).await;
        }
    }
    Ok(readable)
}

/// What was said about one import.
#[derive(Default)]
struct ImportTold {
    last: String,
    how_to_start_the_shim: bool,
}

impl ImportTold {
    /// What is to be said now: nothing twice, and once how the shim is started.
    fn news(&mut self, import: &ImportStatus, at: Lsn, shim: &str) -> Option<String> {
        let news = describe(import, at, "");
        if news == self.last {
            return None;
        }
        self.last = news.clone();
        if import.state != ImportStage::Replaying || std::mem::replace(&mut self.how_to_start_the_shim, true) {
            return Some(news);
        }
        Some(describe(import, at, shim))
    }
}

/// What matters in its state: where it can be read from when it is done, and before that how far it has come.
fn position(import: &ImportStatus, status: &PageserverTimelineStatus) -> Lsn {
    shown(if import.state == ImportStage::Done { status.readable_from } else { status.last_record_lsn })
}

fn describe(import: &ImportStatus, at: Lsn, shim: &str) -> String {
    let mib = |bytes: u64| bytes >> 20;
    let rate = import.bytes * 1000 / import.elapsed_ms.max(1);
    let mut text = match import.state {
        ImportStage::Copying => {
            let left = import.bytes_total.saturating_sub(import.bytes) / rate.max(1);
            let (done, total) = (mib(import.bytes), mib(import.bytes_total));
            format!("copying, {done} of about {total} MiB, {} MiB/s, {left} s left", mib(rate))
        }
        ImportStage::Replaying => {
            let end = shown(import.end_lsn);
            let shim = if shim.is_empty() { String::new() } else { format!(" ({shim})") };
            format!("copied {} MiB, replays WAL: at {at} of {end}{shim}", mib(import.bytes))
        }
        ImportStage::Done => format!(
            "imported {} MiB in {:.1} s, pages can be read from {at} on",
            mib(import.bytes),
            import.elapsed_ms as f64 / 1000.0
        ),
        ImportStage::Unknown => "in a stage that this program does not know".to_owned(),
    };
    if let Some(error) = &import.last_error {
        text.push_str(&format!("; attempt {} failed: {error}", import.attempts.saturating_sub(1).max(1)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_said_twice_and_how_to_start_the_shim_is_said_once() {
        let import = ImportStatus {
            state: ImportStage::Replaying,
            bytes: 22 << 20,
            bytes_total: 22 << 20,
            elapsed_ms: 1500,
            start_lsn: Some(Lsn::new(0x200_0028)),
            end_lsn: Some(Lsn::new(0x200_0100)),
            attempts: 1,
            last_error: None,
        };
        let (mut told, at) = (ImportTold::default(), Lsn::new(0x200_0028));
        let first = told.news(&import, at, "run: walproposer-shim").expect("news");
        assert!(first.contains("0/2000028 of 0/2000100") && first.contains("run: walproposer-shim"), "{first}");
        assert_eq!(told.news(&import, at, "run: walproposer-shim"), None);
        let moved = told.news(&import, Lsn::new(0x200_0060), "run: walproposer-shim").expect("it moves");
        assert!(moved.contains("0/2000060") && !moved.contains("walproposer-shim"), "{moved}");
    }
}
