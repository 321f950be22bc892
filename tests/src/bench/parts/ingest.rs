//! WAL of pgbench into the page store, against PostgreSQL's own crash recovery of the same WAL.
//!
//! Ours: one thread decodes, maps and appends, one reads WAL, one writes layers, whose fsyncs are inside the interval.
//! CPU time is that of all three. Then every page that the WAL touched is rebuilt from the layers, on all processors.
//! Theirs: the interval and the CPU time of the startup process, from PostgreSQL's log, with fsync off, all pages in
//! the page cache and room for all of them in shared_buffers. Its pages are then in memory and not written.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use pgformat::Lsn;
use serde_json::{Value, json};

use crate::bench::figure::{Figure, Goal, Sample};
use crate::bench::recorded::{Recorded, Recovery, SHARED_BUFFERS};
use crate::bench::replay;
use crate::bench::run::Run;
use crate::bench::window::{Crowd, Window};

const MIB: f64 = (1 << 20) as f64;
const RECOVERY: &str = "crash recovery";

/// One replay of ours.
struct Ours {
    /// What the process told.
    told: Value,
    crowd: Crowd,
}

impl Ours {
    fn number(&self, pointer: &str) -> f64 {
        self.told.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN)
    }

    fn sample(&self, value: f64) -> Sample {
        Sample { value, crowd: self.crowd }
    }
}

/// Measures.
///
/// # Errors
/// When PostgreSQL or our replay does not do its part.
pub async fn run(run: &mut Run) -> Result<()> {
    let pairs = run.extent.pick(1, 9, 9);
    // With page images most WAL is first changes of pages, so it takes a large table; without, a byte of WAL costs
    // several times as much, to make and to replay.
    let with = (run.extent.pick(5, 50, 60), run.extent.pick(64 << 20, 768 << 20, 1536 << 20));
    let without = (run.extent.pick(5, 20, 50), run.extent.pick(16 << 20, 96 << 20, 1024 << 20));
    for (images, (scale, bytes)) in [(true, with), (false, without)] {
        let name = format!("fpw {}", if images { "on" } else { "off" });
        let dir = run.dir().join(name.replace(' ', "-"));
        std::fs::create_dir(&dir)?;
        let fresh = dir.join("fresh");
        let at_rest = |data: &Path| {
            let told = replay::spawn(&["load", text(data)?, text(&fresh)?])?;
            println!("{name}: imported: {told}");
            Ok(())
        };
        let recorded = Recorded::pgbench(&dir, "cluster", (scale, bytes), images, at_rest).await?;
        println!(
            "{name}: {:.0} MiB of WAL, scale {scale}, shared_buffers {SHARED_BUFFERS}, {pairs} pairs",
            recorded.bytes() as f64 / MIB
        );
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..pairs {
            for first in [true, false] {
                if first == (round % 2 == 0) {
                    let last = round + 1 == pairs;
                    ours.push(replay_once(run, &recorded, &fresh, &name, last)?);
                } else {
                    theirs.push(recover_once(run, &recorded, &dir, &name)?);
                }
            }
        }
        figures(run, &name, &recorded, &ours, &theirs);
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the path is not UTF-8")
}

/// Replays into a copy of the imported timeline; its files are never changed, so that links to them will do.
fn replay_once(run: &mut Run, recorded: &Recorded, fresh: &Path, name: &str, compact: bool) -> Result<Ours> {
    let storage: PathBuf = fresh.with_extension("replayed");
    harness::link_tree(fresh, &storage)?;
    rustix::fs::sync();
    let window = Window::open(&[]);
    let to = recorded.to.to_string();
    let mut told = replay::spawn(&["replay", text(&storage)?, text(&recorded.wal_dir())?, &to])?;
    let crowd = window.close().crowd;
    let end: Lsn = told.get("to").and_then(Value::as_str).unwrap_or_default().parse()?;
    ensure!(recorded.to.bytes_since(end) < 1 << 20, "ours ended at {end}, the WAL at {}", recorded.to);
    if compact {
        told["compacted"] = replay::spawn(&["compact", text(&storage)?])?;
    }
    std::fs::remove_dir_all(&storage)?;
    run.raw(json!({"what": "ours", "wal": name, "bytes": recorded.bytes(), "told": told, "pressure": crowd.pressure,
        "foreign": crowd.foreign}))?;
    Ok(Ours { told, crowd })
}

fn recover_once(run: &mut Run, recorded: &Recorded, dir: &Path, name: &str) -> Result<Recovery> {
    let recovery = recorded.recover(dir)?;
    run.raw(json!({"what": RECOVERY, "wal": name, "bytes": recorded.bytes(), "seconds": recovery.seconds,
        "cpu_seconds": recovery.cpu_seconds, "pressure": recovery.crowd.pressure,
        "foreign": recovery.crowd.foreign}))?;
    Ok(recovery)
}

fn figures(run: &mut Run, name: &str, recorded: &Recorded, ours: &[Ours], theirs: &[Recovery]) {
    let mib = recorded.bytes() as f64 / MIB;
    let our = |value: &dyn Fn(&Ours) -> f64| -> Vec<Sample> { ours.iter().map(|o| o.sample(value(o))).collect() };
    let their = |value: &dyn Fn(&Recovery) -> f64| -> Vec<Sample> {
        theirs.iter().map(|r| Sample { value: value(r), crowd: r.crowd }).collect()
    };
    let against = |what: &str, value: &dyn Fn(&Ours) -> f64, peer: &dyn Fn(&Recovery) -> f64| {
        Figure::against(format!("{name}, {what}"), &our(value), RECOVERY, &their(peer))
    };
    let replay = |o: &Ours| o.number("/replay/seconds");
    let cpu = |o: &Ours| o.number("/replay/cpu_seconds");
    let both = |o: &Ours| o.number("/replay/seconds") + o.number("/materialise/seconds");
    let both_cpu = |o: &Ours| o.number("/replay/cpu_seconds") + o.number("/materialise/cpu_seconds");
    run.figure(
        against("MiB of WAL per CPU-second", &|o| mib / cpu(o), &|r| mib / r.cpu_seconds).goal(Goal::AtLeast(3.0)),
    );
    run.figure(against("ingest, elapsed s, our fsyncs inside", &replay, &|r| r.seconds));
    run.figure(
        against("ingest and every touched page rebuilt, elapsed s", &both, &|r| r.seconds).goal(Goal::AtMost(0.5)),
    );
    run.figure(against("ingest and every touched page rebuilt, CPU s", &both_cpu, &|r| r.cpu_seconds));
    let figure = |what: &str, samples: &[Sample]| Figure::of(format!("{name}, {what}"), samples);
    run.figure(figure("records", &our(&|o| o.number("/records"))));
    run.figure(figure("pages rebuilt", &our(&|o| o.number("/pages"))));
    run.figure(figure("ingest, peak RSS MiB", &our(&|o| o.number("/peak_rss_mib"))));
    let of_wal = |bytes: f64| bytes / recorded.bytes() as f64;
    run.figure(figure("bytes stored per byte of WAL", &our(&|o| of_wal(o.number("/stored")))).goal(Goal::AtMost(0.6)));
    if let Some(last) = ours.last() {
        // What the import stored was there before, and may be merged with the rest.
        let imported = last.number("/compacted/before") - last.number("/stored");
        let sample = [Sample::exact(of_wal(last.number("/compacted/stored") - imported))];
        run.figure(figure("bytes stored per byte of WAL, compacted, with images", &sample).goal(Goal::AtMost(1.2)));
    }
}
