//! The supervisor's state: which process runs under which pid, and how it ended. One lock, one condition variable.

use std::collections::{BTreeMap, HashSet};
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process};

use super::{OWN_PROGRAM, proctree};
use crate::fabric::{Fabric, FabricDir, FabricPlan, ProcessPlan, StopStyle};

/// How the end of a process reads that went well.
const CLEAN_END: &str = "exited with code 0";

/// How long PostgreSQL may take to end at once.
const KILL_PATIENCE: Duration = Duration::from_secs(30);

/// With `--supervise`, what died sooner than this after its start is started again only after this time: a process that
/// cannot run must not be started in a tight loop.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// State shared by the supervisor's threads.
pub(super) struct ProcessTable {
    dir: FabricDir,
    state: Mutex<ProcessStates>,
    changed: Condvar,
}

struct ProcessStates {
    plan: FabricPlan,
    fabric: Fabric,
    running: BTreeMap<String, u32>,
    started: BTreeMap<String, Instant>,
    ended: BTreeMap<String, String>,
    /// Stopped or killed by request: never restarted, supervised or not.
    held: HashSet<String>,
}

impl ProcessTable {
    pub(super) fn load(dir: FabricDir) -> Result<ProcessTable> {
        let plan = dir.read_plan()?;
        let mut fabric = dir.read_fabric()?;
        plan.processes.keys().for_each(|name| fabric.set_pid(name, None));
        dir.write_fabric(&fabric)?;
        let state = ProcessStates {
            plan,
            fabric,
            running: BTreeMap::new(),
            started: BTreeMap::new(),
            ended: BTreeMap::new(),
            held: HashSet::new(),
        };
        Ok(ProcessTable { dir, state: Mutex::new(state), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, ProcessStates> {
        // A panic while holding the lock leaves plain maps behind, each of which is valid by itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reload(&self) -> Result<()> {
        let mut state = self.lock();
        state.plan = self.dir.read_plan()?;
        state.fabric = self.dir.read_fabric()?;
        let running: Vec<_> = state.running.iter().map(|(n, p)| (n.clone(), *p)).collect();
        running.iter().for_each(|(name, pid)| state.fabric.set_pid(name, Some(*pid)));
        self.dir.write_fabric(&state.fabric)
    }

    pub(super) fn known(&self, name: &str) -> bool {
        self.lock().plan.processes.contains_key(name)
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.lock().plan.processes.keys().cloned().collect()
    }

    pub(super) fn probe(&self, name: &str) -> (Option<u32>, Option<String>) {
        let state = self.lock();
        (state.running.get(name).copied(), state.ended.get(name).cloned())
    }

    pub(super) fn start(&self, name: &str) -> Result<u32> {
        // What a killed process left behind (backends of a dead postmaster hold its shared memory) goes first.
        self.kill_orphans(&[])?;
        let mut state = self.lock();
        state.held.remove(name);
        if let Some(pid) = state.running.get(name) {
            return Ok(*pid);
        }
        self.spawn(&mut state, name)
    }

    fn spawn(&self, state: &mut ProcessStates, name: &str) -> Result<u32> {
        let plan = state.plan.processes.get(name).with_context(|| format!("no process is called {name}"))?;
        let child = command(&self.dir, name, plan)?.spawn().with_context(|| format!("cannot start {name}"))?;
        let pid = child.id();
        state.running.insert(name.to_owned(), pid);
        state.started.insert(name.to_owned(), Instant::now());
        state.ended.remove(name);
        state.fabric.set_pid(name, Some(pid));
        self.dir.write_fabric(&state.fabric)?;
        self.changed.notify_all();
        Ok(pid)
    }

    /// Reaper: waits for any child, for ever. Orphans that were re-parented to this process are reaped on the way.
    pub(super) fn reap_for_ever(self: &Arc<Self>) {
        loop {
            match rustix::process::wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) => self.on_exit(pid, status),
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => {
                    // No children at all: wait until one is spawned.
                    let state = self.lock();
                    let idle = |s: &mut ProcessStates| s.running.is_empty();
                    drop(self.changed.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner));
                }
            }
        }
    }

