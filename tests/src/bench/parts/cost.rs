//! Cost of WAL for one safekeeper in CPU time and memory: small records in bulk, and single commits.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::bench::figure::{Figure, Goal, Sample};
use crate::bench::keeper::{Keeper, rss_peak_mib, ttid};
use crate::bench::proposer::Proposer;
use crate::bench::run::Run;
use crate::bench::stats::percentile;
use crate::bench::wal::{Origin, Records};
use crate::bench::window::Window;

const MIB: f64 = (1 << 20) as f64;
const SEGMENT: u32 = 16 << 20;
/// Sizes of single commits' records, in turn.
const SIZES: [u32; 5] = [100, 144, 200, 248, 300];
/// A block that takes longer hangs.
const BLOCK_MAX: Duration = Duration::from_secs(120);

/// How the proposer tells that a commit is committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tell {
    /// In a message of its own, as the shim does when PostgreSQL has not sent the next WAL yet.
    AtOnce,
    /// With the next record: half the messages.
    WithNext,
}

/// Measures.
///
/// # Errors
/// When the safekeeper does not do its part.
pub async fn run(run: &mut Run) -> Result<()> {
    let rounds = run.extent.pick(1, 5, 9);
    bulk(run, rounds).await?;
    singles(run, rounds, Tell::AtOnce, "commit one by one").await?;
    singles(run, rounds, Tell::WithNext, "commit one by one, told with the next").await
}

/// Records of 100 bytes in the largest messages: decoding is what costs.
async fn bulk(run: &mut Run, rounds: usize) -> Result<()> {
    let origin = Origin::synthetic(SEGMENT)?;
    let records = Records::build(&origin, &[100], run.extent.pick(64 << 20, 256 << 20, 256 << 20))?;
    let mib = records.bytes.len() as f64 / MIB;
    let (mut cpu, mut speed, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let keeper = Keeper::start(run.dir()).await?;
        keeper.create(ttid(1), &origin).await?;
        let mut proposer = Proposer::elected(&keeper, ttid(1), &origin).await?;
        let window = Window::open(&[keeper.pid()]);
        tokio::time::timeout(BLOCK_MAX, proposer.push(&records.bytes)).await.context("the push hangs")??;
        let elapsed = window.close();
        let peak = rss_peak_mib(keeper.pid());
        let flushed = keeper.status(ttid(1)).await?.flush_lsn.context("nothing is flushed")?;
        ensure!(flushed == records.end(), "flush_lsn {flushed}, the last record ends at {}", records.end());
        run.raw(json!({"what": "100-byte records", "round": round, "bytes": records.bytes.len(),
            "records": records.count(), "seconds": elapsed.seconds, "cpu_seconds": elapsed.cpu_seconds,
            "rss_peak_mib": peak, "pressure": elapsed.crowd.pressure, "foreign": elapsed.crowd.foreign}))?;
        cpu.push(Sample { value: elapsed.cpu_seconds * 1000.0 / mib, crowd: elapsed.crowd });
        speed.push(Sample { value: mib / elapsed.seconds, crowd: elapsed.crowd });
        peaks.push(Sample::exact(peak));
    }
    run.figure(Figure::of("100-byte records, CPU ms per MiB", &cpu).goal(Goal::AtMost(1.5)));
    run.figure(Figure::of("100-byte records, MiB/s", &speed));
    run.figure(Figure::of("100-byte records, RSS peak MiB", &peaks).goal(Goal::AtMost(40.0)));
    Ok(())
}

/// One record at a time, each acknowledged before the next.
async fn singles(run: &mut Run, rounds: usize, tell: Tell, what: &str) -> Result<()> {
    let origin = Origin::synthetic(SEGMENT)?;
    let records = Records::build(&origin, &SIZES, 4 << 20)?;
    let commits = 5000;
    let (mut cpu, mut syncs, mut p50, mut p99, mut peaks) = (vec![], vec![], vec![], vec![], vec![]);
    for round in 0..rounds {
        let keeper = Keeper::start(run.dir()).await?;
        keeper.create(ttid(1), &origin).await?;
        let mut proposer = Proposer::elected(&keeper, ttid(1), &origin).await?;
        let before = keeper.syncs().await?;
        let window = Window::open(&[keeper.pid()]);
        let mut latencies = one_by_one(&mut proposer, &records, commits, tell).await?;
        let elapsed = window.close();
        let synced = keeper.syncs().await?.since(&before);
        let (pid, crowd) = (keeper.pid(), elapsed.crowd);
        latencies.sort_unstable();
        let at = |share| percentile(&latencies, share).map(|us| us as f64).context("no commit");
        let per_commit = |total: f64| total / commits as f64;
        cpu.push(Sample { value: per_commit(elapsed.cpu_seconds * 1000.0), crowd });
        syncs.push(Sample::exact(per_commit(synced.total() as f64)));
        p50.push(Sample { value: at(0.5)?, crowd });
        p99.push(Sample { value: at(0.99)?, crowd });
        peaks.push(Sample::exact(rss_peak_mib(pid)));
        run.raw(json!({"what": what, "round": round, "commits": commits, "seconds": elapsed.seconds,
            "cpu_seconds": elapsed.cpu_seconds, "p50_us": at(0.5)?, "p99_us": at(0.99)?, "syncs": synced.json(),
            "rss_peak_mib": rss_peak_mib(pid), "pressure": crowd.pressure, "foreign": crowd.foreign}))?;
    }
    run.figure(Figure::of(format!("{what}, CPU ms per commit"), &cpu).goal(Goal::AtMost(0.2)));
    run.figure(Figure::of(format!("{what}, syncs per commit"), &syncs));
    run.figure(Figure::of(format!("{what}, acknowledged after, p50 us"), &p50));
    run.figure(Figure::of(format!("{what}, acknowledged after, p99 us"), &p99));
    run.figure(Figure::of(format!("{what}, RSS peak MiB"), &peaks).goal(Goal::AtMost(40.0)));
    Ok(())
}

/// Gives the time of each commit in microseconds.
async fn one_by_one(proposer: &mut Proposer, records: &Records, commits: usize, tell: Tell) -> Result<Vec<u64>> {
    let mut latencies = Vec::with_capacity(commits);
    for n in 0..commits {
        let (began, end) = (Instant::now(), records.end_of(n + 1)?);
        proposer.queue(records.record(n)?);
        proposer.flush().await?;
        tokio::time::timeout(BLOCK_MAX, proposer.acknowledged(end)).await.context("a commit hangs")??;
        latencies.push(u64::try_from(began.elapsed().as_micros())?);
        if tell == Tell::AtOnce {
            proposer.queue_commit();
            proposer.flush().await?;
        }
    }
    Ok(latencies)
}
