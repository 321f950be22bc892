//! The faults of the health chaos: kill, freeze, cut off, fill, restart.

mod cuts;
mod disks;

use std::net::SocketAddr;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use walfabric::fabric::{Fabric, FabricDir};
use walfabric::supervisor::{Client, SupervisorRequest};

use crate::fabric::TestFabric;
use cuts::Link;
use disks::Disks;

/// What is done to one process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// SIGKILL; healed by a start.
    Kill,
    /// SIGSTOP.
    Freeze,
    /// Nothing passes between the shim and this safekeeper; connections stay open.
    Cut,
    /// The safekeeper's disk has no room left.
    Fill,
    /// An orderly stop; healed by a start.
    Stop,
}

/// What happens at one time.
#[derive(Debug)]
pub struct Strike {
    /// Whom it meets.
    pub faults: &'static [(Fault, &'static str)],
    /// Whether commits hang meanwhile.
    pub hangs: bool,
}

const fn hangs(faults: &'static [(Fault, &'static str)]) -> Strike {
    Strike { faults, hangs: true }
}

const fn commits_go_on(faults: &'static [(Fault, &'static str)]) -> Strike {
    Strike { faults, hangs: false }
}

/// All strikes in order: those of the first minute have something of everything.
pub const STRIKES: [Strike; 12] = [
    hangs(&[(Fault::Freeze, "safekeeper-1"), (Fault::Cut, "safekeeper-2")]),
    hangs(&[(Fault::Fill, "safekeeper-1"), (Fault::Fill, "safekeeper-2")]),
    hangs(&[(Fault::Kill, "postgres"), (Fault::Kill, "broker")]),
    hangs(&[(Fault::Freeze, "shim"), (Fault::Kill, "pageserver-1")]),
    hangs(&[(Fault::Kill, "safekeeper-2"), (Fault::Kill, "safekeeper-3")]),
    commits_go_on(&[(Fault::Kill, "broker"), (Fault::Freeze, "pageserver-1")]),
    hangs(&[(Fault::Cut, "safekeeper-1"), (Fault::Cut, "safekeeper-3")]),
    hangs(&[(Fault::Stop, "postgres")]),
    commits_go_on(&[(Fault::Fill, "safekeeper-2")]),
    hangs(&[(Fault::Kill, "shim")]),
    commits_go_on(&[(Fault::Kill, "safekeeper-3")]),
    commits_go_on(&[(Fault::Kill, "pageserver-1")]),
];

/// Strikes at one fabric, whose shim reaches the safekeepers by links that can be cut.
pub struct Striker<'a> {
    fabric: &'a TestFabric,
    links: Vec<Link>,
    disks: Option<Disks>,
}

impl<'a> Striker<'a> {
    /// Puts the links between shim and safekeepers, and small disks below those of the first two.
    ///
    /// # Errors
    /// When a process cannot be stopped or started again.
    pub async fn prepare(fabric: &'a TestFabric) -> Result<Striker<'a>> {
        let described = fabric.read()?;
        let mut links = Vec::new();
        for node in &described.safekeepers {
            links.push(Link::open(node.pg.parse::<SocketAddr>()?).await?);
        }
        fabric.ok(&["stop", "shim"])?;
        lead_through(fabric, &described, &links)?;
        let disks = Disks::put_below(fabric, &described.safekeepers[..2])?;
        fabric.ok(&["start", "shim"])?;
        Ok(Striker { fabric, links, disks })
    }

    /// Whether this machine can do it: disks to fill need root and mounts.
    pub fn can(&self, strike: &Strike) -> bool {
        self.disks.is_some() || !strike.faults.iter().any(|(fault, _)| *fault == Fault::Fill)
    }

    /// Does it.
    ///
    /// # Errors
    /// When a process does not end, or a disk cannot be changed.
    pub async fn strike(&self, strike: &Strike) -> Result<()> {
        for (fault, victim) in strike.faults {
            match fault {
                Fault::Kill => self.fabric.ok(&["kill", victim]).map(drop)?,
                Fault::Stop => self.fabric.ok(&["stop", victim]).map(drop)?,
                Fault::Freeze => signal(&self.fabric.read()?, victim, Signal::STOP)?,
                Fault::Cut => self.link(victim)?.cut(true),
                Fault::Fill => self.disks.as_ref().context("no disks")?.fill(victim)?,
            }
        }
        if strike.faults.iter().any(|(fault, _)| *fault == Fault::Fill) {
            // Segments that are prepared in advance have room of their own.
            disks::use_up(&self.fabric.read()?).await?;
        }
        Ok(())
    }

    /// Takes it back.
    ///
    /// # Errors
    /// When a process does not start, or a disk cannot be changed.
    pub fn heal(&self, strike: &Strike) -> Result<()> {
        for (fault, victim) in strike.faults {
            match fault {
                Fault::Kill | Fault::Stop => self.fabric.ok(&["start", victim]).map(drop)?,
                Fault::Freeze => signal(&self.fabric.read()?, victim, Signal::CONT)?,
                Fault::Cut => self.link(victim)?.cut(false),
                Fault::Fill => self.disks.as_ref().context("no disks")?.free(victim)?,
            }
        }
        Ok(())
    }

    fn link(&self, victim: &str) -> Result<&Link> {
        let number = victim.strip_prefix("safekeeper-").and_then(|n| n.parse::<usize>().ok());
        number.and_then(|n| self.links.get(n - 1)).with_context(|| format!("no link leads to {victim}"))
    }
}

/// The shim's next start dials the links.
fn lead_through(fabric: &TestFabric, described: &Fabric, links: &[Link]) -> Result<()> {
    let dir = FabricDir::new(&fabric.path())?;
    let direct: Vec<&str> = described.safekeepers.iter().map(|s| s.pg.as_str()).collect();
    let (direct, linked) =
        (direct.join(","), links.iter().map(|l| l.address().to_string()).collect::<Vec<_>>().join(","));
    let mut plan = dir.read_plan()?;
    let shim = plan.processes.get_mut("shim").context("the fabric has no shim")?;
    let given = shim.argv.iter_mut().find(|word| **word == direct);
    *given.context("the shim is not given the safekeepers' addresses")? = linked;
    dir.write_plan(&plan)?;
    harness::give_to_postgres(&dir.plan_json())?;
    let reply = Client::connect(&dir).context("the supervisor is gone")?.ask(&SupervisorRequest::Reload)?;
    anyhow::ensure!(reply.error.is_none(), "the plan was not read anew: {:?}", reply.error);
    Ok(())
}

fn signal(fabric: &Fabric, name: &str, signal: Signal) -> Result<()> {
    let pid = fabric.pids().into_iter().find(|(n, _)| n == name).map(|(_, pid)| pid);
    let pid = pid.and_then(|p| Pid::from_raw(p.cast_signed()));
    kill_process(pid.with_context(|| format!("{name} does not run"))?, signal)?;
    Ok(())
}
