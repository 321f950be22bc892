//! How long commits stall when one of three safekeepers is killed under load.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::bench::figure::{Figure, Goal, Sample};
use crate::bench::load::{self, Load, Txn};
use crate::bench::run::Run;
use crate::bench::system::System;
use crate::bench::window::Window;
use crate::fabric::TestFabric;
use crate::wait;

/// How long a commit may take beyond the usual 99th percentile, milliseconds.
const STALL_MAX_MS: f64 = 20.0;
const SECOND_US: u64 = 1_000_000;
/// From pgbench's start to the kill: connections, then the second that tells what is usual.
const BEFORE: Duration = Duration::from_millis(1600);
/// Seconds of load: until more than a second after the kill.
const SECONDS: u32 = 3;

/// Measures stalls.
///
/// # Errors
/// When the fabric does not come up, or a safekeeper does not catch up, or the load fails.
pub async fn run(run: &mut Run) -> Result<()> {
    let system = System::walfabric().await?;
    let fabric = system.fabric().context("ours is a fabric")?;
    load::initialise(&system, run.extent.pick(2, 10, 10))?;
    load::run(&system, run.dir(), 4, 2).context("warming up")?;
    let (mut stalls, mut usual) = (Vec::new(), Vec::new());
    for kill in 0..run.extent.pick(3, 9, 30) {
        // Each in turn: so the one that pushes to the pageserver is among them.
        let victim = format!("safekeeper-{}", kill % 3 + 1);
        let pushes_to_pageserver = caught_up(fabric).await;
        let (stall, tail) = one(run, &system, fabric, &victim, &pushes_to_pageserver)?;
        stalls.push(stall);
        usual.push(tail);
        fabric.ok(&["start", &victim])?;
    }
    let what = "stall at kill -9 of a safekeeper, ms beyond usual p99, 4 clients";
    run.figure(Figure::of(what, &stalls).goal(Goal::AtMost(STALL_MAX_MS)));
    run.figure(Figure::of("the same without a kill: longest of the second before, ms beyond p99", &usual));
    Ok(())
}

/// Milliseconds beyond the usual p99 of the longest transaction at the kill, and of the longest one before it.
fn one(run: &mut Run, system: &System, fabric: &TestFabric, victim: &str, pushes: &str) -> Result<(Sample, Sample)> {
    let window = Window::open(&system.pids()?);
    let load = Load::start(system, run.dir(), 4, SECONDS)?;
    wait::elapse(BEFORE);
    // Up to here: the CPU time of a process that is killed cannot be told from others' any more.
    let crowd = window.close().crowd;
    let began = load::now_us();
    fabric.ok(&["kill", victim])?;
    let killed = load::now_us();
    let all = load.finish()?;
    let before: Vec<Txn> = all.iter().filter(|t| (began - SECOND_US..began).contains(&t.end_us)).copied().collect();
    // The signal fell between the two moments.
    let overlaps = |t: &&Txn| t.end_us >= began && t.end_us - t.latency_us <= killed + SECOND_US;
    let during: Vec<Txn> = all.iter().filter(overlaps).copied().collect();
    let last = all.last().map_or(0, |t| t.end_us);
    ensure!(last > killed + SECOND_US, "the load ended before the second after the kill");
    let p99 = load::latency_us(&before, 0.99).context("no transaction in the second before the kill")?;
    let longest = |txns: &[Txn]| load::latency_us(txns, 1.0).context("no transaction at the kill");
    let (stall, tail) = ((longest(&during)? - p99) / 1000.0, (longest(&before)? - p99) / 1000.0);
    run.raw(json!({
        "victim": victim, "pushes_to_pageserver": victim == pushes, "p99_before_us": p99, "stall_ms": stall,
        "longest_before_beyond_p99_ms": tail, "kill_verb_ms": (killed - began) as f64 / 1000.0,
        "pressure": crowd.pressure, "foreign": crowd.foreign,
    }))?;
    Ok((Sample { value: stall, crowd }, Sample { value: tail, crowd }))
}

/// Waits until every safekeeper lives and has the same WAL on its disk; gives the one that pushes to the pageserver.
async fn caught_up(fabric: &TestFabric) -> String {
    let equal = |status: &Value| {
        let safekeepers = status.pointer("/timelines/0/safekeepers")?.as_array()?;
        let first = safekeepers.first()?.get("flush_lsn")?;
        let here = |s: &Value| s.get("alive") == Some(&Value::Bool(true)) && s.get("flush_lsn") == Some(first);
        safekeepers.iter().all(here).then_some(())
    };
    wait::until("safekeepers catching up", Duration::from_secs(30), async || {
        let status: Value = serde_json::from_str(&fabric.ok(&["status", "--json"]).ok()?).ok()?;
        equal(&status)?;
        let pushing = status.pointer("/timelines/0/pageservers/0/safekeeper_id")?.as_u64()?;
        Some(format!("safekeeper-{pushing}"))
    })
    .await
}
