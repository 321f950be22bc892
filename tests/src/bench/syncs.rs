//! Number of syncs: our safekeepers' own count, and the kernel's count of system calls for any process.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::{Pid, Signal, kill_process};
use walfabric::http::Http;
use walfabric::supervisor::descendants;

use super::system::System;

/// Name of the safekeepers' counter; its `op` labels are the kinds.
const METRIC: &str = "walfabric_safekeeper_disk_sync_seconds_count{";
/// What counts as a sync. No system here uses `O_DSYNC` or `msync`.
const EVENTS: &str = "syscalls:sys_enter_fdatasync,syscalls:sys_enter_fsync,syscalls:sys_enter_syncfs";

/// Syncs of all kinds since its start, by each safekeeper's own count; empty for a system without safekeepers.
///
/// # Errors
/// When one does not answer, or has no such counter.
pub async fn own(system: &System) -> Result<Vec<f64>> {
    let Some(fabric) = system.fabric() else { return Ok(Vec::new()) };
    let http = Http::new(Duration::from_secs(5))?;
    let mut counts = Vec::new();
    for safekeeper in fabric.read()?.safekeepers {
        let text = http.get_bytes(&safekeeper.http, "/metrics").await?;
        let count = count(&String::from_utf8_lossy(&text));
        counts.push(count.with_context(|| format!("safekeeper {} does not count syncs", safekeeper.id))?);
    }
    Ok(counts)
}

fn count(metrics: &str) -> Option<f64> {
    let lines = metrics.lines().filter(|l| l.starts_with(METRIC));
    let counts: Vec<f64> = lines.filter_map(|l| l.rsplit_once(' ')?.1.parse().ok()).collect();
    (!counts.is_empty()).then(|| counts.iter().sum())
}

/// `perf stat`, attached to whole process trees and counting; killed when dropped.
pub struct Counter {
    child: Child,
    control: PathBuf,
}

impl Counter {
    /// Attaches to the trees below `roots`; counts when this returns, children born later included. `dir` is for its
    /// control pipes.
    ///
    /// # Errors
    /// Why this machine cannot count.
    pub fn attach(roots: &[u32], dir: &Path) -> Result<Counter> {
        let pids: Vec<String> = roots
            .iter()
            .flat_map(|root| descendants(*root).into_iter().chain([*root]))
            .map(|p| p.to_string())
            .collect();
        let id = roots.first().context("nothing to count")?;
        let (control, ack) = (dir.join(format!("perf-{id}.control")), dir.join(format!("perf-{id}.ack")));
        let _ = (std::fs::remove_file(&control), std::fs::remove_file(&ack));
        for pipe in [&control, &ack] {
            mkfifoat(CWD, pipe, Mode::RUSR | Mode::WUSR).with_context(|| format!("no pipe {}", pipe.display()))?;
        }
        let pipes = format!("--control=fifo:{},{}", control.display(), ack.display());
        let child = Command::new("perf")
            .args(["stat", "-x", ",", "-D", "-1", "-e", EVENTS, &pipes, "-p", &pids.join(",")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("no perf")?;
        let mut counter = Counter { child, control };
        counter.enable(&ack)?;
        Ok(counter)
    }

    /// Its answer comes after everything is attached.
    fn enable(&mut self, ack: &Path) -> Result<()> {
        // Opened for both directions: then neither end waits for the other, nor for a perf that never comes.
        let open = |path: &Path| std::fs::OpenOptions::new().read(true).write(true).open(path);
        let (mut control, mut answer) = (open(&self.control)?, open(ack)?);
        control.write_all(b"enable\n")?;
        let heard = std::thread::spawn(move || answer.read(&mut [0; 16]).unwrap_or(0));
        let child = &mut self.child;
        let ended = crate::wait::until_blocking("perf's answer", Duration::from_secs(10), || {
            if heard.is_finished() { Some(None) } else { child.try_wait().ok().flatten().map(Some) }
        });
        let Some(status) = ended else { return Ok(()) };
        // The thread above would wait for ever: it gets an answer of its own.
        let _ = open(ack).and_then(|mut pipe| pipe.write_all(b"gone"));
        let mut said = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            pipe.read_to_string(&mut said)?;
        }
        anyhow::bail!("perf stat: {status}: {}", said.lines().next().unwrap_or_default())
    }

    /// Ends it; gives the number of calls.
    ///
    /// # Errors
    /// When it printed no count.
    pub fn stop(mut self) -> Result<f64> {
        let pid = Pid::from_raw(self.child.id().cast_signed()).context("a process id")?;
        kill_process(pid, Signal::INT)?;
        let mut said = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            pipe.read_to_string(&mut said)?;
        }
        harness::wait(&mut self.child, "perf stat", harness::PATIENCE)?;
        let counts: Vec<f64> = said.lines().filter_map(|l| l.split(',').next()?.parse().ok()).collect();
        ensure!(counts.len() == EVENTS.split(',').count(), "perf stat counted only part: {said}");
        Ok(counts.iter().sum())
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_sync_counts() {
        let text = format!("# TYPE x\n{METRIC}op=\"dir\"}} 17\n{METRIC}op=\"fdatasync\"}} 3\nother 9\n");
        assert_eq!(count(&text), Some(20.0));
        assert_eq!(count("other 9\n"), None);
    }
}
