//! A primary that does not sync its own disk behind a quorum that does, against one that syncs and has no standby.
//!
//! When the primary's disk is lost, the quorum still has everything, so the local sync can be left out. The quorum
//! cannot: every commit still waits for it, and the test checks that.

use std::time::Duration;

use anyhow::{Result, ensure};
use walfabric::sql;

use crate::bench::figure::{Figure, Goal};
use crate::bench::load;
use crate::bench::rounds::{Shape, interleave, samples};
use crate::bench::run::Run;
use crate::bench::system::{System, WALFABRIC};
use crate::wait;

/// Measures commits without a local sync.
///
/// # Errors
/// When a system does not come up or is not set as it should be, or a block fails.
pub async fn run(run: &mut Run) -> Result<()> {
    let systems = [System::plain(run.dir()).await?, System::walfabric().await?];
    for system in &systems {
        load::initialise(system, run.extent.pick(2, 10, 10))?;
        set_fsync(system, if system.name == WALFABRIC { "off" } else { "on" }).await?;
        load::run(system, run.dir(), 16, 2)?;
    }
    let shape = Shape { clients: 16, rounds: run.extent.pick(3, 9, 21), seconds: run.extent.pick(2, 4, 5) };
    let results = interleave(run, &systems, shape).await?;
    for system in systems.iter().filter(|s| s.name == WALFABRIC) {
        check_quorum(system).await?;
    }
    let [theirs, ours] = results.as_slice() else { anyhow::bail!("two systems give two results") };
    let peer = "no standby, fsync=on";
    let figure = |what: &str, value| {
        let what = format!("{what}, 16 clients, primary fsync=off");
        Figure::against(what, &samples(ours, value), peer, &samples(theirs, value))
    };
    run.figure(figure("tps", |b| Some(b.tps)).goal(Goal::AtLeast(1.0)));
    run.figure(figure("p50 us", |b| Some(b.p50_us)));
    run.figure(figure("p99 us", |b| Some(b.p99_us)));
    run.figure(figure("CPU ms per commit", |b| Some(b.cpu_ms_per_txn)));
    Ok(())
}

async fn set_fsync(system: &System, value: &str) -> Result<()> {
    let client = sql::connect(&system.conninfo).await?;
    client.batch_execute(&format!("ALTER SYSTEM SET fsync = {value}")).await?;
    client.batch_execute("SELECT pg_reload_conf()").await?;
    wait::until("fsync set", Duration::from_secs(10), async || {
        (sql::text(&client, "SHOW fsync").await.ok()? == value).then_some(())
    })
    .await;
    if system.name == WALFABRIC { check_quorum(system).await } else { Ok(()) }
}

/// That commits do wait for the quorum: otherwise the comparison is with nothing.
async fn check_quorum(system: &System) -> Result<()> {
    let client = sql::connect(&system.conninfo).await?;
    let waits = sql::text(&client, "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')");
    ensure!(waits.await?.parse::<u32>()? >= 1, "no synchronous receiver: commits do not wait for the quorum");
    let level = sql::text(&client, "SHOW synchronous_commit").await?;
    ensure!(level == "on", "synchronous_commit is {level}");
    Ok(())
}
