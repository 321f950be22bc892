//! `proof`: runs the judges of redo over recorded logs.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};
use oracle::cluster::Programs;
use oracle::effects::control_file;
use oracle::files;
use oracle::log::Log;
use oracle::pages::Pages;
use oracle::plant::{Bug, Plants};
use oracle::record::{Workload, record};
use oracle::replay::Replayer;
use oracle::whole::{self, Outcome, Plan};
use pgformat::Lsn;
use pgformat::wal::record::rmgr_name;

#[derive(Parser)]
#[command(about = "PostgreSQL as the judge of redo")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Replays the log of a stopped cluster and compares each page with the images in it.
    Check(Check),
    /// Records and judges every workload on several PostgreSQL, and prints one table.
    All(All),
    /// Records a workload on a PostgreSQL of its own.
    Record(Record),
}

#[derive(Args)]
struct All {
    /// Which PostgreSQL, as scripts/postgres-majors.sh names them; 15 is the system's own.
    #[arg(long = "server", required = true)]
    servers: Vec<String>,
    /// PostgreSQL's regression tests as well.
    #[arg(long)]
    regress: bool,
    /// Size of the workloads.
    #[arg(long, default_value_t = 1)]
    scale: u32,
    /// Write examples of every kind of change into this folder, one file for each server.
    #[arg(long)]
    golden: Option<PathBuf>,
}

#[derive(Args)]
struct Record {
    /// Which PostgreSQL: a major, or a minor as scripts/postgres-majors.sh names it.
    #[arg(long)]
    major: String,
    /// What to run.
    #[arg(long)]
    workload: Workload,
    /// Where the recording goes; must not exist.
    #[arg(long)]
    dir: PathBuf,
    /// Size of the workload.
    #[arg(long, default_value_t = 10)]
    scale: u32,
}

#[derive(Args)]
struct Check {
    /// The cluster's pg_wal.
    #[arg(long)]
    wal: PathBuf,
    /// A copy of the data directory, taken when the cluster was shut down: its pages are where redo starts, from its
    /// last checkpoint on. Without it pages are taken from their first image.
    #[arg(long)]
    base: Option<PathBuf>,
    /// The data directory of the cluster, shut down where the log ends: its files are compared as well.
    #[arg(long, requires = "base")]
    data: Option<PathBuf>,
    /// First record; by default where the base's redo starts, or the first one in the folder.
    #[arg(long)]
    from: Option<Lsn>,
    /// Stop before the record at this position.
    #[arg(long)]
    to: Option<Lsn>,
    /// Compare images of this resource manager only.
    #[arg(long, value_parser = rmgr)]
    rmgr: Option<u8>,
    /// Plant a bug into redo of this resource manager: the check must then fail.
    #[arg(long, value_parser = rmgr)]
    plant: Option<u8>,
    /// The planted bug leaves out a change instead of flipping a bit.
    #[arg(long)]
    skip: bool,
}

fn rmgr(name: &str) -> Result<u8> {
    let found = (0..=21).find(|rmid| rmgr_name(*rmid).is_some_and(|n| n.eq_ignore_ascii_case(name)));
    found.with_context(|| format!("no resource manager is called {name}"))
}

fn main() -> Result<ExitCode> {
    match Cli::parse().command {
        Command::Check(args) => check(&args),
        Command::All(args) => all(&args),
        Command::Record(args) => {
            record(Programs::find(&args.major)?, args.workload, &args.dir, args.scale)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn check(args: &Check) -> Result<ExitCode> {
    let log = Log::open(&args.wal)?;
    let bug = if args.skip { Bug::Skip } else { Bug::Flip };
    let plants = args.plant.map(|rmid| Plants::one(rmid, bug)).unwrap_or_default();
    let pages = Pages::new(args.base.as_deref());
    let mut replayer = Replayer::new(log.version, pages, args.rmgr, plants);
    let control = args.base.as_deref().map(|base| control_file(base, log.version)).transpose()?;
    control.iter().for_each(|control| replayer.log_hints(control));
    let from = match args.from.or(control.map(|control| control.checkpoint_copy.redo)) {
        Some(from) => from,
        None => log.first_record()?,
    };
    let end = log.read(from, args.to, |record| replayer.record(record))?;
    if let Some(data) = &args.data {
        files::compare(&mut replayer, data)?;
    }
    print!("{}", replayer.report.text());
    println!("{from} to {end}");
    if replayer.report.total().records == 0 {
        bail!("there was no record");
    }
    Ok(if replayer.report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn all(args: &All) -> Result<ExitCode> {
    // Short, because a socket lies in it, and open, because the server has a user of its own.
    let dir = tempfile::Builder::new().prefix("proof").permissions(Permissions::from_mode(0o711)).tempdir()?;
    let mut workloads = vec![Workload::Extra, Workload::Special, Workload::Minimal];
    workloads.extend(args.regress.then_some(Workload::Regress));
    let plan = Plan { workloads: &workloads, dir: dir.path(), scale: args.scale, golden: args.golden.as_deref() };
    let mut outcomes = Vec::new();
    let mut failed = false;
    for server in &args.servers {
        match whole::server(server, &plan) {
            Ok(outcome) => outcomes.push(outcome),
            // The others are worth knowing.
            Err(e) => {
                println!("{server}: {e:#}");
                failed = true;
            }
        }
    }
    print!("{}", whole::table(&outcomes));
    let good = !failed && outcomes.iter().all(Outcome::is_good);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
