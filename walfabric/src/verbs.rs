//! `start`, `stop`, `kill`, `down`: each ends with the state as asked, and with 0 when it was so already.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use node::exit;
use proto::api::ShimStatus;

use crate::fabric::FabricDir;
use crate::http::Http;
use crate::supervisor::{Client, STOP_PATIENCE_S, SupervisorReply, SupervisorRequest};
use crate::up;

/// A fabric, by its directory.
#[derive(Args)]
pub struct DirOptions {
    /// Directory of the fabric
    #[arg(long)]
    pub dir: PathBuf,
}

/// One process of a fabric.
#[derive(Args)]
pub struct NameOptions {
    /// Directory of the fabric
    #[arg(long)]
    pub dir: PathBuf,
    /// safekeeper-N, pageserver-N, shim, postgres or broker
    pub name: String,
}

/// What `walfabric stop` takes.
#[derive(Args)]
pub struct StopOptions {
    /// The process to stop.
    #[command(flatten)]
    pub process: NameOptions,
    /// Seconds until what does not end in order is made to: PostgreSQL by an immediate shutdown, others by SIGKILL
    #[arg(long, default_value_t = STOP_PATIENCE_S)]
    pub wait_s: u64,
}

/// What `walfabric down` takes.
#[derive(Args)]
pub struct DownOptions {
    /// Directory of the fabric
    #[arg(long)]
    pub dir: PathBuf,
    /// Seconds until a process that does not end in order is made to, as with `stop`
    #[arg(long, default_value_t = STOP_PATIENCE_S)]
    pub wait_s: u64,
}

/// What to do with one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Start it and wait until it answers.
    Start,
    /// End it in order.
    Stop,
    /// SIGKILL it and its descendants.
    Kill,
}

/// How long the shim may take to say why commits wait.
const SHIM_LIMIT: Duration = Duration::from_millis(500);

/// Runs a verb; the exit code is 2 for an unknown name, 1 when a stop was not clean. `patience_s`: how long each step
/// of a stop may take.
///
/// # Errors
/// When there is no fabric or supervisor, or the process does not do as asked.
pub async fn run(dir: &Path, verb: Verb, name: &str, patience_s: u64) -> Result<u8> {
    let dir = FabricDir::new(dir)?;
    let plan = dir.read_fabric().and_then(|_| dir.read_plan())?;
    if !plan.processes.contains_key(name) {
        let names: Vec<_> = plan.processes.keys().map(String::as_str).collect();
        eprintln!("no process is called {name:?}; there are: {}", names.join(", "));
        return Ok(exit::USAGE);
    }
    let client = Client::connect(&dir);
    if client.is_none() && verb != Verb::Start {
        // Nothing runs without its supervisor, except what a killed one left behind.
        up::end_strays(&dir)?;
        forget_pids(&dir)?;
        return Ok(exit::OK);
    }
    let name = name.to_owned();
    if verb == Verb::Start {
        client.context("the fabric is down: bring it up with `walfabric up --dir DIR`")?;
        up::start(&dir, &name).await?;
        return Ok(exit::OK);
    }
    let waits = if verb == Verb::Stop && name == "postgres" { why_commits_wait(&dir).await } else { None };
    let request = if verb == Verb::Stop {
        SupervisorRequest::Stop { name, patience_s }
    } else {
        SupervisorRequest::Kill { name }
    };
    let reply = client.context("the supervisor is gone")?.ask(&request)?;
    Ok(told(&reply, waits))
}

/// Ends the whole fabric, PostgreSQL first; the exit code is 1 when something did not end in order. `patience_s`: how
/// long each step of a process's stop may take.
///
/// # Errors
/// When there is no fabric, or something does not end.
pub async fn down(dir: &Path, patience_s: u64) -> Result<u8> {
    let dir = FabricDir::new(dir)?;
    dir.read_fabric()?;
    let Some(client) = Client::connect(&dir) else {
        up::end_strays(&dir)?;
        forget_pids(&dir)?;
        return Ok(exit::OK);
    };
    let waits = why_commits_wait(&dir).await;
    let reply = client.down(patience_s)?;
    Ok(told(&reply, waits))
}

/// What the shim says before PostgreSQL is stopped: a fast shutdown waits for the same as commits do.
async fn why_commits_wait(dir: &FabricDir) -> Option<String> {
    let shim = dir.read_fabric().ok()?.shim.filter(|shim| shim.pid.is_some())?;
    let status: ShimStatus = Http::new(SHIM_LIMIT).ok()?.get(&shim.http, "/v1/status").await.ok()?;
    (!status.reasons.is_empty()).then(|| status.reasons.join("; "))
}

/// Prints what went wrong; gives the exit code.
fn told(reply: &SupervisorReply, waits: Option<String>) -> u8 {
    if let Some(error) = &reply.error {
        eprintln!("{error}");
        waits.iter().for_each(|why| eprintln!("before that, the shim said: {why}"));
    }
    reply.code
}

fn forget_pids(dir: &FabricDir) -> Result<()> {
    let mut fabric = dir.read_fabric()?;
    for (name, _) in fabric.pids() {
        fabric.set_pid(&name, None);
    }
    dir.write_fabric(&fabric)
}
