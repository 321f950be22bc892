//! One block of load: pgbench for a few seconds, with every transaction's latency.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use super::stats::percentile;
use super::system::System;
use super::usage;
use super::window::{Crowd, Window};
use crate::wait;
use harness::{Bounded as _, LONG};

/// Time at the beginning of a block that is not measured: connections, prepared statements, caches that the block of
/// another system pushed out.
const LEAD_IN: Duration = Duration::from_secs(1);
/// How long before pgbench's end the measured stretch ends, so that all clients are busy throughout.
const TAIL: Duration = Duration::from_millis(50);

/// What one block measured, after its lead-in.
#[derive(Clone, Debug)]
pub struct Block {
    /// Transactions per second.
    pub tps: f64,
    /// Median latency, microseconds.
    pub p50_us: f64,
    /// 99th percentile of the latency, microseconds.
    pub p99_us: f64,
    /// CPU milliseconds of the whole system per transaction.
    pub cpu_ms_per_txn: f64,
    /// Bytes that the disk got per transaction, from anyone (the other systems are idle); `None` without a disk.
    pub written_per_txn: Option<f64>,
    /// How crowded the machine was.
    pub crowd: Crowd,
    /// Transactions of the whole block, lead-in included: what a counter read before and after it is divided by.
    pub transactions: usize,
}

/// One transaction.
#[derive(Clone, Copy, Debug)]
pub struct Txn {
    /// When it ended, microseconds since the epoch.
    pub end_us: u64,
    /// How long it took, microseconds.
    pub latency_us: u64,
}

/// pgbench under way; killed when dropped.
pub struct Load {
    child: Child,
    said: File,
    logs: tempfile::TempDir,
    name: &'static str,
}

fn pgbench(system: &System) -> Result<Command> {
    let user = walfabric::postgres::run_as()?;
    let mut command = walfabric::postgres::command(&system.bin_dir, "pgbench", user);
    let config: tokio_postgres::Config = system.conninfo.parse()?;
    let port = config.get_ports().first().copied().context("a port")?;
    command.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &port.to_string()]).env("PGDATABASE", "postgres");
    Ok(command)
}

/// Makes pgbench's tables. No checkpoint comes after it (see `system::SETTINGS`), so no block pays for full page
/// images; and the tables are written back here, so that no block pays for that either.
///
/// # Errors
/// With what pgbench said.
pub fn initialise(system: &System, scale: u32) -> Result<()> {
    let output = pgbench(system)?.args(["-i", "-q", "-s", &scale.to_string()]).current_dir("/").output_within(LONG)?;
    ensure!(output.status.success(), "pgbench -i on {}: {}", system.name, String::from_utf8_lossy(&output.stderr));
    rustix::fs::sync();
    Ok(())
}

impl Load {
    /// Starts `pgbench -N` with `clients` for `seconds`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(system: &System, dir: &Path, clients: u32, seconds: u32) -> Result<Load> {
        let logs = tempfile::Builder::new().prefix("block-").tempdir_in(dir)?;
        if let Some((uid, gid)) = walfabric::postgres::run_as()? {
            std::os::unix::fs::chown(logs.path(), Some(uid), Some(gid))?;
        }
        let said = tempfile::tempfile()?;
        let child = pgbench(system)?
            .args(["-N", "-n", "-M", "prepared", "-l", "-c", &clients.to_string(), "-j", &clients.min(2).to_string()])
            .args(["-T", &seconds.to_string()])
            .current_dir(logs.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said.try_clone()?)
            .spawn()
            .context("cannot start pgbench")?;
        Ok(Load { child, said, logs, name: system.name })
    }

    /// Waits for its end; gives every transaction by the time of its end.
    ///
    /// # Errors
    /// With what pgbench said; also when a client was aborted.
    pub fn finish(mut self) -> Result<Vec<Txn>> {
        let status = harness::wait(&mut self.child, "pgbench", LONG)?;
        let mut said = String::new();
        // The log shares its position with pgbench.
        self.said.rewind()?;
        self.said.read_to_string(&mut said)?;
        ensure!(status.success(), "pgbench on {}: {status}: {said}", self.name);
        let mut all = Vec::new();
        for entry in std::fs::read_dir(self.logs.path())? {
            let text = std::fs::read_to_string(entry?.path())?;
            all.extend(text.lines().filter_map(txn));
        }
        all.sort_unstable_by_key(|t| t.end_us);
        Ok(all)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line of pgbench's log: client, transaction, latency, script, second, microsecond.
fn txn(line: &str) -> Option<Txn> {
    let mut fields = line.split_whitespace().skip(2);
    let latency_us = fields.next()?.parse().ok()?;
    let (second, micro): (u64, u64) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(Txn { end_us: second * 1_000_000 + micro, latency_us })
}

/// The clock of pgbench's log.
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The latency below which `share` of `txns` lies, microseconds.
pub fn latency_us(txns: &[Txn], share: f64) -> Option<f64> {
    let mut latencies: Vec<u64> = txns.iter().map(|t| t.latency_us).collect();
    latencies.sort_unstable();
    percentile(&latencies, share).map(|us| us as f64)
}

/// Runs `pgbench -N` with `clients` for `seconds` (at least two: the first one is the lead-in).
///
/// # Errors
/// With what pgbench said.
pub fn run(system: &System, dir: &Path, clients: u32, seconds: u32) -> Result<Block> {
    let pids = system.pids()?;
    let (load, began) = (Load::start(system, dir, clients, seconds)?, Instant::now());
    wait::elapse(LEAD_IN);
    let (window, written, from) = (Window::open(&pids), usage::disk_written_bytes(dir), now_us());
    wait::elapse((Duration::from_secs(seconds.into()) - TAIL).saturating_sub(began.elapsed()));
    let (written, to) = (usage::disk_written_bytes(dir).zip(written).map(|(after, before)| after - before), now_us());
    let elapsed = window.close();
    let all = load.finish()?;
    let measured: Vec<Txn> = all.iter().filter(|t| (from..to).contains(&t.end_us)).copied().collect();
    let at = |share| latency_us(&measured, share).context("pgbench logged no transaction in the measured stretch");
    let count = measured.len() as f64;
    let tps = count * 1e6 / (to - from).max(1) as f64;
    Ok(Block {
        tps,
        p50_us: at(0.5)?,
        p99_us: at(0.99)?,
        // By rates: reading `/proc` takes time, so the two stretches are not exactly equal.
        cpu_ms_per_txn: elapsed.cpu_seconds / elapsed.seconds * 1000.0 / tps,
        written_per_txn: written.map(|bytes| bytes as f64 / count),
        crowd: elapsed.crowd,
        transactions: all.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log() {
        let read = txn("0 199 2241 0 1175850568 995598").expect("a transaction");
        assert_eq!((read.end_us, read.latency_us), (1_175_850_568_995_598, 2241));
        assert!(txn("pgbench: error").is_none());
    }
}
