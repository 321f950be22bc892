//! `walfabric psql` and `walfabric dump`: one look at a past moment, by a PostgreSQL that exists for this look alone.
//!
//! The cluster is copied to a directory of its own, a server is started on it that only this user's programs reach, the
//! program runs, and server and directory are gone.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use node::exit;
use rustix::process::{Pid, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::backup;
use crate::backup::command::BackupSource;
use crate::postgres;
use crate::sql;

/// How long the server may take to accept connections: it replays nothing.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long it may take to end when it is told to end at once.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// Longest path of a socket (`UNIXSOCK_PATH_BUFLEN`), less the name that PostgreSQL adds.
const SOCKET_DIR_MAX: usize = 107 - "/.s.PGSQL.65535".len();
/// Only names the socket: nothing listens on a network.
const PORT: u16 = 5432;

/// What `walfabric psql` and `walfabric dump` take.
#[derive(Args)]
pub struct LookOptions {
    #[command(flatten)]
    source: BackupSource,
    /// Directory of PostgreSQL's programs, of the cluster's major [default: as `walfabric up` finds it]
    #[arg(long)]
    pg_bin: Option<PathBuf>,
    /// Where the copy is made, which is as large as the cluster [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Superuser to connect as
    #[arg(long, default_value = "postgres")]
    username: String,
    /// Database to connect to
    #[arg(long, default_value = "postgres")]
    dbname: String,
    /// Further words are for psql or pg_dump: -c 'SELECT ...', --table t
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

impl LookOptions {
    /// The local fabric, if one is named.
    pub fn dir(&self) -> Option<&Path> {
        self.source.dir.as_deref()
    }

    /// Runs `program` of PostgreSQL's on the copy; gives its exit code.
    ///
    /// # Errors
    /// When the copy or the server cannot be made.
    pub async fn run(self, program: &str) -> Result<u8> {
        ensure!(
            !rustix::process::geteuid().is_root(),
            "PostgreSQL does not run as root: run this as another user, or name a local fabric with --dir"
        );
        let bin_dir = postgres::find_bin_dir(self.pg_bin.as_deref().or(self.source.bin_dir()?.as_deref()))?;
        let scratch = Scratch::make(self.scratch.as_deref())?;
        let mut signals = Signals::listen()?;
        let prepared = CancellationToken::new();
        let made = async {
            let made = backup::run(&self.source.request(scratch.data_dir()).await?, &prepared).await?;
            eprintln!("walfabric: everything up to {}, {} MiB copied", made.lsn, made.bytes >> 20);
            scratch.start(&bin_dir, &self.username).await
        };
        tokio::pin!(made);
        let mut server = tokio::select! {
            server = &mut made => server?,
            () = signals.any() => {
                // The writer of the copy ends before the copy is removed.
                prepared.cancel();
                drop(made.await);
                bail!("stopped; the copy is removed");
            }
        };
        let looked = tokio::select! {
            looked = self.program(&bin_dir, program, &scratch) => looked,
            () = signals.end() => Err(anyhow::anyhow!("stopped; the copy is removed")),
        };
        server.stop().await?;
        looked
    }

    async fn program(&self, bin_dir: &Path, program: &str, scratch: &Scratch) -> Result<u8> {
        let mut command = Command::new(bin_dir.join(program));
        command.env("PGHOST", &scratch.root).env("PGPORT", PORT.to_string()).kill_on_drop(true);
        command.env("PGUSER", &self.username).env("PGDATABASE", &self.dbname).args(&self.words);
        let mut child = command.spawn().with_context(|| format!("cannot run {program} of {}", bin_dir.display()))?;
        Ok(code(child.wait().await?))
    }
}

/// Signals that end the look.
struct Signals {
    interrupt: Signal,
    /// SIGTERM, SIGHUP (the terminal is gone), SIGQUIT.
    ends: [Signal; 3],
}

impl Signals {
    /// From here on none of them ends the process by itself.
    fn listen() -> Result<Signals> {
        let ends = [SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()];
        let [terminate, hangup, quit] = ends.map(signal);
        Ok(Signals { interrupt: signal(SignalKind::interrupt())?, ends: [terminate?, hangup?, quit?] })
    }

    /// Any of them.
    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            () = Signals::first(&mut self.ends) => {}
        }
    }

    /// While psql runs, an interrupt from the terminal is for psql, which ends a query by it.
    async fn end(&mut self) {
        Signals::first(&mut self.ends).await;
    }

    async fn first([a, b, c]: &mut [Signal; 3]) {
        tokio::select! {
            _ = a.recv() => {}
            _ = b.recv() => {}
            _ = c.recv() => {}
        }
    }
}

