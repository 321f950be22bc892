//! Child processes that never outlive their test, and a PostgreSQL for one test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use walfabric::postgres::InitdbOptions;

use crate::wait;

/// A child; killed and reaped when dropped.
pub struct Process {
    child: Child,
}

impl Process {
    /// Spawns `command` with its output in `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(mut command: Command, log: &Path) -> Result<Process> {
        let out = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Process { child })
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        harness::signal(&self.child, signal).expect("it is our child");
    }

    /// Waits for its end; gives the exit code (`None`: by a signal).
    ///
    /// # Panics
    /// When it still runs after `patience`.
    pub fn wait(&mut self, what: &str, patience: Duration) -> Option<i32> {
        let status = wait::until_blocking(what, patience, || self.child.try_wait().ok().flatten());
        status.code()
    }

    /// SIGKILL, and reaped.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        harness::wait(&mut self.child, "a killed process", harness::PATIENCE).expect("it ends");
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it runs.
    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that was free a moment ago.
///
/// # Panics
/// When the machine has none.
pub fn free_port() -> u16 {
    walfabric::ports::free(1).expect("a free port")[0]
}

/// A PostgreSQL cluster of the test's own, run as the right user. The postmaster is killed with all its backends when
/// dropped.
pub struct Postgres {
    /// Directory of the programs.
    pub bin_dir: PathBuf,
    /// PGDATA.
    pub data_dir: PathBuf,
    /// Port on 127.0.0.1.
    pub port: u16,
    process: Option<Process>,
}

impl Postgres {
    /// Makes a cluster in `dir/NAME` and starts it.
    ///
    /// # Errors
    /// With what initdb or the server said.
    pub async fn start(dir: &Path, name: &str) -> Result<Postgres> {
        let bin_dir = walfabric::postgres::find_bin_dir(None)?;
        let (data_dir, port, user) = (dir.join(name), free_port(), walfabric::postgres::run_as()?);
        std::fs::create_dir_all(dir)?;
        walfabric::postgres::check_reachable(dir, user)?;
        walfabric::postgres::create_cluster(&bin_dir, &data_dir, port, user, &InitdbOptions::default())?;
        let mut pg = Postgres { bin_dir, data_dir, port, process: None };
        pg.restart().await?;
        Ok(pg)
    }

    /// A cluster that exists already (a copy of another one), to be started on a port of its own.
    ///
    /// # Errors
    /// When there are no programs for it.
    pub fn adopt(data_dir: PathBuf) -> Result<Postgres> {
        Ok(Postgres { bin_dir: walfabric::postgres::find_bin_dir(None)?, data_dir, port: free_port(), process: None })
    }

    /// Starts the postmaster again and waits until it accepts connections.
    ///
    /// # Errors
    /// When it does not.
    pub async fn restart(&mut self) -> Result<()> {
        self.spawn()?;
        let mut process = self.process.take().context("it was just started")?;
        let conninfo = self.conninfo();
        wait::until("PostgreSQL accepting connections", Duration::from_secs(30), async || {
            assert!(process.running(), "PostgreSQL ended: see {}", self.data_dir.with_extension("log").display());
            walfabric::sql::connect(&conninfo).await.ok()
        })
        .await;
        self.process = Some(process);
        Ok(())
    }

    /// Starts the postmaster and does not wait for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        let mut command = walfabric::postgres::command(&self.bin_dir, "postgres", walfabric::postgres::run_as()?);
        command.arg("-D").arg(&self.data_dir).args(["-p", &self.port.to_string()]).current_dir("/");
        self.process = Some(Process::spawn(command, &self.data_dir.with_extension("log"))?);
        Ok(())
    }

    /// kill -9 of the postmaster and all its backends.
    pub fn kill(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        // Halted first: a backend that it forks between the list and its end would live on, and hold shared memory.
        process.signal(Signal::STOP);
        let family = walfabric::supervisor::descendants(process.child.id());
        process.kill();
        for pid in family.iter().filter_map(|p| Pid::from_raw(p.cast_signed())) {
            let _ = kill_process(pid, Signal::KILL);
        }
        wait::until_blocking("backends ending", Duration::from_secs(10), || {
            family.iter().all(|p| walfabric::supervisor::command_line(*p).is_none()).then_some(())
        });
    }

    /// Fast shutdown.
    ///
    /// # Errors
    /// When it does not end in order.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("not running")?;
        process.signal(Signal::INT);
        let code = process.wait("PostgreSQL's fast shutdown", Duration::from_secs(30));
        ensure!(code == Some(0), "PostgreSQL ended with {code:?}");
        Ok(())
    }

    /// libpq connection string of the superuser.
    pub fn conninfo(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port)
    }

    /// The postmaster, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// A client program of this PostgreSQL, run as the right user.
    ///
    /// # Errors
    /// When there is no such user.
    pub fn program(&self, name: &str) -> Result<Command> {
        let mut command = walfabric::postgres::command(&self.bin_dir, name, walfabric::postgres::run_as()?);
        command.current_dir("/");
        Ok(command)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}
