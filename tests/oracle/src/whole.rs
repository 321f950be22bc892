//! The whole proof: every workload on every server, both judges, planted bugs, and one table of the results.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use pgformat::Lsn;

use crate::cluster::Programs;
use crate::effects::control_file;
use crate::files;
use crate::golden::Golden;
use crate::log::Log;
use crate::pages::Pages;
use crate::plant::{PAGE_RMGRS, Plants};
use crate::record::{Workload, record};
use crate::replay::Replayer;
use crate::report::Report;

/// What was found on one server.
pub struct Outcome {
    /// Which PostgreSQL.
    pub server: String,
    /// The sum over its workloads.
    pub report: Report,
    /// Planted bugs that were not noticed, in words.
    pub unnoticed: Vec<String>,
}

impl Outcome {
    /// Whether the server's log is proved: nothing differs, nothing is missing, every planted bug was noticed.
    pub fn is_good(&self) -> bool {
        self.report.is_clean() && self.report.never_seen().is_empty() && self.unnoticed.is_empty()
    }
}

/// What to do on each server.
pub struct Plan<'a> {
    /// Workloads to record.
    pub workloads: &'a [Workload],
    /// Where recordings lie until they have been judged.
    pub dir: &'a Path,
    /// Size of the workloads.
    pub scale: u32,
    /// A folder for examples of changes.
    pub golden: Option<&'a Path>,
}

/// Records and judges every workload of the plan on `server`, two at a time: one writes while the other is judged.
///
/// # Errors
/// When a recording cannot be made or read. What is wrong with pages is part of the outcome.
pub fn server(server: &str, plan: &Plan<'_>) -> Result<Outcome> {
    let (first, others) = plan.workloads.split_first().context("no workload")?;
    let (sum, rest) = std::thread::scope(|scope| {
        let rest = scope.spawn(|| others.iter().map(|workload| one(server, *workload, plan)).collect());
        let first = one(server, *first, plan);
        let rest: Result<Vec<_>> = rest.join().expect("a judge does not panic");
        (first, rest)
    });
    let (mut report, mut unnoticed) = sum?;
    for (other, also_unnoticed) in rest? {
        report.add(&other);
        unnoticed.extend(also_unnoticed);
    }
    Ok(Outcome { server: server.to_owned(), report, unnoticed })
}

/// Records and judges one workload, and deletes the recording. The report, and planted bugs that were not noticed.
fn one(server: &str, workload: Workload, plan: &Plan<'_>) -> Result<(Report, Vec<String>)> {
    let place = plan.dir.join(format!("{server}-{}", workload.name()));
    let began = Instant::now();
    record(Programs::find(server)?, workload, &place, plan.scale)
        .with_context(|| format!("recording {} on {server}", workload.name()))?;
    let recorded = began.elapsed().as_secs();
    let plants_bugs = workload == Workload::Extra;
    let clean = judge(&place, Plants::default(), plants_bugs && plan.golden.is_some())?;
    let total = clean.report.total();
    println!(
        "{server} {}: {} records, {} images, {} file pages, {} failures; {recorded} s to record, {} s to judge",
        workload.name(),
        total.records,
        total.compared,
        clean.report.files.as_ref().map_or(0, |f| f.pages.values().sum()),
        clean.report.failures(),
        began.elapsed().as_secs() - recorded,
    );
    if let (Some(golden), Some(examples)) = (plan.golden, &clean.golden) {
        std::fs::write(golden.join(format!("{server}.zst")), examples.compressed()?)?;
    }
    let unnoticed = if plants_bugs { planted(&place, clean.last_image())? } else { Vec::new() };
    std::fs::remove_dir_all(&place)?;
    Ok((clean.report, unnoticed))
}

/// Both judges over one recording.
fn judge(place: &Path, plants: Plants, with_examples: bool) -> Result<Replayer> {
    let log = Log::open(&place.join("data/pg_wal"))?;
    let base = place.join("base");
    let control = control_file(&base, log.version)?;
    let mut replayer = Replayer::new(log.version, Pages::new(Some(&base)), None, plants);
    replayer.log_hints(&control);
    replayer.golden = with_examples.then(Golden::default);
    log.read(control.checkpoint_copy.redo, None, |record| replayer.record(record))?;
    files::compare(&mut replayer, &place.join("data"))?;
    Ok(replayer)
}

/// Replays a recording once more with bugs in every resource manager; those that were not noticed, in words.
fn planted(place: &Path, image_at: Option<Lsn>) -> Result<Vec<String>> {
    let plants = Plants::everywhere(image_at);
    let planned = plants.planned();
    let mut replayer = judge(place, plants, false)?;
    let mut unnoticed = Vec::new();
    let mut expect = |what: &str, planned: u64, noticed: u64| {
        if planned != noticed {
            unnoticed.push(format!("{what}: {planned} bugs planted, {noticed} noticed"));
        }
    };
    for rmid in PAGE_RMGRS {
        let name = pgformat::wal::record::rmgr_name(rmid).unwrap_or_default();
        expect(name, 2, replayer.plants().done(Some(rmid)));
        let of_rmgr = replayer.report.types.iter().filter(|(t, _)| t.rmid == rmid);
        expect(name, 2, of_rmgr.map(|(_, counts)| counts.mismatches).sum());
    }
    expect("images", 1, replayer.report.files.as_ref().map_or(0, |f| f.mismatches));
    expect("all", planned, replayer.report.failures());
    let spoilt = files::plant(&mut replayer, &place.join("data"))?;
    files::compare(&mut replayer, &place.join("data"))?;
    expect("files", spoilt + 1, replayer.report.files.as_ref().map_or(0, |f| f.mismatches));
    println!("planted bugs: {} of {} noticed", planned + spoilt - unnoticed.len() as u64, planned + spoilt);
    Ok(unnoticed)
}

/// One table: records and compared images by type and server; sums, allowed differences, what was never seen.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut out = String::new();
    for outcome in outcomes {
        let _ = writeln!(out, "\n== PostgreSQL {}\n{}", outcome.server, outcome.report.text());
        for text in &outcome.unnoticed {
            let _ = writeln!(out, "not noticed: {text}");
        }
    }
    let _ = writeln!(
        out,
        "\n{:<10} {:>10} {:>10} {:>10} {:>10} {:>9} {:>7} {:>11} {:>8}",
        "PostgreSQL", "records", "redone", "compared", "file pages", "mismatch", "errors", "never seen", "planted"
    );
    for outcome in outcomes {
        let (report, total) = (&outcome.report, outcome.report.total());
        let files = report.files.clone().unwrap_or_default();
        let _ = writeln!(
            out,
            "{:<10} {:>10} {:>10} {:>10} {:>10} {:>9} {:>7} {:>11} {:>8}",
            outcome.server,
            total.records,
            total.redone,
            total.compared,
            files.pages.values().sum::<u64>(),
            total.mismatches + files.mismatches,
            total.errors + total.missing,
            report.never_seen().len(),
            if outcome.unnoticed.is_empty() { "noticed" } else { "missed" }
        );
    }
    out
}
