//! `make sim SEEDS=N`: runs simulated schedules, prints the faults that struck, and how to replay a failure.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use tests::sim::{Bug, run};

/// Deterministic simulation of the quorum: one seed is one schedule, exactly.
#[derive(Parser)]
#[command(name = "sim")]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Plants a bug that a checker should catch (--bug list prints the names).
    #[arg(long)]
    bug: Option<String>,
    /// Prints every event (use with --seeds 1).
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.bug.as_deref() == Some("list") {
        Bug::ALL.iter().for_each(|b| println!("{}", b.name()));
        return ExitCode::SUCCESS;
    }
    let bug = match args.bug.as_deref().map(str::parse::<Bug>).transpose() {
        Ok(bug) => bug,
        Err(unknown) => {
            eprintln!("{unknown}");
            return ExitCode::from(2);
        }
    };
    let begun = Instant::now();
    let mut faults: BTreeMap<&'static str, u64> = BTreeMap::new();
    let (mut events, mut committed, mut elections, mut failed) = (0, 0, 0, Vec::new());
    for seed in args.from..args.from.saturating_add(args.seeds) {
        let report = run(seed, bug, args.trace);
        report.faults.iter().for_each(|(kind, n)| *faults.entry(kind).or_insert(0) += n);
        events += report.events;
        committed += report.committed;
        elections += report.elections;
        if let Some(violation) = report.violation {
            println!("seed {seed}: {violation}");
            let planted = bug.map_or(String::new(), |b| format!(" --bug {}", b.name()));
            println!("  replay: cargo run -q -p tests --bin sim -- --seeds 1 --from {seed}{planted} --trace");
            failed.push(seed);
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("schedules run   {}", args.seeds);
    println!("events          {events}");
    println!("attempts        {elections}");
    println!("WAL committed   {:.1} MiB", committed as f64 / f64::from(1 << 20));
    println!("faults fired");
    faults.iter().for_each(|(kind, n)| println!("  {n:>9}  {kind}"));
    println!("seconds         {seconds:.1}");
    println!("violations      {}", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}