fn code(ended: ExitStatus) -> u8 {
    ended.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::ERROR)
}

/// A directory that exists as long as this value.
struct Scratch {
    root: PathBuf,
}

/// The server on it; killed when dropped.
struct ScratchServer {
    child: Child,
}

impl Scratch {
    fn make(parent: Option<&Path>) -> Result<Scratch> {
        let parent = std::path::absolute(parent.unwrap_or(&std::env::temp_dir()))?;
        let root = parent.join(format!("walfabric-look-{:08x}", fastrand::u32(..)));
        let len = root.as_os_str().len();
        ensure!(len <= SOCKET_DIR_MAX, "{} is too long for a socket's path: --scratch DIR", root.display());
        let made = DirBuilder::new().mode(0o700).create(&root);
        made.with_context(|| format!("{} cannot be made: --scratch DIR", root.display()))?;
        Ok(Scratch { root })
    }

    fn data_dir(&self) -> PathBuf {
        self.root.join("data")
    }

    /// Starts the server and waits until it accepts connections.
    async fn start(&self, bin_dir: &Path, user: &str) -> Result<ScratchServer> {
        let data_dir = self.data_dir();
        let (major, found) = (fs::read_to_string(data_dir.join("PG_VERSION"))?, postgres::major_of(bin_dir, None)?);
        ensure!(
            major.trim() == found.to_string(),
            "the cluster is of PostgreSQL {}, the programs in {} are of {found}: --pg-bin DIR",
            major.trim(),
            bin_dir.display()
        );
        // Nobody else can enter the directory that the socket is in.
        fs::write(data_dir.join("pg_hba.conf"), "local all all trust\n")?;
        let log = self.root.join("log");
        let output = File::create(&log)?;
        let mut command = Command::new(bin_dir.join("postgres"));
        command.arg("-D").arg(&data_dir).arg("-k").arg(&self.root).args(["-p", &PORT.to_string()]);
        command.args(["-c", "listen_addresses=", "-c", "synchronous_standby_names=", "-c", "archive_mode=off"]);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).kill_on_drop(true);
        // An interrupt from the terminal is not for the server.
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("cannot run postgres of {}", bin_dir.display()))?;
        let mut server = ScratchServer { child };
        let conninfo = format!("host={} port={PORT} user={user} dbname=template1", self.root.display());
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let problem = match sql::connect(&conninfo).await {
                Ok(_) => return Ok(server),
                Err(e) => e,
            };
            let ended = server.child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let said = fs::read_to_string(&log).unwrap_or_default();
                let tail: Vec<&str> = said.lines().rev().take(5).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                return Err(problem.context(format!("no server on the copy:\n{}", tail.join("\n"))));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.root) {
            eprintln!("walfabric: {} cannot be removed: {e}", self.root.display());
        }
    }
}

impl ScratchServer {
    /// At once: nobody needs what is in it.
    async fn stop(&mut self) -> Result<()> {
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = kill_process(pid, rustix::process::Signal::QUIT);
        }
        match tokio::time::timeout(STOP_LIMIT, self.child.wait()).await {
            Ok(ended) => drop(ended?),
            Err(_) => self.child.kill().await?,
        }
        Ok(())
    }
}
