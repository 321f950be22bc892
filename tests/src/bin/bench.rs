//! `make bench`: commit latency and throughput against what users would pick instead, in one run.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use tests::bench::load::{self, Block};
use tests::bench::stats::{ratios, spread};
use tests::bench::system::System;
use tests::bench::usage;

#[derive(Parser)]
#[command(about = "Measures commits against peers, paired and interleaved, and prints ratios")]
struct Args {
    /// Rounds; each runs every system once, forwards and backwards in turn
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Seconds of one block
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// pgbench clients
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16])]
    clients: Vec<u32>,
    /// pgbench scale factor
    #[arg(long, default_value_t = 10)]
    scale: u32,
    /// Where the raw results go, one JSON object a block
    #[arg(long, default_value = "target/bench/commit.jsonl")]
    raw: std::path::PathBuf,
}

/// Above this share of a block during which tasks waited for a CPU, a ratio is marked noisy and not claimed as a win.
const PRESSURE_MAX: f64 = 0.60;

fn main() -> Result<()> {
    let args = Args::parse();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(bench(&args))
}

async fn bench(args: &Args) -> Result<()> {
    let began = Instant::now();
    let dir = tempfile::Builder::new().prefix("walfabric-bench-").tempdir()?;
    let systems = [
        System::plain(dir.path()).await?,
        System::any_two(dir.path()).await?,
        System::standby(dir.path()).await?,
        System::walfabric().await?,
    ];
    for system in &systems {
        load::initialise(system, args.scale)?;
        load::run(system, dir.path(), 4, 2).context("warming up")?;
    }
    std::fs::create_dir_all(args.raw.parent().context("--raw needs a directory")?)?;
    let mut raw = std::fs::File::create(&args.raw)?;
    println!("set-up {:.0} s; {} rounds of {} s blocks", began.elapsed().as_secs_f64(), args.rounds, args.seconds);
    for clients in &args.clients {
        let part = Instant::now();
        let mut results: BTreeMap<usize, Vec<Block>> = BTreeMap::new();
        for round in 0..args.rounds {
            let mut order: Vec<usize> = (0..systems.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let system = systems.get(index).context("an index of a system")?;
                let block = load::run(system, dir.path(), *clients, args.seconds)?;
                let line = serde_json::json!({"clients": clients, "round": round, "system": system.name,
                    "tps": block.tps,
                    "p50_us": block.p50_us, "p99_us": block.p99_us, "cpu_ms_per_txn": block.cpu_ms_per_txn,
                    "pressure": block.pressure});
                writeln!(raw, "{line}")?;
                results.entry(index).or_default().push(block);
            }
        }
        print_table(&systems, &results, *clients);
        println!("({:.0} s)", part.elapsed().as_secs_f64());
    }
    if let Some(fabric) = systems.iter().find_map(System::fabric) {
        println!("\nresident memory after the load, MiB:");
        for (name, pid) in fabric.read()?.pids() {
            println!("  {name:<14} {:.1}", usage::rss_mib(pid));
        }
    }
    println!("\nraw results: {}; whole run {:.0} s", args.raw.display(), began.elapsed().as_secs_f64());
    Ok(())
}

/// Ours is the last system; ratios are ours / peer, pair by pair: TPS above 1 and latency below 1 are wins.
fn print_table(systems: &[System], results: &BTreeMap<usize, Vec<Block>>, clients: u32) {
    let of = |index: usize, value: fn(&Block) -> f64| -> Vec<f64> {
        results.get(&index).map(|blocks| blocks.iter().map(value).collect()).unwrap_or_default()
    };
    println!("\npgbench -N, {clients} client(s)");
    println!("  {:<26} {:>8} {:>9} {:>9} {:>11} {:>9}", "system", "tps", "p50 us", "p99 us", "CPU ms/txn", "pressure");
    let median = |values: Vec<f64>| spread(&values).map_or(f64::NAN, |s| s.median);
    for (index, system) in systems.iter().enumerate() {
        println!(
            "  {:<26} {:>8.0} {:>9.0} {:>9.0} {:>11.3} {:>8.0}%",
            system.name,
            median(of(index, |b| b.tps)),
            median(of(index, |b| b.p50_us)),
            median(of(index, |b| b.p99_us)),
            median(of(index, |b| b.cpu_ms_per_txn)),
            median(of(index, |b| b.pressure)) * 100.0
        );
    }
    let ours = systems.len() - 1;
    println!("  {:<26} {:>24} {:>24} {:>24}", "walfabric / peer", "tps", "p50", "p99");
    for (index, system) in systems.iter().enumerate().take(ours) {
        let ratio = |value: fn(&Block) -> f64| match spread(&ratios(&of(ours, value), &of(index, value))) {
            Some(s) => format!("{:.2} [{:.2}, {:.2}]", s.median, s.min, s.max),
            None => "-".to_owned(),
        };
        let pressure = median(of(ours, |b| b.pressure)).max(median(of(index, |b| b.pressure)));
        let noisy = if pressure > PRESSURE_MAX { "  noisy" } else { "" };
        let (tps, p50, p99) = (ratio(|b| b.tps), ratio(|b| b.p50_us), ratio(|b| b.p99_us));
        println!("  {:<26} {tps:>24} {p50:>24} {p99:>24}{noisy}", system.name);
    }
}
