//! `start`, `stop`, `kill`, `down`: each ends with the state as asked, and with 0 when it was so already.

use std::path::Path;

use anyhow::{Context, Result};
use proto::runtime::exit;

use crate::fabric::FabricDir;
use crate::supervisor::{Client, Request};
use crate::up;

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

/// Runs a verb; the exit code is 2 for an unknown name.
///
/// # Errors
/// When there is no fabric or supervisor, or the process does not do as asked.
pub async fn run(dir: &Path, verb: Verb, name: &str) -> Result<u8> {
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
    let request = if verb == Verb::Stop { Request::Stop { name } } else { Request::Kill { name } };
    let reply = client.context("the supervisor is gone")?.ask(&request)?;
    reply.error.iter().for_each(|e| eprintln!("{e}"));
    Ok(reply.code)
}

/// Ends the whole fabric, PostgreSQL first.
///
/// # Errors
/// When there is no fabric, or something does not end.
pub fn down(dir: &Path) -> Result<u8> {
    let dir = FabricDir::new(dir)?;
    dir.read_fabric()?;
    let Some(mut client) = Client::connect(&dir) else {
        up::end_strays(&dir)?;
        forget_pids(&dir)?;
        return Ok(exit::OK);
    };
    let reply = client.ask(&Request::Down)?;
    reply.error.iter().for_each(|e| eprintln!("{e}"));
    Ok(reply.code)
}

fn forget_pids(dir: &FabricDir) -> Result<()> {
    let mut fabric = dir.read_fabric()?;
    for (name, _) in fabric.pids() {
        fabric.set_pid(&name, None);
    }
    dir.write_fabric(&fabric)
}
