//! Catching up over real WAL: a fresh safekeeper against `pg_receivewal --synchronous`, and against the disk itself.
//!
//! A scripted proposer feeds the safekeeper from memory. The walsender of the PostgreSQL that wrote the WAL, and has it
//! in the page cache, feeds the peer. CPU time is that of the safekeeper and of `pg_receivewal`, without their feeders.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::bench::disk::{self, Sequential};
use crate::bench::figure::{Figure, Goal, Sample};
use crate::bench::keeper::{Keeper, rss_peak_mib, ttid};
use crate::bench::primary::Primary;
use crate::bench::proposer::Proposer;
use crate::bench::run::Run;
use crate::bench::usage;
use crate::bench::window::Window;

const MIB: f64 = (1 << 20) as f64;
/// A catch-up over a slow disk takes minutes, not more.
const CATCH_UP_MAX: Duration = Duration::from_secs(300);
const RECEIVEWAL: &str = "pg_receivewal --synchronous";

/// One catch-up.
struct Block {
    mib_per_second: Sample,
    cpu_ms_per_mib: Sample,
    /// Of ours only.
    rss_peak_mib: Option<Sample>,
}

/// Measures.
///
/// # Errors
/// When PostgreSQL or the safekeeper does not do its part.
pub async fn run(run: &mut Run) -> Result<()> {
    let rounds = run.extent.pick(1, 9, 15);
    let mut primary = Primary::start(run.dir(), run.extent.pick(256 << 20, 1 << 30, 1 << 30)).await?;
    println!("{:.0} MiB of WAL of a PostgreSQL, {rounds} pairs", primary.wal.len() as f64 / MIB);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut of_disk, mut of_stream, mut bare_cpu) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        for first in [true, false] {
            if first == (round % 2 == 0) {
                ours.push(push(run, &primary, round).await?);
            } else {
                theirs.push(receive(run, &mut primary, round).await?);
            }
            // What was removed must not be written back, or discarded, in the next block.
            rustix::fs::sync();
        }
        let (synced, streamed) = disk_speed(run, &primary)?;
        let speed = ours.last().map_or(f64::NAN, |b: &Block| b.mib_per_second.value);
        run.raw(json!({"what": "disk", "round": round, "mib_per_second_synced": synced.mib_per_second,
            "cpu_ms_per_mib_synced": synced.cpu_ms_per_mib, "mib_per_second": streamed.mib_per_second,
            "cpu_ms_per_mib": streamed.cpu_ms_per_mib}))?;
        of_disk.push(Sample::exact(speed / synced.mib_per_second * 100.0));
        of_stream.push(Sample::exact(speed / streamed.mib_per_second * 100.0));
        bare_cpu.push(Sample::exact(synced.cpu_ms_per_mib));
    }
    figures(run, &ours, &theirs);
    run.figure(Figure::of("catch-up, % of the disk's sequential writes, fdatasync each MiB", &of_disk));
    run.figure(Figure::of("catch-up, % of the disk's sequential writes, one fdatasync", &of_stream));
    run.figure(Figure::of("a bare sequential write, fdatasync each MiB, CPU ms per MiB", &bare_cpu));
    Ok(())
}

fn figures(run: &mut Run, ours: &[Block], theirs: &[Block]) {
    let of = |blocks: &[Block], value: fn(&Block) -> Sample| -> Vec<Sample> { blocks.iter().map(value).collect() };
    let speed = |b: &Block| b.mib_per_second;
    let cpu = |b: &Block| b.cpu_ms_per_mib;
    let (fast, slow) = (of(ours, speed), of(theirs, speed));
    run.figure(Figure::against("catch-up, MiB/s", &fast, RECEIVEWAL, &slow).goal(Goal::AtLeast(3.0)));
    run.figure(Figure::of("catch-up, CPU ms per MiB", &of(ours, cpu)).goal(Goal::AtMost(1.0)));
    run.figure(Figure::against("catch-up, CPU ms per MiB", &of(ours, cpu), RECEIVEWAL, &of(theirs, cpu)));
    let peaks: Vec<Sample> = ours.iter().filter_map(|b| b.rss_peak_mib).collect();
    run.figure(Figure::of("catch-up, RSS peak MiB", &peaks).goal(Goal::AtMost(40.0)));
}

