//! `walfabric demo`: the main job on a real PostgreSQL, with kills, and the proof afterwards that nothing was lost.
//!
//! Exits 0 only if every acknowledged commit is in PostgreSQL, on a quorum and in the pageserver, the WAL is the same
//! byte by byte, and so is every page of the stopped cluster.

mod act;
mod after;
pub mod command;
mod pages;
mod story;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use node::exit;
use tokio_util::sync::CancellationToken;

use crate::fabric::{Fabric, FabricDir};
use crate::ledger::Ledger;
use crate::supervisor::STOP_PATIENCE_S;
use crate::{postgres, up, verbs, verify};
use story::Story;

pub use after::Before;

/// What `demo` was asked for.
#[derive(Clone, Debug)]
pub struct DemoArgs {
    /// Where; `None`: a new directory below the system's temporary one.
    pub dir: Option<PathBuf>,
    /// Directory of PostgreSQL's programs; `None`: found by itself.
    pub pg_bin: Option<PathBuf>,
    /// Leave the fabric running.
    pub keep: bool,
    /// What was spent before.
    pub before: Before,
}

/// Ledger clients besides pgbench.
const LEDGER_CLIENTS: i32 = 4;

/// Where a demo's fabric is unless told. This process has it to itself, also when it is started anew as another user.
pub fn default_dir() -> PathBuf {
    std::env::temp_dir().join(format!("walfabric-demo-{}", std::process::id()))
}

/// Runs the demo; the exit code is 0 only if everything was proved.
///
/// # Errors
/// Says at which step it failed; the fabric's files stay then.
pub async fn run(args: DemoArgs) -> Result<u8> {
    let story = Story::begin();
    let own = args.dir.is_none();
    let root = args.dir.clone().unwrap_or_else(default_dir);
    let interrupted = node::shutdown_on_signals()?;
    let played = interrupted.run_until_cancelled(play(&story, &args, &root, &interrupted)).await;
    if let Err(e) = played.unwrap_or_else(|| Err(anyhow::anyhow!("interrupted"))) {
        // Its own failure says less than the one that it follows.
        let down = match FabricDir::new(&root)?.fabric_json().exists() {
            true => verbs::down(&root, STOP_PATIENCE_S).await.err(),
            false => None,
        };
        let down = down.map(|e| format!("\nnot everything was stopped: {e:#}"));
        eprintln!("\ndemo FAILED: {e:#}{}\nlogs and data are left in {}", down.unwrap_or_default(), root.display());
        return Ok(exit::ERROR);
    }
    story.chapter("PROVED: no acknowledged commit was lost, every copy of the WAL is the same, and so is every page");
    story.line(&after::spent(args.before, story.elapsed()));
    if args.keep {
        after::keep_running(&root).await?;
        return Ok(exit::OK);
    }
    verbs::down(&root, STOP_PATIENCE_S).await?;
    if own {
        remove(&root)?;
    }
    after::what_next();
    Ok(exit::OK)
}

/// Removes the demo's files; its directory may be in one where another user, root, has made it.
fn remove(root: &Path) -> Result<()> {
    match std::fs::remove_dir_all(root) {
        Err(e) if e.kind() == ErrorKind::PermissionDenied && is_empty(root) => {
            println!("{} is empty; only root can remove it", root.display());
            Ok(())
        }
        removed => removed.context("cannot remove the demo's directory"),
    }
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

async fn play(story: &Story, args: &DemoArgs, root: &Path, interrupted: &CancellationToken) -> Result<()> {
    story.chapter("bring up: PostgreSQL, shim, 3 safekeepers, 1 pageserver, embedded broker");
    let up_args = up::UpArgs {
        dir: root.to_path_buf(),
        safekeepers: None,
        pageservers: None,
        broker: None,
        pg_bin: args.pg_bin.clone(),
        remote_storage: None,
        no_postgres: false,
        initdb: postgres::InitdbOptions::default(),
        run_as: None,
        supervise: false,
    };
    let fabric = up::up(&up_args, interrupted).await?;
    let dir = FabricDir::new(root)?;
    let pg = fabric.postgres.clone().context("the demo needs a PostgreSQL")?;

    story.chapter("load: pgbench and a ledger of acknowledged commits");
    let mut bench = Bench::start(&fabric)?;
    let ledger = Ledger::start(&pg.conninfo(), LEDGER_CLIENTS).await?;
    ledger.wait_progress(200, Duration::from_secs(60)).await?;
    story.line(&format!("{} commits acknowledged by the quorum so far", ledger.count()));

    let scene = act::Scene { story, dir: &dir, fabric: &fabric, ledger: &ledger };
    scene.show_choice().await?;
    scene.kill_pusher().await?;
    scene.kill_shim().await?;
    bench.expect_running()?;
    scene.kill_postgres().await?;
    bench = Bench::start(&fabric)?;
    ledger.wait_progress(200, Duration::from_secs(60)).await?;
    bench.expect_running()?;
    drop(bench);
    scene.show_a_page().await?;

    story.chapter("proof: every acknowledged commit, every copy of the WAL");
    let unknown = ledger.unknown();
    let acked = ledger.finish().await;
    story.line(&format!("{} commits were acknowledged ({unknown} unknown: the client heard nothing)", acked.len()));
    verify::verify(&fabric, &acked, &mut |text| story.line(text)).await?;
    story.chapter("proof: every page of the stopped cluster");
    verify::verify_pages(dir.root(), &fabric, &mut |text| story.line(text)).await
}

/// A running pgbench; killed when dropped.
struct Bench {
    child: Child,
    log: PathBuf,
}

impl Bench {
    /// Initialises pgbench's tables if needed and starts it.
    fn start(fabric: &Fabric) -> Result<Bench> {
        let pg = fabric.postgres.as_ref().context("no PostgreSQL")?;
        let log = pg.data_dir.with_file_name("log").join("pgbench.log");
        let run = |args: &[&str]| -> Result<Command> {
            let out = std::fs::OpenOptions::new().create(true).append(true).open(&log)?;
            let mut command = postgres::command(&pg.bin_dir, "pgbench", None);
            command.args(["-h", &pg.host, "-p", &pg.port.to_string(), "-U", &pg.user]).args(args).arg(&pg.dbname);
            command.current_dir("/").stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
            Ok(command)
        };
        let marker = pg.data_dir.with_file_name("log").join("pgbench.initialised");
        if !marker.exists() {
            let status = run(&["-i", "-q", "-s", "2"])?.status().context("cannot run pgbench")?;
            anyhow::ensure!(status.success(), "pgbench -i failed: see {}", log.display());
            std::fs::write(&marker, b"")?;
        }
        let child = run(&["-n", "-c", "4", "-j", "1", "-T", "600"])?.spawn().context("cannot run pgbench")?;
        Ok(Bench { child, log })
    }

    /// Kills of safekeepers and shim must not break a client's connection.
    fn expect_running(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            anyhow::bail!("pgbench ended ({status}) though PostgreSQL was never touched: see {}", self.log.display());
        }
        Ok(())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
