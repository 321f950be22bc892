//! `make bench`: runs every part of the table, one after the other, with its time budget.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::Parser;
use tests::bench::run::{Extent, Run};
use tests::bench::{environment, parts, replay};

#[derive(Parser)]
#[command(about = "Measures walfabric against peers, paired and interleaved, and prints the table")]
struct Args {
    /// How much is measured
    #[arg(long, value_enum, default_value = "table")]
    extent: Extent,
    /// Only these parts
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where the raw results go, one JSON object a line
    #[arg(long, default_value = "target/bench/results.jsonl")]
    raw: PathBuf,
    /// Print the parts with their time budgets and end
    #[arg(long)]
    list: bool,
    /// Be the process of one step of our replay, for the part `ingest`
    #[arg(long, hide = true, num_args = 1..)]
    offline: Vec<String>,
}

/// A part: its name, and its time budgets in seconds by extent (quick, table, full).
type Part = (&'static str, [u64; 3]);

/// Every part, in the order in which they run.
const PARTS: [Part; 15] = [
    ("commit", [44, 540, 1500]),
    ("unsynced", [18, 100, 260]),
    ("stall", [14, 50, 240]),
    ("memory", [15, 25, 60]),
    ("catchup", [22, 90, 600]),
    ("cost", [8, 25, 200]),
    ("push", [10, 60, 600]),
    ("kills", [16, 80, 600]),
    ("proposers", [6, 25, 300]),
    ("idle", [12, 35, 300]),
    ("trickle", [10, 30, 150]),
    ("sim", [4, 10, 120]),
    ("ingest", [28, 300, 1500]),
    ("redo", [12, 50, 200]),
    ("getpage", [14, 75, 300]),
];

/// Seconds of all parts together, for one extent.
const fn sum(extent: usize) -> u64 {
    let (mut seconds, mut at) = (0, 0);
    while at < PARTS.len() {
        seconds += PARTS[at].1[extent];
        at += 1;
    }
    seconds
}

// What the README promises: `make bench-quick` under 4 minutes, `make bench` under 25.
const _: () = assert!(sum(0) < 4 * 60 && sum(1) < 25 * 60);

async fn measure(name: &str, run: &mut Run) -> Result<()> {
    match name {
        "commit" => parts::commit::run(run).await,
        "unsynced" => parts::unsynced::run(run).await,
        "stall" => parts::stall::run(run).await,
        "memory" => parts::memory::run(run).await,
        "catchup" => parts::catchup::run(run).await,
        "cost" => parts::cost::run(run).await,
        "proposers" => parts::proposers::run(run).await,
        "idle" => parts::idle::run(run).await,
        "trickle" => parts::trickle::run(run).await,
        "push" => parts::push::run(run).await,
        "kills" => parts::kills::run(run).await,
        "sim" => parts::sim::run(run).await,
        "ingest" => parts::ingest::run(run).await,
        "redo" => parts::redo::run(run).await,
        "getpage" => parts::getpage::run(run).await,
        other => bail!("part {other} is listed and not known"),
    }
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    if !args.offline.is_empty() {
        replay::child(&args.offline)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.list {
        list();
        return Ok(ExitCode::SUCCESS);
    }
    for name in &args.only {
        ensure!(PARTS.iter().any(|(known, _)| known == name), "there is no part {name}: see --list");
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(bench(&args))
}

fn list() {
    println!("{:<12} {:>8} {:>8} {:>8}  (seconds)", "part", "quick", "table", "full");
    for (name, [quick, table, full]) in PARTS {
        println!("{name:<12} {quick:>8} {table:>8} {full:>8}");
    }
    println!("{:<12} {:>8} {:>8} {:>8}", "sum", sum(0), sum(1), sum(2));
}

/// Exit code 1 when a part could not be run; goals that were missed are in the table and no failure.
async fn bench(args: &Args) -> Result<ExitCode> {
    let described = environment::describe(args.extent);
    print!("{}", environment::head(&described));
    let mut run = Run::new(args.extent, &args.raw, &described)?;
    let chosen = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    for (name, [quick, table, full]) in PARTS.into_iter().filter(|(name, _)| chosen(name)) {
        let budget = Duration::from_secs(args.extent.pick(quick, table, full));
        run.part(name, budget, async |run| measure(name, run).await).await;
    }
    let failed = run.failed();
    let missed = run.finish();
    println!("goals missed: {missed}; parts that failed to run: {failed}");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