/// A fresh safekeeper takes all of it.
async fn push(run: &mut Run, primary: &Primary, round: usize) -> Result<Block> {
    let keeper = Keeper::start(run.dir()).await?;
    let (ttid, pid) = (ttid(1), keeper.pid());
    keeper.create(ttid, &primary.origin).await?;
    let syncs = keeper.syncs().await?;
    let window = Window::open(&[pid]);
    let mut proposer = Proposer::elected(&keeper, ttid, &primary.origin).await?;
    tokio::time::timeout(CATCH_UP_MAX, proposer.push(&primary.wal)).await.context("the catch-up hangs")??;
    let elapsed = window.close();
    let peak = rss_peak_mib(pid);
    let flushed = keeper.status(ttid).await?.flush_lsn.context("nothing is flushed")?;
    ensure!(flushed == primary.end(), "flush_lsn {flushed}, the last record ends at {}", primary.end());
    let mib = primary.wal.len() as f64 / MIB;
    run.raw(json!({"what": "safekeeper", "round": round, "bytes": primary.wal.len(), "seconds": elapsed.seconds,
        "cpu_seconds": elapsed.cpu_seconds, "rss_peak_mib": peak, "pressure": elapsed.crowd.pressure,
        "foreign": elapsed.crowd.foreign, "syncs": keeper.syncs().await?.since(&syncs).json()}))?;
    Ok(Block {
        mib_per_second: Sample { value: mib / elapsed.seconds, crowd: elapsed.crowd },
        cpu_ms_per_mib: Sample { value: elapsed.cpu_seconds * 1000.0 / mib, crowd: elapsed.crowd },
        rss_peak_mib: Some(Sample::exact(peak)),
    })
}

/// `pg_receivewal` takes all of it, into a fresh directory.
async fn receive(run: &mut Run, primary: &mut Primary, round: usize) -> Result<Block> {
    let dir = tempfile::Builder::new().prefix("received-").tempdir_in(run.dir())?;
    walfabric::postgres::check_reachable(dir.path(), walfabric::postgres::run_as()?)?;
    let target = dir.path().join("wal");
    let receivewal = primary.receivewal(&target).await?;
    let (window, cpu) = (Window::open(&[]), usage::cpu_seconds_of_reaped());
    let code = tokio::task::block_in_place(|| receivewal.run())?;
    let (elapsed, cpu) = (window.close(), usage::cpu_seconds_of_reaped() - cpu);
    primary.check_received(&target, code).await?;
    // It starts with the segment in which the log starts.
    let bytes = primary.wal.len() + primary.origin.prehistory.len();
    let mib = bytes as f64 / MIB;
    run.raw(json!({"what": RECEIVEWAL, "round": round, "bytes": bytes, "seconds": elapsed.seconds,
        "cpu_seconds": cpu, "pressure": elapsed.crowd.pressure, "foreign": elapsed.crowd.foreign}))?;
    Ok(Block {
        mib_per_second: Sample { value: mib / elapsed.seconds, crowd: elapsed.crowd },
        cpu_ms_per_mib: Sample { value: cpu * 1000.0 / mib, crowd: elapsed.crowd },
        rss_peak_mib: None,
    })
}

fn disk_speed(run: &Run, primary: &Primary) -> Result<(Sequential, Sequential)> {
    let write = |dir: &Path, each: bool| tokio::task::block_in_place(|| disk::sequential(dir, &primary.wal, each));
    let speeds = (write(run.dir(), true)?, write(run.dir(), false)?);
    rustix::fs::sync();
    Ok(speeds)
}
