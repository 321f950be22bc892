//! Our side of the replay of recorded WAL, in a separate process, so that memory and CPU time can be told apart.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use harness::{Bounded as _, LONG};
use pageserver::offline::Offline;
use proto::id::{TenantId, TenantTimelineId, TimelineId};
use serde_json::{Value, json};

use super::usage;

/// The option of the `bench` program that makes it this process.
pub const OPTION: &str = "--offline";

fn ttid() -> TenantTimelineId {
    TenantTimelineId::new(TenantId::new([1; 16]), TimelineId::new([2; 16]))
}

/// Runs one step in a process of its own and gives what it printed: `load DATA STORAGE`, `replay STORAGE PG_WAL TO` or
/// `compact STORAGE`.
///
/// # Errors
/// When it fails, with what it said.
pub fn spawn(words: &[&str]) -> Result<Value> {
    let mut command = Command::new(std::env::current_exe()?);
    let output = command.arg(OPTION).args(words).output_within(LONG)?;
    ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// What the process does; its figures are one JSON object on standard output.
///
/// # Errors
/// When it cannot be done.
pub fn child(words: &[String]) -> Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let figures = match words.as_slice() {
        ["load", data, storage] => {
            let (offline, spent) = timed(|| Ok(Offline::load(Path::new(data), Path::new(storage), ttid())?))?;
            json!({"stored": offline.stored_bytes(), "load": spent})
        }
        ["replay", storage, wal, to] => replay(Path::new(storage), Path::new(wal), to)?,
        ["compact", storage] => {
            let offline = Offline::open(Path::new(storage), ttid())?;
            let before = offline.stored_bytes();
            let (images, spent) = timed(|| Ok(offline.compact()?))?;
            json!({"images": images, "before": before, "stored": offline.stored_bytes(), "compact": spent})
        }
        other => bail!("{other:?} is no step"),
    };
    println!("{figures}");
    Ok(())
}

fn replay(storage: &Path, wal: &Path, to: &str) -> Result<Value> {
    let mut offline = Offline::open(storage, ttid())?;
    let before = offline.stored_bytes();
    let from = offline.position();
    let (done, replayed) = timed(|| Ok(offline.replay(wal, to.parse()?)?))?;
    let peak = usage::peak_rss_mib(std::process::id());
    let stored = offline.stored_bytes() - before;
    let (pages, materialised) = timed(|| Ok(offline.materialise(from)?))?;
    Ok(json!({
        "records": done.records, "from": done.from.to_string(), "to": done.to.to_string(), "stored": stored,
        "peak_rss_mib": peak, "pages": pages, "replay": replayed, "materialise": materialised,
        "peak_rss_mib_materialise": usage::peak_rss_mib(std::process::id()),
    }))
}

/// Wall seconds, and CPU seconds of all threads of this process.
fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Value)> {
    let (began, cpu) = (Instant::now(), usage::cpu_seconds_of_process());
    let result = work()?;
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), usage::cpu_seconds_of_process() - cpu);
    Ok((result, json!({"seconds": seconds, "cpu_seconds": cpu})))
}
