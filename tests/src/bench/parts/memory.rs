//! Resident memory of our processes: idle, and under load.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use walfabric::sql;

use crate::bench::figure::{Figure, Goal, Sample};
use crate::bench::load;
use crate::bench::run::Run;
use crate::bench::system::System;
use crate::bench::usage;
use crate::fabric::TestFabric;
use crate::wait;

/// What a safekeeper may take, MiB.
const SAFEKEEPER_MAX: f64 = 40.0;
/// Between two looks that have to agree before a process counts as idle.
const SETTLED: Duration = Duration::from_secs(1);

/// Measures memory.
///
/// # Errors
/// When the fabric does not come up, or the load fails.
pub async fn run(run: &mut Run) -> Result<()> {
    let system = System::walfabric().await?;
    let fabric = system.fabric().context("ours is a fabric")?;
    let client = sql::connect(&system.conninfo).await?;
    client.batch_execute("CREATE TABLE first_commit ()").await?;
    settle(fabric).await?;
    resident(run, fabric, "idle")?;
    load::initialise(&system, run.extent.pick(2, 10, 10))?;
    load::run(&system, run.dir(), 16, run.extent.pick(4, 10, 30))?;
    resident(run, fabric, "after bulk load and 16 clients")
}

/// Waits until no process grows or shrinks.
async fn settle(fabric: &TestFabric) -> Result<()> {
    let pids: Vec<u32> = fabric.read()?.pids().into_iter().map(|(_, pid)| pid).collect();
    let look = || pids.iter().map(|pid| usage::rss_mib(*pid)).collect::<Vec<f64>>();
    let mut last = (Instant::now(), look());
    wait::until("memory settling", Duration::from_secs(30), async || {
        if last.0.elapsed() < SETTLED {
            return None;
        }
        let now = look();
        let same = now.iter().zip(&last.1).all(|(a, b)| (a - b).abs() < 0.01 * b);
        last = (Instant::now(), now);
        same.then_some(())
    })
    .await;
    Ok(())
}

/// Hands over what each kind of process has resident now, and what it had at most. PostgreSQL is left out: its shared
/// buffers are the user's choice.
///
/// # Errors
/// When fabric.json cannot be read.
pub fn resident(run: &mut Run, fabric: &TestFabric, when: &str) -> Result<()> {
    let pids = fabric.read()?.pids();
    for kind in ["safekeeper", "shim", "pageserver", "broker"] {
        let of_kind: Vec<u32> = pids.iter().filter(|(name, _)| name.starts_with(kind)).map(|(_, pid)| *pid).collect();
        for (measure, value) in
            [("RSS", usage::rss_mib as fn(u32) -> f64), ("peak RSS", usage::peak_rss_mib as fn(u32) -> f64)]
        {
            let values: Vec<f64> = of_kind.iter().map(|pid| value(*pid)).collect();
            run.raw(json!({"kind": kind, "when": when, "measure": measure, "mib": values}))?;
            // The largest one is judged: an average would hide the one that grew.
            let largest = values.iter().copied().fold(0.0, f64::max);
            let which = if values.len() > 1 { format!("largest of {} {kind}s", values.len()) } else { kind.to_owned() };
            let figure = Figure::of(format!("{measure} MiB, {which}, {when}"), &[Sample::exact(largest)]);
            run.figure(if kind == "safekeeper" { figure.goal(Goal::AtMost(SAFEKEEPER_MAX)) } else { figure });
        }
    }
    Ok(())
}
