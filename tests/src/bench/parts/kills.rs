//! Fail-over of the push under load: how long a pageserver lags after kill -9 of the safekeeper that pushes to it.
//!
//! The clock runs from the signal until the pageserver's applied position passes the quorum's commit position as read
//! right after the signal. WAL beyond that position was committed without the dead safekeeper and can only come from
//! another one; WAL that was in flight when it died does not count. The time to reach the commit position read just
//! before the signal is recorded as well.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::{Bounded as _, LONG};
use proto::Lsn;
use proto::api::PageserverTimelineState;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::bench::figure::{Figure, Goal, Sample};
use crate::bench::look::{Look, poll};
use crate::bench::run::Run;
use crate::bench::stats::percentile;
use crate::bench::window::{Crowd, Window};
use crate::fabric::TestFabric;
use crate::process::Process;

/// For one thing to happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// The load goes on between a recovery and the next kill.
const CALM: Duration = Duration::from_millis(200);
/// The goal for the 99th percentile, milliseconds.
const GOAL_MS: f64 = 200.0;

/// One kill.
struct Kill {
    /// Until the position read right after the kill was applied.
    after: Duration,
    /// Until the position read just before it was.
    before: Duration,
    /// While the load ran undisturbed before it: the CPU time of a killed process cannot be told any more afterwards.
    crowd: Crowd,
}

/// Measures the fail-over.
///
/// # Errors
/// When the fabric does not heal.
pub async fn run(run: &mut Run) -> Result<()> {
    let kills = run.extent.pick(8, 50, 200);
    let fabric = TestFabric::up(&[])?;
    let look = Look::at(&fabric.read()?)?;
    let _load = load(&fabric, run)?;
    let mut crowd = calm(&fabric, &look).await?;
    let mut all = Vec::new();
    for n in 0..kills {
        let (victim, kill) = kill_pusher(&fabric, &look, crowd).await.with_context(|| format!("kill {n}"))?;
        run.raw(json!({"kill": n, "safekeeper": victim, "ms": kill.after.as_secs_f64() * 1e3,
            "ms_to_position_before": kill.before.as_secs_f64() * 1e3, "pressure": kill.crowd.pressure,
            "foreign": kill.crowd.foreign}))?;
        all.push(kill);
        crowd = restore(&fabric, &look, victim).await.with_context(|| format!("after kill {n}"))?;
    }
    report(run, &all);
    Ok(())
}

fn report(run: &mut Run, kills: &[Kill]) {
    let mut micros: Vec<u64> = kills.iter().map(|k| u64::try_from(k.after.as_micros()).unwrap_or(u64::MAX)).collect();
    micros.sort_unstable();
    let what =
        |name: &str| format!("applied position past the commit position, ms after kill -9 of the pusher: {name}");
    for (name, share, goal) in [("p50", 0.5, None), ("p99", 0.99, Some(GOAL_MS)), ("max", 1.0, None)] {
        let value = percentile(&micros, share).map(|us| us as f64 / 1e3);
        // One value for all kills; every kill's crowd counts.
        let samples: Vec<Sample> =
            value.map_or_else(Vec::new, |value| kills.iter().map(|k| Sample { value, crowd: k.crowd }).collect());
        let figure = Figure::of(what(name), &samples);
        run.figure(match goal {
            Some(limit) => figure.goal(Goal::AtMost(limit)),
            None => figure,
        });
    }
}

/// pgbench with four clients until dropped.
fn load(fabric: &TestFabric, run: &Run) -> Result<Process> {
    let primary = fabric.read()?.postgres.context("no PostgreSQL")?;
    let pgbench = || -> Result<std::process::Command> {
        let mut command = walfabric::postgres::command(&primary.bin_dir, "pgbench", walfabric::postgres::run_as()?);
        let port = primary.port.to_string();
        command.args(["-h", &primary.host, "-U", &primary.user, "-p", &port]).env("PGDATABASE", &primary.dbname);
        command.current_dir("/");
        Ok(command)
    };
    let output = pgbench()?.args(["-i", "-q", "-s", "5"]).output_within(LONG)?;
    anyhow::ensure!(output.status.success(), "pgbench -i: {}", String::from_utf8_lossy(&output.stderr));
    let mut command = pgbench()?;
    command.args(["-N", "-n", "-M", "prepared", "-c", "4", "-j", "2", "-T", "3600"]);
    Process::spawn(command, &run.dir().join("kills-pgbench.log"))
}

/// Kills whoever pushes and waits until its successor has caught up.
async fn kill_pusher(fabric: &TestFabric, look: &Look, crowd: Crowd) -> Result<(u64, Kill)> {
    let (victim, _) = poll("a push", PATIENCE, async || {
        let status = look.pageserver().await.ok()?;
        (status.state == PageserverTimelineState::Pushed).then_some(status.choice?.safekeeper_id.0)
    })
    .await?;
    let described = fabric.read()?;
    let pid = described.safekeepers.iter().find(|s| s.id == victim).and_then(|s| s.pid).context("it runs")?;
    let before = look.shim().await?.commit_lsn;
    let killed = Instant::now();
    kill_process(Pid::from_raw(pid.cast_signed()).context("a pid")?, Signal::KILL)?;
    let after = look.shim().await?.commit_lsn;
    let mut reached_before = None;
    let (_, reached) = poll("the push of another safekeeper", PATIENCE, async || {
        let applied = look.pageserver().await.ok()?.last_record_lsn;
        if applied >= before {
            reached_before.get_or_insert_with(Instant::now);
        }
        (applied > after).then_some(())
    })
    .await?;
    let before = reached_before.context("the earlier position was reached too")?;
    Ok((victim, Kill { after: reached.duration_since(killed), before: before.duration_since(killed), crowd }))
}

/// Brings `victim` back and waits until it has what the quorum has.
async fn restore(fabric: &TestFabric, look: &Look, victim: u64) -> Result<Crowd> {
    let name = format!("safekeeper-{victim}");
    // Reaps it and keeps fabric.json right.
    fabric.ok(&["kill", &name])?;
    fabric.ok(&["start", &name])?;
    let target = look.shim().await?.commit_lsn;
    poll("the safekeeper catching up", PATIENCE, async || {
        look.safekeeper(victim).await.ok().filter(|s| s.commit_lsn >= target && s.streaming).map(|_| ())
    })
    .await?;
    calm(fabric, look).await
}

/// Commits flow and the pageserver keeps up for a moment.
async fn calm(fabric: &TestFabric, look: &Look) -> Result<Crowd> {
    let pids: Vec<u32> = fabric.read()?.pids().into_iter().map(|(_, pid)| pid).collect();
    let window = Window::open(&pids);
    let mut first: Option<(Option<Lsn>, Instant)> = None;
    poll("commits and a push that keeps up", PATIENCE, async || {
        let (shim, applied) = (look.shim().await.ok()?, look.pageserver().await.ok()?);
        let (began, since) = *first.get_or_insert_with(|| (shim.commit_lsn, Instant::now()));
        let moved = applied.last_record_lsn > began && applied.state == PageserverTimelineState::Pushed;
        (moved && since.elapsed() >= CALM).then_some(())
    })
    .await?;
    Ok(window.close().crowd)
}
