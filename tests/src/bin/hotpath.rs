//! `make guard`: instructions per operation of every hot path against their limits.
//!
//! The program runs itself under valgrind with `--run`, one path at a time.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tests::guard::instructions::{Verdict, judge, per_operation, proposed_limit};
use tests::guard::{HotPath, PATHS};

/// Instructions per operation of the hot paths, counted by valgrind.
#[derive(Parser)]
#[command(name = "hotpath")]
struct Args {
    /// Prints the figures of now and the limits they would get; judges nothing.
    #[arg(long)]
    print: bool,
    /// This path only.
    #[arg(long)]
    only: Option<String>,
    /// Runs this path and prints nothing: what is run under valgrind.
    #[arg(long, requires = "operations", conflicts_with = "print")]
    run: Option<String>,
    /// With --run: so many operations.
    #[arg(long, default_value_t = 0)]
    operations: usize,
    /// With --run: ready for so many operations.
    #[arg(long, default_value_t = 0)]
    prepared: usize,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    if let Some(name) = &args.run {
        run(named(name)?, args.operations, args.prepared)?;
        return Ok(ExitCode::SUCCESS);
    }
    let paths = match &args.only {
        Some(name) => vec![named(name)?],
        None => PATHS.iter().collect(),
    };
    let hotpath = std::env::current_exe().context("this program's own file")?;
    if args.print {
        print(&hotpath, &paths)?;
    } else if !cfg!(target_arch = "x86_64") {
        println!("the limits are for x86-64: counted, not judged");
        print(&hotpath, &paths)?;
    } else if !guard(&hotpath, &paths)? {
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn named(name: &str) -> anyhow::Result<&'static HotPath> {
    let names = || PATHS.map(|p| p.name).join(", ");
    HotPath::named(name).with_context(|| format!("there is no path {name}; there are: {}", names()))
}

fn run(path: &HotPath, operations: usize, prepared: usize) -> anyhow::Result<()> {
    // Asked here, under valgrind: it hides what it does not know.
    #[cfg(target_arch = "x86_64")]
    anyhow::ensure!(
        std::arch::is_x86_feature_detected!("sse4.2"),
        "no SSE 4.2 here: checksums would be counted in software, and the limits are for hardware"
    );
    let mut load = (path.start)(prepared.max(operations));
    (0..operations).for_each(|_| load());
    // What was prepared and not used would be freed here, in one run more than in the other.
    std::mem::forget(load);
    Ok(())
}

fn print(hotpath: &Path, paths: &[&HotPath]) -> anyhow::Result<()> {
    println!("{:<24} {:>12} {:>12} {:>12}", "instructions per op.", "measured", "limit", "new limit");
    for path in paths {
        let measured = per_operation(hotpath, path, 1)?;
        let proposed = proposed_limit(measured);
        println!("{:<24} {measured:>12} {:>12} {proposed:>12}", path.name, path.instructions_max);
    }
    Ok(())
}

/// Whether every path is within its limit, and a planted slowdown is not.
fn guard(hotpath: &Path, paths: &[&HotPath]) -> anyhow::Result<bool> {
    println!("{:<24} {:>12} {:>12}", "instructions per op.", "measured", "limit");
    let mut over = 0;
    for path in paths {
        let (measured, limit) = (per_operation(hotpath, path, 1)?, path.instructions_max);
        println!("{:<24} {measured:>12} {limit:>12}", path.name);
        match judge(measured, limit) {
            Verdict::Within => {}
            Verdict::Slack => {
                let lower = proposed_limit(measured);
                println!("  hint: far below its limit: lower instructions_max of {} to {lower}", path.name);
            }
            Verdict::Over => {
                over += 1;
                explain(hotpath, path, measured);
            }
        }
    }
    println!("{} paths, {over} over their limit", paths.len());
    Ok(planted_is_caught(hotpath)? && over == 0)
}

fn explain(hotpath: &Path, path: &HotPath, measured: u64) {
    let HotPath { name, operation, instructions_max: limit, operations, .. } = path;
    println!("  OVER: {name} takes {measured} instructions per operation, allowed are {limit}");
    println!("  the operation: {operation}");
    let hotpath = hotpath.display();
    println!("  find what was added: valgrind --tool=callgrind {hotpath} --run {name} --operations {operations}");
    println!("  or, when it is worth it, raise instructions_max in tests/src/guard/mod.rs and say why in the commit");
}

/// The proof that the guard can fail: a path whose operations are done twice is over its limit.
fn planted_is_caught(hotpath: &Path) -> anyhow::Result<bool> {
    let [path, ..] = &PATHS;
    let measured = per_operation(hotpath, path, 2)?;
    let caught = judge(measured, path.instructions_max) == Verdict::Over;
    if caught {
        println!("planted: {} with every operation done twice, {measured}: caught", path.name);
    } else {
        println!("planted: {} with every operation done twice, {measured}: MISSED, its limit is too high", path.name);
    }
    Ok(caught)
}
