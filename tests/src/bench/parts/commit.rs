//! Commits: latency, throughput, CPU, bytes and syncs, against the alternatives.
//!
//! Four systems run `pgbench -N` at 1, 4 and 16 clients. The three peers make different promises: no standby keeps one
//! copy, one standby keeps two, and ANY 2 of 3 at least three (the primary's and two more), as we do.

use anyhow::{Context, Result};
use serde_json::json;

use crate::bench::figure::{Figure, Goal, Sample};
use crate::bench::load::{self, Block};
use crate::bench::parts::memory;
use crate::bench::rounds::{Round, Shape, interleave, samples};
use crate::bench::run::{Extent, Run};
use crate::bench::stats::spread;
use crate::bench::syncs::{self, Counter};
use crate::bench::system::{ANY_TWO, STANDBY, System, WALFABRIC};

/// pgbench clients; the last one is where syncs are counted.
const CLIENTS: [u32; 3] = [1, 4, 16];

/// A value of a block, with its name in the table.
type Metric = (&'static str, fn(&Block) -> Option<f64>);

const METRICS: [Metric; 5] = [
    ("p50 us", |b| Some(b.p50_us)),
    ("p99 us", |b| Some(b.p99_us)),
    ("tps", |b| Some(b.tps)),
    ("CPU ms per commit", |b| Some(b.cpu_ms_per_txn)),
    ("bytes to disk per commit", |b| b.written_per_txn),
];

/// What is promised; everything else is shown only.
fn goal(metric: &str, peer: &str, clients: u32) -> Option<Goal> {
    match (metric, peer, clients) {
        ("p50 us", ANY_TWO, _) => Some(Goal::AtMost(0.95)),
        ("tps", STANDBY, 16) => Some(Goal::AtLeast(1.0)),
        _ => None,
    }
}

/// Measures commits.
///
/// # Errors
/// When a system does not come up, or a block fails.
pub async fn run(run: &mut Run) -> Result<()> {
    // The two peers with a goal run right before and after ours, whichever way the round goes.
    let systems = [
        System::plain(run.dir()).await?,
        System::any_two(run.dir()).await?,
        System::walfabric().await?,
        System::standby(run.dir()).await?,
    ];
    for system in &systems {
        let settings = system.settings().await?;
        run.raw(json!({"system": system.name, "settings": settings}))?;
        load::initialise(system, run.extent.pick(2, 10, 10))?;
        if run.extent > Extent::Quick {
            load::run(system, run.dir(), 4, 3).context("warming up")?;
        }
    }
    let (rounds, seconds) = (run.extent.pick(1, 9, 21), run.extent.pick(2, 4, 5));
    for clients in CLIENTS {
        let results = interleave(run, &systems, Shape { clients, rounds, seconds }).await?;
        compare(run, &systems, &results, clients)?;
        if clients == 16 {
            own_syncs(run, &systems, &results)?;
        }
    }
    kernel_syncs(run, &systems, run.extent.pick(1, 2, 9)).await?;
    let fabric = systems.iter().find_map(System::fabric).context("one system is a fabric")?;
    memory::resident(run, fabric, "after all commit blocks")
}

/// Ours against each peer, metric by metric.
fn compare(run: &mut Run, systems: &[System], results: &[Vec<Round>], clients: u32) -> Result<()> {
    let mut all = systems.iter().zip(results);
    let (_, ours) = all.clone().find(|(s, _)| s.name == WALFABRIC).context("ours is among them")?;
    for (peer, theirs) in all.by_ref().filter(|(s, _)| s.name != WALFABRIC) {
        for (name, value) in METRICS {
            let what = format!("{name}, {clients} client{}", if clients == 1 { "" } else { "s" });
            let mut figure = Figure::against(what, &samples(ours, value), peer.name, &samples(theirs, value));
            figure.goal = goal(name, peer.name, clients);
            run.figure(figure);
        }
    }
    Ok(())
}

/// Syncs per commit by the safekeepers' own count: of the busiest one of each block.
fn own_syncs(run: &mut Run, systems: &[System], results: &[Vec<Round>]) -> Result<()> {
    let (_, ours) = systems.iter().zip(results).find(|(s, _)| s.name == WALFABRIC).context("ours is among them")?;
    let busiest = |r: &Round| spread(&r.syncs_per_commit).map(|s| Sample { value: s.max, crowd: r.block.crowd });
    let values: Vec<Sample> = ours.iter().filter_map(busiest).collect();
    run.figure(Figure::of("syncs per commit, busiest safekeeper, 16 clients", &values).goal(Goal::AtMost(0.5)));
    Ok(())
}

/// The kernel's count of syncs, of whole systems, and of the safekeepers beside their own count. In blocks of their
/// own, since counting costs time.
async fn kernel_syncs(run: &mut Run, systems: &[System], rounds: usize) -> Result<()> {
    let mut per_commit: Vec<(&str, Vec<Sample>)> = systems.iter().map(|s| (s.name, Vec::new())).collect();
    let mut disagreement = Vec::new();
    for _ in 0..rounds {
        for (system, (_, values)) in systems.iter().zip(&mut per_commit) {
            let counted = match count(run, system).await? {
                Ok(counted) => counted,
                Err(reason) => {
                    run.figure(Figure::of(format!("syncs per commit by the kernel's count: - ({reason:#})"), &[]));
                    return Ok(());
                }
            };
            values.push(Sample::exact(counted.system / counted.commits));
            if let Some((own, kernel)) = counted.safekeepers {
                disagreement.push(Sample::exact((own / kernel - 1.0).abs()));
            }
        }
    }
    let (_, ours) = per_commit.iter().find(|(name, _)| *name == WALFABRIC).context("ours is among them")?;
    for (peer, theirs) in per_commit.iter().filter(|(name, _)| *name != WALFABRIC) {
        run.figure(Figure::against("syncs per commit, all processes (perf stat), 16 clients", ours, peer, theirs));
    }
    let what = "safekeepers' own sync count beside perf's, share that differs";
    run.figure(Figure::of(what, &disagreement).goal(Goal::AtMost(0.02)));
    Ok(())
}

/// Calls that the kernel counted during a block.
struct Counted {
    commits: f64,
    system: f64,
    /// The safekeepers' own count and the kernel's count of them.
    safekeepers: Option<(f64, f64)>,
}

/// One block under `perf stat`. The inner error says why this machine cannot count.
async fn count(run: &mut Run, system: &System) -> Result<Result<Counted>> {
    let nodes: Vec<u32> = match system.fabric() {
        Some(fabric) => fabric.read()?.safekeepers.into_iter().filter_map(|s| s.pid).collect(),
        None => Vec::new(),
    };
    let rest: Vec<u32> = system.pids()?.into_iter().filter(|p| !nodes.contains(p)).collect();
    let mut counters = Vec::new();
    for pids in [&rest, &nodes].into_iter().filter(|p| !p.is_empty()) {
        match Counter::attach(pids, run.dir()) {
            Ok(counter) => counters.push(counter),
            Err(reason) => return Ok(Err(reason)),
        }
    }
    let before = syncs::own(system).await?;
    let block = load::run(system, run.dir(), 16, run.extent.pick(2, 3, 4)).context("counting syncs with perf stat")?;
    let after = syncs::own(system).await?;
    let kernel = counters.into_iter().map(Counter::stop).collect::<Result<Vec<f64>>>()?;
    let own: f64 = after.iter().sum::<f64>() - before.iter().sum::<f64>();
    let commits = block.transactions as f64;
    run.raw(json!({
        "system": system.name, "clients": 16, "counted_by": "perf stat", "commits": commits, "syncs": kernel,
        "safekeepers_own": own,
    }))?;
    let safekeepers = kernel.get(1).map(|counted| (own, *counted));
    Ok(Ok(Counted { commits, system: kernel.iter().sum(), safekeepers }))
}
