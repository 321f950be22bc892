//! Interleaved rounds of load: every system once a round, alternately forwards and backwards.

use anyhow::{Context, Result};
use serde_json::json;

use super::figure::Sample;
use super::load::{self, Block};
use super::run::Run;
use super::syncs;
use super::system::System;

/// One block of a round, with what our safekeepers counted meanwhile.
#[derive(Clone, Debug)]
pub struct Round {
    /// The load.
    pub block: Block,
    /// Syncs of all kinds per commit, one number a safekeeper; empty for systems that have none.
    pub syncs_per_commit: Vec<f64>,
}

/// How the rounds are run.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// pgbench clients.
    pub clients: u32,
    /// Rounds, and so pairs.
    pub rounds: usize,
    /// Seconds of one block, its lead-in of one second included.
    pub seconds: u32,
}

/// Runs them; gives the rounds of each system, so that equal places are pairs.
///
/// # Errors
/// With what the load or a safekeeper said.
pub async fn interleave(run: &mut Run, systems: &[System], shape: Shape) -> Result<Vec<Vec<Round>>> {
    let mut results: Vec<Vec<Round>> = systems.iter().map(|_| Vec::new()).collect();
    for round in 0..shape.rounds {
        let mut order: Vec<(&System, &mut Vec<Round>)> = systems.iter().zip(&mut results).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for (system, done) in order {
            done.push(one(run, system, shape, round).await?);
        }
    }
    Ok(results)
}

async fn one(run: &mut Run, system: &System, shape: Shape, round: usize) -> Result<Round> {
    let before = syncs::own(system).await?;
    let block = load::run(system, run.dir(), shape.clients, shape.seconds)
        .with_context(|| format!("round {round} at {} clients", shape.clients))?;
    let after = syncs::own(system).await?;
    let commits = block.transactions as f64;
    let syncs_per_commit: Vec<f64> = after.iter().zip(&before).map(|(a, b)| (a - b) / commits).collect();
    run.raw(json!({
        "system": system.name, "clients": shape.clients, "round": round, "tps": block.tps, "p50_us": block.p50_us,
        "p99_us": block.p99_us, "cpu_ms_per_txn": block.cpu_ms_per_txn, "written_per_txn": block.written_per_txn,
        "syncs_per_commit": syncs_per_commit, "pressure": block.crowd.pressure, "foreign": block.crowd.foreign,
    }))?;
    Ok(Round { block, syncs_per_commit })
}

/// One value of every round that has it.
pub fn samples(rounds: &[Round], value: fn(&Block) -> Option<f64>) -> Vec<Sample> {
    rounds.iter().filter_map(|r| Some(Sample { value: value(&r.block)?, crowd: r.block.crowd })).collect()
}
