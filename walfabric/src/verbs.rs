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

/// Between two looks at the shim while a stop takes its time: a quorum that has just gone is missed after seconds only.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

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
    let hears = verb == Verb::Stop && name == "postgres";
    let request = if verb == Verb::Stop {
        SupervisorRequest::Stop { name, patience_s }
    } else {
        SupervisorRequest::Kill { name }
    };
    let mut client = client.context("the supervisor is gone")?;
    let look = async || if hears { why_commits_wait(&dir).await } else { None };
    let (reply, waits) = hearing(move || client.ask(&request), look).await?;
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
    let (reply, waits) = hearing(move || client.down(patience_s), async || why_commits_wait(&dir).await).await?;
    Ok(told(&reply, waits))
}

/// Has something stopped, and looks before and meanwhile why that may wait; gives the last reason found.
async fn hearing(
    stop: impl FnOnce() -> Result<SupervisorReply> + Send + 'static,
    mut look: impl AsyncFnMut() -> Option<String>,
) -> Result<(SupervisorReply, Option<String>)> {
    let mut waits = look().await;
    let mut stopped = tokio::task::spawn_blocking(stop);
    loop {
        tokio::select! {
            reply = &mut stopped => return Ok((reply.context("the stop panicked")??, waits)),
            () = tokio::time::sleep(LOOK_AGAIN) => waits = look().await.or(waits),
        }
    }
}

/// What the shim says while PostgreSQL is being stopped: a fast shutdown waits for the same as commits do.
async fn why_commits_wait(dir: &FabricDir) -> Option<String> {
    let fabric = dir.read_fabric().ok()?;
    fabric.postgres.filter(|postgres| postgres.pid.is_some())?;
    let shim = fabric.shim.filter(|shim| shim.pid.is_some())?;
    let status: ShimStatus = Http::new(SHIM_LIMIT).ok()?.get(&shim.http, "/v1/status").await.ok()?;
    (!status.reasons.is_empty()).then(|| status.reasons.join("; "))
}

/// Prints what went wrong; gives the exit code.
fn told(reply: &SupervisorReply, waits: Option<String>) -> u8 {
    if let Some(error) = &reply.error {
        eprintln!("{error}");
        waits.iter().for_each(|why| eprintln!("meanwhile the shim said: {why}"));
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Goal: the reason for a stop that waits is told although nobody knew it when the stop began.
    #[tokio::test]
    async fn what_the_shim_says_during_a_stop_is_heard() {
        let (seen, stop) = mpsc::channel();
        let mut looks = 0;
        let look = async || {
            looks += 1;
            if looks == 3 {
                seen.send(()).expect("the stop waits for it");
            }
            (looks == 2).then(|| "no quorum".to_owned())
        };
        let stop = move || {
            stop.recv_timeout(Duration::from_secs(20))?;
            Ok(SupervisorReply { code: 1, error: Some("killed".to_owned()), pid: None, ended: None })
        };
        let (reply, waits) = hearing(stop, look).await.expect("it ends");
        assert_eq!((reply.code, waits.as_deref()), (1, Some("no quorum")));
    }
}