    fn on_exit(self: &Arc<Self>, pid: Pid, status: WaitStatus) {
        let pid = pid.as_raw_nonzero().get().unsigned_abs();
        let mut state = self.lock();
        let name = state.running.iter().find(|(_, p)| **p == pid).map(|(n, _)| n.clone());
        let Some(name) = name else {
            self.changed.notify_all();
            return;
        };
        let how = match (status.exit_status(), status.terminating_signal()) {
            (Some(0), _) => CLEAN_END.to_owned(),
            (Some(code), _) => format!("exited with code {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => "ended".to_owned(),
        };
        eprintln!("{name} (pid {pid}) {how}");
        state.running.remove(&name);
        state.ended.insert(name.clone(), how);
        state.fabric.set_pid(&name, None);
        if let Err(e) = self.dir.write_fabric(&state.fabric) {
            eprintln!("cannot update fabric.json: {e:#}");
        }
        // A refusal (6), wrong usage (2) or corruption (5) would only repeat itself.
        let terminal = matches!(status.exit_status(), Some(2 | 5 | 6));
        if state.plan.supervise && !terminal {
            let young = state.started.get(&name).is_some_and(|at| at.elapsed() < RESTART_PAUSE);
            let (table, pause) = (Arc::clone(self), if young { RESTART_PAUSE } else { Duration::ZERO });
            std::thread::spawn(move || table.restart_after(pause, &name));
        }
        self.changed.notify_all();
    }

    fn restart_after(&self, pause: Duration, name: &str) {
        std::thread::sleep(pause);
        let mut state = self.lock();
        let wanted = !state.held.contains(name) && !state.running.contains_key(name);
        if wanted && let Err(e) = self.spawn(&mut state, name) {
            eprintln!("cannot restart {name}: {e:#}");
        }
    }

    pub(super) fn kill(&self, name: &str) -> Result<()> {
        let pid = {
            let mut state = self.lock();
            state.held.insert(name.to_owned());
            match state.running.get(name) {
                Some(pid) => *pid,
                None => return Ok(()),
            }
        };
        let family = proctree::descendants(pid);
        signal(pid, Signal::KILL);
        family.iter().for_each(|p| signal(*p, Signal::KILL));
        self.wait_gone(name, Duration::from_secs(30))?;
        self.kill_orphans(&family)
    }

    /// Kills and awaits what descended from a process that is dead: it was re-parented to the supervisor.
    fn kill_orphans(&self, family: &[u32]) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let orphans: Vec<u32> = {
                let state = self.lock();
                let known: HashSet<u32> = state.running.values().copied().collect();
                let mine = proctree::children(std::process::id());
                mine.into_iter()
                    .chain(family.iter().copied().filter(|p| proctree::exists(*p)))
                    .filter(|p| !known.contains(p))
                    .collect()
            };
            if orphans.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("processes {orphans:?} do not die");
            }
            orphans.iter().for_each(|p| signal(*p, Signal::KILL));
            let state = self.lock();
            let step = Duration::from_millis(5);
            drop(self.changed.wait_timeout(state, step).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Ends a process in order; what does not follow within `patience` is made to, which is an error all the same.
    pub(super) fn stop(&self, name: &str, patience: Duration) -> Result<()> {
        let (pid, style) = {
            let mut state = self.lock();
            state.held.insert(name.to_owned());
            let Some(pid) = state.running.get(name).copied() else { return Ok(()) };
            (pid, state.plan.processes.get(name).map_or(StopStyle::Terminate, |p| p.stop))
        };
        let (first, second) = match style {
            StopStyle::Terminate => (Signal::TERM, Signal::KILL),
            StopStyle::Postgres => (Signal::INT, Signal::QUIT),
        };
        signal(pid, first);
        if self.wait_gone(name, patience).is_ok() {
            let how = self.probe(name).1.unwrap_or_default();
            // PostgreSQL that ends in another way has left no shutdown checkpoint.
            ensure!(style != StopStyle::Postgres || how == CLEAN_END, "{}", unclean(&format!("it {how}")));
            return Ok(());
        }
        signal(pid, second);
        // A frozen process hears nothing but the kill, whatever the patience.
        if self.wait_gone(name, patience.max(KILL_PATIENCE)).is_err() {
            self.kill(name)?;
        }
        let waited = patience.as_secs();
        match style {
            StopStyle::Terminate => bail!("{name} did not end within {waited} s of SIGTERM and was killed"),
            StopStyle::Postgres => bail!("{}", unclean(&format!("a fast shutdown did not end within {waited} s"))),
        }
    }

    fn wait_gone(&self, name: &str, patience: Duration) -> Result<()> {
        let running = |s: &mut ProcessStates| s.running.contains_key(name);
        let (state, timeout) =
            self.changed.wait_timeout_while(self.lock(), patience, running).unwrap_or_else(PoisonError::into_inner);
        drop(state);
        if timeout.timed_out() {
            bail!("{name} still runs after {patience:?}");
        }
        Ok(())
    }
}

fn unclean(why: &str) -> String {
    format!(
        "PostgreSQL did not shut down cleanly: {why}; it may need crash recovery at its next start, and `page verify` \
         needs a clean stop"
    )
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may be gone already, which is as asked.
        let _ = kill_process(pid, signal);
    }
}

fn command(dir: &FabricDir, name: &str, plan: &ProcessPlan) -> Result<Command> {
    let path = dir.log(name);
    let log = OpenOptions::new().create(true).append(true).open(&path);
    let log = log.with_context(|| format!("cannot open {}", path.display()))?;
    let (program, args) = plan.argv.split_first().with_context(|| format!("{name} has no program"))?;
    // Our own program may lie in a directory that is closed to the user who runs this.
    let ours = std::env::current_exe().is_ok_and(|exe| exe == Path::new(program));
    let closed = ours && std::fs::File::open(program).is_err();
    let mut command = Command::new(if closed { OWN_PROGRAM } else { program.as_str() });
    command.arg0(program).args(args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir(dir.root());
    Ok(command)
}
