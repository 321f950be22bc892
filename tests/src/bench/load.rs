//! One block of load: pgbench for a few seconds, with every transaction's latency.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::stats::percentile;
use super::system::System;
use super::usage;

/// What one block measured.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Transactions per second, connection time left out.
    pub tps: f64,
    /// Median latency, microseconds.
    pub p50_us: f64,
    /// 99th percentile of the latency, microseconds.
    pub p99_us: f64,
    /// CPU milliseconds of the whole system per transaction.
    pub cpu_ms_per_txn: f64,
    /// Share of the block during which some task waited for a CPU.
    pub pressure: f64,
}

fn pgbench(system: &System) -> Result<std::process::Command> {
    let user = walfabric::postgres::run_as()?;
    let mut command = walfabric::postgres::command(&system.bin_dir, "pgbench", user);
    let config: tokio_postgres::Config = system.conninfo.parse()?;
    let port = config.get_ports().first().copied().context("a port")?;
    command.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &port.to_string()]).env("PGDATABASE", "postgres");
    Ok(command)
}

/// Makes pgbench's tables.
///
/// # Errors
/// With what pgbench said.
pub fn initialise(system: &System, scale: u32) -> Result<()> {
    let output = pgbench(system)?.args(["-i", "-q", "-s", &scale.to_string()]).current_dir("/").output()?;
    ensure!(output.status.success(), "pgbench -i on {}: {}", system.name, String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Runs `pgbench -N` with `clients` for `seconds`.
///
/// # Errors
/// With what pgbench said.
pub fn run(system: &System, dir: &Path, clients: u32, seconds: u32) -> Result<Block> {
    let logs = tempfile::Builder::new().prefix("block-").tempdir_in(dir)?;
    if let Some((uid, gid)) = walfabric::postgres::run_as()? {
        std::os::unix::fs::chown(logs.path(), Some(uid), Some(gid))?;
    }
    let pids = system.pids()?;
    let (cpu, pressure, began) = (usage::cpu_seconds(&pids), usage::cpu_pressure_us(), Instant::now());
    let output = pgbench(system)?
        .args(["-N", "-n", "-M", "prepared", "-l", "-c", &clients.to_string(), "-j", &clients.min(2).to_string()])
        .args(["-T", &seconds.to_string()])
        .current_dir(logs.path())
        .output()?;
    let (wall, cpu) = (began.elapsed(), usage::cpu_seconds(&pids) - cpu);
    let waited = usage::cpu_pressure_us().zip(pressure).map_or(0, |(after, before)| after - before);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "pgbench on {}: {}", system.name, String::from_utf8_lossy(&output.stderr));
    let tps = text.lines().find_map(|l| l.strip_prefix("tps = ")?.split_whitespace().next()?.parse().ok());
    let mut latencies = latencies(logs.path())?;
    latencies.sort_unstable();
    let at = |share| percentile(&latencies, share).map(|us| us as f64).context("pgbench logged no transaction");
    Ok(Block {
        tps: tps.context("pgbench printed no tps")?,
        p50_us: at(0.5)?,
        p99_us: at(0.99)?,
        cpu_ms_per_txn: cpu * 1000.0 / latencies.len() as f64,
        pressure: waited as f64 / wall.as_micros() as f64,
    })
}

/// Third column of pgbench's per-transaction logs: microseconds.
fn latencies(dir: &Path) -> Result<Vec<u64>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let text = std::fs::read_to_string(entry?.path())?;
        all.extend(text.lines().filter_map(|l| l.split_whitespace().nth(2)?.parse::<u64>().ok()));
    }
    Ok(all)
}
