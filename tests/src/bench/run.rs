//! One run of the benchmarks: extent, time budget, raw results, the table at the end.

use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use futures::FutureExt;
use serde_json::Value;

use super::figure::{Figure, HEAD, Verdict};

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub enum Extent {
    /// Under four minutes: every part once or thrice, to see that it works and roughly where it stands.
    Quick,
    /// Under 25 minutes: what the table claims.
    Table,
    /// Everything, as long as it takes.
    Full,
}

impl Extent {
    /// Picks by extent.
    pub fn pick<T>(self, quick: T, table: T, full: T) -> T {
        match self {
            Extent::Quick => quick,
            Extent::Table => table,
            Extent::Full => full,
        }
    }
}

/// A run under way.
pub struct Run {
    /// How much is measured.
    pub extent: Extent,
    dir: tempfile::TempDir,
    part_dir: PathBuf,
    raw: std::fs::File,
    raw_path: PathBuf,
    part: String,
    figures: Vec<(String, Figure)>,
    spent: Vec<(String, Duration, Duration)>,
    failed: usize,
    began: Instant,
}

impl Run {
    /// Begins a run; raw results go to `raw`, one JSON object a line, the first one saying what machine and versions.
    ///
    /// # Errors
    /// When the file or a scratch directory cannot be made.
    pub fn new(extent: Extent, raw: &Path, environment: &Value) -> Result<Run> {
        std::fs::create_dir_all(raw.parent().context("--raw needs a directory")?)?;
        let mut file = std::fs::File::create(raw)?;
        writeln!(file, "{environment}")?;
        let dir = tempfile::Builder::new().prefix("walfabric-bench-").tempdir()?;
        Ok(Run {
            extent,
            part_dir: dir.path().to_owned(),
            dir,
            raw: file,
            raw_path: raw.to_owned(),
            part: String::new(),
            figures: Vec::new(),
            spent: Vec::new(),
            failed: 0,
            began: Instant::now(),
        })
    }

    /// The part's scratch directory on the disk under test, gone when the part has ended.
    pub fn dir(&self) -> &Path {
        &self.part_dir
    }

    /// Runs a part and notes how long it took against its budget. A part that fails or
    /// panics (a deadline of the harness) is told and the others go on.
    pub async fn part(&mut self, name: &str, budget: Duration, part: impl AsyncFnOnce(&mut Run) -> Result<()>) {
        name.clone_into(&mut self.part);
        println!("\n== {name} (budget {} s)", budget.as_secs());
        let began = Instant::now();
        if let Err(e) = self.in_its_directory(part).await {
            self.failed += 1;
            println!("FAILED: {e:#}");
            let gone = Figure::of(format!("{name}: failed: {e:#}"), &[]).goal(super::figure::Goal::AtMost(0.0));
            self.figures.push((name.to_owned(), gone));
        }
        println!("({name}: {:.0} s of {} s)", began.elapsed().as_secs_f64(), budget.as_secs());
        self.spent.push((name.to_owned(), began.elapsed(), budget));
    }

    async fn in_its_directory(&mut self, part: impl AsyncFnOnce(&mut Run) -> Result<()>) -> Result<()> {
        self.part_dir = self.dir.path().join(&self.part);
        std::fs::create_dir(&self.part_dir)?;
        let ended = AssertUnwindSafe(part(self)).catch_unwind().await;
        std::fs::remove_dir_all(&self.part_dir)?;
        ended.unwrap_or_else(|panic| Err(anyhow!("{}", words(panic.as_ref()))))
    }

    /// How many parts failed to run.
    pub fn failed(&self) -> usize {
        self.failed
    }

    /// Keeps a raw result: the part's name is added.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn raw(&mut self, mut result: Value) -> Result<()> {
        if let Some(object) = result.as_object_mut() {
            object.insert("part".to_owned(), self.part.clone().into());
        }
        Ok(writeln!(self.raw, "{result}")?)
    }

    /// Prints a figure and keeps it for the table.
    pub fn figure(&mut self, figure: Figure) {
        println!("{}", figure.line());
        self.figures.push((self.part.clone(), figure));
    }

    /// Prints the table, what fell short first, then where the time went. Gives the number of goals missed.
    pub fn finish(self) -> usize {
        println!("\n{HEAD}");
        let missed = |f: &Figure| f.verdict() == Verdict::Missed;
        for first in [true, false] {
            for (part, figure) in self.figures.iter().filter(|(_, f)| missed(f) == first) {
                println!("| {part}: {}", figure.line().trim_start_matches("| "));
            }
        }
        println!(
            "\nn = samples or pairs; pressure = share of the time some task waited for a CPU (PSI), \"!\" beyond the \
            limit; foreign = CPU share of others.\n"
        );
        for (name, spent, budget) in &self.spent {
            println!("{name:<28} {:>6.0} s of {:>4} s", spent.as_secs_f64(), budget.as_secs());
        }
        println!("{:<28} {:>6.0} s", "whole run", self.began.elapsed().as_secs_f64());
        println!("raw results: {}", self.raw_path.display());
        self.figures.iter().filter(|(_, f)| missed(f)).count()
    }
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let owned = panic.downcast_ref::<String>().cloned();
    owned.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_else(|| "a panic".to_owned())
}
